//! Which code points Python's `repr` escapes, for each Unicode version in use.
