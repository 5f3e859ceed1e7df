//! Bodies that are made up: of a type, as small or as full as asked, with what is wanted at chosen places. Whether they keep to a schema, the validator says.

use std::cell::RefCell;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use serde_json::{Map, Number, Value};

use super::infer::hint::Hint;
use super::infer::shape::{self, Standing};
use super::infer::{Hop, Kinds, Range, Text, Type, pattern, rows};
use crate::body::Body;
use crate::expression::number::Decimal;
use crate::expression::{Expression, Scope, Tables};

/// How deep what is not required is made up.
const FULL_DEPTH_MAX: usize = 6;
/// How deep anything is made up.
const DEPTH_MAX: usize = 24;
/// How many items a list gets because it must have them.
const ITEMS_MAX: usize = 50;
/// How long a text is made to be too long.
const LONG: usize = 300;
/// How many values of a closed set are tried.
const VALUES_MAX: usize = 16;

/// How much there is in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything that is declared.
    Full,
    /// Nothing but what is required.
    Bare,
    /// As bare, and null wherever null may stand.
    Null,
}

/// What is wanted at a place.
#[derive(Clone, Debug)]
pub(crate) enum Want {
    /// Nothing.
    Absent,
    /// This.
    Value(Value),
}

/// What a body shall be like.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) mode: Mode,
    /// Which of several forms comes first.
    pub(crate) form: usize,
    /// Later ones win.
    pub(crate) wants: Vec<(Vec<Hop>, Want)>,
}

/// A type, and what was found below it: of one type bodies are made up by the hundred.
pub(crate) struct Grown<'s> {
    is: Type<'s>,
    /// The names of each of its shapes.
    names: RefCell<FxHashMap<usize, Rc<[String]>>>,
    /// What its shapes say of fields.
    fields: RefCell<FxHashMap<(usize, String), Field<'s>>>,
    /// What its lists hold.
    items: RefCell<FxHashMap<(usize, usize), Rc<Grown<'s>>>>,
}

#[derive(Clone)]
struct Field<'s> {
    is: Rc<Grown<'s>>,
    required: bool,
    shut: bool,
}

impl<'s> Grown<'s> {
    /// Nothing is found yet.
    pub(crate) fn of(is: Type<'s>) -> Rc<Grown<'s>> {
        Rc::new(Grown {
            is,
            names: RefCell::default(),
            fields: RefCell::default(),
            items: RefCell::default(),
        })
    }

    /// The type itself.
    pub(crate) fn is(&self) -> &Type<'s> {
        &self.is
    }

    fn names(&self, shape: usize) -> Rc<[String]> {
        let mut known = self.names.borrow_mut();
        let names = known
            .entry(shape)
            .or_insert_with(|| self.is.objects[shape].names().into());
        names.clone()
    }

    fn field(&self, shape: usize, name: &str) -> Field<'s> {
        let mut known = self.fields.borrow_mut();
        let field = known.entry((shape, name.to_owned())).or_insert_with(|| {
            let (is, standing) = self.is.objects[shape].property(name);
            Field {
                required: !is.kinds.has(Kinds::ABSENT),
                shut: standing == Standing::Shut,
                is: Grown::of(is.without(Kinds::ABSENT)),
            }
        });
        field.clone()
    }

    fn item(&self, rows: usize, at: usize) -> Rc<Grown<'s>> {
        let mut known = self.items.borrow_mut();
        let item = known
            .entry((rows, at))
            .or_insert_with(|| Grown::of(self.is.lists[rows].item(Some(at))));
        item.clone()
    }
}

/// Makes up a body of a type; nothing if the wish cannot be fulfilled.
pub(crate) fn body(of: &Grown<'_>, wish: &Wish, hints: &[(Vec<Hop>, Hint)]) -> Option<Value> {
    let mut make = Make {
        wish,
        hints,
        path: Vec::new(),
    };
    make.value(of)
}

