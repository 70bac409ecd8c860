-- One text for SQLite and PostgreSQL: identifiers are TEXT, numbers, flags (0, 1) and times (milliseconds since 1970,
-- UTC) are BIGINT. Both databases know these, and the driver that speaks to both knows nothing else.

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    full_name TEXT,
    password_hash TEXT NOT NULL,
    is_active BIGINT NOT NULL,
    is_superuser BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

-- Sessions and API tokens. Only a hash is here.
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT
);
CREATE INDEX tokens_by_user ON tokens (user_id, kind, created_at);

CREATE TABLE books (
    id TEXT PRIMARY KEY,
    owner_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    title TEXT NOT NULL,
    description TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX books_by_owner ON books (owner_id, created_at);

CREATE TABLE cards (
    id TEXT PRIMARY KEY,
    book_id TEXT NOT NULL REFERENCES books (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    title TEXT NOT NULL,
    language TEXT,
    code TEXT NOT NULL,
    settings TEXT NOT NULL,
    position BIGINT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX cards_by_book ON cards (book_id, position);

-- A link has a slug, and anybody who knows it may read; otherwise a user has a role.
CREATE TABLE shares (
    id TEXT PRIMARY KEY,
    book_id TEXT NOT NULL REFERENCES books (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    slug TEXT UNIQUE,
    user_id TEXT REFERENCES users (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    UNIQUE (book_id, user_id)
);
CREATE INDEX shares_by_user ON shares (user_id);

-- What a run prints is in its log; this is what is known about it.
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    owner_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    book_id TEXT REFERENCES books (id) ON DELETE SET NULL,
    card_id TEXT REFERENCES cards (id) ON DELETE SET NULL,
    -- The server that runs it, and a group for runs that were started together.
    server TEXT NOT NULL,
    batch_id TEXT,
    status TEXT NOT NULL,
    code TEXT NOT NULL,
    language TEXT NOT NULL,
    -- Standard input, arguments, environment, terminal and limits, as JSON.
    request TEXT NOT NULL,
    sandbox TEXT NOT NULL,
    cancel_requested BIGINT NOT NULL,
    queued_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    reason TEXT,
    exit_code BIGINT,
    signal BIGINT,
    elapsed_ms BIGINT,
    cpu_ms BIGINT,
    max_rss_bytes BIGINT,
    stdout_bytes BIGINT NOT NULL,
    stderr_bytes BIGINT NOT NULL,
    truncated BIGINT NOT NULL,
    last_seq BIGINT NOT NULL
);
CREATE INDEX runs_by_owner ON runs (owner_id, queued_at);
CREATE INDEX runs_by_card ON runs (card_id, queued_at);
CREATE INDEX runs_by_status ON runs (status, queued_at);

-- The same key of the same user means the same run.
CREATE TABLE idempotency_keys (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, key)
);
