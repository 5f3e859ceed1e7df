//! Evaluation over the tape. Steps, values and bytes have budgets, so that no expression can explode.

use std::borrow::Cow;
use std::cmp::Ordering;

use smallvec::SmallVec;

use super::ast::{Call, Comparison, Key, Node, Over, Slice, Step, Tree};
use super::functions::{Arguments, Function, Types, list_types};
use super::value::{Elements, compare_numbers, equal};
use super::{Fault, FaultKind, RESULT_BYTES_MAX, RESULT_DEPTH_MAX, STEPS_MAX, Scope, VALUES_MAX};
use super::{Reference, Value};
use crate::body::{Item, Kind};

pub(crate) type Outcome<'a> = Result<Value<'a>, Box<Fault>>;

/// What evaluations may still cost. Shared by the expressions of one mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    steps_left: u64,
    values_left: u64,
    bytes_left: u64,
    /// How many ids have been made.
    pub(crate) ids: u64,
}

impl Budget {
    /// What one message may cost.
    pub(crate) const FULL: Budget = Budget {
        steps_left: STEPS_MAX,
        values_left: VALUES_MAX,
        bytes_left: RESULT_BYTES_MAX,
        ids: 0,
    };
}

/// Evaluates a whole expression.
pub(crate) fn run<'s, 'a: 's>(
    root: &'a Node,
    scope: &'s Scope<'a>,
    current: &Value<'a>,
    budget: &'s mut Budget,
) -> Outcome<'a> {
    let value = Run::new(scope, budget).value(root, current)?;
    check_size(&value)?;
    Ok(value)
}

/// Refuses a computed result that is too large or too deep to be written.
pub(crate) fn check_size(value: &Value) -> Result<(), Box<Fault>> {
    if matches!(value, Value::List(_) | Value::Object(_))
        && value.measure(RESULT_BYTES_MAX, RESULT_DEPTH_MAX).is_none()
    {
        let message = format!(
            "the result is larger than {RESULT_BYTES_MAX} bytes or nests deeper than {RESULT_DEPTH_MAX} levels"
        );
        return Err(Fault::new(FaultKind::TooLarge, message).boxed());
    }
    Ok(())
}

/// One evaluation under way.
pub(crate) struct Run<'s, 'a> {
    pub(crate) scope: &'s Scope<'a>,
    locals: Vec<Value<'a>>,
    pub(crate) budget: &'s mut Budget,
}

