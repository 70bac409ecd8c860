//! Ours and the real Python SDK, each calling the other, for each version of
//! the SDK that speaks synapses. `interop/README.md` says what the cases are.

mod btauth;
mod ends;
mod matrix;
