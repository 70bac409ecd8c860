//! Why a call failed, as the reference numbers it and as Rust tells it.
