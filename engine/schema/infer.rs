//! Types of values: what a value can be, as far as schemas and expressions say. A type promises too little rather than too much: a value that can
//! come is always of its type. It finds no mistakes; who compares types does.

use std::rc::Rc;

use crate::expression::number::Decimal;

pub(crate) mod functions;
pub(crate) mod hint;
pub(crate) mod narrow;
pub(crate) mod node;
pub(crate) mod note;
mod objects;
pub(crate) mod pattern;
pub(crate) mod rows;
pub(crate) mod seen;
pub(crate) mod shape;
pub(crate) mod source;

use rows::Rows;
use shape::Shape;

/// How many alternatives of an object or a list are kept apart; more are any object or list.
pub(crate) const ALTERNATIVES_MAX: usize = 24;
/// How many values a closed set may have.
const VALUES_MAX: usize = 500;

/// A set of kinds. Null that stands there and null because nothing stands there are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kinds(u8);

impl Kinds {
    pub(crate) const NONE: Kinds = Kinds(0);
    /// A null that stands there.
    pub(crate) const NULL: Kinds = Kinds(1);
    /// Nothing stands there: null to an expression.
    pub(crate) const ABSENT: Kinds = Kinds(2);
    pub(crate) const TRUE: Kinds = Kinds(4);
    pub(crate) const FALSE: Kinds = Kinds(8);
    pub(crate) const NUMBER: Kinds = Kinds(16);
    pub(crate) const STRING: Kinds = Kinds(32);
    pub(crate) const LIST: Kinds = Kinds(64);
    pub(crate) const OBJECT: Kinds = Kinds(128);
    pub(crate) const BOOLEAN: Kinds = Kinds(12);
    /// Both nulls.
    pub(crate) const NOTHING: Kinds = Kinds(3);
    /// Whatever can stand in a document.
    pub(crate) const PRESENT: Kinds = Kinds(!2);
    pub(crate) const ALL: Kinds = Kinds(!0);

    pub(crate) const fn or(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    pub(crate) const fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 & other.0)
    }

    pub(crate) const fn without(self, other: Kinds) -> Kinds {
        Kinds(self.0 & !other.0)
    }

    pub(crate) const fn has(self, any: Kinds) -> bool {
        self.0 & any.0 != 0
    }

    pub(crate) const fn within(self, other: Kinds) -> bool {
        self.0 & !other.0 == 0
    }

    /// The kinds in words: `a string or null`.
    pub(crate) fn words(self) -> String {
        let names = [
            (Kinds::BOOLEAN, "true or false"),
            (Kinds::NUMBER, "a number"),
            (Kinds::STRING, "a string"),
            (Kinds::LIST, "a list"),
            (Kinds::OBJECT, "an object"),
            (Kinds::NOTHING, "null"),
        ];
        let found = names.iter().filter(|(kinds, _)| self.has(*kinds));
        let words: Vec<&str> = found.map(|(_, name)| *name).collect();
        words.join(" or ")
    }
}

/// Where in the first body, or in a variable, a value comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The variable; nothing for the body.
    pub(crate) variable: Option<String>,
    /// The way to it.
    pub(crate) hops: Vec<Hop>,
}

/// One step down in a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Hop {
    /// A field of an object.
    Field(String),
    /// Any item of a list.
    Item,
}

impl Origin {
    /// The whole body, or the whole of a variable.
    pub(crate) fn whole(variable: Option<&str>) -> Rc<Origin> {
        Rc::new(Origin {
            variable: variable.map(str::to_owned),
            hops: Vec::new(),
        })
    }

    pub(crate) fn below(&self, hop: Hop) -> Rc<Origin> {
        let mut hops = self.hops.clone();
        hops.push(hop);
        Rc::new(Origin {
            variable: self.variable.clone(),
            hops,
        })
    }

    /// The way in words: `line_items[].sku`.
    pub(crate) fn words(&self) -> String {
        let mut words = self
            .variable
            .as_ref()
            .map_or(String::new(), |name| format!("${name}"));
        for hop in &self.hops {
            match hop {
                Hop::Field(name) if words.is_empty() => words.push_str(name),
                Hop::Field(name) => {
                    words.push('.');
                    words.push_str(name);
                }
                Hop::Item => words.push_str("[]"),
            }
        }
        words
    }
}

