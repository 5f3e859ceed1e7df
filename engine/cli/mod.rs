//! The command line: one file a command. It decides nothing.
