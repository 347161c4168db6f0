-- The ledger: a function of the event log, so this file may be deleted and replayed.

-- Names are stored once; the numbers mean nothing outside of this file.
CREATE TABLE orgs (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE domains (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE providers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- Where the log goes on; written in the commit of the effects.
CREATE TABLE positions (topic INTEGER, partition INTEGER, next_offset INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID;

-- `recipients` are the live ones; NULL until an event of the email itself came.
CREATE TABLE emails (org INTEGER, email INTEGER, from_domain TEXT NOT NULL, recipients INTEGER, PRIMARY KEY (org, email)) WITHOUT ROWID;

-- When the first message of an email came to be sent or unknown: what a loop saw before then was nothing of it.
CREATE TABLE first_sent (org INTEGER, email INTEGER, at INTEGER NOT NULL, PRIMARY KEY (org, email)) WITHOUT ROWID;

-- `flags`: what `tally::Flags` says. `sent_at`: when it came to be sent or unknown, else 0.
CREATE TABLE deliveries (
    org INTEGER, email INTEGER, user INTEGER,
    state INTEGER NOT NULL, attempt INTEGER NOT NULL, source INTEGER NOT NULL,
    domain INTEGER NOT NULL, provider INTEGER NOT NULL,
    token INTEGER NOT NULL, sent_at INTEGER NOT NULL, flags INTEGER NOT NULL,
    PRIMARY KEY (org, email, user)
) WITHOUT ROWID;

-- First evidence of each kind. A fact may come before its delivery; the token decides whether it belongs to it.
CREATE TABLE facts (
    org INTEGER, email INTEGER, user INTEGER, token INTEGER, kind INTEGER,
    at INTEGER, seen_at INTEGER NOT NULL, source TEXT NOT NULL,
    PRIMARY KEY (org, email, user, token, kind)
) WITHOUT ROWID;

-- Sent messages that a loop may still tell about, in the order in which they came.
CREATE TABLE watch (
    org INTEGER, position INTEGER, email INTEGER NOT NULL, user INTEGER NOT NULL, sent_at INTEGER NOT NULL,
    PRIMARY KEY (org, position)
) WITHOUT ROWID;
CREATE INDEX watch_by_time ON watch (sent_at);
CREATE TABLE watch_next (one INTEGER PRIMARY KEY CHECK (one = 1), position INTEGER NOT NULL);
INSERT INTO watch_next VALUES (1, 1);

-- How many deliveries of an email stand where, by recipient domain and provider.
CREATE TABLE counts (
    org INTEGER, email INTEGER, domain INTEGER, provider INTEGER,
    live INTEGER NOT NULL, backfill INTEGER NOT NULL, waiting INTEGER NOT NULL, expired INTEGER NOT NULL,
    doubt INTEGER NOT NULL, suppressed INTEGER NOT NULL, bounced INTEGER NOT NULL, delivered INTEGER NOT NULL,
    opened INTEGER NOT NULL, read INTEGER NOT NULL, spam INTEGER NOT NULL,
    PRIMARY KEY (org, email, domain, provider)
) WITHOUT ROWID;

-- The recipient domains of an organization and the provider last seen for each.
CREATE TABLE recipient_domains (org INTEGER, domain INTEGER, provider INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (org, domain)) WITHOUT ROWID;

-- Where each feedback loop stands, as the log says.
CREATE TABLE loops (org INTEGER, name TEXT, sequence INTEGER NOT NULL, cursor TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (org, name)) WITHOUT ROWID;

-- Figures of providers about a sending domain and a day; `value` is NULL where the provider has no data.
CREATE TABLE aggregates (
    org INTEGER, source TEXT, domain TEXT, date TEXT, metric TEXT, value REAL, sequence INTEGER NOT NULL, seen_at INTEGER NOT NULL,
    PRIMARY KEY (org, source, domain, date, metric)
) WITHOUT ROWID;
