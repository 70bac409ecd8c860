//! Wallet files of the Python wallet, read and written.
