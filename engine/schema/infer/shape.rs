//! Objects: what may stand in them, by the schemas that hold there and by what expressions build and demand. Lists stand beside.

use std::rc::Rc;

use regex::Regex;
use serde_json::{Map, Value};

use super::{Hop, Kinds, Type, source};
use crate::schema::place::At;

/// One kind of object: all of its parts hold.
#[derive(Clone, Debug)]
pub(crate) struct Shape<'s> {
    parts: Vec<Part<'s>>,
    copied: bool,
}

#[derive(Clone, Debug)]
enum Part<'s> {
    /// A schema, without what it refers to: that is a part of its own.
    Place(At<'s>),
    Fields(Rc<Fields<'s>>),
}

/// Fields that are known by name.
#[derive(Debug)]
pub(crate) struct Fields<'s> {
    pub(crate) fields: Vec<(String, Type<'s>)>,
    pub(crate) rest: Rest<'s>,
}

/// What other fields there may be.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a shape has one of them, beside many types"
)]
pub(crate) enum Rest<'s> {
    /// Any.
    Any,
    /// None.
    Nothing,
    /// Fields of this type.
    Each(Type<'s>),
}

/// Whether a field may be there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is declared.
    Declared,
    /// Nothing is said about it.
    Open,
    /// It cannot be there.
    Shut,
}

impl<'s> Shape<'s> {
    pub(crate) fn of_place(at: At<'s>) -> Shape<'s> {
        Shape {
            parts: vec![Part::Place(at)],
            copied: false,
        }
    }

    pub(crate) fn of_fields(fields: Vec<(String, Type<'s>)>, rest: Rest<'s>) -> Shape<'s> {
        let fields = Rc::new(Fields { fields, rest });
        Shape {
            parts: vec![Part::Fields(fields)],
            copied: false,
        }
    }

    pub(crate) fn same(a: &Shape<'s>, b: &Shape<'s>) -> bool {
        a.parts.len() == b.parts.len()
            && a.parts.iter().zip(&b.parts).all(|(a, b)| match (a, b) {
                (Part::Place(a), Part::Place(b)) => a.same(*b),
                (Part::Fields(a), Part::Fields(b)) => Rc::ptr_eq(a, b),
                _ => false,
            })
    }

    /// Both at once.
    pub(crate) fn meet(a: &Shape<'s>, b: &Shape<'s>) -> Option<Shape<'s>> {
        let mut parts = a.parts.clone();
        for part in &b.parts {
            let known = |known: &Part<'s>| matches!((known, part), (Part::Place(a), Part::Place(b)) if a.same(*b));
            if !parts.iter().any(known) {
                parts.push(part.clone());
            }
        }
        Some(Shape {
            parts,
            copied: a.copied || b.copied,
        })
    }

    /// The same, with this known of one field; nothing if that cannot be.
    pub(crate) fn with_field(&self, name: &str, is: Type<'s>) -> Option<Shape<'s>> {
        let (before, _) = self.property(name);
        if before.meet(is.clone()).is_never() {
            return None;
        }
        let fields = Shape::of_fields(vec![(name.to_owned(), is)], Rest::Any);
        Shape::meet(self, &fields)
    }

    /// What a field is, and whether it may be there at all.
    pub(crate) fn property(&self, name: &str) -> (Type<'s>, Standing) {
        let mut is: Option<Type<'s>> = None;
        let mut standing = Standing::Open;
        for part in &self.parts {
            let (of_part, how) = match part {
                Part::Place(at) => of_place(*at, name),
                Part::Fields(fields) => fields.property(name),
            };
            match (how, standing) {
                (Standing::Shut, _) => standing = Standing::Shut,
                (Standing::Declared, Standing::Open) => standing = Standing::Declared,
                _ => {}
            }
            is = Some(match is {
                Some(is) => is.meet(of_part),
                None => of_part,
            });
        }
        let mut is = is.unwrap_or_else(Type::unknown);
        if standing == Standing::Open && self.shuts_unevaluated() {
            standing = Standing::Shut;
            is = is.only(Kinds::ABSENT);
        }
        (is, standing)
    }

    /// Whether what no part declares cannot be there.
    fn shuts_unevaluated(&self) -> bool {
        let mut shuts = false;
        for part in &self.parts {
            let Part::Place(at) = part else { continue };
            let Some(object) = at.raw().as_object() else {
                continue;
            };
            let lets_in = [
                "anyOf",
                "oneOf",
                "if",
                "dependentSchemas",
                "additionalProperties",
                "patternProperties",
            ];
            if lets_in.iter().any(|word| object.contains_key(*word)) {
                return false;
            }
            shuts |= object.get("unevaluatedProperties") == Some(&Value::Bool(false));
        }
        shuts
    }

    /// The names that are declared.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut add = |name: &str| {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        };
        for part in &self.parts {
            match part {
                Part::Place(at) => {
                    let properties = at.raw().get("properties").and_then(Value::as_object);
                    properties
                        .into_iter()
                        .flat_map(Map::keys)
                        .for_each(|name| add(name));
                    required(*at).for_each(&mut add);
                }
                Part::Fields(fields) => fields.fields.iter().for_each(|(name, _)| add(name)),
            }
        }
        names
    }

    /// Whether it can be without any field.
    pub(crate) fn may_be_empty(&self) -> bool {
        let names = self.names();
        names
            .iter()
            .all(|name| self.property(name).0.kinds.has(Kinds::ABSENT))
    }

