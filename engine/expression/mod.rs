//! JMESPath: parse with places, compile, evaluate over the tape, the function library. Pure; it looks nothing up by itself.
//!
//! Complete by the specification at jmespath.org, with `let` (JEP-18). Where that leaves room: numbers are exact decimals and keep
//! their text; equality is mathematical; `!a.b` negates `a.b`; objects keep the order of their keys.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::body::Item;
use crate::diagnostic::Span;
use crate::failure::{Class, Failure};
use crate::message::Message;

pub(crate) mod ast;
mod check;
mod decide;
pub(crate) mod evaluate;
pub mod functions;
pub(crate) mod lexer;
pub(crate) mod number;
mod parser;
mod scope;
mod tables;
mod value;

use ast::Node;
use evaluate::Budget;
use number::Decimal;

/// How many bytes an expression may have.
pub const LENGTH_MAX: usize = 64 << 10;
/// How deep an expression may nest.
pub const DEPTH_MAX: usize = 128;
/// How many parts a chain of operators may have.
pub const HEIGHT_MAX: usize = 200;
/// How many steps one evaluation may take.
pub const STEPS_MAX: u64 = 10_000_000;
/// How many values one evaluation may make.
pub const VALUES_MAX: u64 = 2_000_000;
/// How many bytes of text one evaluation may make, and how many its result may have.
pub const RESULT_BYTES_MAX: u64 = 64 << 20;
/// How deep a result may nest.
pub const RESULT_DEPTH_MAX: usize = 512;

/// A compiled expression: compiled once, evaluated many times, from any thread.
pub struct Expression {
    text: Arc<str>,
    root: Node,
}

impl Expression {
    /// Compiles an expression. What is wrong with it is told all at once, as far as it can be read.
    pub fn compile(text: &str) -> Result<Expression, Vec<Fault>> {
        let root = parser::parse(text).map_err(|fault| vec![fault])?;
        let faults = check::faults(&root);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Expression {
            text: Arc::from(text),
            root,
        })
    }

    /// What compiles but surely means something else, such as `<` between strings.
    pub fn cautions(&self) -> Vec<Fault> {
        check::cautions(&self.root)
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Variables that no `let` of the expression binds: name without `$`, first and last byte.
    pub fn free_variables(&self) -> Vec<(String, usize, usize)> {
        check::free_variables(&self.root)
    }

    /// Tables that are named in `lookup` and `known`, with their columns.
    pub fn tables(&self) -> Vec<TableUse> {
        check::table_uses(&self.root)
    }

    /// Business keys that are named in `key`, each with its bytes in the text.
    pub fn keys(&self) -> Vec<(String, usize, usize)> {
        check::first_arguments(&self.root, &["key"])
    }

    /// Whether the expression reads the body: false for literals and for what only asks the context.
    pub fn reads_body(&self) -> bool {
        check::reads_current(&self.root)
    }

    /// The texts and numbers that are written in the expression.
    pub(crate) fn constants(&self) -> Vec<serde_json::Value> {
        check::constants(&self.root)
    }

    /// The value of the expression on the scope's body.
    pub fn evaluate<'s, 'a: 's>(&'a self, scope: &'s Scope<'a>) -> Result<Value<'a>, Fault> {
        self.evaluate_on(scope, &scope.body)
    }

    /// The value of the expression on another current value than the scope's body, such as an item of a list.
    pub fn evaluate_on<'s, 'a: 's>(
        &'a self,
        scope: &'s Scope<'a>,
        current: &Value<'a>,
    ) -> Result<Value<'a>, Fault> {
        self.evaluate_within(scope, current, &mut Budget::FULL.clone())
    }

    /// As `evaluate_on`, at the cost of a budget that several evaluations share.
    pub(crate) fn evaluate_within<'s, 'a: 's>(
        &'a self,
        scope: &'s Scope<'a>,
        current: &Value<'a>,
        budget: &'s mut Budget,
    ) -> Result<Value<'a>, Fault> {
        evaluate::run(&self.root, scope, current, budget).map_err(|fault| *fault)
    }

    /// The tree, for those who write results without building them first.
    pub(crate) fn root(&self) -> &Node {
        &self.root
    }

    /// The value as a condition: anything but a boolean is a failure of class `mapping`.
    pub fn decide<'s, 'a: 's>(&'a self, scope: &'s Scope<'a>) -> Result<bool, Failure> {
        let value = self.evaluate(scope)?;
        value.as_bool().ok_or_else(|| {
            Failure::mapping(format!(
                "the condition `{}` gave {}, it must give true or false; compare with == or use not_null",
                shortened(&self.text),
                value.described()
            ))
        })
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Expression) -> bool {
        self.text == other.text
    }
}

