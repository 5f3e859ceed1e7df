//! The function library: one table that drives the checks, the documentation and the tests. Nothing here reads a clock or a random source.

use std::borrow::Cow;
use std::ops::BitOr;
use std::sync::OnceLock;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::ast::{Call, Node};
use super::evaluate::{Outcome, Run};
use super::number::Decimal;
use super::value::{Elements, elements};
use super::{Fault, FaultKind};
use super::{Reference, Value};
use crate::body::Kind;

mod codes;
mod context;
mod decimal;
mod lists;
mod objects;
mod standard;
pub(crate) mod text;
mod time;

/// A function: what it takes, what it gives, what it is for, and an example that is a test.
pub struct Function {
    /// The name in expressions.
    pub name: &'static str,
    /// The heading in the reference.
    pub group: Group,
    pub(crate) parameters: &'static [Parameter],
    /// How many parameters at the end may be left out.
    pub(crate) optional: usize,
    /// Whether the last parameter may be repeated.
    pub(crate) repeats: bool,
    /// Whether null as the first argument gives null.
    pub(crate) null_gives_null: bool,
    pub(crate) gives: Types,
    /// One sentence.
    pub doc: &'static str,
    /// Expression, document, result.
    pub example: (&'static str, &'static str, &'static str),
    pub(crate) run: for<'s, 'a> fn(&mut Run<'s, 'a>, Arguments<'a>) -> Outcome<'a>,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What a function is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The functions of the JMESPath specification.
    Standard,
    /// Exact arithmetic.
    Decimal,
    /// Texts.
    Text,
    /// Times, dates and zones.
    Time,
    /// Lists and objects.
    Lists,
    /// Cross-reference tables and units.
    Codes,
    /// Ids and hashes.
    Identity,
    /// What surrounds the body.
    Context,
    /// What only mappings and conditions need.
    Mapping,
}

impl Group {
    const ALL: [(Group, &'static str, &'static str); 9] = [
        (
            Group::Standard,
            "Standard",
            "As the JMESPath specification has them; numbers are exact.",
        ),
        (
            Group::Decimal,
            "Decimal",
            "Arithmetic is exact to 38 digits. What does not fit is a failure, never a rounded number; only `divide`, `round`, `fixed` and `avg` round.",
        ),
        (Group::Text, "Text", "Characters are Unicode code points."),
        (
            Group::Time,
            "Time",
            "A time is a text in RFC 3339, in UTC: `2026-11-02T08:30:00Z`. A date is `2026-11-02`. Zones are names of the IANA database, which is built in.",
        ),
        (
            Group::Lists,
            "Lists and objects",
            "Objects keep the order of their keys.",
        ),
        (
            Group::Codes,
            "Codes",
            "Tables are the CSV files of the project's `tables` folder; the first column is the key.",
        ),
        (
            Group::Identity,
            "Identity",
            "The same message gives the same ids, however often it runs.",
        ),
        (
            Group::Context,
            "Context",
            "What surrounds the body. There is no `now()` and nothing random: an expression gives the same whenever it runs.",
        ),
        (
            Group::Mapping,
            "Mapping",
            "For the leaves of mappings and for conditions.",
        ),
    ];
}

/// A parameter: its name in the reference, and the types that it takes.
#[derive(Clone, Copy)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) types: Types,
}

const fn takes(name: &'static str, types: Types) -> Parameter {
    Parameter { name, types }
}

/// A set of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Types(u16);

impl Types {
    pub(crate) const NUMBER: Types = Types(1);
    pub(crate) const STRING: Types = Types(2);
    pub(crate) const BOOLEAN: Types = Types(4);
    pub(crate) const ARRAY: Types = Types(8);
    pub(crate) const OBJECT: Types = Types(16);
    pub(crate) const NULL: Types = Types(32);
    pub(crate) const EXPRESSION: Types = Types(64);
    /// An array of numbers only.
    pub(crate) const NUMBERS: Types = Types(128);
    /// An array of strings only.
    pub(crate) const STRINGS: Types = Types(256);
    /// Whatever a value can be.
    pub(crate) const VALUE: Types = Types(0x1FF - 64);
    const TEXT: Types = Types(1 | 2);