    /// Whether there are no fields but those that are declared.
    pub(crate) fn is_closed(&self) -> bool {
        self.shuts_unevaluated()
            || self.parts.iter().any(|part| match part {
                Part::Place(at) => {
                    at.raw().get("additionalProperties") == Some(&Value::Bool(false))
                        && at.raw().get("patternProperties").is_none()
                }
                Part::Fields(fields) => matches!(fields.rest, Rest::Nothing),
            })
    }

    /// What the fields are, taken together; never null.
    pub(crate) fn values(&self) -> Type<'s> {
        if !self.is_closed() {
            let each = self.parts.iter().find_map(|part| match part {
                Part::Fields(fields) => match &fields.rest {
                    Rest::Each(each) if fields.fields.is_empty() => Some(each.clone()),
                    _ => None,
                },
                Part::Place(_) => None,
            });
            return each.unwrap_or_else(Type::unknown).without(Kinds::NOTHING);
        }
        let types = self.names().into_iter().map(|name| self.property(&name).0);
        let all = types.fold(Type::never(), Type::union);
        all.without(Kinds::NOTHING)
    }

    /// Whether the object is built by an expression, so that a mapping leaves out its nulls.
    pub(crate) fn is_built(&self) -> bool {
        !self.copied && !self.parts.iter().any(|part| matches!(part, Part::Place(_)))
    }

    /// The same as a copy of something that stands in a document: its nulls are written.
    pub(crate) fn copied(mut self) -> Shape<'s> {
        self.copied = true;
        self
    }

    /// What all fields are that have no name of their own.
    pub(crate) fn each(&self) -> Option<Type<'s>> {
        self.parts.iter().find_map(|part| match part {
            Part::Fields(fields) => match &fields.rest {
                Rest::Each(each) => Some(each.clone()),
                _ => None,
            },
            Part::Place(_) => None,
        })
    }
}

impl<'s> Fields<'s> {
    fn property(&self, name: &str) -> (Type<'s>, Standing) {
        if let Some((_, is)) = self.fields.iter().find(|(known, _)| known == name) {
            return (is.clone(), Standing::Declared);
        }
        match &self.rest {
            Rest::Any => (Type::unknown(), Standing::Open),
            Rest::Nothing => (Type::of(Kinds::ABSENT), Standing::Shut),
            Rest::Each(each) => {
                let mut each = each.clone();
                each.kinds = each.kinds.or(Kinds::ABSENT);
                (each, Standing::Declared)
            }
        }
    }
}

fn required<'s>(at: At<'s>) -> impl Iterator<Item = &'s str> {
    let list = at.raw().get("required").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// What one schema says of a field.
fn of_place<'s>(at: At<'s>, name: &str) -> (Type<'s>, Standing) {
    let raw = at.raw();
    let declared = raw.get("properties").and_then(|all| all.get(name));
    let mut is = declared.map(|schema| source::of_schema(at.below(schema)));
    let mut unsure = false;
    let patterns = raw.get("patternProperties").and_then(Value::as_object);
    for (pattern, schema) in patterns.into_iter().flatten() {
        match Regex::new(pattern) {
            Ok(regex) if regex.is_match(name) => {
                let more = source::of_schema(at.below(schema));
                is = Some(match is {
                    Some(is) => is.meet(more),
                    None => more,
                });
            }
            Ok(_) => {}
            Err(_) => unsure = true,
        }
    }
    let (mut is, standing) = match is {
        Some(is) => (is, Standing::Declared),
        None if unsure => (Type::unknown(), Standing::Open),
        None => match raw.get("additionalProperties") {
            Some(Value::Bool(false)) => (Type::never(), Standing::Shut),
            Some(schema @ Value::Object(words)) if !words.is_empty() => {
                (source::of_schema(at.below(schema)), Standing::Declared)
            }
            _ => (Type::unknown(), Standing::Open),
        },
    };
    is.kinds = if required(at).any(|known| known == name) {
        is.kinds.without(Kinds::ABSENT)
    } else {
        is.kinds.or(Kinds::ABSENT)
    };
    (is, standing)
}

/// What a field of a value is; null where the value is no object.
pub(crate) fn field<'s>(of: &Type<'s>, name: &str) -> (Type<'s>, Standing) {
    let other = of.kinds.without(Kinds::OBJECT);
    let origin = of
        .origin
        .as_ref()
        .map(|origin| origin.below(Hop::Field(name.to_owned())));
    if !of.kinds.has(Kinds::OBJECT) {
        return (Type::of(Kinds::ABSENT), Standing::Declared);
    }
    let (mut is, mut standing) = match of.objects.as_slice() {
        [] => (Type::unknown(), Standing::Open),
        shapes => {
            let mut is = Type::never();
            let mut all_shut = true;
            let mut any_open = false;
            for shape in shapes {
                let (one, how) = shape.property(name);
                all_shut &= how == Standing::Shut;
                any_open |= how == Standing::Open;
                is = is.union(one);
            }
            let how = match (all_shut, any_open) {
                (true, _) => Standing::Shut,
                (_, true) => Standing::Open,
                _ => Standing::Declared,
            };
            (is, how)
        }
    };
    if other != Kinds::NONE {
        is.kinds = is.kinds.or(Kinds::ABSENT);
    }
    if of.open && standing == Standing::Shut {
        standing = Standing::Open;
    }
    let own = is.origin.clone();
    (is.from(origin.or(own)), standing)
}
