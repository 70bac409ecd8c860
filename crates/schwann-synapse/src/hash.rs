//! The body hash: SHA3-256 over Python's `str()` of the hashed fields.