/// What is wrong with an expression or with one evaluation of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of mistake.
    pub kind: FaultKind,
    /// What; no full stop.
    pub message: String,
    /// The first byte in the expression's text.
    pub start: usize,
    /// After the last byte in the expression's text.
    pub end: usize,
    /// What to do; may be empty.
    pub help: String,
}

/// The kinds of mistakes, by the names that the JMESPath specification uses where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The text does not fit the grammar.
    Syntax,
    /// A function got too few or too many arguments.
    InvalidArity,
    /// A function got an argument of a type that it does not take.
    InvalidType,
    /// An argument has the right type and a value that makes no sense.
    InvalidValue,
    /// No function has this name.
    UnknownFunction,
    /// Nothing has bound this variable.
    UndefinedVariable,
    /// A cross-reference table is missing, or has no row for the value.
    UnknownReference,
    /// A number cannot be kept exactly.
    Overflow,
    /// The evaluation takes too many steps or makes too much.
    TooLarge,
}

impl FaultKind {
    /// The name in answers and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Syntax => "syntax",
            FaultKind::InvalidArity => "invalid-arity",
            FaultKind::InvalidType => "invalid-type",
            FaultKind::InvalidValue => "invalid-value",
            FaultKind::UnknownFunction => "unknown-function",
            FaultKind::UndefinedVariable => "undefined-variable",
            FaultKind::UnknownReference => "unknown-reference",
            FaultKind::Overflow => "overflow",
            FaultKind::TooLarge => "too-large",
        }
    }
}

/// The codes of diagnostics about expressions.
pub mod codes {
    use super::FaultKind;
    use crate::diagnostic::Code;

    /// The text does not fit the grammar.
    pub const EXPRESSION_SYNTAX: Code = Code {
        name: "expression-syntax",
        meaning: "an expression does not fit the grammar of JMESPath",
    };
    /// No function has this name.
    pub const UNKNOWN_FUNCTION: Code = Code {
        name: "unknown-function",
        meaning: "an expression calls a function that does not exist",
    };
    /// Too few or too many arguments.
    pub const WRONG_ARITY: Code = Code {
        name: "wrong-arity",
        meaning: "a function is called with too few or too many arguments",
    };
    /// An argument that the function never takes.
    pub const WRONG_ARGUMENT_TYPE: Code = Code {
        name: "wrong-argument-type",
        meaning: "a literal argument has a type that the function never takes",
    };
    /// An argument whose value makes no sense.
    pub const WRONG_ARGUMENT_VALUE: Code = Code {
        name: "wrong-argument-value",
        meaning: "a literal argument has a value that makes no sense, such as a slice with step 0",
    };
    /// A variable that nothing binds.
    pub const UNKNOWN_VARIABLE: Code = Code {
        name: "unknown-variable",
        meaning: "an expression uses a variable that nothing binds",
    };
    /// A name in double quotes where a string is meant.
    pub const QUOTED_NAME: Code = Code {
        name: "quoted-name",
        meaning: "a plain word in double quotes is compared: it is the name of a field, strings stand in single quotes",
    };
    /// `<` and its kin between strings.
    pub const STRING_ORDERING: Code = Code {
        name: "string-ordering",
        meaning: "an ordering comparison has a string on one side, which gives null in JMESPath",
    };

    /// The code of a mistake that is found in a file.
    pub fn of(kind: FaultKind) -> Code {
        match kind {
            FaultKind::Syntax => EXPRESSION_SYNTAX,
            FaultKind::InvalidArity => WRONG_ARITY,
            FaultKind::InvalidType => WRONG_ARGUMENT_TYPE,
            FaultKind::UnknownFunction => UNKNOWN_FUNCTION,
            FaultKind::UndefinedVariable => UNKNOWN_VARIABLE,
            FaultKind::InvalidValue
            | FaultKind::UnknownReference
            | FaultKind::Overflow
            | FaultKind::TooLarge => WRONG_ARGUMENT_VALUE,
        }
    }

    /// All codes of this module, for the reference.
    pub const ALL: [Code; 8] = [
        EXPRESSION_SYNTAX,
        UNKNOWN_FUNCTION,
        WRONG_ARITY,
        WRONG_ARGUMENT_TYPE,
        WRONG_ARGUMENT_VALUE,
        UNKNOWN_VARIABLE,
        QUOTED_NAME,
        STRING_ORDERING,
    ];
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Fault {
        Fault {
            kind,
            message: message.into(),
            start: 0,
            end: 0,
            help: String::new(),
        }
    }

