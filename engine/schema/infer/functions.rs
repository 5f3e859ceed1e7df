//! What functions give, by what they are given. What is not said here gives what its signature says.

use std::rc::Rc;

use super::hint::Hint;
use super::node::{Infer, never_equal};
use super::note::About;
use super::rows::Rows;
use super::shape::Shape;
use super::{Kinds, Range, Text, Type, objects, rows};
use crate::expression::ast::{Call, Node, Tree};
use crate::expression::functions::{Function, Types};
use crate::expression::number::Decimal;

/// Functions that give null for more than a null.
const ALSO_NULL: &[&str] = &["find_first", "find_last", "position", "first", "last"];

impl<'s> Infer<'_, 's> {
    pub(super) fn call(&mut self, call: &Call, current: &Type<'s>) -> Type<'s> {
        let Some(function) = call.function else {
            return Type::unknown();
        };
        let mut given: Vec<Type<'s>> = Vec::with_capacity(call.arguments.len());
        for argument in &call.arguments {
            let is = self.node(argument, current);
            given.push(is);
        }
        let list = call
            .arguments
            .iter()
            .zip(&given)
            .find(|(argument, _)| !matches!(argument.tree, Tree::Reference(_)))
            .map_or_else(Type::unknown, |(_, is)| is.clone());
        // What an expression that is an argument gives for each item.
        let mut each = Type::unknown();
        for argument in &call.arguments {
            if let Tree::Reference(inner) = &argument.tree {
                let item = rows::item(&list);
                each = if item.is_never() {
                    item
                } else {
                    self.node(inner, &item)
                };
            }
        }
        let null_first = function.null_gives_null && given.first().is_some_and(Type::may_be_null);
        for (at, (argument, is)) in call.arguments.iter().zip(&mut given).enumerate() {
            self.argument(function, at, argument, is);
        }
        self.hints_of(function.name, call, &given);
        self.compared_choices(function.name, call, &given);
        if given.iter().any(Type::is_never) && !null_first {
            return Type::never();
        }
        let cx = Given {
            call,
            given: &given,
            each,
        };
        let mut is = match known(function.name, &cx) {
            Some(is) => is,
            None => match self.of_table(function.name, &cx) {
                Some(is) => is,
                None => by_signature(function),
            },
        };
        if null_first {
            is.kinds = is.kinds.or(Kinds::NULL);
        }
        is
    }

    /// Notes an argument that the function does not take; what it takes is left.
    fn argument(&mut self, function: &'static Function, at: usize, node: &Node, is: &mut Type<'s>) {
        if matches!(node.tree, Tree::Reference(_)) || is.is_never() {
            return;
        }
        let parameter = function.parameter(at);
        let mut takes = accepted(parameter.types);
        if at == 0 && function.null_gives_null {
            takes = takes.or(Kinds::NOTHING);
        }
        let bad = is.kinds.without(takes);
        let of = is
            .origin
            .as_ref()
            .map_or(String::new(), |origin| origin.words());
        let about = |is: Kinds, null_only, sure, items| About::Argument {
            function: function.name,
            parameter: parameter.name,
            takes: parameter.types.words(),
            is,
            null_only,
            sure,
            items,
            of: of.clone(),
        };
        if bad != Kinds::NONE && (!is.open || is.kinds.within(Kinds::NOTHING)) {
            let about = about(bad, bad.within(Kinds::NOTHING), bad == is.kinds, false);
            self.note(about, node.start, node.end);
        }
        *is = is.clone().without(bad);
        let wanted = match parameter.types {
            types if types.takes_any_of(Types::ARRAY) => return,
            types => match (
                types.takes_any_of(Types::NUMBERS),
                types.takes_any_of(Types::STRINGS),
            ) {
                (true, true) => Kinds::NUMBER.or(Kinds::STRING),
                (true, false) => Kinds::NUMBER,
                (false, true) => Kinds::STRING,
                _ => return,
            },
        };
        let item = rows::item(is);
        if item.open || item.is_never() {
            return;
        }
        let wrong = item.kinds.without(wanted);
        if wrong != Kinds::NONE {
            let about = about(
                wrong,
                wrong.within(Kinds::NOTHING),
                wrong == item.kinds,
                true,
            );
            self.note(about, node.start, node.end);
        }
    }

    /// What the texts that a function reads must look like.
    fn hints_of(&mut self, name: &str, call: &Call, given: &[Type<'s>]) {
        let text = |at: usize| call.arguments.get(at).and_then(Node::literal_text);
        let (at, hint) = match name {
            "decimal" | "to_number" => (0, Hint::Number),
            "timestamp" | "format_time" | "date" | "epoch" | "epoch_ms" | "add_seconds"
            | "add_days" | "add_months" | "add_business_days" | "weekday" => (0, Hint::Time),
            "parse_time" => match text(1) {
                Some(pattern) => (0, Hint::Pattern(pattern)),
                None => return,
            },
            "before" | "after" | "days_between" | "seconds_between" => {
                if let Some(other) = given.get(1) {
                    self.hint(other, Hint::Time);
                }
                (0, Hint::Time)
            }
            "lookup" | "known" => {
                let table = text(0).and_then(|name| self.tables.get(&name));
                match table.and_then(|table| table.keys().next()) {
                    Some(key) => (1, Hint::Key(key.to_owned())),
                    None => return,
                }
            }
            _ => return,
        };
        if let Some(is) = given.get(at).filter(|is| is.kinds.has(Kinds::STRING)) {
            self.hint(is, hint);
        }
    }

    /// Notes choices of `one_of` that a value never equals.
    fn compared_choices(&mut self, name: &str, call: &Call, given: &[Type<'s>]) {
        let ("one_of", Some((of, choices))) = (name, given.split_first()) else {
            return;
        };
        for (choice, node) in choices.iter().zip(call.arguments.iter().skip(1)) {
            if let Some(about) = never_equal(of, choice, false) {
                self.note(about, node.start, node.end);
            }
        }
    }

    /// What a table holds.
    fn of_table(&self, name: &str, cx: &Given<'_, 's>) -> Option<Type<'s>> {
        if name != "lookup" {
            return None;
        }
        let table = self.tables.get(&cx.text(0)?)?;
        let column = match cx.text(2) {
            Some(column) => column,
            None if cx.given.len() == 2 && table.columns().len() == 2 => table.columns()[1].clone(),
            None => return None,
        };
        let mut is = Type::texts(Text::one_of(table.cells(&column)?));
        if let Some(default) = cx.given.get(3) {
            is = is.union(default.clone());
        }
        if cx.given.get(1).is_some_and(Type::may_be_null) {
            is.kinds = is.kinds.or(Kinds::NULL);
        }
        Some(is.from(None))
    }
}

/// One call: what it is given.
pub(super) struct Given<'c, 's> {
    call: &'c Call,
    pub(super) given: &'c [Type<'s>],
    /// What the expression that is an argument gives for each item.
    each: Type<'s>,
}

