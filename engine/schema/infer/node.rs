//! The type of an expression's value, node by node, as the evaluator works. Functions stand beside.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;

use super::hint::Hint;
use super::narrow::{self, Fact, Root};
use super::note::{About, Note};
use super::rows::Rows;
use super::seen::Seen;
use super::shape::{Rest, Shape, Standing};
use super::{Kinds, Origin, Type, rows, shape, source};
use crate::diagnostic::closest;
use crate::expression::Tables;
use crate::expression::ast::{Comparison, Key, Node, Over, Step, Tree};

/// How many declared fields a note lists.
const KNOWN_MAX: usize = 16;

/// One expression being typed.
pub(crate) struct Infer<'e, 's> {
    /// The text of the expression.
    text: &'e str,
    /// What variables from outside are.
    variables: &'e BTreeMap<String, Type<'s>>,
    pub(super) tables: &'e Tables,
    locals: Vec<Type<'s>>,
    /// Variables about which more is known here.
    known: Vec<(String, Type<'s>)>,
    pub(crate) notes: Vec<Note<'s>>,
    /// What it reads.
    pub(crate) reads: Vec<Rc<Origin>>,
    /// What the texts that it reads must look like.
    pub(crate) hints: Vec<(Rc<Origin>, Hint)>,
    /// What its parts are, if somebody asks.
    pub(crate) seen: Option<Vec<Seen<'s>>>,
    quiet: usize,
}

impl<'e, 's> Infer<'e, 's> {
    pub(crate) fn new(
        text: &'e str,
        variables: &'e BTreeMap<String, Type<'s>>,
        tables: &'e Tables,
    ) -> Infer<'e, 's> {
        Infer {
            text,
            variables,
            tables,
            locals: Vec::new(),
            known: Vec::new(),
            notes: Vec::new(),
            reads: Vec::new(),
            hints: Vec::new(),
            seen: None,
            quiet: 0,
        }
    }

    /// Types something without taking notes: it is typed elsewhere too.
    pub(super) fn quietly<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        self.quiet += 1;
        let made = work(self);
        self.quiet -= 1;
        made
    }

    fn see(&mut self, is: &Type<'s>, span: impl Fn() -> (usize, usize)) {
        if let Some(seen) = self.seen.as_mut().filter(|_| self.quiet == 0) {
            let (start, end) = span();
            let is = is.clone();
            seen.push(Seen { start, end, is });
        }
    }

    pub(super) fn note(&mut self, about: About<'s>, start: usize, end: usize) {
        let known = |note: &Note<'s>| (note.start, note.end) == (start, end);
        if self.quiet == 0 && !self.notes.iter().any(known) {
            self.notes.push(Note { about, start, end });
        }
    }

    pub(super) fn hint(&mut self, of: &Type<'s>, hint: Hint) {
        if let Some(origin) = &of.origin
            && !self.hints.iter().any(|(known, _)| known == origin)
        {
            self.hints.push((origin.clone(), hint));
        }
    }

    fn read(&mut self, is: &Type<'s>) {
        if let Some(origin) = &is.origin
            && !self.reads.contains(origin)
        {
            self.reads.push(origin.clone());
        }
    }

