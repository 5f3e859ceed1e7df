//! Exact arithmetic. What does not fit into 38 digits is a fault; rounding happens only where it is asked for.

use super::{Arguments, Function, Group, Parameter, Types, overflow, takes};
use crate::body::Kind;
use crate::expression::evaluate::{Outcome, Run};
use crate::expression::number::{Decimal, Rounding, SCALE_MAX, is_json_number, power};
use crate::expression::{Fault, FaultKind, shortened};
use crate::expression::{Form, Number, Value};

const fn decimal(
    name: &'static str,
    parameters: &'static [Parameter],
    optional: usize,
    doc: &'static str,
    example: (&'static str, &'static str, &'static str),
    run: for<'s, 'a> fn(&mut Run<'s, 'a>, Arguments<'a>) -> Outcome<'a>,
) -> Function {
    Function {
        name,
        group: Group::Decimal,
        parameters,
        optional,
        repeats: false,
        null_gives_null: false,
        gives: Types::NUMBER,
        doc,
        example,
        run,
    }
}

const A: Parameter = takes("a", Types::NUMBER);
const B: Parameter = takes("b", Types::NUMBER);
const X: Parameter = takes("x", Types::NUMBER);
const SCALE: Parameter = takes("scale", Types::NUMBER);
const MODE: Parameter = takes("mode", Types::STRING);

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        null_gives_null: true,
        gives: Types::NUMBER.or(Types::NULL),
        ..decimal(
            "decimal",
            &[takes("x", Types::NUMBER.or(Types::STRING).or(Types::NULL))],
            0,
            "The number in a text, digit for digit; a text that is no number is a failure, null stays null",
            ("decimal(price)", "{\"price\": \"19.90\"}", "19.90"),
            to_decimal,
        )
    },
    Function {
        repeats: true,
        ..decimal(
            "add",
            &[A, B],
            0,
            "The sum of two or more numbers",
            ("add(`0.1`, `0.2`)", "null", "0.3"),
            add,
        )
    },
    decimal(
        "subtract",
        &[A, B],
        0,
        "The difference",
        ("subtract(`10`, `0.01`)", "null", "9.99"),
        subtract,
    ),
    Function {
        repeats: true,
        ..decimal(
            "multiply",
            &[A, B],
            0,
            "The product of two or more numbers",
            ("multiply(`19.99`, `3`)", "null", "59.97"),
            multiply,
        )
    },
    decimal(
        "divide",
        &[A, B, SCALE, MODE],
        1,
        "The quotient with this many digits after the point; the mode is half-up (0.5 away from zero) unless said: half-up, half-even, down, up",
        ("divide(`10`, `3`, `2`)", "null", "3.33"),
        divide,
    ),
    decimal(
        "remainder",
        &[A, B],
        0,
        "What is left after dividing to a whole number; it has the sign of the first",
        ("remainder(`10`, `3`)", "null", "1"),
        remainder,
    ),
    decimal(
        "round",
        &[X, SCALE, MODE],
        2,
        "The number with this many digits after the point, none unless said; the mode is half-up unless said: half-up, half-even, down, up",
        ("round(`2.345`, `2`)", "null", "2.35"),
        round,
    ),
    decimal(
        "negate",
        &[X],
        0,
        "The number with the other sign",
        ("negate(`19.90`)", "null", "-19.90"),
        negate,
    ),
    Function {
        gives: Types::STRING,
        ..decimal(
            "fixed",
            &[X, SCALE, MODE],
            1,
            "The number as a text with exactly this many digits after the point, rounded half-up unless said",
            ("fixed(`5`, `2`)", "null", "\"5.00\""),
            fixed,
        )
    },
    decimal(
        "minor_units",
        &[
            takes("amount", Types::NUMBER),
            takes("digits", Types::NUMBER),
        ],
        1,
        "An amount in the smallest unit of its currency, which has 2 digits unless said; digits that would be lost are a failure",
        ("minor_units(`19.90`)", "null", "1990"),
        minor_units,
    ),
    decimal(
        "from_minor_units",
        &[
            takes("units", Types::NUMBER),
            takes("digits", Types::NUMBER),
        ],
        1,
        "The amount of so many smallest units of a currency, which has 2 digits unless said",
        ("from_minor_units(`1990`)", "null", "19.90"),
        from_minor_units,
    ),
    decimal(
        "sum_by",
        &[
            takes("list", Types::ARRAY),
            takes("amount", Types::EXPRESSION),
        ],
        0,
        "The exact sum of an expression over the elements; nulls are a failure",
        (
            "sum_by(@, &multiply(price, quantity))",
            "[{\"price\": 1.10, \"quantity\": 3}, {\"price\": 2, \"quantity\": 1}]",
            "5.30",
        ),
        sum_by,
    ),
];

