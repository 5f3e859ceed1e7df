//! Applying a mapping: walks the shape and writes bytes. No tree of the result is built.

use std::borrow::Cow;

use super::target::Form;
use super::{Entry, Leaf, Mapping, Shape, left_out, too_large};
use crate::body::{Item, Kind, write_string};
use crate::expression::ast::{Key, Node, Over, Tree};
use crate::expression::evaluate::{Budget, Run, check_size};
use crate::expression::{Fault, FaultKind, RESULT_BYTES_MAX, Scope, Value};
use crate::failure::Failure;

pub(super) struct Writer<'o, 'a> {
    pub(super) mapping: &'a Mapping,
    pub(super) scope: Scope<'a>,
    pub(super) budget: Budget,
    /// The places in the lists under way, outermost first.
    pub(super) places: Vec<usize>,
    /// Where in `out` this body begins.
    pub(super) start: usize,
    /// Takes what fails, so that the rest can be tried; without it the first failure ends the mapping.
    pub(super) faults: Option<Vec<Failed>>,
    pub(super) out: &'o mut Vec<u8>,
}

/// An expression that failed: its path in the target.
pub(crate) struct Failed {
    pub(crate) path: String,
    pub(crate) fault: Fault,
}

impl<'a> Writer<'_, 'a> {
    /// Writes the whole body; nothing at all is null.
    pub(super) fn whole(
        mut self,
        shape: &'a Shape,
        current: &Value<'a>,
    ) -> Result<Vec<Failed>, Failure> {
        if !self.shape(shape, current)? {
            self.out.extend_from_slice(b"null");
        }
        Ok(self.faults.unwrap_or_default())
    }

    /// Notes a failure where failures are taken, and leaves out what was to be made.
    fn failed(&mut self, leaf: &Leaf, fault: Fault) -> Result<(), Failure> {
        match &mut self.faults {
            Some(faults) => {
                faults.push(Failed {
                    path: leaf.path.clone(),
                    fault,
                });
                Ok(())
            }
            None => Err(self.fault(leaf, fault)),
        }
    }

    /// Writes a shape. False if it is null and was not written.
    fn shape(&mut self, shape: &'a Shape, current: &Value<'a>) -> Result<bool, Failure> {
        match shape {
            Shape::Expression(leaf) => {
                return self.expression(leaf, current);
            }
            Shape::Literal(json, form) => write_number(json, form, self.out),
            Shape::Object(fields) => {
                self.out.push(b'{');
                let mut first = true;
                for field in fields {
                    let before = self.out.len();
                    if !first {
                        self.out.push(b',');
                    }
                    self.out.extend_from_slice(&field.prefix);
                    if self.shape(&field.shape, current)? {
                        first = false;
                    } else {
                        self.out.truncate(before);
                    }
                }
                self.out.push(b'}');
            }
            Shape::List(entries) => {
                self.out.push(b'[');
                let mut count = 0;
                for entry in entries {
                    self.entry(entry, current, &mut count)?;
                }
                self.out.push(b']');
            }
        }
        Ok(true)
    }

    /// Writes the result of an expression. Objects that it builds are written as they come, none is built in memory.
    fn expression(&mut self, leaf: &'a Leaf, current: &Value<'a>) -> Result<bool, Failure> {
        self.scope.set_site(Cow::Borrowed(&leaf.path));
        let before = self.out.len();
        let mut stream = Stream {
            run: Run::new(&self.scope, &mut self.budget),
            length_max: self.start + RESULT_BYTES_MAX as usize,
            out: self.out,
        };
        match stream.node(leaf.expression.root(), current, &leaf.form) {
            Ok(written) => Ok(written),
            Err(fault) => {
                self.failed(leaf, *fault)?;
                self.out.truncate(before);
                Ok(false)
            }
        }
    }

    fn entry(
        &mut self,
        entry: &'a Entry,
        current: &Value<'a>,
        count: &mut usize,
    ) -> Result<(), Failure> {
        match entry {
            Entry::One(shape) => self.element(shape, current, count),
            Entry::Each(over, shape) => {
                let value = match self.evaluate(over, current) {
                    Ok(value) => value,
                    Err(fault) => return self.failed(over, fault),
                };
                if value.is_null() {
                    return Ok(());
                }
                let kind = value.type_name();
                let Some(elements) = value.into_items() else {
                    let fault = Fault::new(
                        FaultKind::InvalidType,
                        format!("`each` goes over a list, and this is {kind}"),
                    )
                    .with_help(
                        "the values of an object are a.*; one value as a list is to_array(a)",
                    );
                    return self.failed(over, fault);
                };
                for element in elements {
                    self.element(shape, &element, count)?;
                }
                Ok(())
            }
        }
    }

    fn element(
        &mut self,
        shape: &'a Shape,
        current: &Value<'a>,
        count: &mut usize,
    ) -> Result<(), Failure> {
        let before = self.out.len();
        if *count > 0 {
            self.out.push(b',');
        }
        self.places.push(*count);
        let written = self.shape(shape, current)?;
        self.places.pop();
        if written {
            *count += 1;
        } else {
            self.out.truncate(before);
        }
        Ok(())
    }

    fn evaluate(&mut self, leaf: &'a Leaf, current: &Value<'a>) -> Result<Value<'a>, Fault> {
        self.scope.set_site(Cow::Borrowed(&leaf.path));
        leaf.expression
            .evaluate_within(&self.scope, current, &mut self.budget)
    }

    fn fault(&self, leaf: &Leaf, fault: Fault) -> Failure {
        let failure = fault.into_failure(leaf.expression.text());
        self.mapping.failure(leaf, failure, &self.places)
    }
}

