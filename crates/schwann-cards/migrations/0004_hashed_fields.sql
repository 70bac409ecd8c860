-- The fields of a published card that its callers' class hashes, in order: a JSON list.
ALTER TABLE publications ADD COLUMN hash TEXT NOT NULL DEFAULT '[]';
