//! What a mapping makes, as a type: every expression of the file typed where it stands, and the body that comes of it. It judges nothing.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::target::Form;
use super::{Entry, Leaf, Mapping, Shape};
use crate::diagnostic::{Place, Span};
use crate::expression::{Expression, Tables};
use crate::schema::infer::hint::Hint;
use crate::schema::infer::node::Infer;
use crate::schema::infer::note::Note;
use crate::schema::infer::rows::{self, Rows};
use crate::schema::infer::seen::{self, Seen};
use crate::schema::infer::shape::{Rest, Shape as ObjectShape};
use crate::schema::infer::{Hop, Kinds, Origin, Text, Type, source};

/// How deep the result of an expression is followed.
const DEPTH_MAX: usize = 24;

/// A mapping, typed.
pub(crate) struct Typed<'m, 's> {
    /// What it makes.
    pub(crate) body: Type<'s>,
    /// Its expressions, in the order of the file.
    pub(crate) leaves: Vec<TypedLeaf<'m, 's>>,
}

/// One expression of a mapping.
pub(crate) struct TypedLeaf<'m, 's> {
    leaf: &'m Leaf,
    mapping: &'m Mapping,
    /// What the target gets there.
    pub(crate) is: Type<'s>,
    /// The way to it in the target.
    pub(crate) way: Vec<Hop>,
    /// It makes a part of the target; not so for `let` and `each`.
    pub(crate) made: bool,
    /// It is the list that `each` goes over.
    pub(crate) each: bool,
    pub(crate) notes: Vec<Note<'s>>,
    pub(crate) reads: Vec<Rc<Origin>>,
    pub(crate) hints: Vec<(Rc<Origin>, Hint)>,
    /// What its parts are, if somebody asks.
    seen: Vec<Seen<'s>>,
}

impl<'m> TypedLeaf<'m, '_> {
    /// The path in the target, such as `lines[].sku`.
    pub(crate) fn path(&self) -> &'m str {
        &self.leaf.path
    }

    pub(crate) fn expression(&self) -> &'m Expression {
        &self.leaf.expression
    }

    /// Where bytes of the expression stand.
    pub(crate) fn place(&self, start: usize, end: usize) -> Place {
        let file = &self.mapping.file;
        let span = match &self.leaf.at {
            Some(node) => node.span_within(file, start, end),
            None => Span::new(start, end),
        };
        Place {
            file: file.clone(),
            span,
        }
    }

    /// Where the whole expression stands.
    pub(crate) fn whole(&self) -> Place {
        match &self.leaf.at {
            Some(node) => node.place(&self.mapping.file),
            None => self.place(0, self.leaf.expression.text().len()),
        }
    }

    /// Whether the expression is nothing but a text.
    pub(crate) fn is_literal(&self) -> bool {
        self.leaf.expression.literal_text().is_some()
    }
}

impl Mapping {
    /// The mapping, typed over a body and variables.
    pub(crate) fn typed<'m, 's>(
        &'m self,
        body: &Type<'s>,
        variables: &BTreeMap<String, Type<'s>>,
        tables: &Tables,
    ) -> Typed<'m, 's> {
        self.walked(body, variables, tables, false)
    }

    /// What stands at a byte of the file and its type: the smallest part of an expression, or the whole of it.
    pub(crate) fn type_at<'s>(
        &self,
        at: usize,
        whole: bool,
        body: &Type<'s>,
        tables: &Tables,
    ) -> Option<(Span, Type<'s>)> {
        let holds = |span: Span| span.start <= at && at < span.end;
        let leaves = self.walked(body, &BTreeMap::new(), tables, !whole).leaves;
        let mut leaf = leaves.into_iter().find(|leaf| holds(leaf.whole().span))?;
        if whole {
            return Some((leaf.whole().span, leaf.is));
        }
        let all = std::mem::take(&mut leaf.seen);
        let part = seen::smallest(all, |start, end| holds(leaf.place(start, end).span))?;
        Some((leaf.place(part.start, part.end).span, part.is))
    }

    fn walked<'m, 's>(
        &'m self,
        body: &Type<'s>,
        variables: &BTreeMap<String, Type<'s>>,
        tables: &Tables,
        asked: bool,
    ) -> Typed<'m, 's> {
        let mut walk = Walk {
            mapping: self,
            variables: variables.clone(),
            tables,
            asked,
            way: Vec::new(),
            leaves: Vec::new(),
        };
        for (name, leaf) in &self.lets {
            let is = walk.leaf(leaf, body, false, false);
            walk.variables.insert(name.clone(), is);
        }
        let made = walk.shape(&self.body, body);
        Typed {
            body: made.in_place(),
            leaves: walk.leaves,
        }
    }
}

struct Walk<'m, 't, 's> {
    mapping: &'m Mapping,
    variables: BTreeMap<String, Type<'s>>,
    tables: &'t Tables,
    /// Whether somebody asks about a part of an expression.
    asked: bool,
    way: Vec<Hop>,
    leaves: Vec<TypedLeaf<'m, 's>>,
}