/// One expression whose result goes straight into the bytes.
struct Stream<'s, 'a> {
    run: Run<'s, 'a>,
    length_max: usize,
    out: &'s mut Vec<u8>,
}

impl<'s, 'a: 's> Stream<'s, 'a> {
    /// Writes what a node gives. False if that is null and was not written.
    fn node(
        &mut self,
        node: &'a Node,
        current: &Value<'a>,
        form: &Form,
    ) -> Result<bool, Box<Fault>> {
        if let Some(found) = self.run.shortcut(node, current)? {
            return match found {
                Some(item) if !item.is_null() => {
                    self.item(item, form)?;
                    Ok(true)
                }
                _ => Ok(false),
            };
        }
        match &node.tree {
            Tree::Object(entries) => self.object(entries, current, form),
            Tree::Pipe(left, right) => {
                let left = self.run.value(left, current)?;
                self.node(right, &left, form)
            }
            Tree::Project { of, over, each } => match each.as_deref() {
                Some(each) if never_keeps_null(each) => {
                    self.projection(of.as_deref(), over, each, current, form)
                }
                _ => self.value(node, current, form),
            },
            _ => self.value(node, current, form),
        }
    }

    fn item(&mut self, item: Item<'a>, form: &Form) -> Result<(), Box<Fault>> {
        match form {
            Form::AsIs => write_item_as_is(item, self.out),
            _ => write_item(item, form, self.out),
        }
        self.check_length()
    }

    fn check_length(&self) -> Result<(), Box<Fault>> {
        if self.out.len() > self.length_max {
            return Err(too_large().boxed());
        }
        Ok(())
    }

    fn value(
        &mut self,
        node: &'a Node,
        current: &Value<'a>,
        form: &Form,
    ) -> Result<bool, Box<Fault>> {
        let value = self.run.value(node, current)?;
        if left_out(&value) {
            return Ok(false);
        }
        check_size(&value)?;
        write_value(&value, form, self.out);
        self.check_length()?;
        Ok(true)
    }

    fn object(
        &mut self,
        entries: &'a [(Key, Node)],
        current: &Value<'a>,
        form: &Form,
    ) -> Result<bool, Box<Fault>> {
        if current.is_null() {
            return Ok(false);
        }
        self.out.push(b'{');
        let mut first = true;
        for (key, node) in entries {
            let before = self.out.len();
            if !first {
                self.out.push(b',');
            }
            self.out.extend_from_slice(&key.prefix);
            if self.node(node, current, form.property(&key.name))? {
                first = false;
            } else {
                self.out.truncate(before);
            }
        }
        self.out.push(b'}');
        Ok(true)
    }

    /// A projection, written element by element.
    fn projection(
        &mut self,
        of: Option<&'a Node>,
        over: &'a Over,
        each: &'a Node,
        current: &Value<'a>,
        form: &Form,
    ) -> Result<bool, Box<Fault>> {
        let Some(elements) = self.run.elements(of, over, current)? else {
            return Ok(false);
        };
        self.out.push(b'[');
        let mut first = true;
        for element in elements {
            let before = self.out.len();
            if !first {
                self.out.push(b',');
            }
            if self.node(each, &element, form.items())? {
                first = false;
            } else {
                self.out.truncate(before);
            }
        }
        self.out.push(b']');
        Ok(true)
    }
}

/// Whether a node gives no null that is kept: a projection drops every null.
fn never_keeps_null(node: &Node) -> bool {
    matches!(node.tree, Tree::Object(_) | Tree::Path { of: None, .. })
}

/// Writes a value: numbers in the form of the target; entries that are null are left out of objects that the expression has built.
fn write_value(value: &Value, form: &Form, out: &mut Vec<u8>) {
    match (value, form) {
        (Value::Item(item), Form::AsIs) => write_item_as_is(*item, out),
        (Value::Item(item), _) => write_item(*item, form, out),
        (Value::List(items), _) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_value(item, form.items(), out);
            }
            out.push(b']');
        }
        (Value::Object(entries), _) => {
            out.push(b'{');
            let mut first = true;
            for (key, value) in entries {
                if left_out(value) {
                    continue;
                }
                if !first {
                    out.push(b',');
                }
                first = false;
                write_string(out, key);
                out.push(b':');
                write_value(value, form.property(key), out);
            }
            out.push(b'}');
        }
        (Value::Number(_), Form::Text) => {
            out.push(b'"');
            value.write_json(out);
            out.push(b'"');
        }
        _ => value.write_json(out),
    }
}

fn write_item_as_is(item: Item, out: &mut Vec<u8>) {
    Value::Item(item).write_json(out);
}

fn write_item(item: Item, form: &Form, out: &mut Vec<u8>) {
    match item.kind() {
        Kind::Number => write_number(item.raw_bytes(), form, out),
        Kind::List if !matches!(form, Form::Text) => {
            out.push(b'[');
            for (at, element) in item.items().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_item(element, form.items(), out);
            }
            out.push(b']');
        }
        Kind::Object if !matches!(form, Form::Text) => {
            out.push(b'{');
            for (at, (key, value)) in item.entries().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(key.json_bytes());
                out.push(b':');
                write_item(value, form.property(&key.as_str().unwrap_or_default()), out);
            }
            out.push(b'}');
        }
        _ => write_item_as_is(item, out),
    }
}

fn write_number(json: &[u8], form: &Form, out: &mut Vec<u8>) {
    let quoted = matches!(form, Form::Text)
        && json
            .first()
            .is_some_and(|byte| *byte == b'-' || byte.is_ascii_digit());
    if quoted {
        out.push(b'"');
    }
    out.extend_from_slice(json);
    if quoted {
        out.push(b'"');
    }
}