impl<'s> Given<'_, 's> {
    pub(super) fn of(&self, at: usize) -> Type<'s> {
        let is = self.given.get(at).cloned();
        is.unwrap_or_else(Type::null)
    }

    /// An argument that is a text in the expression itself.
    pub(super) fn text(&self, at: usize) -> Option<String> {
        self.call.arguments.get(at)?.literal_text()
    }

    /// An argument that is always the same number.
    fn number(&self, at: usize) -> Option<i64> {
        match self.given.get(at)?.number.values.as_deref() {
            Some([only]) => only.to_integer(),
            _ => None,
        }
    }

    /// The range of an argument, if it can only be a number.
    fn range(&self, at: usize) -> Range {
        self.given
            .get(at)
            .map_or_else(Range::default, |is| is.number.clone())
    }

    fn all_whole(&self) -> bool {
        self.given.iter().all(|is| is.number.whole)
    }

    fn any_guessed(&self) -> bool {
        self.given.iter().any(|is| is.number.guessed)
    }
}

fn accepted(types: Types) -> Kinds {
    let kind = |given: Types, kinds| {
        if types.takes_any_of(given) {
            kinds
        } else {
            Kinds::NONE
        }
    };
    [
        kind(Types::NUMBER, Kinds::NUMBER),
        kind(Types::STRING, Kinds::STRING),
        kind(Types::BOOLEAN, Kinds::BOOLEAN),
        kind(Types::ARRAY | Types::NUMBERS | Types::STRINGS, Kinds::LIST),
        kind(Types::OBJECT, Kinds::OBJECT),
        kind(Types::NULL, Kinds::NOTHING),
    ]
    .into_iter()
    .fold(Kinds::NONE, Kinds::or)
}

