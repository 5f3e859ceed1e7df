//! handlebars, for text: paths, addresses, labels. Pure.
//!
//! `{{customer.code}}` reads from the body, `{{@today}}` from the context, `{{@name}}` from a bound variable. Only what a template names is
//! read, numbers appear as they are written, and a path that leads nowhere is a failure, not an empty text.
//! It is not a place for logic beyond `if`, `unless`, `each` and `with`: that is what expressions are for.

use std::collections::BTreeSet;

use crate::failure::Failure;
use crate::message::Message;

mod compile;
mod escape;
mod render;

/// How many bytes a template may have.
pub const TEMPLATE_BYTES_MAX: usize = 64 << 10;
/// How many bytes a rendered text may have.
pub const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// What must not break out of the text around a value. `{{{x}}}` and `{{&x}}` are written as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// Plain text: nothing is escaped.
    None,
    /// A part of the path of an address: percent-encoded; empty, `.` and `..` are failures. Behind a `?` as `UrlQuery`.
    UrlPath,
    /// A value in the query of an address: percent-encoded.
    UrlQuery,
    /// A part of a file's name: what separates folders or is reserved somewhere is percent-encoded.
    FileName,
    /// The value of a header: control characters are failures.
    Header,
    /// HTML text or an attribute in quotes.
    Html,
    /// Inside of a JSON string.
    Json,
    /// A field of a CSV line: in quotes where it must be.
    Csv,
}

/// A compiled template.
#[derive(Clone, Debug)]
pub struct Template {
    pieces: Vec<Piece>,
    paths: Vec<NamedPath>,
}

/// Why a text is no template, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateFault {
    /// What is wrong.
    pub message: String,
    /// The first byte of what is wrong.
    pub start: usize,
    /// After its last byte.
    pub end: usize,
}

/// Where a path begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// The body.
    Body,
    /// The item of the `each` or `with` around it.
    Item,
    /// The same, this many blocks further out.
    Outer(usize),
    /// `@today`
    Today,
    /// `@received_at`
    ReceivedAt,
    /// `@message_id`
    MessageId,
    /// `@item`: the split key.
    SplitKey,
    /// `@header.name`
    Header,
    /// `@key.name`
    Key,
    /// `@index`, `@first`, `@last` and `@key` within `each`.
    Loop(Loop),
    /// `@name`: a variable that `into` or `set` has bound.
    Variable(String),
}

/// What `each` knows of its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// The number of the turn, from 0.
    Index,
    /// Whether it is the first one.
    First,
    /// Whether it is the last one.
    Last,
    /// The key, where `each` goes through an object.
    Key,
}

/// A path that a template names, for checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPath {
    /// Where it begins.
    pub root: Root,
    /// The keys and indexes from there on.
    pub segments: Vec<String>,
    /// As it is written.
    pub text: String,
    /// The first byte in the template.
    pub start: usize,
    /// After the last byte.
    pub end: usize,
    /// Whether the template fails if the path leads nowhere.
    pub required: bool,
}

impl Template {
    /// Compiles a template.
    pub fn compile(text: &str) -> Result<Template, TemplateFault> {
        compile::template(text)
    }

    /// The paths that it names, in their order.
    pub fn paths(&self) -> &[NamedPath] {
        &self.paths
    }

    /// The variables that it names.
    pub fn variables(&self) -> BTreeSet<&str> {
        self.paths
            .iter()
            .filter_map(|path| match &path.root {
                Root::Variable(name) => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }

    /// The text for a message. Fails with class `mapping` where a path leads nowhere or its value cannot stand in such a text.
    pub fn render(&self, message: &Message, escape: Escape) -> Result<String, Failure> {
        render::text(self, message, escape)
    }
}

/// One part of a template.
#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Value {
        expr: Expr,
        /// Written without escapes.
        raw: bool,
    },
    If {
        expr: Expr,
        then: Vec<Piece>,
        otherwise: Vec<Piece>,
    },
    Each {
        list: Expr,
        body: Vec<Piece>,
        otherwise: Option<Vec<Piece>>,
    },
    With {
        value: Expr,
        body: Vec<Piece>,
        otherwise: Option<Vec<Piece>>,
    },
}

/// What stands for a value.
#[derive(Clone, Debug)]
enum Expr {
    Path(usize),
    Text(String),
    Number(String),
    Bool(bool),
    Null,
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Equal(Box<Expr>, Box<Expr>),
    Length(Box<Expr>),
}

#[cfg(test)]
mod tests;
