-- What is the same for many recipients stands in one row for 64 neighbouring users, a block: `user >> 6` is its number and
-- `1 << (user & 63)` a user's bit in it.

-- Live mail that nobody has tried to send, by lane. A bit goes with the first outcome, which is an entry of `sent`, or a row of
-- `deliveries`. So do those whom back-fill writes to, and those who left: `deliveries` has them from the start.
CREATE TABLE fresh (
    org      INTEGER NOT NULL,
    provider INTEGER NOT NULL,
    email    INTEGER NOT NULL,
    block    INTEGER NOT NULL,
    users    INTEGER NOT NULL,
    PRIMARY KEY (org, provider, email, block)
) WITHOUT ROWID;
INSERT INTO fresh SELECT org, provider, email, user >> 6, sum(1 << (user & 63)) FROM deliveries WHERE queue = 1 GROUP BY 1, 2, 3, 4;
DELETE FROM deliveries WHERE queue = 1;

-- Live mail that was accepted at its first attempt: an entry a delivery. Not WITHOUT ROWID, as its rows are long.
CREATE TABLE sent (
    id      INTEGER PRIMARY KEY,
    org     INTEGER NOT NULL,
    email   INTEGER NOT NULL,
    block   INTEGER NOT NULL,
    entries BLOB NOT NULL,
    UNIQUE (org, email, block)
);

-- What a client has in hand, recorded before it gets it. Small: at most sending_rows_max bits.
ALTER TABLE sending RENAME TO sending_by_row;
CREATE TABLE sending (
    org    INTEGER NOT NULL,
    email  INTEGER NOT NULL,
    block  INTEGER NOT NULL,
    client INTEGER NOT NULL,
    users  INTEGER NOT NULL,
    PRIMARY KEY (org, email, block, client)
) WITHOUT ROWID;
INSERT INTO sending SELECT org, email, user >> 6, client, sum(1 << (user & 63)) FROM sending_by_row GROUP BY 1, 2, 3, 4;
DROP TABLE sending_by_row;