/// What a value can be. The facets of a kind mean something only where the kind is possible.
#[derive(Clone, Debug)]
pub(crate) struct Type<'s> {
    pub(crate) kinds: Kinds,
    /// Nothing is said about the kind, so that nothing can be wrong about it.
    pub(crate) open: bool,
    /// Its null is one that a mapping writes.
    pub(crate) kept: bool,
    pub(crate) number: Range,
    pub(crate) text: Text<'s>,
    /// What lists it can be; empty for any list.
    pub(crate) lists: Vec<Rows<'s>>,
    /// What objects it can be; empty for any object.
    pub(crate) objects: Vec<Shape<'s>>,
    pub(crate) origin: Option<Rc<Origin>>,
}

/// Which numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Range {
    pub(crate) least: Option<Decimal>,
    pub(crate) most: Option<Decimal>,
    /// Whole numbers only.
    pub(crate) whole: bool,
    /// Read from a text that says nothing about its digits: that it may have a fraction is a guess.
    pub(crate) guessed: bool,
    /// One of these.
    pub(crate) values: Option<Rc<[Decimal]>>,
}

/// Which texts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text<'s> {
    /// How many characters at least.
    pub(crate) least: usize,
    /// How many characters at most.
    pub(crate) most: Option<usize>,
    pub(crate) patterns: Vec<&'s str>,
    pub(crate) format: Option<&'s str>,
    /// One of these.
    pub(crate) values: Option<Rc<[Rc<str>]>>,
    /// Which number it is, if it is one. A computed text is one for sure, written as JSON writes it.
    pub(crate) number: Option<Box<Range>>,
    /// Made of other values, whatever comes: what it looks like nobody has declared.
    pub(crate) computed: bool,
}

