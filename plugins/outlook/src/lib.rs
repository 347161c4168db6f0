//! Sends through Outlook and reads its replies.
