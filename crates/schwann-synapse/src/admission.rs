//! Who runs next when the axon is busy.