impl<'s> Type<'s> {
    /// Whatever can be, and nothing is known.
    pub(crate) fn unknown() -> Type<'s> {
        Type {
            open: true,
            ..Type::of(Kinds::ALL)
        }
    }

    /// These kinds, and nothing more is known.
    pub(crate) fn of(kinds: Kinds) -> Type<'s> {
        Type {
            kinds,
            open: false,
            kept: false,
            number: Range::default(),
            text: Text::default(),
            lists: Vec::new(),
            objects: Vec::new(),
            origin: None,
        }
    }

    /// No value at all: nothing gets here.
    pub(crate) fn never() -> Type<'s> {
        Type::of(Kinds::NONE)
    }

    pub(crate) fn is_never(&self) -> bool {
        self.kinds == Kinds::NONE
    }

    pub(crate) fn null() -> Type<'s> {
        Type::of(Kinds::NULL)
    }

    pub(crate) fn whole_number() -> Type<'s> {
        Type::numbers(Range {
            whole: true,
            ..Range::default()
        })
    }

    pub(crate) fn numbers(range: Range) -> Type<'s> {
        Type {
            number: range,
            ..Type::of(Kinds::NUMBER)
        }
    }

    pub(crate) fn texts(text: Text<'s>) -> Type<'s> {
        Type {
            text,
            ..Type::of(Kinds::STRING)
        }
    }

    /// A text that is made of something.
    pub(crate) fn computed_text() -> Type<'s> {
        Type::texts(Text {
            computed: true,
            ..Text::default()
        })
    }

    pub(crate) fn list(rows: Rows<'s>) -> Type<'s> {
        Type {
            lists: vec![rows],
            ..Type::of(Kinds::LIST)
        }
    }

    pub(crate) fn object(shape: Shape<'s>) -> Type<'s> {
        Type {
            objects: vec![shape],
            ..Type::of(Kinds::OBJECT)
        }
    }

    pub(crate) fn from(mut self, origin: Option<Rc<Origin>>) -> Type<'s> {
        self.origin = origin;
        self
    }

    pub(crate) fn may_be_null(&self) -> bool {
        self.kinds.has(Kinds::NOTHING)
    }

    pub(crate) fn only(mut self, kinds: Kinds) -> Type<'s> {
        self.kinds = self.kinds.and(kinds);
        // What is known now is more than nothing.
        self.open &= kinds == Kinds::ALL || kinds == Kinds::PRESENT;
        self
    }

    /// The same without the kinds; whether anything was declared about it stays.
    pub(crate) fn without(mut self, kinds: Kinds) -> Type<'s> {
        self.kinds = self.kinds.without(kinds);
        self
    }

    /// The same where what is absent stands there as null: in what an expression builds.
    pub(crate) fn in_place(mut self) -> Type<'s> {
        if self.kinds.has(Kinds::ABSENT) {
            self.kinds = self.kinds.without(Kinds::ABSENT).or(Kinds::NULL);
        }
        self
    }

    pub(crate) fn or_null(mut self) -> Type<'s> {
        self.kinds = self.kinds.or(Kinds::NULL);
        self
    }

    /// What is one or the other.
    pub(crate) fn union(self, other: Type<'s>) -> Type<'s> {
        if self.is_never() {
            return other;
        }
        if other.is_never() {
            return self;
        }
        let (a, b) = (self.kinds, other.kinds);
        let both = |kind| (a.has(kind), b.has(kind));
        let number = match both(Kinds::NUMBER) {
            (true, true) => self.number.union(other.number),
            (true, false) => self.number,
            _ => other.number,
        };
        let text = match both(Kinds::STRING) {
            (true, true) => self.text.union(other.text),
            (true, false) => self.text,
            _ => other.text,
        };
        let lists = match both(Kinds::LIST) {
            (true, true) => either(self.lists, other.lists, Rows::same),
            (true, false) => self.lists,
            _ => other.lists,
        };
        let objects = match both(Kinds::OBJECT) {
            (true, true) => either(self.objects, other.objects, Shape::same),
            (true, false) => self.objects,
            _ => other.objects,
        };
        Type {
            kinds: a.or(b),
            open: self.open || other.open,
            kept: self.kept || other.kept,
            number,
            text,
            lists,
            objects,
            origin: if self.origin == other.origin {
                self.origin
            } else {
                None
            },
        }
    }

    /// What is both.
    pub(crate) fn meet(self, other: Type<'s>) -> Type<'s> {
        let mut kinds = self.kinds.and(other.kinds);
        let number = self.number.meet(other.number);
        if number.is_empty() {
            kinds = kinds.without(Kinds::NUMBER);
        }
        let text = self.text.meet(other.text);
        if text.is_empty() {
            kinds = kinds.without(Kinds::STRING);
        }
        let lists = crossed(self.lists, other.lists, Rows::meet);
        let objects = crossed(self.objects, other.objects, Shape::meet);
        Type {
            kinds,
            open: self.open && other.open,
            kept: self.kept || other.kept,
            number,
            text,
            lists,
            objects,
            origin: self.origin.or(other.origin),
        }
    }

    /// What of it counts as true.
    pub(crate) fn truthy(mut self) -> Type<'s> {
        self.kinds = self.kinds.without(Kinds::NOTHING.or(Kinds::FALSE));
        if self.text.least == 0 {
            self.text.least = 1;
        }
        if let Some(values) = &self.text.values {
            self.text.values = Some(values.iter().filter(|v| !v.is_empty()).cloned().collect());
        }
        if self.text.is_empty() {
            self.kinds = self.kinds.without(Kinds::STRING);
        }
        self.lists = self.lists.into_iter().filter_map(Rows::filled).collect();
        self
    }

    /// What of it counts as false.
    pub(crate) fn falsy(mut self) -> Type<'s> {
        self.kinds = self.kinds.without(Kinds::TRUE.or(Kinds::NUMBER));
        let empty = Text {
            most: Some(0),
            ..Text::default()
        };
        self.text = self.text.meet(empty);
        if self.text.is_empty() {
            self.kinds = self.kinds.without(Kinds::STRING);
        }
        if !self.lists.is_empty() {
            self.lists = self.lists.into_iter().filter_map(Rows::emptied).collect();
            if self.lists.is_empty() {
                self.kinds = self.kinds.without(Kinds::LIST);
            }
        }
        if !self.objects.is_empty() && !self.objects.iter().any(Shape::may_be_empty) {
            self.kinds = self.kinds.without(Kinds::OBJECT);
        }
        self
    }

    /// The type in words, for messages: `one of 'open', 'closed'`, `a whole number from 1 to 5 or null`.
    pub(crate) fn words(&self) -> String {
        let mut words = Vec::new();
        if self.kinds.has(Kinds::BOOLEAN) {
            words.push("true or false".to_owned());
        }
        if self.kinds.has(Kinds::NUMBER) {
            words.push(self.number.words());
        }
        if self.kinds.has(Kinds::STRING) {
            words.push(self.text.words());
        }
        if self.kinds.has(Kinds::LIST) {
            words.push("a list".to_owned());
        }
        if self.kinds.has(Kinds::OBJECT) {
            words.push("an object".to_owned());
        }
        if self.kinds.has(Kinds::NOTHING) {
            words.push("null".to_owned());
        }
        words.join(" or ")
    }
}

