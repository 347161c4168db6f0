//! Sends through Gmail and reads its replies.
