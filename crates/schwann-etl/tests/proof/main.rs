//! What must never happen to an object, what others were seen to do, and what nobody should send.

mod bad_input;
mod loss;
mod strangers;
mod support;
mod vectors;