    /// The type of a node's value on a current value.
    pub(crate) fn node(&mut self, node: &Node, current: &Type<'s>) -> Type<'s> {
        let is = self.tree(node, current);
        self.see(&is, || (node.start, node.end));
        is
    }

    fn tree(&mut self, node: &Node, current: &Type<'s>) -> Type<'s> {
        match &node.tree {
            Tree::Current => {
                self.read(current);
                current.clone()
            }
            Tree::Path { of, steps } => self.path(node, of.as_deref(), steps, current),
            Tree::Project { of, over, each } => {
                self.project(node, of.as_deref(), over, each.as_deref(), current)
            }
            Tree::Pipe(left, right) => {
                let left = self.node(left, current);
                self.node(right, &left)
            }
            Tree::Or(left, right) => self.or(left, right, current),
            Tree::And(left, right) => self.and(left, right, current),
            Tree::Not(inner) => {
                let is = self.node(inner, current);
                truth(!is.clone().falsy().is_never(), !is.truthy().is_never())
            }
            Tree::Compare(comparison, left, right) => {
                self.compare(node, *comparison, left, right, current)
            }
            Tree::List(items) => self.list(items, current),
            Tree::Object(entries) => self.object(entries, current),
            Tree::Call(call) if call.name == "if" => self.choose(&call.arguments, current),
            Tree::Call(call) => self.call(call, current),
            Tree::Reference(_) => Type::unknown(),
            Tree::Literal(tape) => match serde_json::from_str::<Value>(tape.root().json()) {
                Ok(value) => source::of_value(&value),
                Err(_) => Type::unknown(),
            },
            Tree::Text(text) => Type::texts(super::Text::exactly(text)),
            Tree::Local(place) => self
                .locals
                .get(*place)
                .cloned()
                .unwrap_or_else(Type::unknown),
            Tree::Free(name) => self.variable(name),
            Tree::Let(values, body) => {
                let bound: Vec<_> = values
                    .iter()
                    .map(|value| self.node(value, current))
                    .collect();
                let outer = self.locals.len();
                self.locals.extend(bound);
                let is = self.node(body, current);
                self.locals.truncate(outer);
                is
            }
        }
    }

    fn variable(&mut self, name: &str) -> Type<'s> {
        let known = self.known.iter().rev().find(|(known, _)| known == name);
        let is = known.map(|(_, is)| is).or_else(|| self.variables.get(name));
        let is = is.cloned().unwrap_or_else(Type::unknown);
        self.read(&is);
        is
    }

    /// The type of a node where something is known about what it looks at.
    pub(super) fn knowing(
        &mut self,
        facts: &[Fact<'s>],
        node: &Node,
        current: &Type<'s>,
    ) -> Type<'s> {
        let locals = self.locals.clone();
        let known = self.known.len();
        for fact in facts {
            match &fact.root {
                Root::Current => {}
                Root::Local(place) => {
                    if let Some(local) = self.locals.get_mut(*place) {
                        *local =
                            narrow::about(local.clone(), std::slice::from_ref(fact), &fact.root);
                    }
                }
                Root::Free(name) => {
                    let is = self.quietly(|infer| infer.variable(name));
                    let is = narrow::about(is, std::slice::from_ref(fact), &fact.root);
                    self.known.push((name.clone(), is));
                }
            }
        }
        let current = narrow::narrowed(current.clone(), facts);
        let is = self.node(node, &current);
        self.locals = locals;
        self.known.truncate(known);
        is
    }

    fn path(
        &mut self,
        node: &Node,
        of: Option<&Node>,
        steps: &[Step],
        current: &Type<'s>,
    ) -> Type<'s> {
        let (mut is, from) = match of {
            Some(of) => (self.node(of, current), of.end),
            None => (current.clone(), node.start),
        };
        for (at, step) in steps.iter().enumerate() {
            if is.is_never() {
                return is;
            }
            let (next, sure) = match step {
                Step::Field(name) => {
                    self.field(&is, name, &|| self_span(self.text, from, node, at))
                }
                Step::Index(index) => {
                    if is_other(&is, Kinds::LIST) {
                        let about = wrong_kind("an element by its number".to_owned(), &is);
                        let (start, end) = self_span(self.text, from, node, at);
                        self.note(about, start, end);
                    }
                    (rows::item_at(&is, *index), true)
                }
            };
            is = next;
            self.see(&is, || self_span(self.text, from, node, at));
            if !sure {
                break;
            }
        }
        self.read(&is);
        is
    }

    /// A field of a value, and whether to go on below it.
    fn field(
        &mut self,
        of: &Type<'s>,
        name: &str,
        span: &dyn Fn() -> (usize, usize),
    ) -> (Type<'s>, bool) {
        if is_other(of, Kinds::OBJECT) {
            let (start, end) = span();
            self.note(wrong_kind(format!("the field `{name}`"), of), start, end);
            return (Type::of(Kinds::ABSENT), false);
        }
        let (is, standing) = shape::field(of, name);
        if standing == Standing::Declared || of.open && standing == Standing::Open {
            return (is, true);
        }
        let known: Vec<String> = of.objects.iter().flat_map(Shape::names).collect();
        if known.is_empty() && standing == Standing::Open {
            return (is, true);
        }
        let near = closest(name, known.iter().map(String::as_str)).map(str::to_owned);
        let shut = standing == Standing::Shut;
        let about = About::NoField {
            name: name.to_owned(),
            of: of
                .origin
                .as_ref()
                .map_or(String::new(), |origin| origin.words()),
            near,
            known: if known.len() > KNOWN_MAX {
                Vec::new()
            } else {
                known
            },
            shut,
        };
        let (start, end) = span();
        self.note(about, start, end);
        (is, !shut)
    }

