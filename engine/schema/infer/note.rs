//! What typing an expression brings to light: fields that cannot be there, comparisons that are never true, arguments that do not fit. Whether it is a
//! mistake, and how bad, is judged elsewhere.

use super::{Kinds, Type};

/// One thing that was seen, with its bytes in the expression.
#[derive(Clone, Debug)]
pub(crate) struct Note<'s> {
    pub(crate) about: About<'s>,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum About<'s> {
    /// A field that no schema declares.
    NoField {
        name: String,
        /// What it was read of, as the expression's way to it; empty for the body.
        of: String,
        /// A declared field with a name like it.
        near: Option<String>,
        /// The declared fields, where they are few.
        known: Vec<String>,
        /// It cannot be there; else the schema only does not speak of it.
        shut: bool,
    },
    /// A field, an index or a projection of something that has none.
    WrongKind {
        /// What is asked for: `the field `sku``, `items`.
        asked: String,
        of: String,
        is: Kinds,
    },
    /// Two values that are never equal.
    NeverEqual {
        left: Box<Type<'s>>,
        right: Box<Type<'s>>,
        /// A value of the other side that is like the one that is written.
        near: Option<String>,
        /// It is asked whether they differ: that is always true.
        negated: bool,
    },
    /// `<` and its kin where one side is never a number.
    NeverOrdered { is: Kinds },
    /// An argument that a function does not take.
    Argument {
        function: &'static str,
        parameter: &'static str,
        takes: String,
        is: Kinds,
        /// Only its null is not taken.
        null_only: bool,
        /// None of its values is taken.
        sure: bool,
        /// It is the items of a list.
        items: bool,
        of: String,
    },
}