struct Make<'w> {
    wish: &'w Wish,
    hints: &'w [(Vec<Hop>, Hint)],
    path: Vec<Hop>,
}

impl Make<'_> {
    fn want(&self) -> Option<&Want> {
        let here = |(path, _): &&(Vec<Hop>, Want)| *path == self.path;
        self.wish
            .wants
            .iter()
            .rev()
            .find(here)
            .map(|(_, want)| want)
    }

    /// The first hop towards something that is wanted below.
    fn below(&self) -> Option<&Hop> {
        let depth = self.path.len();
        self.wish.wants.iter().find_map(|(path, want)| {
            let leads = path.len() > depth && path.starts_with(&self.path);
            let there = path.len() > depth + 1 || !matches!(want, Want::Absent);
            (leads && there).then(|| &path[depth])
        })
    }

    fn value(&mut self, grown: &Grown<'_>) -> Option<Value> {
        if self.path.len() > DEPTH_MAX {
            return None;
        }
        match self.want() {
            Some(Want::Value(value)) => return Some(value.clone()),
            Some(Want::Absent) => return None,
            None => {}
        }
        match self.below() {
            Some(Hop::Field(_)) => return self.object(grown),
            Some(Hop::Item) => return self.list(grown),
            None => {}
        }
        let of = &grown.is;
        let kinds = of.kinds;
        if self.wish.mode == Mode::Null && kinds.has(Kinds::NULL) {
            return Some(Value::Null);
        }
        if of.open && kinds.has(Kinds::STRING) && self.hint().is_some() {
            return Some(Value::String(self.text(&of.text)));
        }
        if kinds.has(Kinds::OBJECT)
            && !of.open
            && let Some(made) = self.object(grown)
        {
            return Some(made);
        }
        if kinds.has(Kinds::LIST) && !of.open {
            return self.list(grown);
        }
        if kinds.has(Kinds::STRING) {
            return Some(Value::String(self.text(&of.text)));
        }
        if kinds.has(Kinds::NUMBER) {
            return Some(number(&of.number));
        }
        if kinds.has(Kinds::TRUE) {
            return Some(Value::Bool(true));
        }
        if kinds.has(Kinds::FALSE) {
            return Some(Value::Bool(false));
        }
        kinds.has(Kinds::NULL).then_some(Value::Null)
    }

    fn hint(&self) -> Option<&Hint> {
        let here = |(path, _): &&(Vec<Hop>, Hint)| *path == self.path;
        self.hints.iter().find(here).map(|(_, hint)| hint)
    }

    fn object(&mut self, grown: &Grown<'_>) -> Option<Value> {
        let of = &grown.is;
        if !of.kinds.has(Kinds::OBJECT) {
            return None;
        }
        if of.objects.is_empty() {
            return Some(Value::Object(Map::new()));
        }
        let count = of.objects.len();
        (0..count).find_map(|at| self.shape(grown, (at + self.wish.form) % count))
    }

    fn shape(&mut self, of: &Grown<'_>, shape: usize) -> Option<Value> {
        let names = of.names(shape);
        let more = match self.below() {
            Some(Hop::Field(name)) if !names.contains(name) => Some(name.clone()),
            _ => None,
        };
        let mut made = Map::new();
        for name in names.iter().chain(&more) {
            let Field { is, required, shut } = of.field(shape, name);
            self.path.push(Hop::Field(name.clone()));
            let wanted = self.below().is_some() || matches!(self.want(), Some(Want::Value(_)));
            let full = self.wish.mode == Mode::Full && self.path.len() <= FULL_DEPTH_MAX;
            let value = if shut || !(required || wanted || full) {
                None
            } else {
                self.value(&is)
            };
            self.path.pop();
            match value {
                Some(value) => {
                    made.insert(name.clone(), value);
                }
                None if required || wanted => return None,
                None => {}
            }
        }
        Some(Value::Object(made))
    }

    fn list(&mut self, grown: &Grown<'_>) -> Option<Value> {
        let of = &grown.is;
        if !of.kinds.has(Kinds::LIST) {
            return None;
        }
        let form = self.wish.form % of.lists.len().max(1);
        let Some(rows) = of.lists.get(form) else {
            return Some(Value::Array(Vec::new()));
        };
        let wanted = self.below().is_some();
        let full = self.wish.mode == Mode::Full && self.path.len() <= FULL_DEPTH_MAX;
        let least = rows.least.max(usize::from(wanted || full));
        let count = rows
            .most
            .map_or(least, |most| least.min(most))
            .min(ITEMS_MAX);
        let mut made = Vec::new();
        for at in 0..count {
            let item = grown.item(form, at);
            self.path.push(Hop::Item);
            let value = self.value(&item);
            self.path.pop();
            match value {
                Some(value) => made.push(value),
                None if at < rows.least || wanted => return None,
                None => break,
            }
        }
        Some(Value::Array(made))
    }

    fn text(&self, of: &Text<'_>) -> String {
        if let Some(values) = &of.values
            && let Some(first) = values.get(self.wish.form % values.len().max(1))
        {
            return first.to_string();
        }
        if let Some(pattern) = of.patterns.first()
            && let Some(example) = pattern::read(pattern).and_then(|pattern| pattern.example(false))
        {
            return lengthened(example, of);
        }
        if let Some(example) = of.format.and_then(of_format) {
            return example.to_owned();
        }
        if let Some(hint) = self.hint().and_then(of_hint) {
            return hint;
        }
        lengthened(String::new(), of)
    }
}