impl<'s, 'a: 's> Run<'s, 'a> {
    pub(crate) fn new(scope: &'s Scope<'a>, budget: &'s mut Budget) -> Run<'s, 'a> {
        Run {
            scope,
            locals: Vec::new(),
            budget,
        }
    }

    /// The value of a node on a current value.
    pub(crate) fn value(&mut self, node: &'a Node, current: &Value<'a>) -> Outcome<'a> {
        self.step(1)?;
        match &node.tree {
            Tree::Path { of, steps } => self.path(of.as_deref(), steps, current),
            Tree::Text(text) => Ok(Value::Text(Cow::Borrowed(text))),
            Tree::Literal(tape) => Ok(Value::Item(tape.root())),
            Tree::Call(call) => self.call(node, call, current),
            Tree::Current => self.copy(current),
            Tree::Project { of, over, each } => {
                self.project(of.as_deref(), over, each.as_deref(), current)
            }
            Tree::Compare(comparison, left, right) => {
                self.compare(*comparison, left, right, current)
            }
            Tree::Pipe(left, right) => {
                let left = self.value(left, current)?;
                self.value(right, &left)
            }
            Tree::Or(left, right) => {
                let left = self.value(left, current)?;
                if left.is_truthy() {
                    return Ok(left);
                }
                self.value(right, current)
            }
            Tree::And(left, right) => {
                let left = self.value(left, current)?;
                if !left.is_truthy() {
                    return Ok(left);
                }
                self.value(right, current)
            }
            Tree::Not(inner) => Ok(Value::Bool(!self.value(inner, current)?.is_truthy())),
            Tree::List(items) => self.list(items, current),
            Tree::Object(entries) => self.object(entries, current),
            Tree::Reference(inner) => Ok(Value::Reference(Reference(inner))),
            Tree::Local(place) => self.local(*place),
            Tree::Free(name) => self.free(node, name),
            Tree::Let(values, body) => self.let_in(values, body, current),
        }
    }

    /// Takes steps from the budget.
    pub(crate) fn step(&mut self, count: u64) -> Result<(), Box<Fault>> {
        match self.budget.steps_left.checked_sub(count) {
            Some(left) => {
                self.budget.steps_left = left;
                Ok(())
            }
            None => Err(exhausted(format!("takes more than {STEPS_MAX} steps"))),
        }
    }

    /// Takes computed values from the budget.
    pub(crate) fn make(&mut self, count: u64) -> Result<(), Box<Fault>> {
        match self.budget.values_left.checked_sub(count) {
            Some(left) => {
                self.budget.values_left = left;
                Ok(())
            }
            None => Err(exhausted(format!("makes more than {VALUES_MAX} values"))),
        }
    }

    /// Takes bytes of computed text from the budget.
    pub(crate) fn write(&mut self, bytes: usize) -> Result<(), Box<Fault>> {
        match self.budget.bytes_left.checked_sub(bytes as u64) {
            Some(left) => {
                self.budget.bytes_left = left;
                Ok(())
            }
            None => Err(exhausted(format!(
                "makes more than {RESULT_BYTES_MAX} bytes of text"
            ))),
        }
    }

    /// A copy of a value, charged by what it costs.
    pub(crate) fn copy(&mut self, value: &Value<'a>) -> Outcome<'a> {
        if let Value::Item(item) = value {
            return Ok(Value::Item(*item));
        }
        self.make(value.weight())?;
        Ok(value.clone())
    }

    fn path(
        &mut self,
        of: Option<&'a Node>,
        steps: &'a [Step],
        current: &Value<'a>,
    ) -> Outcome<'a> {
        match of {
            None => self.follow(current, steps),
            Some(of) => {
                let start = match &of.tree {
                    // A variable is walked where it lies.
                    Tree::Local(place) => {
                        let found = walk(&self.locals[*place], steps);
                        return self.found(found.into_owned_or_copy());
                    }
                    _ => self.value(of, current)?,
                };
                self.follow(&start, steps)
            }
        }
    }

    fn follow(&mut self, start: &Value<'a>, steps: &[Step]) -> Outcome<'a> {
        if let Value::Item(item) = start {
            let found = self.follow_item(*item, steps)?;
            return Ok(found.map_or(Value::Null, Value::Item));
        }
        let found = walk(start, steps).into_owned_or_copy();
        self.found(found)
    }

    /// Follows steps in a document. A search among many keys or elements is charged.
    #[inline]
    fn follow_item(
        &mut self,
        mut item: Item<'a>,
        steps: &[Step],
    ) -> Result<Option<Item<'a>>, Box<Fault>> {
        for step in steps {
            if item.len() > SEARCHED_FREELY {
                self.step(item.len() as u64 / 16)?;
            }
            match step_down(item, step) {
                Some(next) => item = next,
                None => return Ok(None),
            }
        }
        Ok(Some(item))
    }

    /// Charges for a value that was copied out of a computed one.
    fn found(&mut self, value: Value<'a>) -> Outcome<'a> {
        if !matches!(value, Value::Item(_)) {
            self.make(value.weight())?;
        }
        Ok(value)
    }

    fn local(&mut self, place: usize) -> Outcome<'a> {
        if let Value::Item(item) = &self.locals[place] {
            return Ok(Value::Item(*item));
        }
        self.make(self.locals[place].weight())?;
        Ok(self.locals[place].clone())
    }

    fn free(&mut self, node: &'a Node, name: &str) -> Outcome<'a> {
        let value = self
            .scope
            .variable(name)
            .map_err(|fault| fault.at(node.start, node.end).boxed())?;
        self.found(value)
    }

    fn let_in(&mut self, values: &'a [Node], body: &'a Node, current: &Value<'a>) -> Outcome<'a> {
        let mut bound = Vec::with_capacity(values.len());
        for value in values {
            bound.push(self.value(value, current)?);
        }
        let outer = self.locals.len();
        self.locals.extend(bound);
        let result = self.value(body, current);
        self.locals.truncate(outer);
        result
    }

    fn list(&mut self, items: &'a [Node], current: &Value<'a>) -> Outcome<'a> {
        if current.is_null() {
            return Ok(Value::Null);
        }
        self.make(items.len() as u64)?;
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            list.push(self.value(item, current)?);
        }
        Ok(Value::List(list))
    }

    fn object(&mut self, entries: &'a [(Key, Node)], current: &Value<'a>) -> Outcome<'a> {
        if current.is_null() {
            return Ok(Value::Null);
        }
        self.make(entries.len() as u64)?;
        let mut object = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            object.push((Cow::Borrowed(key.name.as_str()), self.value(node, current)?));
        }
        Ok(Value::Object(object))
    }

    fn compare(
        &mut self,
        comparison: Comparison,
        left: &'a Node,
        right: &'a Node,
        current: &Value<'a>,
    ) -> Outcome<'a> {
        let left = self.value(left, current)?;
        let right = self.value(right, current)?;
        if !comparison.orders() {
            let same = self.equal(&left, &right)?;
            return Ok(Value::Bool(same == (comparison == Comparison::Equal)));
        }
        if left.kind() != Kind::Number || right.kind() != Kind::Number {
            return Ok(Value::Null);
        }
        let order = compare_numbers(&left, &right);
        Ok(Value::Bool(match comparison {
            Comparison::Less => order == Ordering::Less,
            Comparison::LessOrEqual => order != Ordering::Greater,
            Comparison::Greater => order == Ordering::Greater,
            _ => order != Ordering::Less,
        }))
    }

    /// Equality, charged by the size of what is compared.
    pub(crate) fn equal(&mut self, a: &Value<'a>, b: &Value<'a>) -> Result<bool, Box<Fault>> {
        if let (Value::Item(a), Value::Item(b)) = (a, b) {
            self.step(a.raw_bytes().len().min(b.raw_bytes().len()) as u64 / 32)?;
        } else if matches!(a, Value::List(_) | Value::Object(_)) {
            self.step(a.weight())?;
        }
        Ok(equal(a, b))
    }

    /// What a path leads to in a document, where that is all there is to do.
    #[inline]
    pub(crate) fn shortcut(
        &mut self,
        node: &'a Node,
        current: &Value<'a>,
    ) -> Result<Option<Option<Item<'a>>>, Box<Fault>> {
        let (Tree::Path { of: None, steps }, Value::Item(item)) = (&node.tree, current) else {
            return Ok(None);
        };
        self.step(1)?;
        self.follow_item(*item, steps).map(Some)
    }

    /// What a projection goes over, before its filter; nothing if it cannot go over it.
    fn sources(
        &mut self,
        of: Option<&'a Node>,
        over: &Over,
        current: &Value<'a>,
    ) -> Result<Option<Elements<'a>>, Box<Fault>> {
        let source = match of {
            Some(of) => self.value(of, current)?,
            None => self.copy(current)?,
        };
        Ok(match over {
            Over::Values => source.into_values(),
            _ => source.into_items(),
        })
    }

    /// The elements of a projection, filtered, flattened or sliced.
    pub(crate) fn elements(
        &mut self,
        of: Option<&'a Node>,
        over: &'a Over,
        current: &Value<'a>,
    ) -> Result<Option<Elements<'a>>, Box<Fault>> {
        match over {
            Over::List | Over::Values => self.sources(of, over, current),
            _ => Ok(self.project(of, over, None, current)?.into_items()),
        }
    }

    fn project(
        &mut self,
        of: Option<&'a Node>,
        over: &'a Over,
        each: Option<&'a Node>,
        current: &Value<'a>,
    ) -> Outcome<'a> {
        let Some(elements) = self.sources(of, over, current)? else {
            return Ok(Value::Null);
        };
        let mut list = Vec::new();
        match over {
            Over::List | Over::Values => {
                list.reserve(elements.len());
                for element in elements {
                    self.add(each, element, &mut list)?;
                }
            }
            Over::Flatten => {
                for element in elements {
                    if element.kind() != Kind::List {
                        self.add(each, element, &mut list)?;
                        continue;
                    }
                    for inner in element.into_items().into_iter().flatten() {
                        self.add(each, inner, &mut list)?;
                    }
                }
            }
            Over::Filter(condition) => {
                for element in elements {
                    if self.value(condition, &element)?.is_truthy() {
                        self.add(each, element, &mut list)?;
                    }
                }
            }
            Over::Slice(slice) => {
                self.step(elements.len() as u64)?;
                let stretch = stretch(slice, elements.len());
                let taken = elements
                    .skip(stretch.first)
                    .step_by(stretch.stride)
                    .take(stretch.count);
                if slice.step > 0 {
                    for element in taken {
                        self.add(each, element, &mut list)?;
                    }
                } else {
                    let mut all: Vec<_> = taken.collect();
                    while let Some(element) = all.pop() {
                        self.add(each, element, &mut list)?;
                    }
                }
            }
        }
        Ok(Value::List(list))
    }

    /// Applies the right side of a projection to an element and keeps the result unless it is null.
    fn add(
        &mut self,
        each: Option<&'a Node>,
        element: Value<'a>,
        list: &mut Vec<Value<'a>>,
    ) -> Result<(), Box<Fault>> {
        let value = match each {
            Some(each) => self.value(each, &element)?,
            None => {
                self.step(1)?;
                element
            }
        };
        if !value.is_null() {
            self.make(1)?;
            list.push(value);
        }
        Ok(())
    }

    fn call(&mut self, node: &'a Node, call: &'a Call, current: &Value<'a>) -> Outcome<'a> {
        let Some(function) = call.function else {
            let message = format!("there is no function {}()", call.name);
            return Err(Fault::new(FaultKind::UnknownFunction, message)
                .at(node.start, call.name_end)
                .boxed());
        };
        if function.name == "if" {
            let chosen = if self.value(&call.arguments[0], current)?.is_truthy() {
                call.arguments.get(1)
            } else {
                call.arguments.get(2)
            };
            return chosen.map_or(Ok(Value::Null), |chosen| self.value(chosen, current));
        }
        let mut values = SmallVec::new();
        for (at, argument) in call.arguments.iter().enumerate() {
            let value = self.value(argument, current)?;
            if at == 0 && function.null_gives_null && value.is_null() {
                return Ok(Value::Null);
            }
            check_type(function, at, argument, &value)?;
            values.push(value);
        }
        (function.run)(self, Arguments { call, values }).map_err(|mut fault| {
            if fault.end == 0 {
                fault.start = node.start;
                fault.end = node.end;
            }
            fault
        })
    }
}