    const NAMES: [(Types, &'static str); 9] = [
        (Types::NUMBER, "number"),
        (Types::STRING, "string"),
        (Types::BOOLEAN, "boolean"),
        (Types::ARRAY, "array"),
        (Types::NUMBERS, "array of numbers"),
        (Types::STRINGS, "array of strings"),
        (Types::OBJECT, "object"),
        (Types::NULL, "null"),
        (Types::EXPRESSION, "&expression"),
    ];

    const fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    pub(crate) fn of(value: &Value) -> Types {
        if let Value::Reference(_) = value {
            return Types::EXPRESSION;
        }
        match value.kind() {
            Kind::Null => Types::NULL,
            Kind::Bool => Types::BOOLEAN,
            Kind::Number => Types::NUMBER,
            Kind::String => Types::STRING,
            Kind::List => Types::ARRAY,
            Kind::Object => Types::OBJECT,
        }
    }

    pub(crate) fn takes_any_of(self, given: Types) -> bool {
        self.0 & given.0 != 0
    }

    /// The types in words: `number or string`.
    pub(crate) fn words(self) -> String {
        if self.0 & Types::VALUE.0 == Types::VALUE.0 {
            return "any".to_owned();
        }
        let mut left = self.0;
        if left & Types::ARRAY.0 != 0 {
            left &= !(Types::NUMBERS.0 | Types::STRINGS.0);
        }
        let names: Vec<_> = Types::NAMES
            .iter()
            .filter(|(types, _)| left & types.0 != 0)
            .map(|(_, name)| *name)
            .collect();
        names.join(" or ")
    }
}

impl BitOr for Types {
    type Output = Types;

    fn bitor(self, other: Types) -> Types {
        self.or(other)
    }
}

/// The types of a list, by what is in it.
pub(crate) fn list_types(list: &Value) -> Types {
    let mut types = Types::ARRAY;
    let only = |kind| elements(list).all(|item| item.kind() == kind);
    if only(Kind::Number) {
        types = types | Types::NUMBERS;
    }
    if only(Kind::String) {
        types = types | Types::STRINGS;
    }
    types
}

/// All functions, group by group.
pub fn all() -> impl Iterator<Item = &'static Function> {
    [
        standard::FUNCTIONS,
        decimal::FUNCTIONS,
        text::FUNCTIONS,
        time::FUNCTIONS,
        lists::FUNCTIONS,
        objects::FUNCTIONS,
        codes::FUNCTIONS,
        context::FUNCTIONS,
    ]
    .into_iter()
    .flatten()
}

/// The function with this name.
pub fn find(name: &str) -> Option<&'static Function> {
    static BY_NAME: OnceLock<FxHashMap<&'static str, &'static Function>> = OnceLock::new();
    BY_NAME
        .get_or_init(|| all().map(|function| (function.name, function)).collect())
        .get(name)
        .copied()
}

/// The reference page of the function library, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(
        "# Functions\n\nGenerated from the function library; every example is a test. Optional arguments stand in brackets, `..` marks one that \
         may be repeated. Where null as the first argument gives null, the type says so.\n",
    );
    for (group, title, words) in Group::ALL {
        page.push_str(&format!("\n## {title}\n\n{words}\n"));
        for function in all().filter(|function| function.group == group) {
            let (expression, document, result) = function.example;
            let on = if document == "null" {
                String::new()
            } else {
                format!(" on `{document}`")
            };
            page.push_str(&format!(
                "\n### {}\n\n`{}`\n\n{}\n\nExample: ``{expression}``{on} gives `{result}`\n",
                function.name,
                function.signature(),
                function.doc
            ));
        }
    }
    page
}

impl Function {
    /// The signature, as the reference shows it: `round(x: number, [scale: number]) -> number`.
    pub fn signature(&self) -> String {
        let first_optional = self.parameters.len() - self.optional;
        let mut parts: Vec<String> = Vec::new();
        for (at, parameter) in self.parameters.iter().enumerate() {
            let mut part = format!("{}: {}", parameter.name, parameter.types.words());
            if self.repeats && at + 1 == self.parameters.len() {
                part.push_str(" ..");
            }
            if at >= first_optional {
                part = format!("[{part}]");
            }
            parts.push(part);
        }
        format!(
            "{}({}) -> {}",
            self.name,
            parts.join(", "),
            self.gives.words()
        )
    }

    pub(crate) fn parameter(&self, at: usize) -> Parameter {
        self.parameters[at.min(self.parameters.len() - 1)]
    }

    /// The types that a result can have. What is in an array is not known before it is there.
    pub(crate) fn result_types(&self) -> Types {
        if self.gives.takes_any_of(Types::ARRAY) {
            self.gives | Types::NUMBERS | Types::STRINGS
        } else {
            self.gives
        }
    }

    pub(crate) fn check_arity(&self, given: usize) -> Result<(), Fault> {
        let most = self.parameters.len();
        let least = most - self.optional;
        if given >= least && (given <= most || self.repeats) {
            return Ok(());
        }
        let wanted = match (least, most) {
            (_, 0) => "no arguments".to_owned(),
            (least, _) if self.repeats => format!("at least {}", counted(least)),
            (least, most) if least == most => counted(least),
            (least, most) => format!("{least} to {}", counted(most)),
        };
        Err(Fault::new(
            FaultKind::InvalidArity,
            format!("{}() takes {wanted}, {given} given", self.name),
        )
        .with_help(self.signature()))
    }
}

