//! What a condition says about the values that it looks at, where it holds and where it does not.

use std::rc::Rc;

use super::node::Infer;
use super::rows::Rows;
use super::shape::{self, Rest, Shape};
use super::{Kinds, Range, Type, rows};
use crate::body::Kind;
use crate::expression::ast::{Comparison, Node, Step, Tree};
use crate::expression::number::Decimal;

/// What is known about a value.
#[derive(Clone, Debug)]
pub(crate) struct Fact<'s> {
    pub(crate) root: Root,
    steps: Vec<Way>,
    pub(crate) is: Type<'s>,
}

/// From where a way leads to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    Current,
    Local(usize),
    Free(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Field(String),
    Index(i64),
}

impl<'s> Infer<'_, 's> {
    /// What is known where the condition holds, or where it does not.
    pub(crate) fn facts(&mut self, node: &Node, current: &Type<'s>, truth: bool) -> Vec<Fact<'s>> {
        match &node.tree {
            Tree::Not(inner) => self.facts(inner, current, !truth),
            Tree::And(left, right) if truth => {
                let mut all = self.facts(left, current, true);
                let current = narrowed(current.clone(), &all);
                all.extend(self.facts(right, &current, true));
                all
            }
            Tree::Or(left, right) if !truth => {
                let mut all = self.facts(left, current, false);
                all.extend(self.facts(right, current, false));
                all
            }
            Tree::Or(left, right) => {
                let (a, b) = (
                    self.facts(left, current, true),
                    self.facts(right, current, true),
                );
                match (a.as_slice(), b.as_slice()) {
                    ([a], [b]) if a.root == b.root && a.steps == b.steps => vec![Fact {
                        is: a.is.clone().union(b.is.clone()),
                        ..a.clone()
                    }],
                    _ => Vec::new(),
                }
            }
            Tree::Compare(comparison, left, right) => {
                self.compared(*comparison, left, right, current, truth)
            }
            Tree::Call(call) => self.called(call.name.as_str(), &call.arguments, current, truth),
            _ => {
                let Some((mut fact, is)) = self.way(node, current) else {
                    return Vec::new();
                };
                fact.is = if truth { is.truthy() } else { is.falsy() };
                vec![fact]
            }
        }
    }

    /// The way that a node is, and the type at its end.
    fn way(&mut self, node: &Node, current: &Type<'s>) -> Option<(Fact<'s>, Type<'s>)> {
        let (root, steps) = match &node.tree {
            Tree::Current => (Root::Current, Vec::new()),
            Tree::Local(place) => (Root::Local(*place), Vec::new()),
            Tree::Free(name) => (Root::Free(name.clone()), Vec::new()),
            Tree::Path { of, steps } => {
                let root = match of.as_deref().map(|of| &of.tree) {
                    None => Root::Current,
                    Some(Tree::Local(place)) => Root::Local(*place),
                    Some(Tree::Free(name)) => Root::Free(name.clone()),
                    Some(_) => return None,
                };
                let way = |step: &Step| match step {
                    Step::Field(name) => Way::Field(name.clone()),
                    Step::Index(index) => Way::Index(*index),
                };
                (root, steps.iter().map(way).collect())
            }
            _ => return None,
        };
        let is = self.quietly(|infer| infer.node(node, current));
        let fact = Fact {
            root,
            steps,
            is: Type::unknown(),
        };
        Some((fact, is))
    }

    fn compared(
        &mut self,
        comparison: Comparison,
        left: &Node,
        right: &Node,
        current: &Type<'s>,
        truth: bool,
    ) -> Vec<Fact<'s>> {
        if comparison.orders() {
            return self.ordered(comparison, left, right, current, truth);
        }
        let equal = (comparison == Comparison::Equal) == truth;
        let mut all = Vec::new();
        for (side, other) in [(left, right), (right, left)] {
            let Some((mut fact, is)) = self.way(side, current) else {
                continue;
            };
            let other = self.quietly(|infer| infer.node(other, current));
            if other.open || is.open && !equal {
                continue;
            }
            fact.is = if equal {
                is.meet(null_alike(other))
            } else {
                differs(is, &other)
            };
            all.push(fact);
        }
        all
    }

    fn ordered(
        &mut self,
        comparison: Comparison,
        left: &Node,
        right: &Node,
        current: &Type<'s>,
        truth: bool,
    ) -> Vec<Fact<'s>> {
        // What is not less may be null.
        if !truth {
            return Vec::new();
        }
        let greater = matches!(comparison, Comparison::Greater | Comparison::GreaterOrEqual);
        let strict = matches!(comparison, Comparison::Greater | Comparison::Less);
        let mut all = Vec::new();
        for (side, other, greater) in [(left, right, greater), (right, left, !greater)] {
            let bound = self.quietly(|infer| infer.node(other, current)).number;
            if let Some(list) = counted(side)
                && greater
                && let Some((mut fact, is)) = self.way(list, current)
                && bound.least.is_some_and(|least| {
                    let order = least.compare(Decimal::ZERO);
                    if strict { order.is_ge() } else { order.is_gt() }
                })
            {
                fact.is = is.truthy();
                all.push(fact);
                continue;
            }
            let Some((mut fact, is)) = self.way(side, current) else {
                continue;
            };
            let range = Range {
                least: bound.least.filter(|_| greater),
                most: bound.most.filter(|_| !greater),
                ..Range::default()
            };
            fact.is = is.meet(Type::numbers(range));
            all.push(fact);
        }
        all
    }

    fn called(
        &mut self,
        name: &str,
        arguments: &[Node],
        current: &Type<'s>,
        truth: bool,
    ) -> Vec<Fact<'s>> {
        let (of, choices): (&Node, &[Node]) = match (name, arguments) {
            ("one_of", [of, choices @ ..]) => (of, choices),
            ("contains", [list, of]) => match &list.tree {
                Tree::List(items) => (of, items),
                Tree::Literal(tape) if tape.root().kind() == Kind::List => {
                    let Some((mut fact, is)) = self.way(of, current).filter(|_| truth) else {
                        return Vec::new();
                    };
                    let list = self.quietly(|infer| infer.node(list, current));
                    fact.is = is.meet(null_alike(rows::item(&list)));
                    return vec![fact];
                }
                _ => return Vec::new(),
            },
            ("starts_with" | "ends_with" | "matches", [of, ..]) if truth => {
                return self
                    .way(of, current)
                    .map(|(mut fact, is)| {
                        fact.is = is.only(Kinds::STRING);
                        fact
                    })
                    .into_iter()
                    .collect();
            }
            ("length", [of]) if truth => return self.facts_of_presence(of, current),
            _ => return Vec::new(),
        };
        let Some((mut fact, is)) = self.way(of, current).filter(|_| truth) else {
            return Vec::new();
        };
        let mut any = Type::never();
        for choice in choices {
            any = any.union(self.quietly(|infer| infer.node(choice, current)));
        }
        if any.open {
            return Vec::new();
        }
        fact.is = is.meet(null_alike(any));
        vec![fact]
    }

    fn facts_of_presence(&mut self, node: &Node, current: &Type<'s>) -> Vec<Fact<'s>> {
        let Some((mut fact, is)) = self.way(node, current) else {
            return Vec::new();
        };
        fact.is = is.without(Kinds::NOTHING);
        vec![fact]
    }
}

