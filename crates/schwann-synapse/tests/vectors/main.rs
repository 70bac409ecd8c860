//! Recorded behaviour of the Python peers, replayed: one module per file of vectors.
//!
//! `SCHWANN_VECTORS` names another folder of the same form; see `set` for what makes a run complete.

mod btauth1;
mod nonce_window;
mod set;
mod signatures;