fn by_signature<'s>(function: &Function) -> Type<'s> {
    let gives = function.gives;
    if gives == Types::VALUE {
        return Type::unknown();
    }
    let mut kinds = accepted(gives);
    if kinds.has(Kinds::NULL) {
        kinds = kinds.without(Kinds::ABSENT);
    }
    // A null comes of a null only, and that is added where it can be.
    if function.null_gives_null && !ALSO_NULL.contains(&function.name) {
        kinds = kinds.without(Kinds::NOTHING);
    }
    let mut is = Type::of(kinds);
    is.text.computed = true;
    is
}

fn known<'s>(name: &str, cx: &Given<'_, 's>) -> Option<Type<'s>> {
    numbers(name, cx)
        .or_else(|| formats(name))
        .or_else(|| texts(name, cx))
        .or_else(|| lists(name, cx))
        .or_else(|| objects::objects(name, cx))
        .or_else(|| others(name, cx))
}

/// Arithmetic.
fn numbers<'s>(name: &str, cx: &Given<'_, 's>) -> Option<Type<'s>> {
    let whole_if = |whole: bool| {
        Some(Type::numbers(Range {
            whole,
            guessed: !whole && cx.any_guessed(),
            ..Range::default()
        }))
    };
    match name {
        "decimal" => Some(read_number(&cx.of(0), true)),
        "to_number" => Some(read_number(&cx.of(0), false)),
        "add" | "subtract" | "multiply" | "remainder" | "abs" | "negate" => {
            whole_if(cx.all_whole())
        }
        "ceil" | "floor" | "minor_units" | "epoch" | "epoch_ms" | "days_between" => whole_if(true),
        "round" => whole_if(cx.given.len() == 1 || cx.number(1) == Some(0) || cx.range(0).whole),
        "divide" => Some(Type::numbers(Range {
            whole: cx.number(2) == Some(0),
            ..Range::default()
        })),
        "sum" => {
            let item = rows::item(&cx.of(0)).number;
            Some(Type::numbers(Range {
                whole: item.whole,
                guessed: item.guessed,
                ..Range::default()
            }))
        }
        "sum_by" => Some(Type::numbers(Range {
            whole: cx.each.number.whole,
            guessed: cx.each.number.guessed,
            ..Range::default()
        })),
        "avg" => Some(null_if_empty(Type::of(Kinds::NUMBER), &cx.of(0))),
        "weekday" => Some(Type::numbers(Range {
            least: Some(Decimal::new(1, 0)),
            most: Some(Decimal::new(7, 0)),
            whole: true,
            ..Range::default()
        })),
        "length" => {
            let (least, most) = match cx.of(0) {
                is if is.kinds == Kinds::LIST => rows::count(&is),
                is if is.kinds == Kinds::STRING => (is.text.least, is.text.most),
                _ => (0, None),
            };
            let number = |count: usize| Decimal::from_count(count);
            Some(Type::numbers(Range {
                least: Some(number(least)),
                most: most.map(number),
                whole: true,
                ..Range::default()
            }))
        }
        "find_first" | "find_last" | "position" => {
            Some(Type::numbers(Range::at_least(0)).or_null())
        }
        _ => None,
    }
}

/// A number read from a text; of a number itself.
fn read_number<'s>(of: &Type<'s>, strict: bool) -> Type<'s> {
    let mut is = Type::never();
    if of.kinds.has(Kinds::NUMBER) {
        is = is.union(Type::numbers(of.number.clone()));
    }
    if of.kinds.has(Kinds::STRING) {
        let range = match (&of.text.values, &of.text.number) {
            (Some(values), _) => values
                .iter()
                .filter_map(|text| Decimal::parse(text.trim()))
                .map(Range::exactly)
                .reduce(Range::union)
                .filter(|_| {
                    values
                        .iter()
                        .all(|text| Decimal::parse(text.trim()).is_some())
                }),
            (None, Some(range)) => Some((**range).clone()),
            _ => None,
        };
        let range = range.unwrap_or(Range {
            guessed: of.text.patterns.is_empty(),
            ..Range::default()
        });
        is = is.union(Type::numbers(range));
        // A pattern lets texts in that are no numbers as JSON writes them, such as 007.
        let surely = of.text.computed && of.text.number.is_some();
        if !strict && !surely {
            is = is.or_null();
        }
    }
    if !strict && !of.kinds.within(Kinds::NUMBER.or(Kinds::STRING)) {
        is = is.or_null();
    }
    is
}

