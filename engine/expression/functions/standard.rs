//! The functions of the JMESPath specification, with exact numbers. Extensions stand in the other files.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Arguments, Function, Group, Types, overflow, takes};
use crate::body::Kind;
use crate::expression::ast::Node;
use crate::expression::evaluate::{Outcome, Run};
use crate::expression::number::{Decimal, Rounding, is_json_number};
use crate::expression::value::{compare_numbers, elements};
use crate::expression::{Fault, FaultKind};
use crate::expression::{Form, Number, Value};

const fn standard(
    name: &'static str,
    parameters: &'static [super::Parameter],
    gives: Types,
    doc: &'static str,
    example: (&'static str, &'static str, &'static str),
    run: for<'s, 'a> fn(&mut Run<'s, 'a>, Arguments<'a>) -> Outcome<'a>,
) -> Function {
    Function {
        name,
        group: Group::Standard,
        parameters,
        optional: 0,
        repeats: false,
        null_gives_null: false,
        gives,
        doc,
        example,
        run,
    }
}

const fn repeated(function: Function) -> Function {
    Function {
        repeats: true,
        ..function
    }
}

const NUMBER: &[super::Parameter] = &[takes("x", Types::NUMBER)];
const NUMBERS: &[super::Parameter] = &[takes("list", Types::NUMBERS)];
const ANY: &[super::Parameter] = &[takes("x", Types::VALUE)];
const OBJECT: &[super::Parameter] = &[takes("object", Types::OBJECT)];
const COMPARABLE: &[super::Parameter] = &[takes("list", Types::NUMBERS.or(Types::STRINGS))];
const LIST_AND_KEY: &[super::Parameter] =
    &[takes("list", Types::ARRAY), takes("key", Types::EXPRESSION)];
const TWO_STRINGS: &[super::Parameter] =
    &[takes("text", Types::STRING), takes("part", Types::STRING)];

pub(super) const FUNCTIONS: &[Function] = &[
    standard(
        "abs",
        NUMBER,
        Types::NUMBER,
        "The number without its sign",
        ("abs(`-19.90`)", "null", "19.90"),
        abs,
    ),
    standard(
        "avg",
        NUMBERS,
        Types::NUMBER.or(Types::NULL),
        "The average, exact where it has an end, else with 10 more digits than its addends, half up; null for an empty list",
        ("avg(@)", "[1, 2, 4]", "2.3333333333"),
        avg,
    ),
    standard(
        "ceil",
        NUMBER,
        Types::NUMBER,
        "The smallest whole number that is not less",
        ("ceil(`1.001`)", "null", "2"),
        ceil,
    ),
    standard(
        "contains",
        &[
            takes("in", Types::ARRAY.or(Types::STRING)),
            takes("x", Types::VALUE),
        ],
        Types::BOOLEAN,
        "Whether a list has the element, or a text the part",
        ("contains(@, 'b')", "[\"a\", \"b\"]", "true"),
        contains,
    ),
    standard(
        "ends_with",
        TWO_STRINGS,
        Types::BOOLEAN,
        "Whether the text ends with the part",
        ("ends_with('SO-1001', '01')", "null", "true"),
        ends_with,
    ),
    standard(
        "floor",
        NUMBER,
        Types::NUMBER,
        "The largest whole number that is not greater",
        ("floor(`-1.5`)", "null", "-2"),
        floor,
    ),
    standard(
        "join",
        &[takes("glue", Types::STRING), takes("list", Types::STRINGS)],
        Types::STRING,
        "The texts in one, with the glue between them",
        ("join(', ', @)", "[\"a\", \"b\"]", "\"a, b\""),
        join,
    ),
    standard(
        "keys",
        OBJECT,
        Types::STRINGS.or(Types::ARRAY),
        "The keys of an object, in its order",
        ("keys(@)", "{\"b\": 1, \"a\": 2}", "[\"b\",\"a\"]"),
        keys,
    ),
    standard(
        "length",
        &[takes("x", Types::STRING.or(Types::ARRAY).or(Types::OBJECT))],
        Types::NUMBER,
        "How many characters a text, elements a list or entries an object has",
        ("length('Grüße')", "null", "5"),
        length,
    ),
    standard(
        "map",
        &[
            takes("each", Types::EXPRESSION),
            takes("list", Types::ARRAY),
        ],
        Types::ARRAY,
        "The expression applied to each element; nulls stay",
        ("map(&a, @)", "[{\"a\": 1}, {}]", "[1,null]"),
        map,
    ),
    standard(
        "max",
        COMPARABLE,
        Types::NUMBER.or(Types::STRING).or(Types::NULL),
        "The greatest of numbers or of texts; null for an empty list",
        ("max(@)", "[9.5, 10]", "10"),
        max,
    ),
    standard(
        "max_by",
        LIST_AND_KEY,
        Types::VALUE,
        "The element with the greatest key",
        ("max_by(@, &n).n", "[{\"n\": 1}, {\"n\": 2}]", "2"),
        max_by,
    ),
    repeated(standard(
        "merge",
        OBJECT,
        Types::OBJECT,
        "One object of several; later entries win",
        (
            "merge(@, {b: `2`})",
            "{\"a\": 1, \"b\": 1}",
            "{\"a\":1,\"b\":2}",
        ),
        merge,
    )),
    standard(
        "min",
        COMPARABLE,
        Types::NUMBER.or(Types::STRING).or(Types::NULL),
        "The least of numbers or of texts; null for an empty list",
        ("min(@)", "[9.5, 10]", "9.5"),
        min,
    ),
    standard(
        "min_by",
        LIST_AND_KEY,
        Types::VALUE,
        "The element with the least key",
        ("min_by(@, &n).n", "[{\"n\": 1}, {\"n\": 2}]", "1"),
        min_by,
    ),
    repeated(standard(
        "not_null",
        ANY,
        Types::VALUE,
        "The first argument that is not null",
        ("not_null(b, a)", "{\"a\": 1}", "1"),
        not_null,
    )),
    standard(
        "reverse",
        &[takes("x", Types::STRING.or(Types::ARRAY))],
        Types::STRING.or(Types::ARRAY),
        "A list or a text from its end",
        ("reverse(@)", "[1, 2]", "[2,1]"),
        reverse,
    ),
    standard(
        "sort",
        COMPARABLE,
        Types::ARRAY.or(Types::NUMBERS).or(Types::STRINGS),
        "Numbers by size, or texts by code points",
        ("sort(@)", "[10, 9.5]", "[9.5,10]"),
        sort,
    ),
    standard(
        "sort_by",
        LIST_AND_KEY,
        Types::ARRAY,
        "The elements by a key that is a number or a text for all; equal keys keep their order",
        ("sort_by(@, &n)[].n", "[{\"n\": 2}, {\"n\": 1}]", "[1,2]"),
        sort_by,
    ),
    standard(
        "starts_with",
        TWO_STRINGS,
        Types::BOOLEAN,
        "Whether the text begins with the part",
        ("starts_with('SO-1001', 'SO')", "null", "true"),
        starts_with,
    ),
    standard(
        "sum",
        NUMBERS,
        Types::NUMBER,
        "The exact sum; 0 for an empty list",
        ("sum(@)", "[0.1, 0.2]", "0.3"),
        sum,
    ),
    standard(
        "to_array",
        ANY,
        Types::ARRAY,
        "The value in a list, unless it is one",
        ("to_array('a')", "null", "[\"a\"]"),
        to_array,
    ),
    standard(
        "to_string",
        ANY,
        Types::STRING,
        "A text as it is, everything else as JSON",
        ("to_string(@)", "[1, 2.50]", "\"[1,2.50]\""),
        to_string,
    ),
    standard(
        "to_number",
        ANY,
        Types::NUMBER.or(Types::NULL),
        "The number in a text, digit for digit; null where there is none",
        ("to_number('19.90')", "null", "19.90"),
        to_number,
    ),
    standard(
        "type",
        ANY,
        Types::STRING,
        "The name of the type",
        ("type(@)", "[]", "\"array\""),
        type_of,
    ),
    standard(
        "values",
        OBJECT,
        Types::ARRAY,
        "The values of an object, in its order",
        ("values(@)", "{\"b\": 1, \"a\": 2}", "[1,2]"),
        values,
    ),
];

fn abs<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let negative = arguments.values[0]
        .number_text()
        .is_some_and(|text| text.starts_with('-'));
    if !negative {
        return Ok(arguments.take(0));
    }
    Ok(Value::decimal(arguments.number(0)?.negate()))
}

fn avg<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let count = arguments.values[0].len();
    if count == 0 {
        return Ok(Value::Null);
    }
    let list = arguments.take(0);
    let total = total(run, &list)?;
    let count = Decimal::from_count(count);
    let exact = total.divide_exactly(count).map(Decimal::normal);
    let near = || total.divide(count, total.scale() + 10, Rounding::HalfUp);
    exact
        .or_else(near)
        .map(Value::decimal)
        .ok_or_else(|| overflow("the average does not fit").boxed())
}

