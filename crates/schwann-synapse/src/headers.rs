//! Synapse headers, both ways, without I/O.
