//! Lists: choice, order, pairs, parts. Objects stand beside.

use rustc_hash::FxHashSet;

use super::{Arguments, Function, Group, Parameter, Types, takes};
use crate::body::Kind;
use crate::expression::Value;
use crate::expression::evaluate::{Outcome, Run};
use crate::expression::number::Decimal;

const fn list(
    name: &'static str,
    parameters: &'static [Parameter],
    gives: Types,
    doc: &'static str,
    example: (&'static str, &'static str, &'static str),
    run: for<'s, 'a> fn(&mut Run<'s, 'a>, Arguments<'a>) -> Outcome<'a>,
) -> Function {
    Function {
        name,
        group: Group::Lists,
        parameters,
        optional: 0,
        repeats: false,
        null_gives_null: true,
        gives,
        doc,
        example,
        run,
    }
}

const LIST: Parameter = takes("list", Types::ARRAY.or(Types::NULL));
const CONDITION: Parameter = takes("condition", Types::EXPRESSION);
const ARRAY: Types = Types::ARRAY.or(Types::NULL);

pub(super) const FUNCTIONS: &[Function] = &[
    list(
        "first",
        &[LIST],
        Types::VALUE,
        "The first element; null for an empty list",
        ("first(@)", "[1, 2, 3]", "1"),
        first,
    ),
    list(
        "last",
        &[LIST],
        Types::VALUE,
        "The last element; null for an empty list",
        ("last(@)", "[1, 2, 3]", "3"),
        last,
    ),
    Function {
        repeats: true,
        null_gives_null: false,
        ..list(
            "zip",
            &[takes("list", Types::ARRAY)],
            Types::ARRAY,
            "A list of lists: the first elements of all, the second of all, as far as the shortest goes",
            (
                "zip(a, b)",
                "{\"a\": [1, 2, 3], \"b\": [\"x\", \"y\"]}",
                "[[1,\"x\"],[2,\"y\"]]",
            ),
            zip,
        )
    },
    list(
        "unique",
        &[LIST],
        ARRAY,
        "The elements, each once, in the order of their first appearance",
        ("unique(@)", "[1, 2, 1.0]", "[1,2]"),
        unique,
    ),
    list(
        "unique_by",
        &[LIST, takes("key", Types::EXPRESSION)],
        ARRAY,
        "The elements, the first for each value of the key",
        (
            "unique_by(@, &a)[].b",
            "[{\"a\": 1, \"b\": 1}, {\"a\": 1, \"b\": 2}]",
            "[1]",
        ),
        unique_by,
    ),
    list(
        "chunk",
        &[LIST, takes("size", Types::NUMBER)],
        ARRAY,
        "Lists of at most so many elements",
        ("chunk(@, `2`)", "[1, 2, 3]", "[[1,2],[3]]"),
        chunk,
    ),
    Function {
        optional: 1,
        ..list(
            "enumerate",
            &[LIST, takes("from", Types::NUMBER)],
            ARRAY,
            "Pairs of number and element, from 1 unless said: for line numbers",
            (
                "enumerate(@)[*].{line: @[0], sku: @[1]}",
                "[\"A\", \"B\"]",
                "[{\"line\":1,\"sku\":\"A\"},{\"line\":2,\"sku\":\"B\"}]",
            ),
            enumerate,
        )
    },
    list(
        "position",
        &[LIST, takes("x", Types::VALUE)],
        Types::NUMBER.or(Types::NULL),
        "The place of an element, from 0; null where it is not in the list",
        ("position(@, 'b')", "[\"a\", \"b\"]", "1"),
        position,
    ),
    list(
        "any",
        &[LIST, CONDITION],
        Types::BOOLEAN.or(Types::NULL),
        "Whether the condition holds for an element",
        ("any(@, &@ > `2`)", "[1, 2, 3]", "true"),
        any,
    ),
    list(
        "all",
        &[LIST, CONDITION],
        Types::BOOLEAN.or(Types::NULL),
        "Whether the condition holds for every element",
        ("all(@, &@ > `2`)", "[1, 2, 3]", "false"),
        all,
    ),
    Function {
        null_gives_null: false,
        ..list(
            "range",
            &[takes("count", Types::NUMBER)],
            Types::ARRAY,
            "The whole numbers from 0, as many as said",
            ("range(`3`)", "null", "[0,1,2]"),
            range,
        )
    },
];

/// How long a list from `range` may be.
const RANGE_MAX: i64 = 100_000;

fn first<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    Ok(arguments.list(0).next().unwrap_or_default())
}

fn last<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    run.step(arguments.values[0].len() as u64)?;
    Ok(arguments.list(0).last().unwrap_or_default())
}

