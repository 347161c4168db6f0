//! An SMTP server inside the process whose mailboxes behave, and the loop that tells what they did.