fn ceil<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    match arguments.number(0)?.ceil() {
        Some(whole) => Ok(Value::decimal(whole)),
        None => Err(overflow("the number does not fit").boxed()),
    }
}

fn floor<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    match arguments.number(0)?.floor() {
        Some(whole) => Ok(Value::decimal(whole)),
        None => Err(overflow("the number does not fit").boxed()),
    }
}

fn contains<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let (whole, part) = (arguments.take(0), arguments.take(1));
    if let Some(text) = whole.as_str() {
        let found = part.as_str().is_some_and(|part| text.contains(&*part));
        return Ok(Value::Bool(found));
    }
    for element in whole.into_items().into_iter().flatten() {
        run.step(1)?;
        if run.equal(&element, &part)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn starts_with<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let (text, part) = (arguments.string(0), arguments.string(1));
    Ok(Value::Bool(text.starts_with(&*part)))
}

fn ends_with<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let (text, part) = (arguments.string(0), arguments.string(1));
    Ok(Value::Bool(text.ends_with(&*part)))
}

fn join<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let glue = arguments.string(0);
    let mut text = String::new();
    for (at, element) in arguments.list(1).enumerate() {
        let part = element.into_str().unwrap_or_default();
        run.write(glue.len() + part.len())?;
        if at > 0 {
            text.push_str(&glue);
        }
        text.push_str(&part);
    }
    Ok(Value::text(text))
}