fn zip<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let mut lists: Vec<_> = (0..arguments.len()).map(|at| arguments.list(at)).collect();
    let length = lists.iter().map(ExactSizeIterator::len).min().unwrap_or(0);
    run.make((length * (lists.len() + 1)) as u64)?;
    let mut rows = Vec::with_capacity(length);
    for _ in 0..length {
        rows.push(Value::List(
            lists.iter_mut().filter_map(Iterator::next).collect(),
        ));
    }
    Ok(Value::List(rows))
}

fn unique<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let mut seen = Seen::default();
    let mut list = Vec::new();
    for element in arguments.list(0) {
        run.make(1)?;
        if seen.is_new(run, &element)? {
            list.push(element);
        }
    }
    Ok(Value::List(list))
}

fn unique_by<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let node = arguments.reference(1);
    let mut seen = Seen::default();
    let mut list = Vec::new();
    for element in arguments.list(0) {
        run.make(1)?;
        let key = run.value(node, &element)?;
        if seen.is_new(run, &key)? {
            list.push(element);
        }
    }
    Ok(Value::List(list))
}

/// What has been seen: texts by hash, all else one by one, since equal numbers can be written in many ways.
#[derive(Default)]
struct Seen<'a> {
    texts: FxHashSet<String>,
    others: Vec<Value<'a>>,
}

impl<'a> Seen<'a> {
    fn is_new(
        &mut self,
        run: &mut Run<'_, 'a>,
        value: &Value<'a>,
    ) -> Result<bool, Box<crate::expression::Fault>> {
        let text = match value.kind() {
            Kind::String => value.as_str().map(|text| format!("s{text}")),
            Kind::Number => value
                .to_decimal()
                .map(|number| format!("n{}", number.normal().to_text())),
            _ => None,
        };
        if let Some(text) = text {
            return Ok(self.texts.insert(text));
        }
        for known in &self.others {
            run.step(1)?;
            if run.equal(known, value)? {
                return Ok(false);
            }
        }
        let kept = run.copy(value)?;
        self.others.push(kept);
        Ok(true)
    }
}

fn chunk<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let size = arguments.whole(1, 1, i64::from(u32::MAX))? as usize;
    let elements = arguments.list(0);
    run.make(elements.len() as u64 * 2)?;
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    for element in elements {
        chunk.push(element);
        if chunk.len() == size {
            chunks.push(Value::List(std::mem::take(&mut chunk)));
        }
    }
    if !chunk.is_empty() {
        chunks.push(Value::List(chunk));
    }
    Ok(Value::List(chunks))
}

fn enumerate<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let from = match arguments.len() {
        1 => 1,
        _ => arguments.whole(1, i64::MIN / 2, i64::MAX / 2)?,
    };
    let elements = arguments.list(0);
    run.make(elements.len() as u64 * 3)?;
    let pairs = (from..).zip(elements).map(|(number, element)| {
        let number = Value::decimal(Decimal::new(i128::from(number), 0));
        Value::List(vec![number, element])
    });
    Ok(Value::List(pairs.collect()))
}

fn position<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let wanted = arguments.take(1);
    for (at, element) in arguments.list(0).enumerate() {
        run.step(1)?;
        if run.equal(&element, &wanted)? {
            return Ok(Value::count(at));
        }
    }
    Ok(Value::Null)
}

fn any<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let node = arguments.reference(1);
    for element in arguments.list(0) {
        if run.value(node, &element)?.is_truthy() {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn all<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let node = arguments.reference(1);
    for element in arguments.list(0) {
        if !run.value(node, &element)?.is_truthy() {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn range<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    let count = arguments.whole(0, 0, RANGE_MAX)? as usize;
    run.make(count as u64)?;
    Ok(Value::List((0..count).map(Value::count).collect()))
}
