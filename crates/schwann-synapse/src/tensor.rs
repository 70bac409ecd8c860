//! `Tensor`: an array as the SDK serializes it.
