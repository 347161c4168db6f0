-- Numbers count from 1 within an organization. Instants are milliseconds since 1970 UTC.
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('clock', 0); -- the latest instant from which something waits

CREATE TABLE organizations (
    id     INTEGER PRIMARY KEY,
    name   TEXT NOT NULL UNIQUE,
    users  INTEGER NOT NULL DEFAULT 0,  -- the highest user number
    emails INTEGER NOT NULL DEFAULT 0   -- the highest email number
);

-- Names of mailbox providers and of clients, once each.
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

CREATE TABLE domains (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    provider   INTEGER NOT NULL,
    checked_at INTEGER NOT NULL DEFAULT 0,
    settings   INTEGER NOT NULL DEFAULT 0   -- the fingerprint of those it was found with
);

CREATE TABLE users (
    org           INTEGER NOT NULL,
    number        INTEGER NOT NULL,
    address_key   TEXT NOT NULL,        -- lower case, the domain an A-label
    address       TEXT,                 -- as it was given, where that differs
    name          TEXT NOT NULL,
    domain        INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    suppressed_at INTEGER,
    PRIMARY KEY (org, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX users_address ON users (org, address_key);

CREATE TABLE emails (
    org           INTEGER NOT NULL,
    number        INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    from_name     TEXT,
    from_address  TEXT NOT NULL,
    reply_name    TEXT,
    reply_address TEXT,
    subject       TEXT NOT NULL,
    body          TEXT NOT NULL,
    html          TEXT,
    headers       TEXT NOT NULL,        -- one `Name:value` a line
    PRIMARY KEY (org, number)
) WITHOUT ROWID;

-- Beside `emails`, so that a counter's change does not rewrite a body.
CREATE TABLE progress (
    org          INTEGER NOT NULL,
    number       INTEGER NOT NULL,
    from_domain  TEXT NOT NULL,
    audience     INTEGER NOT NULL,      -- the highest user number that is live mail
    fanned_out   INTEGER NOT NULL DEFAULT 0,
    recipients   INTEGER NOT NULL,      -- live
    backfilled   INTEGER NOT NULL DEFAULT 0,
    deferred     INTEGER NOT NULL DEFAULT 0,
    sent         INTEGER NOT NULL DEFAULT 0,
    failed       INTEGER NOT NULL DEFAULT 0,
    suppressed   INTEGER NOT NULL DEFAULT 0,
    unknown      INTEGER NOT NULL DEFAULT 0,
    started_at   INTEGER,
    completed_at INTEGER,
    PRIMARY KEY (org, number)
) WITHOUT ROWID;
CREATE INDEX progress_fan_out ON progress (org, number) WHERE fanned_out < audience;

CREATE TABLE deliveries (
    org         INTEGER NOT NULL,
    email       INTEGER NOT NULL,
    user        INTEGER NOT NULL,
    provider    INTEGER NOT NULL,
    queue       INTEGER,                -- 0 retries, 1 live, 2 back-fill; null: nothing happens by itself
    next_at     INTEGER,                -- 0: at once, whatever the clock shows
    state       INTEGER NOT NULL,
    source      INTEGER NOT NULL,       -- 0 live, 1 back-fill
    attempts    INTEGER NOT NULL DEFAULT 0,
    queued_at   INTEGER NOT NULL,
    client      INTEGER,
    finished_at INTEGER,
    code        INTEGER,
    enhanced    TEXT,
    reply       TEXT,
    fault       INTEGER,
    detail      TEXT,
    PRIMARY KEY (org, email, user)
) WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (org, provider, queue, next_at, email, user) WHERE queue IS NOT NULL;
-- Deferred, failed, suppressed, unknown: lists of them and their settling need no walk over those that were sent. What
-- goes from queued to sent never enters it.
CREATE INDEX deliveries_state ON deliveries (org, email, state, user) WHERE state IN (1, 4, 5, 6);

-- How many recipients of an email wait in each lane; a row goes when nobody does. What a client has in hand counts as it did before.
CREATE TABLE waiting (
    org      INTEGER NOT NULL,
    email    INTEGER NOT NULL,
    provider INTEGER NOT NULL,
    queued   INTEGER NOT NULL,
    deferred INTEGER NOT NULL,
    PRIMARY KEY (org, email, provider)
) WITHOUT ROWID;

-- What a client has in hand, recorded before it gets it. Small: at most sending_rows_max.
CREATE TABLE sending (
    org    INTEGER NOT NULL,
    email  INTEGER NOT NULL,
    user   INTEGER NOT NULL,
    client INTEGER NOT NULL,
    since  INTEGER NOT NULL,
    PRIMARY KEY (org, email, user)
) WITHOUT ROWID;

CREATE TABLE backfills (
    org        INTEGER NOT NULL,
    user       INTEGER NOT NULL,
    emails     INTEGER NOT NULL,        -- emails 1 to this one
    next_email INTEGER NOT NULL DEFAULT 1,
    done       INTEGER NOT NULL DEFAULT 0,
    waits_for  INTEGER,                 -- the email under way
    next_at    INTEGER,                 -- when the next one may start
    recent     TEXT NOT NULL DEFAULT '',-- when the last ones ended, for the pace
    PRIMARY KEY (org, user)
) WITHOUT ROWID;
CREATE INDEX backfills_due ON backfills (next_at) WHERE next_at IS NOT NULL;

CREATE TABLE idempotency (
    org        INTEGER NOT NULL,
    key        TEXT NOT NULL,
    body_hash  BLOB NOT NULL,
    email      INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (org, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_age ON idempotency (created_at);

CREATE TABLE usage (
    scope          TEXT NOT NULL,
    per_ms         INTEGER NOT NULL,
    bucket_ms      INTEGER NOT NULL,    -- the greatest number: what was out when the row was written
    boot_id        TEXT NOT NULL,
    bucket_wall_ms INTEGER NOT NULL,
    count          INTEGER NOT NULL,
    PRIMARY KEY (scope, per_ms, bucket_ms, boot_id)
) WITHOUT ROWID;

-- A row is what one job told of a topic: a batch of records.
CREATE TABLE outbox (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    records BLOB NOT NULL
);