fn check_type(
    function: &'static Function,
    at: usize,
    argument: &Node,
    value: &Value,
) -> Result<(), Box<Fault>> {
    let parameter = function.parameter(at);
    let mut given = Types::of(value);
    if parameter.types.takes_any_of(given) {
        return Ok(());
    }
    if given == Types::ARRAY
        && parameter
            .types
            .takes_any_of(Types::NUMBERS | Types::STRINGS)
    {
        given = list_types(value);
        if parameter.types.takes_any_of(given) {
            return Ok(());
        }
    }
    let what = if given == Types::ARRAY && !value.is_empty() {
        "an array with other elements".to_owned()
    } else {
        value.described()
    };
    Err(Fault::new(
        FaultKind::InvalidType,
        format!(
            "{}() takes {} as `{}`, not {what}",
            function.name,
            parameter.types.words(),
            parameter.name
        ),
    )
    .at(argument.start, argument.end)
    .with_help(function.signature())
    .boxed())
}

/// Objects and lists up to this length are searched without a charge.
const SEARCHED_FREELY: usize = 64;

/// What a path leads to: something in the computed value, or something in a document below it.
enum Found<'v, 'a> {
    Nothing,
    Item(Item<'a>),
    Value(&'v Value<'a>),
}

impl<'a> Found<'_, 'a> {
    fn into_owned_or_copy(self) -> Value<'a> {
        match self {
            Found::Nothing => Value::Null,
            Found::Item(item) => Value::Item(item),
            Found::Value(value) => value.clone(),
        }
    }
}

