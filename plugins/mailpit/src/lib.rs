//! Sends to Mailpit and reads from its HTTP API what became of mail.
