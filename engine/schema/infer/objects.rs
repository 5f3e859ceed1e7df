//! What functions make of objects: fields chosen, left out, put together.

use super::functions::Given;
use super::rows::Rows;
use super::shape::{self, Rest, Shape};
use super::{Kinds, Type, rows};

/// What functions over objects give.
pub(super) fn objects<'s>(name: &str, cx: &Given<'_, 's>) -> Option<Type<'s>> {
    let of = cx.of(0);
    let each = |is: Type<'s>| Type::object(Shape::of_fields(Vec::new(), Rest::Each(is)));
    Some(match name {
        "group_by" => each(Type::list(Rows::of_items(rows::item(&of)).counted(1, None))),
        "index_by" => each(rows::item(&of)),
        "merge" => merged(cx.given),
        "pick" => {
            let names: Option<Vec<String>> = (1..cx.given.len()).map(|at| cx.text(at)).collect();
            chosen(
                &of,
                |name| {
                    names
                        .as_ref()
                        .is_some_and(|all| all.iter().any(|one| one == name))
                },
                names.as_deref()?,
            )
        }
        "omit" => {
            let names: Vec<String> = (1..cx.given.len())
                .map(|at| cx.text(at))
                .collect::<Option<_>>()?;
            rebuilt(&of, |is| is, &names)?
        }
        "without_nulls" => {
            let drop_null = |mut is: Type<'s>| {
                if is.may_be_null() {
                    is.kinds = is.kinds.without(Kinds::NULL).or(Kinds::ABSENT);
                }
                is
            };
            let mut is = Type::never();
            if of.kinds.has(Kinds::OBJECT) {
                is = rebuilt(&of, drop_null, &[]).unwrap_or_else(|| Type::of(Kinds::OBJECT));
            }
            if of.kinds.has(Kinds::LIST) {
                is = is.union(Type::list(Rows::of_items(
                    rows::item(&of).without(Kinds::NOTHING),
                )));
            }
            is
        }
        _ => return None,
    })
}

/// An object with some of the fields.
fn chosen<'s>(of: &Type<'s>, keep: impl Fn(&str) -> bool, names: &[String]) -> Type<'s> {
    let field = |name: &String| {
        let is = shape::field(&of.clone().only(Kinds::OBJECT), name).0;
        (name.clone(), is)
    };
    let fields = names.iter().filter(|name| keep(name)).map(field);
    Type::object(Shape::of_fields(fields.collect(), Rest::Nothing))
}

/// An object with its fields changed, and some left out.
fn rebuilt<'s>(
    of: &Type<'s>,
    change: impl Fn(Type<'s>) -> Type<'s>,
    without: &[String],
) -> Option<Type<'s>> {
    if of.objects.is_empty() {
        return None;
    }
    let mut all = Type::never();
    for shape in &of.objects {
        let names = shape
            .names()
            .into_iter()
            .filter(|name| !without.contains(name));
        let fields: Vec<_> = names
            .map(|name| {
                let is = change(shape.property(&name).0);
                (name, is)
            })
            .collect();
        let rest = if shape.is_closed() {
            Rest::Nothing
        } else {
            Rest::Any
        };
        all = all.union(Type::object(Shape::of_fields(fields, rest)));
    }
    Some(all)
}

/// Several objects in one: later fields win.
fn merged<'s>(given: &[Type<'s>]) -> Type<'s> {
    let mut fields: Vec<(String, Type<'s>)> = Vec::new();
    let mut open = false;
    for is in given {
        let [shape] = is.objects.as_slice() else {
            return Type::of(Kinds::OBJECT);
        };
        if !shape.is_closed() {
            // A field that nobody has declared may stand over one that is.
            fields.clear();
            open = true;
        }
        for name in shape.names() {
            let (later, _) = shape.property(&name);
            let before = fields.iter_mut().find(|(known, _)| *known == name);
            match before {
                Some((_, before)) if later.kinds.has(Kinds::ABSENT) => {
                    *before = before.clone().union(later.without(Kinds::ABSENT));
                }
                Some((_, before)) => *before = later,
                None if open => {
                    let mut is = later;
                    if is.kinds.has(Kinds::ABSENT) {
                        is = Type::unknown();
                    }
                    fields.push((name, is));
                }
                None => fields.push((name, later)),
            }
        }
    }
    let rest = if open { Rest::Any } else { Rest::Nothing };
    Type::object(Shape::of_fields(fields, rest))
}
