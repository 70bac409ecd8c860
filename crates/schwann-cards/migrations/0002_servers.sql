-- Servers that share this database. A server that is silent for too long is given up by another, which then ends its runs.

CREATE TABLE servers (
    id TEXT PRIMARY KEY,
    -- Another number each time that the server begins anew or is given up: who has an old one was given up.
    epoch BIGINT NOT NULL,
    -- Goes up while the server lives. No clock is compared with another.
    beat BIGINT NOT NULL,
    -- 0 once it has stopped or was given up.
    alive BIGINT NOT NULL
);

-- One row. By its id, what servers say to each other is told apart from what other installations say.
CREATE TABLE installation (
    place BIGINT PRIMARY KEY,
    id TEXT NOT NULL
);

-- The server that ended the run in place of its own. Its own server's word replaces that, if it comes back.
ALTER TABLE runs ADD COLUMN ended_by TEXT;
CREATE INDEX runs_by_server ON runs (server, status);