    pub(crate) fn at(mut self, start: usize, end: usize) -> Fault {
        self.start = start;
        self.end = end;
        self
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Fault {
        self.help = help.into();
        self
    }

    pub(crate) fn boxed(self) -> Box<Fault> {
        Box::new(self)
    }

    /// The failure of a message, with the expression that it happened in.
    pub fn into_failure(self, text: &str) -> Failure {
        let class = match self.kind {
            FaultKind::UnknownReference => Class::UnknownReference,
            FaultKind::TooLarge => Class::TooLarge,
            _ => Class::Mapping,
        };
        let part = text.get(self.start..self.end).unwrap_or_default();
        let whole = if text.is_empty() {
            String::new()
        } else if part.is_empty() || part == text {
            format!(" in `{}`", shortened(text))
        } else {
            format!(" at `{}` in `{}`", shortened(part), shortened(text))
        };
        let help = if self.help.is_empty() {
            String::new()
        } else {
            format!("; {}", self.help)
        };
        Failure::new(class, format!("{}{whole}{help}", self.message))
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        fault.into_failure("")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}

impl std::error::Error for Fault {}

/// A value during and after an evaluation.
#[derive(Clone, Debug, Default)]
pub enum Value<'a> {
    /// Nothing there. A mapping leaves such a field out.
    #[default]
    Null,
    /// A null that a mapping writes: what `keep_null` gives.
    KeptNull,
    /// A truth value.
    Bool(bool),
    /// A value of a document, as it stands there.
    Item(Item<'a>),
    /// A computed number.
    Number(Number<'a>),
    /// A computed text.
    Text(Cow<'a, str>),
    /// A computed list.
    List(Vec<Value<'a>>),
    /// A computed object.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
    /// An expression that is an argument: `&sku`.
    Reference(Reference<'a>),
}

/// A computed number, exact.
#[derive(Clone, Debug)]
pub struct Number<'a>(pub(crate) Form<'a>);

#[derive(Clone, Debug)]
pub(crate) enum Form<'a> {
    /// A number in JSON's form.
    Text(Cow<'a, str>),
    Decimal(Decimal),
}

/// An expression that was handed to a function unevaluated.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a>(pub(crate) &'a Node);

/// A cross-reference table that an expression names, each name with its bytes in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableUse {
    /// The table.
    pub table: String,
    /// Where its name stands.
    pub table_at: Span,
    /// What is read of a row.
    pub column: ColumnUse,
}

/// What an expression reads of a table's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnUse {
    /// Nothing, or what is known only when it runs.
    Open,
    /// The only column beside the key.
    Only,
    /// This column, with its bytes in the text.
    Named(String, Span),
}

/// The tables of a project, by name.
#[derive(Debug, Default)]
pub struct Tables {
    tables: BTreeMap<String, Table>,
}

/// One table: the first column is the key, the other columns are values.
pub struct Table {
    name: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    places: FxHashMap<String, usize>,
    hash: [u8; 32],
}

/// What is wrong with the rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFault {
    /// The row, 0 being the header.
    pub row: usize,
    /// What.
    pub message: String,
}

/// What an expression can see: the body, the message around it, tables, and variables.
#[derive(Clone)]
pub struct Scope<'a> {
    body: Value<'a>,
    message: Option<&'a Message>,
    tables: &'a Tables,
    site: Cow<'a, str>,
    bindings: Vec<(Cow<'a, str>, Value<'a>)>,
}

impl<'a> Scope<'a> {
    /// The scope of a message. Parses its body; fails as that fails.
    pub fn of(message: &'a Message, tables: &'a Tables) -> Result<Scope<'a>, Failure> {
        let item = message.body.document()?;
        Ok(Scope {
            message: Some(message),
            ..Scope::bare(item, tables)
        })
    }

    /// The scope of a message whose body is not read: `@` is null. For expressions over headers, keys and variables only.
    pub fn of_context(message: &'a Message, tables: &'a Tables) -> Scope<'a> {
        Scope {
            body: Value::Null,
            message: Some(message),
            tables,
            site: Cow::Borrowed(""),
            bindings: Vec::new(),
        }
    }

    /// The scope of a document without a message around it.
    pub fn bare(item: Item<'a>, tables: &'a Tables) -> Scope<'a> {
        Scope {
            body: Value::Item(item),
            message: None,
            tables,
            site: Cow::Borrowed(""),
            bindings: Vec::new(),
        }
    }

    /// The same scope at a named place of the flow: `uuid()` gives each place its own ids.
    #[must_use]
    pub fn with_site(mut self, site: impl Into<Cow<'a, str>>) -> Scope<'a> {
        self.site = site.into();
        self
    }

    /// Binds a variable, named without `$`; a later binding hides an earlier one.
    pub fn bind(&mut self, name: impl Into<Cow<'a, str>>, value: Value<'a>) {
        self.bindings.push((name.into(), value));
    }

    /// The same scope with one more variable.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'a, str>>, value: Value<'a>) -> Scope<'a> {
        self.bind(name, value);
        self
    }

    /// The value that `@` has at the outermost level.
    pub fn body(&self) -> &Value<'a> {
        &self.body
    }
}

/// At most 80 characters of a text, for messages.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(80) {
        Some((at, _)) => Cow::Owned(format!("{}..", &text[..at])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
