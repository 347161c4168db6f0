//! Sends through Yahoo and reads its replies.