    fn or(&mut self, left: &Node, right: &Node, current: &Type<'s>) -> Type<'s> {
        let is = self.node(left, current);
        if is.clone().falsy().is_never() {
            self.quietly(|infer| infer.node(right, current));
            return is;
        }
        let facts = self.facts(left, current, false);
        let other = self.knowing(&facts, right, current);
        is.truthy().union(other)
    }

    fn and(&mut self, left: &Node, right: &Node, current: &Type<'s>) -> Type<'s> {
        let is = self.node(left, current);
        let facts = self.facts(left, current, true);
        let other = self.knowing(&facts, right, current);
        if is.clone().truthy().is_never() {
            return is;
        }
        is.falsy().union(other)
    }

    fn choose(&mut self, arguments: &[Node], current: &Type<'s>) -> Type<'s> {
        let Some(condition) = arguments.first() else {
            return Type::null();
        };
        let decides = self.node(condition, current);
        let mut is = Type::never();
        for (at, truth) in [(1, true), (2, false)] {
            let facts = self.facts(condition, current, truth);
            let chosen = match arguments.get(at) {
                Some(node) => self.knowing(&facts, node, current),
                None => Type::null(),
            };
            let side = decides.clone();
            let side = if truth { side.truthy() } else { side.falsy() };
            if !side.is_never() {
                is = is.union(chosen);
            }
        }
        is
    }

    fn compare(
        &mut self,
        node: &Node,
        comparison: Comparison,
        left: &Node,
        right: &Node,
        current: &Type<'s>,
    ) -> Type<'s> {
        let (a, b) = (self.node(left, current), self.node(right, current));
        if a.is_never() || b.is_never() {
            return Type::of(Kinds::BOOLEAN);
        }
        if !comparison.orders() {
            let negated = comparison == Comparison::NotEqual;
            let written = |node: &Node| matches!(node.tree, Tree::Text(_) | Tree::Literal(_));
            // Two values that are written down come from a template: nobody needs to be told.
            let told = !(written(left) && written(right));
            if let Some(about) = never_equal(&a, &b, negated).filter(|_| told) {
                self.note(about, node.start, node.end);
                return truth(negated, !negated);
            }
            return match never_meets(&a, &b) {
                true => truth(negated, !negated),
                false => Type::of(Kinds::BOOLEAN),
            };
        }
        for (side, is) in [(left, &a), (right, &b)] {
            let written = matches!(side.tree, Tree::Text(_) | Tree::Literal(_) | Tree::Call(_));
            if is_other(is, Kinds::NUMBER) && !written {
                self.note(About::NeverOrdered { is: is.kinds }, side.start, side.end);
            }
        }
        if !a.kinds.has(Kinds::NUMBER) || !b.kinds.has(Kinds::NUMBER) {
            return Type::null();
        }
        let mut is = ordered(comparison, &a, &b);
        if !a.kinds.within(Kinds::NUMBER) || !b.kinds.within(Kinds::NUMBER) {
            is.kinds = is.kinds.or(Kinds::NULL);
        }
        is
    }

    fn list(&mut self, items: &[Node], current: &Type<'s>) -> Type<'s> {
        let each = items.iter().map(|item| self.node(item, current).in_place());
        built(Type::list(Rows::exactly(each.collect())), current)
    }

    fn object(&mut self, entries: &[(Key, Node)], current: &Type<'s>) -> Type<'s> {
        let each = entries
            .iter()
            .map(|(key, node)| (key.name.clone(), self.node(node, current).in_place()));
        let shape = Shape::of_fields(each.collect(), Rest::Nothing);
        built(Type::object(shape), current)
    }

    fn project(
        &mut self,
        node: &Node,
        of: Option<&Node>,
        over: &Over,
        each: Option<&Node>,
        current: &Type<'s>,
    ) -> Type<'s> {
        let source = match of {
            Some(of) => self.node(of, current),
            None => current.clone(),
        };
        let wanted = match over {
            Over::Values => Kinds::OBJECT,
            _ => Kinds::LIST,
        };
        if source.is_never() {
            return source;
        }
        if is_other(&source, wanted) {
            let asked = match over {
                Over::Values => "values",
                _ => "items",
            };
            let start = of.map_or(node.start, |of| of.start);
            let end = of.map_or(node.end, |of| of.end);
            self.note(wrong_kind(asked.to_owned(), &source), start, end);
            return Type::null();
        }
        let mut element = elements(&source, over);
        if let Over::Filter(condition) = over {
            if !element.is_never() {
                self.node(condition, &element);
            }
            let facts = self.facts(condition, &element, true);
            element = narrow::narrowed(element, &facts);
        }
        let made = match each {
            Some(each) if !element.is_never() => self.node(each, &element),
            _ => element,
        };
        let nulls = made.may_be_null();
        let (least, most) = rows::count(&source);
        let (least, most) = match over {
            Over::List if !nulls => (least, most),
            Over::List | Over::Filter(_) | Over::Slice(_) => (0, most),
            Over::Flatten | Over::Values => (0, None),
        };
        let mut rows = Rows::of_items(made.without(Kinds::NOTHING));
        rows = rows.counted(least, most);
        let mut is = Type::list(rows);
        if !source.kinds.within(wanted) {
            is.kinds = is.kinds.or(Kinds::NULL);
        }
        is
    }
}

/// What a projection goes over, one by one.
fn elements<'s>(source: &Type<'s>, over: &Over) -> Type<'s> {
    match over {
        Over::Values => match source.objects.as_slice() {
            [] => Type::unknown().without(Kinds::NOTHING),
            all => all
                .iter()
                .map(Shape::values)
                .fold(Type::never(), Type::union),
        },
        Over::Flatten => {
            let item = rows::item(source);
            let inner = rows::item(&item);
            item.without(Kinds::LIST).union(inner)
        }
        _ => rows::item(source),
    }
}

/// What is null where the current value is.
fn built<'s>(mut is: Type<'s>, current: &Type<'s>) -> Type<'s> {
    if current.kinds.within(Kinds::NOTHING) {
        return Type::null();
    }
    if current.may_be_null() {
        is.kinds = is.kinds.or(Kinds::NULL);
    }
    is
}

/// A truth value that may be true, or false.
pub(super) fn truth<'s>(yes: bool, no: bool) -> Type<'s> {
    let kind = |may, kind| if may { kind } else { Kinds::NONE };
    Type::of(kind(yes, Kinds::TRUE).or(kind(no, Kinds::FALSE)))
}

/// Whether a value is surely something else than what is asked for, and not just null.
pub(super) fn is_other(is: &Type<'_>, wanted: Kinds) -> bool {
    !is.kinds.has(wanted) && is.kinds.without(Kinds::NOTHING) != Kinds::NONE
}

fn wrong_kind<'s>(asked: String, of: &Type<'s>) -> About<'s> {
    About::WrongKind {
        asked,
        of: of
            .origin
            .as_ref()
            .map_or(String::new(), |origin| origin.words()),
        is: of.kinds,
    }
}