/// The alternatives of both; any where one of them is any.
fn either<T>(a: Vec<T>, b: Vec<T>, same: impl Fn(&T, &T) -> bool) -> Vec<T> {
    if a.is_empty() || b.is_empty() {
        return Vec::new();
    }
    let mut all = a;
    for one in b {
        if !all.iter().any(|known| same(known, &one)) {
            all.push(one);
        }
    }
    if all.len() > ALTERNATIVES_MAX {
        all.clear();
    }
    all
}

/// Each alternative of one with each of the other.
fn crossed<T: Clone>(a: Vec<T>, b: Vec<T>, meet: impl Fn(&T, &T) -> Option<T>) -> Vec<T> {
    if b.is_empty() || (!a.is_empty() && a.len() * b.len() > ALTERNATIVES_MAX) {
        return a;
    }
    if a.is_empty() {
        return b;
    }
    let mut all = Vec::with_capacity(a.len() * b.len());
    for one in &a {
        all.extend(b.iter().filter_map(|other| meet(one, other)));
    }
    // That nothing fits both is not said this way: an empty list is any.
    if all.is_empty() { a } else { all }
}

impl Range {
    /// Exactly this number.
    pub(crate) fn exactly(number: Decimal) -> Range {
        Range {
            least: Some(number),
            most: Some(number),
            whole: number.normal().scale() == 0,
            guessed: false,
            values: Some(Rc::from([number])),
        }
    }

    pub(crate) fn at_least(number: i128) -> Range {
        Range {
            least: Some(Decimal::new(number, 0)),
            whole: true,
            ..Range::default()
        }
    }

    fn union(self, other: Range) -> Range {
        let values = match (&self.values, &other.values) {
            (Some(a), Some(b)) if a.len() + b.len() <= VALUES_MAX => {
                Some(a.iter().chain(b.iter()).copied().collect())
            }
            _ => None,
        };
        Range {
            least: least_of(self.least, other.least),
            most: most_of(self.most, other.most),
            whole: self.whole && other.whole,
            guessed: self.guessed || other.guessed,
            values,
        }
    }

    fn meet(self, other: Range) -> Range {
        let above = |a: Option<Decimal>, b: Option<Decimal>| match (a, b) {
            (Some(a), Some(b)) if a.compare(b).is_lt() => Some(b),
            (a, b) => a.or(b),
        };
        let below = |a: Option<Decimal>, b: Option<Decimal>| match (a, b) {
            (Some(a), Some(b)) if a.compare(b).is_gt() => Some(b),
            (a, b) => a.or(b),
        };
        let mut met = Range {
            least: above(self.least, other.least),
            most: below(self.most, other.most),
            whole: self.whole || other.whole,
            guessed: self.guessed && other.guessed,
            values: None,
        };
        met.values = match (self.values, other.values) {
            (Some(a), Some(b)) => {
                let in_b = |x: &&Decimal| b.iter().any(|y| x.compare(*y).is_eq());
                Some(a.iter().filter(in_b).copied().collect())
            }
            (a, b) => a.or(b),
        };
        met.values = met.values.take().map(|values| {
            let fits = |x: &&Decimal| met.holds(**x);
            values.iter().filter(fits).copied().collect()
        });
        met
    }

    fn is_empty(&self) -> bool {
        let crossed = matches!((self.least, self.most), (Some(a), Some(b)) if a.compare(b).is_gt());
        crossed || self.values.as_ref().is_some_and(|values| values.is_empty())
    }

    /// Whether the number is in it.
    pub(crate) fn holds(&self, number: Decimal) -> bool {
        self.least.is_none_or(|least| number.compare(least).is_ge())
            && self.most.is_none_or(|most| number.compare(most).is_le())
            && (!self.whole || number.normal().scale() == 0)
            && self
                .values
                .as_ref()
                .is_none_or(|values| values.iter().any(|value| value.compare(number).is_eq()))
    }

