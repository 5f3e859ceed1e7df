//! What the parts of an expression were found to be, and a type at length, for who asks about a place. It judges nothing.

use super::{Kinds, Type, rows, shape::Shape};

/// How many fields of an object are named.
const FIELDS_MAX: usize = 8;

/// A part of an expression, by its bytes, and what it is.
pub(crate) struct Seen<'s> {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) is: Type<'s>,
}

/// The smallest part that the byte is in.
pub(crate) fn smallest(
    seen: Vec<Seen<'_>>,
    holds: impl Fn(usize, usize) -> bool,
) -> Option<Seen<'_>> {
    let around = seen.into_iter().filter(|part| holds(part.start, part.end));
    around.min_by_key(|part| part.end - part.start)
}

impl Type<'_> {
    /// The type with its limits, what lists hold and the fields of objects; nothing if nothing is known.
    pub(crate) fn at_length(&self) -> Option<String> {
        if self.is_never() || self.kinds.within(Kinds::NOTHING) {
            return Some("always null".to_owned());
        }
        if self.open && !self.kinds.within(Kinds::NOTHING) {
            return None;
        }
        let scalars = self
            .clone()
            .without(Kinds::LIST.or(Kinds::OBJECT).or(Kinds::NOTHING));
        // The text stands last among the scalars, and how long it is stands behind it.
        let mut words = vec![format!("{}{}", scalars.words(), self.length_words())];
        if self.kinds.has(Kinds::LIST) {
            words.push(self.list_words());
        }
        if self.kinds.has(Kinds::OBJECT) {
            words.push(self.object_words());
        }
        if self.kinds.has(Kinds::NOTHING) {
            words.push("null".to_owned());
        }
        words.retain(|part| !part.is_empty());
        Some(words.join(" or "))
    }

    /// How long a text may be, where it is not one of a list.
    fn length_words(&self) -> String {
        if !self.kinds.has(Kinds::STRING) || self.text.values.is_some() {
            return String::new();
        }
        match (self.text.least, self.text.most) {
            (0, None) => String::new(),
            (1, None) => " that is not empty".to_owned(),
            (least, None) => format!(" of at least {least} characters"),
            (0, Some(most)) => format!(" of at most {most} characters"),
            (least, Some(most)) if least == most => format!(" of {most} characters"),
            (least, Some(most)) => format!(" of {least} to {most} characters"),
        }
    }

    fn list_words(&self) -> String {
        let item = rows::item(self);
        match Some(&item)
            .filter(|item| !item.is_never())
            .and_then(|item| item.at_length())
        {
            Some(item) => format!("a list, each {item}"),
            None => "a list".to_owned(),
        }
    }

    fn object_words(&self) -> String {
        let mut names: Vec<String> = self.objects.iter().flat_map(Shape::names).collect();
        names.sort();
        names.dedup();
        let more = names.len().saturating_sub(FIELDS_MAX);
        names.truncate(FIELDS_MAX);
        match (names.is_empty(), more) {
            (true, _) => "an object".to_owned(),
            (_, 0) => format!("an object ({})", names.join(", ")),
            _ => format!("an object ({} and {more} more)", names.join(", ")),
        }
    }
}