fn to_decimal<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let value = arguments.take(0);
    if value.kind() == Kind::Number {
        return Ok(value);
    }
    let text = value.into_str().unwrap_or_default();
    if is_json_number(&text) {
        return Ok(Value::Number(Number(Form::Text(text))));
    }
    let plain = text.trim().trim_start_matches('+');
    let negative = plain.strip_prefix('-').unwrap_or(plain);
    let lenient = negative.bytes().any(|byte| byte.is_ascii_digit())
        && negative
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let whole = if negative.starts_with('.') { "0" } else { "" };
    let sign = if negative.len() < plain.len() {
        "-"
    } else {
        ""
    };
    let number = format!("{sign}{whole}{}", negative.trim_end_matches('.'));
    match Decimal::parse(&number).filter(|_| lenient) {
        Some(number) => Ok(Value::decimal(number)),
        None => {
            let mut fault = arguments.refuse(
                0,
                format!(
                    "decimal() found no number in the text `{}`",
                    shortened(&text)
                ),
            );
            fault.help =
                "digits, one point, no thousands separators; replace(x, ',', '') takes them out"
                    .to_owned();
            Err(fault)
        }
    }
}

fn add<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    fold(&arguments, Decimal::add)
}

fn multiply<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    fold(&arguments, Decimal::multiply)
}

fn subtract<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    fold(&arguments, Decimal::subtract)
}

fn fold<'a>(
    arguments: &Arguments<'a>,
    combine: fn(Decimal, Decimal) -> Option<Decimal>,
) -> Outcome<'a> {
    let mut result = arguments.number(0)?;
    for at in 1..arguments.len() {
        result = exact(combine(result, arguments.number(at)?), &arguments.call.name)?;
    }
    Ok(Value::decimal(result))
}

fn exact(result: Option<Decimal>, function: &str) -> Result<Decimal, Box<Fault>> {
    result.ok_or_else(|| {
        overflow(format!(
            "the result of {function}() does not fit into 38 digits"
        ))
        .boxed()
    })
}

fn divide<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let mode = rounding(&mut arguments, 3)?;
    let scale = arguments.whole(2, 0, i64::from(SCALE_MAX))? as u32;
    let (above, below) = (arguments.number(0)?, arguments.number(1)?);
    if below.is_zero() {
        return Err(arguments.refuse(1, "divide() cannot divide by 0"));
    }
    Ok(Value::decimal(exact(
        above.divide(below, scale, mode),
        "divide",
    )?))
}

fn remainder<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    let (above, below) = (arguments.number(0)?, arguments.number(1)?);
    if below.is_zero() {
        return Err(arguments.refuse(1, "remainder() cannot divide by 0"));
    }
    let left = above
        .divide(below, 0, Rounding::Down)
        .and_then(|times| times.multiply(below))
        .and_then(|part| above.subtract(part));
    Ok(Value::decimal(exact(left, "remainder")?))
}

fn round<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    Ok(Value::decimal(rounded(&mut arguments)?))
}

fn fixed<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    Ok(Value::text(rounded(&mut arguments)?.to_text()))
}

fn rounded(arguments: &mut Arguments) -> Result<Decimal, Box<Fault>> {
    let mode = rounding(arguments, 2)?;
    let scale = if arguments.len() > 1 {
        arguments.whole(1, 0, i64::from(SCALE_MAX))? as u32
    } else {
        0
    };
    let number = arguments.number(0)?;
    exact(number.round(scale, mode), &arguments.call.name)
}

fn rounding(arguments: &mut Arguments, at: usize) -> Result<Rounding, Box<Fault>> {
    if arguments.len() <= at {
        return Ok(Rounding::HalfUp);
    }
    let name = arguments.string(at);
    Rounding::from_name(&name).ok_or_else(|| {
        let message = format!("`{}` is no way of rounding", shortened(&name));
        let mut fault = arguments.refuse(at, message);
        fault.help = format!("choose one of {}", Rounding::NAMES);
        fault
    })
}

fn negate<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    Ok(Value::decimal(arguments.number(0)?.negate()))
}

fn digits(arguments: &Arguments) -> Result<u32, Box<Fault>> {
    match arguments.len() {
        1 => Ok(2),
        _ => Ok(arguments.whole(1, 0, 12)? as u32),
    }
}

fn minor_units<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    let digits = digits(&arguments)?;
    let amount = arguments.number(0)?;
    let normal = amount.normal();
    if normal.scale() > digits {
        return Err(arguments.refuse(
            0,
            format!(
                "the amount {} has more than {digits} digits after the point; round it first",
                amount.to_text()
            ),
        ));
    }
    let factor = power(digits).map(|factor| Decimal::new(factor, 0));
    let units = factor
        .and_then(|factor| normal.multiply(factor))
        .and_then(|units| units.round(0, Rounding::Down));
    Ok(Value::decimal(exact(units, "minor_units")?))
}

fn from_minor_units<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    let digits = digits(&arguments)?;
    let units = arguments.number(0)?;
    let whole = units.normal();
    if whole.scale() > 0 {
        return Err(arguments.refuse(
            0,
            format!("smallest units are whole, not {}", units.to_text()),
        ));
    }
    Ok(Value::decimal(Decimal::new(whole.mantissa(), digits)))
}

fn sum_by<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let node = arguments.reference(1);
    let mut total = Decimal::ZERO;
    for element in arguments.list(0) {
        let value = run.value(node, &element)?;
        if value.kind() != Kind::Number {
            let message = format!("sum_by() adds numbers, one is {}", value.described());
            return Err(Fault::new(FaultKind::InvalidType, message)
                .at(node.start, node.end)
                .with_help("a text becomes a number with decimal(x)")
                .boxed());
        }
        let sum = value.to_decimal().and_then(|number| total.add(number));
        total = exact(sum, "sum_by")?;
    }
    Ok(Value::decimal(total))
}