impl<'m, 's> Walk<'m, '_, 's> {
    fn leaf(&mut self, leaf: &'m Leaf, current: &Type<'s>, made: bool, each: bool) -> Type<'s> {
        let mut infer = Infer::new(leaf.expression.text(), &self.variables, self.tables);
        infer.seen = self.asked.then(Vec::new);
        let is = infer.node(leaf.expression.root(), current);
        let (notes, reads, hints) = (infer.notes, infer.reads, infer.hints);
        let seen = infer.seen.unwrap_or_default();
        let is = if made { written(is, &leaf.form, 0) } else { is };
        self.leaves.push(TypedLeaf {
            leaf,
            mapping: self.mapping,
            is: is.clone(),
            way: self.way.clone(),
            made,
            each,
            notes,
            reads,
            hints,
            seen,
        });
        is
    }

    fn shape(&mut self, shape: &'m Shape, current: &Type<'s>) -> Type<'s> {
        match shape {
            Shape::Expression(leaf) => self.leaf(leaf, current, true, false),
            Shape::Literal(json, form) => {
                let value = serde_json::from_slice(json).unwrap_or_default();
                written(source::of_value(&value), form, 0)
            }
            Shape::Object(fields) => {
                let mut made = Vec::with_capacity(fields.len());
                for field in fields {
                    self.way.push(Hop::Field(field.name.clone()));
                    let is = self.shape(&field.shape, current);
                    self.way.pop();
                    made.push((field.name.clone(), left_out(is)));
                }
                Type::object(ObjectShape::of_fields(made, Rest::Nothing))
            }
            Shape::List(entries) => self.list(entries, current),
        }
    }

    fn list(&mut self, entries: &'m [Entry], current: &Type<'s>) -> Type<'s> {
        self.way.push(Hop::Item);
        let mut item = Type::never();
        let mut least: usize = 0;
        let mut most = Some(0_usize);
        for entry in entries {
            let (is, count) = match entry {
                Entry::One(shape) => (self.shape(shape, current), (1, Some(1))),
                Entry::Each(over, shape) => {
                    let list = self.leaf(over, current, false, true);
                    let element = rows::item(&list);
                    let is = if element.is_never() {
                        // Nothing is ever in the list; what would be made of it is still looked at.
                        self.shape(shape, &Type::unknown());
                        element
                    } else {
                        self.shape(shape, &element)
                    };
                    let (least, most) = rows::count(&list);
                    let least = if list.may_be_null() { 0 } else { least };
                    (is, (least, most))
                }
            };
            if !is.may_be_null() {
                least = least.saturating_add(count.0);
            }
            most = most.zip(count.1).map(|(a, b)| a.saturating_add(b));
            item = item.union(is.without(Kinds::NOTHING));
        }
        self.way.pop();
        Type::list(Rows::of_items(item).counted(least, most))
    }
}

/// A field whose null is left out.
pub(crate) fn left_out(mut is: Type<'_>) -> Type<'_> {
    if is.kinds.has(Kinds::NULL) && !is.kept {
        is.kinds = is.kinds.without(Kinds::NULL).or(Kinds::ABSENT);
    }
    is
}

/// What is written of a value: numbers in the form of the target, without the nulls of what the expression has built.
fn written<'s>(mut is: Type<'s>, form: &Form, depth: usize) -> Type<'s> {
    if depth > DEPTH_MAX {
        return Type::unknown().from(is.origin);
    }
    if let Form::Text = form {
        if is.kinds.has(Kinds::NUMBER) {
            let number = Text {
                computed: true,
                number: Some(Box::new(is.number.clone())),
                ..Text::default()
            };
            let text = Type::texts(number);
            is = is.without(Kinds::NUMBER).union(text);
        }
        return is;
    }
    let origin = is.origin.clone();
    let shapes = std::mem::take(&mut is.objects);
    is.objects = shapes
        .into_iter()
        .map(|shape| written_object(shape, form, depth))
        .collect();
    let lists = std::mem::take(&mut is.lists);
    let as_is = matches!(form, Form::AsIs);
    is.lists = lists
        .into_iter()
        .map(|rows| {
            if as_is && !rows.is_built() {
                return rows;
            }
            let item = written(rows.item(None), form.items(), depth + 1);
            let (least, most) = (rows.least, rows.most);
            Rows::of_items(item).counted(least, most)
        })
        .collect();
    is.from(origin)
}

fn written_object<'s>(shape: ObjectShape<'s>, form: &Form, depth: usize) -> ObjectShape<'s> {
    let built = shape.is_built();
    if matches!(form, Form::AsIs) && !built {
        return shape;
    }
    let fields = shape.names().into_iter().map(|name| {
        let is = written(shape.property(&name).0, form.property(&name), depth + 1);
        let is = if built { left_out(is) } else { is };
        (name, is)
    });
    let fields: Vec<_> = fields.collect();
    let rest = match (shape.is_closed(), shape.each()) {
        (true, _) => Rest::Nothing,
        (false, Some(each)) => Rest::Each(written(each, form.items(), depth + 1)),
        _ => Rest::Any,
    };
    let made = ObjectShape::of_fields(fields, rest);
    if built { made } else { made.copied() }
}