/// Texts of a known format.
fn formats<'s>(name: &str) -> Option<Type<'s>> {
    let format = match name {
        "timestamp" | "parse_time" | "add_seconds" | "received_at" => "date-time",
        "date" | "today" => "date",
        "uuid" => "uuid",
        _ => return None,
    };
    Some(Type::texts(Text {
        computed: true,
        format: Some(format),
        ..Text::default()
    }))
}

/// Texts.
fn texts<'s>(name: &str, cx: &Given<'_, 's>) -> Option<Type<'s>> {
    let of = cx.of(0);
    let made = |text: Text<'s>| {
        Some(Type::texts(Text {
            computed: true,
            ..text
        }))
    };
    let length = |at: usize| {
        cx.number(at)
            .and_then(|number| usize::try_from(number).ok())
    };
    match name {
        "sha256" => made(Text {
            least: 64,
            most: Some(64),
            ..Text::default()
        }),
        "lower" => changed(&of, |text| text.to_lowercase()),
        "upper" => changed(&of, |text| text.to_uppercase()),
        "trim" | "trim_left" | "trim_right" | "substring" => made(Text {
            most: match (of.text.most, length(2)) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            ..Text::default()
        }),
        "truncate" => made(Text {
            most: length(1),
            ..Text::default()
        }),
        "pad_left" | "pad_right" => made(Text {
            least: length(1).unwrap_or(0),
            most: (of.kinds == Kinds::STRING)
                .then(|| of.text.most.zip(length(1)))
                .flatten()
                .map(|(a, b)| a.max(b)),
            ..Text::default()
        }),
        "fixed" => made(Text {
            number: Some(Box::new(Range {
                whole: cx.number(1) == Some(0),
                ..Range::default()
            })),
            ..Text::default()
        }),
        "concat" => made(joined(cx.given)),
        "to_string" => Some(as_text(&of)),
        "type" => Some(Type::texts(Text::one_of([
            "null", "boolean", "number", "string", "array", "object",
        ]))),
        "join" | "replace" | "html_decode" | "format_time" | "item_key" | "message_id"
        | "base64_encode" | "base64_decode" | "url_encode" => made(Text::default()),
        _ => None,
    }
}

/// What `to_string` makes of a value: a text stays as it is.
fn as_text<'s>(of: &Type<'s>) -> Type<'s> {
    let mut is = Type::never();
    if of.kinds.has(Kinds::STRING) {
        is = Type::texts(of.text.clone());
    }
    if !of.kinds.within(Kinds::STRING) {
        let number =
            (of.kinds.within(Kinds::NUMBER.or(Kinds::STRING))).then(|| Box::new(of.number.clone()));
        is = is.union(Type::texts(Text {
            computed: true,
            number,
            ..Text::default()
        }));
    }
    is
}

fn changed<'s>(of: &Type<'s>, change: impl Fn(&str) -> String) -> Option<Type<'s>> {
    let mut text = Text {
        computed: true,
        ..Text::default()
    };
    if let Some(values) = &of.text.values {
        let all: Vec<Rc<str>> = values.iter().map(|text| Rc::from(change(text))).collect();
        text = Text::one_of(all.iter().map(|text| &**text));
    }
    Some(Type::texts(text))
}

/// Texts and numbers in one.
fn joined<'s>(given: &[Type<'s>]) -> Text<'s> {
    let mut text = Text {
        most: Some(0),
        ..Text::default()
    };
    for is in given {
        let longest = if is.kinds.has(Kinds::NUMBER) {
            None
        } else {
            is.text.most
        };
        text.most = text.most.zip(longest).map(|(a, b)| a.saturating_add(b));
        if is.kinds == Kinds::STRING {
            text.least = text.least.saturating_add(is.text.least);
        }
    }
    text
}

fn null_if_empty<'s>(mut is: Type<'s>, list: &Type<'s>) -> Type<'s> {
    if list.lists.is_empty() || rows::count(list).0 == 0 {
        is.kinds = is.kinds.or(Kinds::NULL);
    }
    is
}

