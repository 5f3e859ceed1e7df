//! Lists: what stands in them and how much of it. Objects stand beside.

use std::rc::Rc;

use serde_json::Value;

use super::{Hop, Kinds, Type, source};
use crate::schema::place::At;

/// One kind of list: all of its parts hold.
#[derive(Clone, Debug)]
pub(crate) struct Rows<'s> {
    parts: Vec<Part<'s>>,
    /// How many items at least.
    pub(crate) least: usize,
    /// How many items at most.
    pub(crate) most: Option<usize>,
}

#[derive(Clone, Debug)]
enum Part<'s> {
    /// A schema, without what it refers to.
    Place(At<'s>),
    Items(Rc<Items<'s>>),
}

/// Items that are known: the first ones, each, and all others.
#[derive(Debug)]
struct Items<'s> {
    first: Vec<Type<'s>>,
    rest: Type<'s>,
}

impl<'s> Rows<'s> {
    pub(crate) fn of_place(at: At<'s>, least: usize, most: Option<usize>) -> Rows<'s> {
        Rows {
            parts: vec![Part::Place(at)],
            least,
            most,
        }
    }

    /// Any number of these.
    pub(crate) fn of_items(rest: Type<'s>) -> Rows<'s> {
        Rows {
            parts: vec![Part::Items(Rc::new(Items {
                first: Vec::new(),
                rest,
            }))],
            least: 0,
            most: None,
        }
    }

    /// Exactly these.
    pub(crate) fn exactly(first: Vec<Type<'s>>) -> Rows<'s> {
        let count = first.len();
        Rows {
            parts: vec![Part::Items(Rc::new(Items {
                first,
                rest: Type::never(),
            }))],
            least: count,
            most: Some(count),
        }
    }

    pub(crate) fn counted(mut self, least: usize, most: Option<usize>) -> Rows<'s> {
        self.least = least;
        self.most = most;
        self
    }

    pub(crate) fn same(a: &Rows<'s>, b: &Rows<'s>) -> bool {
        (a.least, a.most) == (b.least, b.most)
            && a.parts.len() == b.parts.len()
            && a.parts.iter().zip(&b.parts).all(|(a, b)| match (a, b) {
                (Part::Place(a), Part::Place(b)) => a.same(*b),
                (Part::Items(a), Part::Items(b)) => Rc::ptr_eq(a, b),
                _ => false,
            })
    }

    /// Both at once.
    pub(crate) fn meet(a: &Rows<'s>, b: &Rows<'s>) -> Option<Rows<'s>> {
        let mut parts = a.parts.clone();
        for part in &b.parts {
            let known = |known: &Part<'s>| matches!((known, part), (Part::Place(a), Part::Place(b)) if a.same(*b));
            if !parts.iter().any(known) {
                parts.push(part.clone());
            }
        }
        let most = match (a.most, b.most) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let least = a.least.max(b.least);
        most.is_none_or(|most| most >= least)
            .then_some(Rows { parts, least, most })
    }

    /// Whether an expression has built it.
    pub(crate) fn is_built(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part, Part::Place(_)))
    }

    /// The same with something in it; nothing if it is always empty.
    pub(crate) fn filled(mut self) -> Option<Rows<'s>> {
        self.least = self.least.max(1);
        self.most.is_none_or(|most| most > 0).then_some(self)
    }

    /// The same with nothing in it; nothing if it never is empty.
    pub(crate) fn emptied(mut self) -> Option<Rows<'s>> {
        self.most = Some(0);
        (self.least == 0).then_some(self)
    }

    /// What the item at this place is, if it is there; what any item is, without a place.
    pub(crate) fn item(&self, place: Option<usize>) -> Type<'s> {
        if self.most == Some(0) {
            return Type::never();
        }
        let mut is: Option<Type<'s>> = None;
        for part in &self.parts {
            let of_part = match part {
                Part::Place(at) => of_place(*at, place),
                Part::Items(items) => items.item(place),
            };
            is = Some(match is {
                Some(is) => is.meet(of_part),
                None => of_part,
            });
        }
        is.unwrap_or_else(Type::unknown)
    }
}

impl<'s> Items<'s> {
    fn item(&self, place: Option<usize>) -> Type<'s> {
        match place {
            Some(place) => self.first.get(place).unwrap_or(&self.rest).clone(),
            None => self
                .first
                .iter()
                .cloned()
                .fold(self.rest.clone(), Type::union),
        }
    }
}

fn of_place<'s>(at: At<'s>, place: Option<usize>) -> Type<'s> {
    let raw = at.raw();
    // Draft 7 writes `items` and `additionalItems` for what is now `prefixItems` and `items`.
    let (first, rest) = match (raw.get("prefixItems"), raw.get("items")) {
        (Some(Value::Array(first)), rest) => (first.as_slice(), rest),
        (_, Some(Value::Array(first))) => (first.as_slice(), raw.get("additionalItems")),
        (_, rest) => (&[][..], rest),
    };
    let rest = || match rest {
        Some(schema) => source::of_schema(at.below(schema)),
        None => Type::unknown().only(Kinds::PRESENT),
    };
    match place {
        Some(place) => match first.get(place) {
            Some(schema) => source::of_schema(at.below(schema)),
            None => rest(),
        },
        None => first
            .iter()
            .map(|schema| source::of_schema(at.below(schema)))
            .fold(rest(), Type::union),
    }
}

/// What an item of a value is; never where the value is no list.
pub(crate) fn item<'s>(of: &Type<'s>) -> Type<'s> {
    if !of.kinds.has(Kinds::LIST) {
        return Type::never();
    }
    let origin = of.origin.as_ref().map(|origin| origin.below(Hop::Item));
    let is = match of.lists.as_slice() {
        [] => Type::unknown().only(Kinds::PRESENT),
        all => all
            .iter()
            .map(|rows| rows.item(None))
            .fold(Type::never(), Type::union),
    };
    let own = is.origin.clone();
    is.from(origin.or(own))
}

/// What stands at a place of a value; null where the value is no list or too short.
pub(crate) fn item_at<'s>(of: &Type<'s>, place: i64) -> Type<'s> {
    let mut is = match (of.lists.as_slice(), usize::try_from(place)) {
        ([], _) => item(of),
        (all, Ok(place)) => {
            let items = all.iter().map(|rows| rows.item(Some(place)));
            items.fold(Type::never(), Type::union)
        }
        (_, Err(_)) => item(of),
    };
    let reached = usize::try_from(place).map_or(place.unsigned_abs() as usize, |place| place + 1);
    let sure = !of.lists.is_empty()
        && of.kinds.within(Kinds::LIST)
        && of.lists.iter().all(|rows| rows.least >= reached);
    if !sure {
        is.kinds = is.kinds.or(Kinds::ABSENT);
    }
    let own = is.origin.clone();
    let origin = of.origin.as_ref().map(|origin| origin.below(Hop::Item));
    is.from(origin.or(own))
}

/// How many items a value has at least and at most, where it is a list.
pub(crate) fn count(of: &Type<'_>) -> (usize, Option<usize>) {
    if of.lists.is_empty() {
        return (0, None);
    }
    let least = of.lists.iter().map(|rows| rows.least).min().unwrap_or(0);
    let mut most = of.lists.iter().map(|rows| rows.most);
    let most = most.try_fold(0, |most: usize, one| one.map(|one| most.max(one)));
    (least, most)
}