/// What equals something: both nulls alike. Where a value comes from is not known by what it equals.
fn null_alike(mut is: Type<'_>) -> Type<'_> {
    if is.may_be_null() {
        is.kinds = is.kinds.or(Kinds::NOTHING);
    }
    is.from(None)
}

/// The list whose length a node is.
fn counted(node: &Node) -> Option<&Node> {
    match &node.tree {
        Tree::Call(call) if call.name == "length" => call.arguments.first(),
        _ => None,
    }
}

/// What differs from a value: less than before only where that is exactly one value.
fn differs<'s>(mut is: Type<'s>, other: &Type<'s>) -> Type<'s> {
    if other.kinds.within(Kinds::NOTHING) {
        return is.without(Kinds::NOTHING);
    }
    if other.kinds == Kinds::TRUE || other.kinds == Kinds::FALSE {
        return is.without(other.kinds);
    }
    if other.kinds == Kinds::STRING
        && let (Some(values), Some([only])) = (&is.text.values, other.text.values.as_deref())
    {
        let left: Rc<[Rc<str>]> = values
            .iter()
            .filter(|value| *value != only)
            .cloned()
            .collect();
        if left.is_empty() {
            is.kinds = is.kinds.without(Kinds::STRING);
        }
        is.text.values = Some(left);
    }
    is
}

/// The current value, with what is known about it.
pub(crate) fn narrowed<'s>(current: Type<'s>, facts: &[Fact<'s>]) -> Type<'s> {
    about(current, facts, &Root::Current)
}

/// A value, with what is known about it.
pub(crate) fn about<'s>(value: Type<'s>, facts: &[Fact<'s>], root: &Root) -> Type<'s> {
    let ours = facts.iter().filter(|fact| fact.root == *root);
    ours.fold(value, |value, fact| refined(value, &fact.steps, &fact.is))
}

fn refined<'s>(mut of: Type<'s>, steps: &[Way], is: &Type<'s>) -> Type<'s> {
    let Some((step, rest)) = steps.split_first() else {
        let origin = of.origin.clone();
        return of.meet(is.clone()).from(origin);
    };
    match step {
        Way::Field(name) => {
            let (field, _) = shape::field(&of, name);
            let inner = refined(field, rest, is);
            if !inner.may_be_null() {
                of = of.only(Kinds::OBJECT);
            }
            if of.objects.is_empty() {
                of.objects = vec![Shape::of_fields(vec![(name.clone(), inner)], Rest::Any)];
                return of;
            }
            let shapes = std::mem::take(&mut of.objects);
            of.objects = shapes
                .iter()
                .filter_map(|shape| shape.with_field(name, inner.clone()))
                .collect();
            if of.objects.is_empty() {
                of.kinds = of.kinds.without(Kinds::OBJECT);
            }
            of
        }
        Way::Index(_) => {
            if !is.may_be_null() {
                of = of.only(Kinds::LIST);
                of.lists = of.lists.into_iter().filter_map(Rows::filled).collect();
            }
            of
        }
    }
}
