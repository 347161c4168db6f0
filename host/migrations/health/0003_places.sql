-- Figures and recipient domains by place, in rows of 64. The ledger is a function of the event log: all of it goes, and is replayed.
DROP TABLE counts;
DROP TABLE recipient_domains;
DELETE FROM positions;
DELETE FROM emails;
DELETE FROM places;
DELETE FROM blocks;
DELETE FROM first_sent;
DELETE FROM facts;
DELETE FROM loops;
DELETE FROM aggregates;

-- How the deliveries of an email stand, by place, packed as `places.rs` says; the number is made of the email's and those of 64 places.
CREATE TABLE figures (id INTEGER PRIMARY KEY, packed BLOB NOT NULL);

-- When an organization last had to do with each place; the number is made of the organization's and those of 64 places.
CREATE TABLE seen (id INTEGER PRIMARY KEY, packed BLOB NOT NULL);
