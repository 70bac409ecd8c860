-- Who may call a published card, as its face writes its callers: a JSON list, of which an empty one means everybody.
ALTER TABLE publications ADD COLUMN allow TEXT NOT NULL DEFAULT '[]';