fn lengthened(mut text: String, of: &Text<'_>) -> String {
    let least = of.least.max(1).min(of.most.unwrap_or(usize::MAX));
    while text.chars().count() < least && of.patterns.is_empty() {
        text.push('x');
    }
    text
}

fn of_format(format: &str) -> Option<&'static str> {
    Some(match format {
        "date-time" => "2026-01-02T03:04:05Z",
        "date" => "2026-01-02",
        "time" => "03:04:05Z",
        "email" => "a@b.example",
        "uri" | "uri-reference" | "iri" => "https://a.example/",
        "uuid" => "3f2b8c1e-5d4a-4c3b-9a2f-1e0d9c8b7a6f",
        "hostname" => "a.example",
        "ipv4" => "192.0.2.1",
        "ipv6" => "2001:db8::1",
        "duration" => "P1D",
        _ => return None,
    })
}

fn of_hint(hint: &Hint) -> Option<String> {
    Some(match hint {
        Hint::Number => "1".to_owned(),
        Hint::Time => "2026-01-02T03:04:05Z".to_owned(),
        Hint::Key(key) => key.clone(),
        Hint::Pattern(pattern) => {
            let quoted = serde_json::to_string(pattern).ok()?;
            let text = format!("format_time('2026-01-02T03:04:05Z', `{quoted}`)");
            let expression = Expression::compile(&text).ok()?;
            let nothing = Body::null();
            let tables = Tables::new();
            let scope = Scope::bare(nothing.document().ok()?, &tables);
            expression.evaluate(&scope).ok()?.to_text()?
        }
    })
}

fn number(of: &Range) -> Value {
    let one = Decimal::new(1, 0);
    if let Some(first) = of.values.as_ref().and_then(|values| values.first()) {
        return json(*first);
    }
    let mut made = one;
    if let Some(least) = of.least
        && least.compare(one).is_ge()
    {
        // The bound itself may be excluded.
        made = least.add(one).unwrap_or(least);
    }
    if let Some(most) = of.most
        && most.compare(made).is_lt()
    {
        made = match of.least {
            Some(least) => least,
            None => most.subtract(one).unwrap_or(most),
        };
    }
    json(made)
}

fn json(number: Decimal) -> Value {
    let number: Result<Number, _> = serde_json::from_str(&number.to_text());
    number.map_or(Value::Null, Value::Number)
}