/// Any number of these items: at least one where the other list has one, at most as many.
fn rows_like<'s>(item: Type<'s>, list: &Type<'s>, all: bool) -> Type<'s> {
    let (least, most) = rows::count(list);
    let least = if all { least } else { least.min(1) };
    Type::list(Rows::of_items(item).counted(least, most))
}

fn lists<'s>(name: &str, cx: &Given<'_, 's>) -> Option<Type<'s>> {
    let list = if name == "map" { cx.of(1) } else { cx.of(0) };
    let item = || rows::item(&list);
    Some(match name {
        "map" => rows_like(cx.each.clone().in_place(), &list, true),
        "sort" | "sort_by" => rows_like(item(), &list, true),
        "unique" | "unique_by" => rows_like(item(), &list, false),
        "reverse" => {
            let mut is = Type::never();
            if list.kinds.has(Kinds::LIST) {
                is = rows_like(item(), &list, true);
            }
            if list.kinds.has(Kinds::STRING) {
                is = is.union(Type::computed_text());
            }
            is
        }
        "max" | "min" | "max_by" | "min_by" | "first" | "last" => null_if_empty(item(), &list),
        "to_array" => {
            let mut is = Type::never();
            if list.kinds.has(Kinds::LIST) {
                is = list.clone().only(Kinds::LIST);
            }
            let other = list.clone().without(Kinds::LIST).in_place();
            if !other.is_never() {
                is = is.union(Type::list(Rows::exactly(vec![other])));
            }
            is
        }
        "enumerate" => rows_like(
            Type::list(Rows::exactly(vec![Type::whole_number(), item()])),
            &list,
            true,
        ),
        "chunk" => Type::list(Rows::of_items(rows_like(item(), &list, false))),
        "zip" => {
            let items = cx.given.iter().map(rows::item).collect();
            Type::list(Rows::of_items(Type::list(Rows::exactly(items))))
        }
        "range" => Type::list(Rows::of_items(Type::numbers(Range::at_least(0)))),
        "split" => Type::list(Rows::of_items(Type::computed_text())),
        "lines" => Type::list(Rows::of_items(Type::computed_text())),
        "keys" => {
            let names = closed_names(&list);
            Type::list(Rows::of_items(match names {
                Some(names) => Type::texts(Text::one_of(names.iter().map(String::as_str))),
                None => Type::of(Kinds::STRING),
            }))
        }
        "values" => Type::list(Rows::of_items(values(&list))),
        "items" => {
            let pair = vec![Type::of(Kinds::STRING), values(&list)];
            Type::list(Rows::of_items(Type::list(Rows::exactly(pair))))
        }
        _ => return None,
    })
}

/// The names of an object that can have no others, and at least one.
fn closed_names(of: &Type<'_>) -> Option<Vec<String>> {
    let closed = !of.objects.is_empty() && of.objects.iter().all(Shape::is_closed);
    let names: Vec<String> = of.objects.iter().flat_map(Shape::names).collect();
    (closed && !names.is_empty()).then_some(names)
}

/// The values of an object; nulls too.
fn values<'s>(of: &Type<'s>) -> Type<'s> {
    let all = of.objects.iter().map(Shape::values);
    match of.objects.is_empty() {
        true => Type::unknown().only(Kinds::PRESENT),
        false => all.fold(Type::null(), Type::union),
    }
}

fn others<'s>(name: &str, cx: &Given<'_, 's>) -> Option<Type<'s>> {
    match name {
        "not_null" => {
            let mut is = Type::never();
            for one in cx.given {
                let mut some = one.clone();
                if !some.may_be_null() {
                    return Some(is.union(some));
                }
                some = some.without(Kinds::NOTHING);
                is = is.union(some);
            }
            Some(is.or_null())
        }
        "required" => {
            let is = cx.given.first()?.clone();
            Some(is.without(Kinds::NOTHING))
        }
        "keep_null" => {
            let mut is = cx.given.first()?.clone().in_place();
            is.kept = is.kinds.has(Kinds::NULL);
            Some(is)
        }
        "one_of" | "contains" => Some(Type::of(Kinds::BOOLEAN)),
        _ => None,
    }
}