fn walk<'v, 'a>(start: &'v Value<'a>, steps: &[Step]) -> Found<'v, 'a> {
    let mut at = start;
    for (done, step) in steps.iter().enumerate() {
        let next = match (at, step) {
            (Value::Item(item), _) => {
                return walk_item(*item, &steps[done..]).map_or(Found::Nothing, Found::Item);
            }
            (Value::Object(entries), Step::Field(name)) => entries
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value),
            (Value::List(items), Step::Index(index)) => {
                place(*index, items.len()).and_then(|place| items.get(place))
            }
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return Found::Nothing,
        }
    }
    Found::Value(at)
}

fn walk_item<'a>(item: Item<'a>, steps: &[Step]) -> Option<Item<'a>> {
    steps.iter().try_fold(item, step_down)
}

#[inline]
fn step_down<'a>(item: Item<'a>, step: &Step) -> Option<Item<'a>> {
    match step {
        Step::Field(name) => item.get(name),
        Step::Index(index) => item.at(place(*index, item.len())?),
    }
}

/// The place that an index means in a list of this length.
fn place(index: i64, length: usize) -> Option<usize> {
    if index >= 0 {
        return usize::try_from(index).ok();
    }
    length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)
}

/// The places that a slice takes, from the first in the list to the last.
struct Stretch {
    first: usize,
    stride: usize,
    count: usize,
}