/// Whether no value is both, nulls being equal.
fn never_meets(a: &Type<'_>, b: &Type<'_>) -> bool {
    let both_null = a.may_be_null() && b.may_be_null();
    !both_null && a.clone().meet(b.clone()).is_never()
}

/// The note about two values that are never equal; nothing where one of them is null or open.
pub(super) fn never_equal<'s>(a: &Type<'s>, b: &Type<'s>, negated: bool) -> Option<About<'s>> {
    let only_null = |is: &Type<'_>| is.kinds.within(Kinds::NOTHING);
    if only_null(a) || only_null(b) || a.open || b.open || !never_meets(a, b) {
        return None;
    }
    let near =
        |written: &Type<'s>, other: &Type<'s>| match (&written.text.values, &other.text.values) {
            (Some(one), Some(all)) if one.len() == 1 => {
                closest(&one[0], all.iter().map(|text| &**text)).map(str::to_owned)
            }
            _ => None,
        };
    Some(About::NeverEqual {
        near: near(b, a).or_else(|| near(a, b)),
        left: Box::new(a.clone()),
        right: Box::new(b.clone()),
        negated,
    })
}

/// The truth of an order between two numbers.
fn ordered<'s>(comparison: Comparison, a: &Type<'s>, b: &Type<'s>) -> Type<'s> {
    let (a, b) = match comparison {
        Comparison::Less | Comparison::LessOrEqual => (&a.number, &b.number),
        _ => (&b.number, &a.number),
    };
    let strict = matches!(comparison, Comparison::Less | Comparison::Greater);
    // It is asked whether a lies below b.
    let always = a.most.zip(b.least).is_some_and(|(most, least)| {
        let order = most.compare(least);
        if strict { order.is_lt() } else { order.is_le() }
    });
    let never = a.least.zip(b.most).is_some_and(|(least, most)| {
        let order = least.compare(most);
        if strict { order.is_ge() } else { order.is_gt() }
    });
    truth(!never, !always)
}

/// Where the step of a path stands in the expression.
fn self_span(text: &str, from: usize, node: &Node, step: usize) -> (usize, usize) {
    let bytes = text.as_bytes();
    let mut at = from;
    let mut seen = 0;
    while at < node.end.min(bytes.len()) {
        let start = at;
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'[' => {
                while at < bytes.len() && bytes[at] != b']' {
                    at += 1;
                }
                at += 1;
            }
            byte if byte.is_ascii_alphanumeric() || byte == b'_' => {
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
                    at += 1;
                }
            }
            b'.' | b' ' | b'\n' | b'\r' | b'\t' | b'@' | b')' => {
                at += 1;
                continue;
            }
            _ => break,
        }
        if seen == step {
            return (start, at.min(node.end));
        }
        seen += 1;
    }
    (node.start, node.end)
}
