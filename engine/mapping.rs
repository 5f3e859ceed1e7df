//! Mapping files: a tree of expressions, compiled to one mapping that writes the target's bytes. It knows nothing of steps and flows.

use std::borrow::Cow;
use std::sync::Arc;

use crate::body::Body;
use crate::diagnostic::{File, Findings, Span};
use crate::expression::evaluate::Budget;
use crate::expression::{
    Expression, Fault, FaultKind, RESULT_BYTES_MAX, Scope, TableUse, Tables, Value,
};
use crate::failure::Failure;
use crate::message::Message;
use crate::yaml::Node;

mod compile;
pub mod property;
pub mod propose;
mod target;
pub(crate) mod trial;
pub(crate) mod typed;
mod write;

use target::Form;

/// The codes of diagnostics about mapping files.
pub mod codes {
    use crate::diagnostic::Code;

    /// The file is not built as a mapping is.
    pub const MAPPING_SHAPE: Code = Code {
        name: "mapping-shape",
        meaning: "A part of a mapping file is not what can stand there: an expression, a literal, an object or a list",
    };

    /// All codes of this module, for the reference.
    pub const ALL: &[Code] = &[MAPPING_SHAPE];
}

/// Compiles a mapping file that YAML has read. What is wrong becomes findings, all at once; then there is no mapping.
pub fn compile(file: &Arc<File>, node: &Node, findings: &mut Findings) -> Option<Mapping> {
    read(file, node, findings).0
}

/// As `compile`, and what the file refers to, as far as it could be read: for checks that go on past mistakes.
pub fn read(file: &Arc<File>, node: &Node, findings: &mut Findings) -> (Option<Mapping>, Outline) {
    compile::mapping(file, node, findings)
}

/// Compiles a file that is a single expression (`.jmespath`); its name comes from its path.
pub fn compile_expression(
    name: &str,
    file: &Arc<File>,
    findings: &mut Findings,
) -> Option<Mapping> {
    compile::single(name, file, findings)
}

/// A compiled mapping.
#[derive(Debug)]
pub struct Mapping {
    file: Arc<File>,
    name: String,
    description: String,
    from: Option<(String, Span)>,
    to: Option<(String, Span)>,
    lets: Vec<(String, Leaf)>,
    body: Shape,
    uses: Uses,
}

/// What a mapping file refers to, each with its place in the file.
#[derive(Debug, Default)]
pub struct Outline {
    /// The schema that it names under `from`.
    pub from: Option<(String, Span)>,
    /// The schema that it names under `to`.
    pub to: Option<(String, Span)>,
    /// The tables that its expressions name.
    pub tables: Vec<TableUse>,
}

/// What the expressions of a mapping refer to, each with its place in the file.
#[derive(Debug, Default)]
struct Uses {
    tables: Vec<TableUse>,
    keys: Vec<(String, Span)>,
    variables: Vec<(String, Span)>,
}

/// What stands at one place of the target.
#[derive(Debug)]
enum Shape {
    Expression(Leaf),
    /// A number or boolean, as JSON.
    Literal(Vec<u8>, Form),
    Object(Vec<Field>),
    List(Vec<Entry>),
}

#[derive(Debug)]
struct Leaf {
    expression: Expression,
    /// The path in the target, such as `lines[].sku`.
    path: String,
    /// How numbers are written there.
    form: Form,
    /// Where it stands in the file; nothing if it is the whole file.
    at: Option<Node>,
}

#[derive(Debug)]
struct Field {
    name: String,
    /// The name as JSON, with its colon.
    prefix: Vec<u8>,
    shape: Shape,
}

#[derive(Debug)]
enum Entry {
    One(Shape),
    Each(Leaf, Shape),
}

impl Mapping {
    /// The name, as `map` uses it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for; may be empty.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The schema of the bodies that it takes, and where the file names it.
    pub fn from(&self) -> Option<(&str, Span)> {
        self.from
            .as_ref()
            .map(|(name, span)| (name.as_str(), *span))
    }

