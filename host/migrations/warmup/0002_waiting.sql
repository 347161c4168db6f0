-- How many recipients of an email wait in each lane; a row goes when nobody does. What a client has in hand counts as it did before.
CREATE TABLE waiting (
    org      INTEGER NOT NULL,
    email    INTEGER NOT NULL,
    provider INTEGER NOT NULL,
    queued   INTEGER NOT NULL,
    deferred INTEGER NOT NULL,
    PRIMARY KEY (org, email, provider)
) WITHOUT ROWID;

INSERT INTO waiting (org, email, provider, queued, deferred)
SELECT org, email, provider, sum(state = 0), sum(state = 1) FROM deliveries
WHERE queue IS NOT NULL AND state IN (0, 1) GROUP BY org, email, provider;
