//! Addresses: ss58 text and the public key in it.
