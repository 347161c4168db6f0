-- When the first message of an email came to be sent or unknown: what a loop saw before then was nothing of it.
CREATE TABLE first_sent (org INTEGER, email INTEGER, at INTEGER NOT NULL, PRIMARY KEY (org, email)) WITHOUT ROWID;
INSERT INTO first_sent SELECT org, email, min(sent_at) FROM deliveries WHERE sent_at > 0 GROUP BY org, email;
