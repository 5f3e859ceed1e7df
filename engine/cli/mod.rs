//! The command line: one file a command. It decides nothing.

pub mod batch;