fn keys<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let entries = arguments.take(0).into_entries().unwrap_or_default();
    run.make(entries.len() as u64)?;
    Ok(Value::List(
        entries
            .into_iter()
            .map(|(key, _)| Value::Text(key))
            .collect(),
    ))
}

fn values<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    run.make(arguments.values[0].len() as u64)?;
    let values = arguments.take(0).into_values();
    Ok(Value::List(values.into_iter().flatten().collect()))
}

fn length<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    let value = &arguments.values[0];
    Ok(Value::count(match value.as_str() {
        Some(text) => text.chars().count(),
        None => value.len(),
    }))
}

fn map<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let each = arguments.reference(0);
    let elements = arguments.list(1);
    run.make(elements.len() as u64)?;
    let mut list = Vec::with_capacity(elements.len());
    for element in elements {
        list.push(run.value(each, &element)?);
    }
    Ok(Value::List(list))
}

fn max<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let mut best: Option<Value> = None;
    for element in arguments.list(0) {
        let better = best
            .as_ref()
            .is_none_or(|best| compare(&element, best) == Ordering::Greater);
        if better {
            best = Some(element);
        }
    }
    Ok(best.unwrap_or_default())
}

fn min<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let mut best: Option<Value> = None;
    for element in arguments.list(0) {
        let better = best
            .as_ref()
            .is_none_or(|best| compare(&element, best) == Ordering::Less);
        if better {
            best = Some(element);
        }
    }
    Ok(best.unwrap_or_default())
}

fn max_by<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    extreme(run, arguments, Ordering::Greater)
}

fn min_by<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    extreme(run, arguments, Ordering::Less)
}

/// The first element whose key is beyond all others in one direction.
fn extreme<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>, wanted: Ordering) -> Outcome<'a> {
    let mut best: Option<(Value, Value)> = None;
    for (key, element) in keyed(run, arguments)? {
        let better = best
            .as_ref()
            .is_none_or(|(best, _)| compare(&key, best) == wanted);
        if better {
            best = Some((key, element));
        }
    }
    Ok(best.map_or(Value::Null, |(_, element)| element))
}

fn merge<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let mut merged = super::objects::Entries::default();
    for at in 0..arguments.len() {
        for (key, value) in arguments.take(at).into_entries().unwrap_or_default() {
            run.make(1)?;
            merged.set(key, value);
        }
    }
    Ok(merged.into_value())
}

fn not_null<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    let mut values = arguments.values.into_iter();
    Ok(values.find(|value| !value.is_null()).unwrap_or_default())
}

