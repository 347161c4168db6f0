//! Sends through any SMTP server.
