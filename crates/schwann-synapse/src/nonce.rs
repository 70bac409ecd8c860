//! Which nonces are fresh, and which were seen: v10's rules and hardened ones.