    /// The schema of the bodies that it makes, and where the file names it.
    pub fn to(&self) -> Option<(&str, Span)> {
        self.to.as_ref().map(|(name, span)| (name.as_str(), *span))
    }

    /// The tables that its expressions name.
    pub fn tables(&self) -> &[TableUse] {
        &self.uses.tables
    }

    /// The business keys that its expressions name.
    pub fn keys(&self) -> &[(String, Span)] {
        &self.uses.keys
    }

    /// The variables that must come from outside, without `$`.
    pub fn free_variables(&self) -> &[(String, Span)] {
        &self.uses.variables
    }

    /// Writes numbers as the schema of the target asks: where it says `string`, a number is written as one. References within the schema
    /// are followed.
    pub fn with_target(&mut self, schema: &serde_json::Value) {
        self.with_target_in(schema, &|_| None);
    }

    /// As `with_target`; `find` gives the schemas that references to other files lead to, by what stands before `#`.
    pub fn with_target_in<'s>(
        &mut self,
        schema: &'s serde_json::Value,
        find: &dyn Fn(&str) -> Option<&'s serde_json::Value>,
    ) {
        target::apply(&mut self.body, target::Place::new(schema, find));
    }

    /// The body that the mapping makes of a message.
    pub fn apply(&self, message: &Message, tables: &Tables) -> Result<Body, Failure> {
        self.apply_scope(Scope::of(message, tables)?)
    }

    /// The body that the mapping makes in a scope.
    pub fn apply_scope<'a>(&'a self, scope: Scope<'a>) -> Result<Body, Failure> {
        // A mapped body is seldom larger than the one that it comes from.
        let size = scope.body().len_hint();
        let mut out = Vec::with_capacity(size);
        self.write(scope, &mut out)?;
        Ok(Body::new(out))
    }

    /// Appends the bytes of the body that the mapping makes in a scope.
    pub fn write<'a>(&'a self, mut scope: Scope<'a>, out: &mut Vec<u8>) -> Result<(), Failure> {
        let mut budget = Budget::FULL;
        let current = scope.body().clone();
        for (name, leaf) in &self.lets {
            scope.set_site(Cow::Borrowed(&leaf.path));
            let value = leaf
                .expression
                .evaluate_within(&scope, &current, &mut budget)
                .map_err(|fault| {
                    self.failure(leaf, fault.into_failure(leaf.expression.text()), &[])
                })?;
            scope.bind(name.as_str(), value);
        }
        write::Writer {
            mapping: self,
            scope,
            budget,
            places: Vec::new(),
            start: out.len(),
            faults: None,
            out,
        }
        .whole(&self.body, &current)?;
        Ok(())
    }

    /// A failure, with the field in which it happened.
    fn failure(&self, leaf: &Leaf, mut failure: Failure, places: &[usize]) -> Failure {
        let mut path = String::with_capacity(leaf.path.len() + 4);
        let mut places = places.iter();
        for (at, part) in leaf.path.split("[]").enumerate() {
            if at > 0 {
                match places.next() {
                    Some(place) => path.push_str(&format!("[{place}]")),
                    None => path.push_str("[]"),
                }
            }
            path.push_str(part);
        }
        let field = if path.is_empty() {
            String::new()
        } else {
            format!(", field {path}")
        };
        failure.message = format!("mapping {}{field}: {}", self.name, failure.message);
        failure
    }
}

/// The result is larger than bodies may be.
fn too_large() -> Fault {
    let message = format!("the result is larger than {RESULT_BYTES_MAX} bytes");
    Fault::new(FaultKind::TooLarge, message).with_help("split the message first")
}

/// Whether a value leaves its field out.
fn left_out(value: &Value) -> bool {
    value.is_null() && !value.is_kept_null()
}

#[cfg(test)]
mod tests;
