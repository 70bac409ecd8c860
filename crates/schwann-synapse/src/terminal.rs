//! `TerminalInfo`: one end of an exchange, as ten optional attributes.
