//! What a text must look like for the expressions that read it: for bodies that are made up to try a mapping. No part of a type.

/// What a text is read as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// A number.
    Number,
    /// A time.
    Time,
    /// A time by a pattern of strftime.
    Pattern(String),
    /// The key of a table.
    Key(String),
}
