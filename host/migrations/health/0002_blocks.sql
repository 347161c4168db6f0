-- Deliveries in blocks. The ledger is a function of the event log: all of it goes, the positions too, and is replayed.
DROP TABLE deliveries;
DROP TABLE watch;
DROP TABLE watch_next;
DROP TABLE emails;
DELETE FROM positions;
DELETE FROM first_sent;
DELETE FROM facts;
DELETE FROM counts;
DELETE FROM recipient_domains;
DELETE FROM loops;
DELETE FROM aggregates;

-- `recipients` are the live ones; NULL until an event of the email itself came.
CREATE TABLE emails (
    id INTEGER PRIMARY KEY, org INTEGER NOT NULL, email INTEGER NOT NULL, from_domain TEXT NOT NULL, recipients INTEGER,
    UNIQUE (org, email)
);

-- A recipient domain and the provider that received for it, once each.
CREATE TABLE places (id INTEGER PRIMARY KEY, domain INTEGER NOT NULL, provider INTEGER NOT NULL, UNIQUE (domain, provider));

-- What is known of neighbouring users' deliveries of one email, packed as `blocks.rs` says; the number is made of the email's and theirs.
-- `oldest`: when the first of those came to be sent or unknown that a loop may still tell about; NULL where there is none.
CREATE TABLE blocks (id INTEGER PRIMARY KEY, org INTEGER NOT NULL, oldest INTEGER, packed BLOB NOT NULL);
CREATE INDEX blocks_watched ON blocks (org, id) WHERE oldest IS NOT NULL;
CREATE INDEX blocks_oldest ON blocks (oldest) WHERE oldest IS NOT NULL;