fn counted(count: usize) -> String {
    match count {
        1 => "1 argument".to_owned(),
        count => format!("{count} arguments"),
    }
}

/// The arguments of one call, evaluated; their number and types fit the signature.
pub(crate) struct Arguments<'a> {
    pub(crate) call: &'a Call,
    pub(crate) values: SmallVec<[Value<'a>; 3]>,
}

impl<'a> Arguments<'a> {
    fn given(&self, at: usize) -> bool {
        self.values.get(at).is_some_and(|value| !value.is_null())
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn take(&mut self, at: usize) -> Value<'a> {
        self.values
            .get_mut(at)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    fn string(&mut self, at: usize) -> Cow<'a, str> {
        self.take(at).into_str().unwrap_or_default()
    }

    /// The text of a string or a number.
    fn text(&mut self, at: usize) -> Cow<'a, str> {
        let value = self.take(at);
        match value.kind() {
            Kind::Number => Cow::Owned(value.number_text().unwrap_or_default().into_owned()),
            _ => value.into_str().unwrap_or_default(),
        }
    }

    fn number(&self, at: usize) -> Result<Decimal, Box<Fault>> {
        let value = &self.values[at];
        value.to_decimal().ok_or_else(|| {
            let text = value.number_text().unwrap_or_default();
            overflow(format!(
                "the number {} has more than 38 digits",
                super::shortened(&text)
            ))
            .at(self.call.arguments[at].start, self.call.arguments[at].end)
            .boxed()
        })
    }

    /// A whole number, in a range.
    fn whole(&self, at: usize, least: i64, most: i64) -> Result<i64, Box<Fault>> {
        let number = self.number(at)?;
        match number.to_integer() {
            Some(whole) if (least..=most).contains(&whole) => Ok(whole),
            _ => Err(self.refuse(
                at,
                format!(
                    "{}() takes a whole number from {least} to {most}, not {}",
                    self.call.name,
                    number.to_text()
                ),
            )),
        }
    }

    fn list(&mut self, at: usize) -> Elements<'a> {
        self.take(at)
            .into_items()
            .unwrap_or(Elements::Computed(Vec::new().into_iter()))
    }

    fn reference(&self, at: usize) -> &'a Node {
        match &self.values[at] {
            Value::Reference(Reference(node)) => node,
            // The check of types has passed before.
            _ => &self.call.arguments[at],
        }
    }

    /// An argument whose value makes no sense.
    fn refuse(&self, at: usize, message: impl Into<String>) -> Box<Fault> {
        let fault = Fault::new(FaultKind::InvalidValue, message);
        match self.call.arguments.get(at) {
            Some(node) => fault.at(node.start, node.end).boxed(),
            None => fault.boxed(),
        }
    }

    /// What the expression of an argument gave cannot be used.
    fn wrong_type(&self, at: usize, message: impl Into<String>) -> Box<Fault> {
        let mut fault = self.refuse(at, message);
        fault.kind = FaultKind::InvalidType;
        fault
    }
}

fn overflow(message: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Overflow, message)
        .with_help("numbers are exact up to 38 digits; round first, or keep the number as text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::Scope;
    use crate::expression::tests::{check, message};
    use crate::expression::{Table, Tables};

    #[test]
    fn every_example_is_true() {
        let mut tables = Tables::new();
        let text = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        tables.insert(
            Table::new(
                "carriers",
                text(&["code", "name", "scac"]),
                vec![text(&["ups", "UPS Ground", "UPSN"])],
            )
            .unwrap(),
        );
        for function in all() {
            let (expression, document, result) = function.example;
            let message = message(document);
            let scope = Scope::of(&message, &tables).unwrap().with_site("example");
            check(expression, &scope, Ok(result));
            assert!(expression.contains(function.name), "{}", function.name);
            assert!(!function.doc.ends_with('.'), "{}", function.name);
        }
    }

    #[test]
    fn names_are_unique_and_every_group_is_used() {
        let names: std::collections::BTreeSet<_> = all().map(|function| function.name).collect();
        assert_eq!(names.len(), all().count());
        for (group, title, _) in Group::ALL {
            assert!(all().any(|function| function.group == group), "{title}");
        }
    }

    #[test]
    fn the_page_shows_signatures() {
        let page = reference();
        assert!(
            page.contains(
                "`divide(a: number, b: number, scale: number, [mode: string]) -> number`"
            ),
            "{page}"
        );
    }
}
