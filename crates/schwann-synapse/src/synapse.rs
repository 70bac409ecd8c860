//! Typed and untyped synapses.
