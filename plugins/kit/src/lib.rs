//! What SMTP plugins share: the SMTP session, the connection pool, reply classification.
