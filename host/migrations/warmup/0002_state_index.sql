-- The same rows; but with `IN` each update of a delivery fills a table of its own to look whether the row is one of them.
DROP INDEX deliveries_state;
CREATE INDEX deliveries_state ON deliveries (org, email, state, user) WHERE state = 1 OR state > 3;
