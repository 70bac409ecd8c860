//! The dendrite: calls axons.