    /// The range in words: `a whole number from 1 to 5`.
    pub(crate) fn words(&self) -> String {
        if let Some(values) = &self.values {
            let list: Vec<String> = values.iter().take(8).map(|x| x.to_text()).collect();
            return listed(&list, values.len());
        }
        let noun = if self.whole {
            "a whole number"
        } else {
            "a number"
        };
        match (self.least, self.most) {
            (None, None) => noun.to_owned(),
            (Some(a), None) => format!("{noun} from {} on", a.to_text()),
            (None, Some(b)) => format!("{noun} up to {}", b.to_text()),
            (Some(a), Some(b)) => format!("{noun} from {} to {}", a.to_text(), b.to_text()),
        }
    }
}

fn least_of(a: Option<Decimal>, b: Option<Decimal>) -> Option<Decimal> {
    let (a, b) = (a?, b?);
    Some(if a.compare(b).is_gt() { b } else { a })
}

fn most_of(a: Option<Decimal>, b: Option<Decimal>) -> Option<Decimal> {
    let (a, b) = (a?, b?);
    Some(if a.compare(b).is_lt() { b } else { a })
}

impl<'s> Text<'s> {
    /// Exactly this text.
    pub(crate) fn exactly(text: &str) -> Text<'s> {
        let length = text.chars().count();
        Text {
            least: length,
            most: Some(length),
            values: Some(Rc::from([Rc::from(text)])),
            ..Text::default()
        }
    }

    /// One of these texts.
    pub(crate) fn one_of<'t>(texts: impl IntoIterator<Item = &'t str>) -> Text<'s> {
        let values: Vec<Rc<str>> = texts.into_iter().map(Rc::from).collect();
        let lengths = || values.iter().map(|value| value.chars().count());
        Text {
            least: lengths().min().unwrap_or(0),
            most: lengths().max(),
            values: (values.len() <= VALUES_MAX).then(|| Rc::from(values.clone())),
            ..Text::default()
        }
    }

    fn union(self, other: Text<'s>) -> Text<'s> {
        let values = match (&self.values, &other.values) {
            (Some(a), Some(b)) if a.len() + b.len() <= VALUES_MAX => {
                let mut all: Vec<Rc<str>> = a.to_vec();
                all.extend(b.iter().filter(|text| !a.contains(text)).cloned());
                Some(Rc::from(all))
            }
            _ => None,
        };
        let number = match (self.number, other.number) {
            (Some(a), Some(b)) => Some(Box::new(a.union(*b))),
            _ => None,
        };
        Text {
            least: self.least.min(other.least),
            most: self.most.zip(other.most).map(|(a, b)| a.max(b)),
            patterns: self
                .patterns
                .into_iter()
                .filter(|pattern| other.patterns.contains(pattern))
                .collect(),
            format: self.format.filter(|format| other.format == Some(format)),
            values,
            number,
            computed: self.computed && other.computed,
        }
    }

    fn meet(mut self, other: Text<'s>) -> Text<'s> {
        self.least = self.least.max(other.least);
        self.most = match (self.most, other.most) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        for pattern in other.patterns {
            if !self.patterns.contains(&pattern) {
                self.patterns.push(pattern);
            }
        }
        self.format = self.format.or(other.format);
        self.number = self.number.or(other.number);
        self.computed &= other.computed;
        self.values = match (self.values.take(), other.values) {
            (Some(a), Some(b)) => Some(a.iter().filter(|x| b.contains(x)).cloned().collect()),
            (a, b) => a.or(b),
        };
        if let Some(values) = &self.values {
            let fits = |text: &&Rc<str>| {
                let length = text.chars().count();
                length >= self.least && self.most.is_none_or(|most| length <= most)
            };
            self.values = Some(values.iter().filter(fits).cloned().collect());
        }
        self
    }

    fn is_empty(&self) -> bool {
        self.most.is_some_and(|most| most < self.least)
            || self.values.as_ref().is_some_and(|values| values.is_empty())
    }

    /// The texts in words: `one of 'open', 'closed'`.
    pub(crate) fn words(&self) -> String {
        if let Some(values) = &self.values {
            let list: Vec<String> = values.iter().take(8).map(|x| format!("'{x}'")).collect();
            return listed(&list, values.len());
        }
        match self.format {
            Some(format) => format!("a string ({format})"),
            None => "a string".to_owned(),
        }
    }
}

fn listed(list: &[String], count: usize) -> String {
    match list {
        [only] if count == 1 => only.clone(),
        _ if count > list.len() => {
            format!("one of {} and {} more", list.join(", "), count - list.len())
        }
        _ => format!("one of {}", list.join(", ")),
    }
}

#[cfg(test)]
mod tests;