fn stretch(slice: &Slice, length: usize) -> Stretch {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let bound = |value: i64, least: i64, most: i64| {
        let value = if value < 0 {
            value.saturating_add(length)
        } else {
            value
        };
        value.clamp(least, most)
    };
    let stride = slice.step.unsigned_abs().max(1);
    // From `low` up to before `high`, or from `high` down to behind `low`.
    let (start, distance) = if slice.step > 0 {
        let start = slice.start.map_or(0, |start| bound(start, 0, length));
        let stop = slice.stop.map_or(length, |stop| bound(stop, 0, length));
        (start, stop - start)
    } else {
        let last = length - 1;
        let start = slice.start.map_or(last, |start| bound(start, -1, last));
        let stop = slice.stop.map_or(-1, |stop| bound(stop, -1, last));
        (start, start - stop)
    };
    let count = u64::try_from(distance).unwrap_or(0).div_ceil(stride);
    let behind = i64::try_from(count.saturating_sub(1).saturating_mul(stride)).unwrap_or(0);
    let first = if slice.step > 0 {
        start
    } else {
        start - behind
    };
    let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Stretch {
        first: usize::try_from(first).unwrap_or(0),
        stride: whole(stride),
        count: whole(count),
    }
}

fn exhausted(what: String) -> Box<Fault> {
    Fault::new(FaultKind::TooLarge, format!("the expression {what}"))
        .with_help("filter earlier, or split the message first")
        .boxed()
}
