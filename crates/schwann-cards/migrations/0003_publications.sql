-- A card that callers of another face may call. One for each card; a name is of one card in each face.
CREATE TABLE publications (
    card_id TEXT PRIMARY KEY REFERENCES cards (id) ON DELETE CASCADE,
    face TEXT NOT NULL,
    name TEXT NOT NULL,
    stream BIGINT NOT NULL,
    -- The version that was published, with what it was; NULL for whatever the card is when it is called.
    version BIGINT,
    language TEXT,
    code TEXT,
    settings TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (face, name)
);