fn reverse<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let value = arguments.take(0);
    if let Some(text) = value.as_str() {
        run.write(text.len())?;
        return Ok(Value::text(text.chars().rev().collect::<String>()));
    }
    run.make(value.len() as u64)?;
    let mut list: Vec<_> = value.into_items().into_iter().flatten().collect();
    list.reverse();
    Ok(Value::List(list))
}

fn sort<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let mut list: Vec<_> = arguments.list(0).collect();
    charge_sort(run, list.len())?;
    list.sort_by(compare);
    Ok(Value::List(list))
}

fn sort_by<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    let mut all = keyed(run, arguments)?;
    charge_sort(run, all.len())?;
    all.sort_by(|(a, _), (b, _)| compare(a, b));
    Ok(Value::List(
        all.into_iter().map(|(_, element)| element).collect(),
    ))
}

fn charge_sort(run: &mut Run, length: usize) -> Result<(), Box<Fault>> {
    run.make(length as u64)?;
    run.step(length as u64 * u64::from(usize::BITS - length.leading_zeros()))
}

/// The elements of a list with their keys, which are all numbers or all strings.
fn keyed<'a>(
    run: &mut Run<'_, 'a>,
    mut arguments: Arguments<'a>,
) -> Result<Vec<(Value<'a>, Value<'a>)>, Box<Fault>> {
    let node = arguments.reference(1);
    let elements = arguments.list(0);
    let mut all: Vec<(Value, Value)> = Vec::with_capacity(elements.len());
    for element in elements {
        let key = run.value(node, &element)?;
        let first = all.first().map_or(key.kind(), |(first, _)| first.kind());
        let fits = matches!(first, Kind::Number | Kind::String) && key.kind() == first;
        if !fits {
            return Err(unsortable(&key, arguments.call.name.as_str(), node));
        }
        all.push((key, element));
    }
    Ok(all)
}

fn unsortable(key: &Value, function: &str, node: &Node) -> Box<Fault> {
    Fault::new(
        FaultKind::InvalidType,
        format!(
            "{function}() needs keys that are all numbers or all strings, one is {}",
            key.described()
        ),
    )
    .at(node.start, node.end)
    .with_help("filter first, or use to_number, to_string or not_null in the key")
    .boxed()
}

/// The order of two numbers or of two strings.
pub(super) fn compare(a: &Value, b: &Value) -> Ordering {
    if a.kind() == Kind::Number {
        compare_numbers(a, b)
    } else {
        a.as_str().cmp(&b.as_str())
    }
}

fn sum<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let list = arguments.take(0);
    Ok(Value::decimal(total(run, &list)?))
}

/// The exact sum of a list of numbers.
pub(super) fn total(run: &mut Run, list: &Value) -> Result<Decimal, Box<Fault>> {
    let mut total = Decimal::ZERO;
    for element in elements(list) {
        run.step(1)?;
        total = element
            .to_decimal()
            .and_then(|number| total.add(number))
            .ok_or_else(|| overflow("the sum does not fit").boxed())?;
    }
    Ok(total)
}

fn to_array<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let value = arguments.take(0);
    Ok(match value.kind() {
        Kind::List => value,
        _ => Value::List(vec![value]),
    })
}

fn to_string<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let value = arguments.take(0);
    match value.kind() {
        Kind::String => Ok(value),
        _ => match &value {
            // A number is its text already.
            Value::Item(item) if item.kind() == Kind::Number => {
                Ok(Value::Text(Cow::Borrowed(item.raw())))
            }
            _ => Ok(Value::text(json_text(run, &value)?)),
        },
    }
}

/// The value as JSON, within the budget.
pub(super) fn json_text(run: &mut Run, value: &Value) -> Result<String, Box<Fault>> {
    let size = value.measure(
        crate::expression::RESULT_BYTES_MAX,
        crate::expression::RESULT_DEPTH_MAX,
    );
    run.write(size.map_or(usize::MAX, |size| size as usize))?;
    Ok(value.to_json())
}

fn to_number<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let value = arguments.take(0);
    match value.kind() {
        Kind::Number => Ok(value),
        Kind::String => match value.into_str() {
            Some(text) if is_json_number(&text) => Ok(Value::Number(Number(Form::Text(text)))),
            _ => Ok(Value::Null),
        },
        _ => Ok(Value::Null),
    }
}

fn type_of<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    Ok(Value::Text(Cow::Borrowed(arguments.values[0].type_name())))
}
