//! Hotkeys, signers and signatures: sr25519, and ed25519 for `btauth/1`.
