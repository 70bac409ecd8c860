//! Python's data model as it crosses the wire: JSON as Python reads and writes it, and `str()`.