/// What a type is at a place below.
pub(crate) fn at<'s>(of: &Type<'s>, hops: &[Hop]) -> Type<'s> {
    hops.iter().fold(of.clone(), |of, hop| match hop {
        Hop::Field(name) => shape::field(&of, name).0,
        Hop::Item => rows::item(&of),
    })
}

/// What is worth trying at a place: nothing, null, nothing in it, the ends of what is declared, what lies beyond what is not, and these values.
pub(crate) fn wants(
    root: &Type<'_>,
    hops: &[Hop],
    hint: Option<&Hint>,
    constants: &[Value],
) -> Vec<(Vec<Hop>, Want)> {
    let mut all = Vec::new();
    for length in 1..=hops.len() {
        let (before, place) = (&hops[..length - 1], &hops[..length]);
        let is = at(root, place);
        let of = at(root, before);
        if matches!(place.last(), Some(Hop::Field(_)))
            && is.kinds.has(Kinds::ABSENT)
            && of.kinds.has(Kinds::OBJECT)
        {
            all.push((place.to_vec(), Want::Absent));
        }
        if is.kinds.has(Kinds::NULL) && !is.open {
            all.push((place.to_vec(), Want::Value(Value::Null)));
        }
        if is.kinds.has(Kinds::LIST) && !is.open {
            all.push((place.to_vec(), Want::Value(Value::Array(Vec::new()))));
        }
    }
    let is = at(root, hops);
    if hops.is_empty() {
        return all;
    }
    all.extend(
        values(&is, hint, constants)
            .into_iter()
            .map(|value| (hops.to_vec(), Want::Value(value))),
    );
    all
}

fn values(is: &Type<'_>, hint: Option<&Hint>, constants: &[Value]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let kinds = is.kinds;
    if kinds.has(Kinds::TRUE) {
        all.push(Value::Bool(true));
    }
    if kinds.has(Kinds::FALSE) {
        all.push(Value::Bool(false));
    }
    if kinds.has(Kinds::NUMBER) {
        numbers(&is.number, &mut all);
        all.extend(constants.iter().filter(|value| value.is_number()).cloned());
    }
    if kinds.has(Kinds::STRING) {
        texts(&is.text, hint, &mut all);
        all.extend(constants.iter().filter(|value| value.is_string()).cloned());
    }
    all.dedup();
    all
}

fn numbers(is: &Range, all: &mut Vec<Value>) {
    if let Some(values) = &is.values {
        all.extend(values.iter().take(VALUES_MAX).map(|value| json(*value)));
        return;
    }
    let one = Decimal::new(1, 0);
    let mut push = |number: Option<Decimal>| {
        all.extend(number.filter(|number| is.holds(*number)).map(json));
    };
    push(is.least);
    push(is.most);
    for text in ["0", "1", "-1", "0.5", "1.005", "1000000"] {
        push(Decimal::parse(text));
    }
    push(is.least.and_then(|least| least.add(one)));
    push(is.least.and_then(|least| least.add(Decimal::parse("0.5")?)));
    push(is.most.and_then(|most| most.subtract(one)));
}

fn texts(is: &Text<'_>, hint: Option<&Hint>, all: &mut Vec<Value>) {
    if let Some(values) = &is.values {
        all.extend(
            values
                .iter()
                .take(VALUES_MAX)
                .map(|text| Value::from(&**text)),
        );
        return;
    }
    let patterns = is.patterns.iter().filter_map(|text| pattern::read(text));
    for pattern in patterns {
        all.extend(pattern.examples().into_iter().map(Value::from));
    }
    if let Some(Hint::Number) = hint
        && is.patterns.is_empty()
    {
        all.extend(["1", "1.5", "0", "-1"].map(Value::from));
    }
    if let Some(example) = is.format.and_then(of_format) {
        all.push(Value::from(example));
    }
    if is.patterns.is_empty() {
        all.push(Value::from("x".repeat(is.least)));
        all.push(Value::from(
            "x".repeat(is.most.unwrap_or(LONG).min(LONG * 10)),
        ));
        all.push(Value::from("x"));
    }
}
