//! Books of code cards: run a program safely, stream its output, lose nothing.
