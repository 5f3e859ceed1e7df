//! What surrounds the body: headers, keys, the time of receipt, ids; and what only mappings need. No clock, nothing random.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::{Arguments, Function, Group, Parameter, Types, takes, time};
use crate::body::Kind;
use crate::expression::Value;
use crate::expression::evaluate::{Outcome, Run};

const fn context(
    name: &'static str,
    group: Group,
    parameters: &'static [Parameter],
    gives: Types,
    doc: &'static str,
    example: (&'static str, &'static str, &'static str),
    run: for<'s, 'a> fn(&mut Run<'s, 'a>, Arguments<'a>) -> Outcome<'a>,
) -> Function {
    Function {
        name,
        group,
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

/// The same function, its last parameter being optional.
const fn last_optional(function: Function) -> Function {
    Function {
        optional: 1,
        ..function
    }
}

const NAME: &[Parameter] = &[takes("name", Types::STRING)];
const TEXT_OR_NULL: Types = Types::STRING.or(Types::NULL);
const ANY: Parameter = takes("x", Types::VALUE);

pub(super) const FUNCTIONS: &[Function] = &[
    context(
        "header",
        Group::Context,
        NAME,
        TEXT_OR_NULL,
        "A header of the message, whatever the case of its name; null where there is none",
        ("header('X-Channel')", "null", "\"web\""),
        header,
    ),
    context(
        "key",
        Group::Context,
        NAME,
        TEXT_OR_NULL,
        "A business key of the message; null where it has none of this name",
        ("key('order')", "null", "\"SO-1001\""),
        key,
    ),
    context(
        "received_at",
        Group::Context,
        &[],
        Types::STRING,
        "When the message was accepted",
        ("received_at()", "null", "\"2026-11-02T08:30:00Z\""),
        received_at,
    ),
    last_optional(context(
        "today",
        Group::Context,
        &[takes("zone", Types::STRING)],
        Types::STRING,
        "The date on which the message was accepted, in UTC unless a zone is given",
        ("today('America/Los_Angeles')", "null", "\"2026-11-02\""),
        today,
    )),
    context(
        "message_id",
        Group::Context,
        &[],
        Types::STRING,
        "The id of the message",
        (
            "message_id()",
            "null",
            "\"0000000003e80000000000000000002a\"",
        ),
        message_id,
    ),
    context(
        "item_key",
        Group::Context,
        &[],
        Types::STRING,
        "The keys of the splits on the way from the whole message, joined by /; empty for the whole",
        ("item_key()", "null", "\"\""),
        item_key,
    ),
    last_optional(context(
        "uuid",
        Group::Identity,
        &[takes("name", Types::STRING.or(Types::NUMBER))],
        Types::STRING,
        "An id in the form of a UUID (version 8): without a name one for this message and this place in the flow, with a name the same wherever the name is the same",
        (
            "uuid('SO-1001')",
            "null",
            "\"8b5c907e-9fd9-893a-9029-65cada5bd823\"",
        ),
        uuid,
    )),
    context(
        "sha256",
        Group::Identity,
        &[ANY],
        Types::STRING,
        "The SHA-256 hash in hexadecimal: of a text its bytes, of all else its JSON",
        (
            "sha256('abc')",
            "null",
            "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"",
        ),
        sha256,
    ),
    context(
        "keep_null",
        Group::Mapping,
        &[ANY],
        Types::VALUE,
        "The value, and null as a null that a mapping writes instead of leaving the field out",
        ("keep_null(@)", "null", "null"),
        keep_null,
    ),
    last_optional(context(
        "required",
        Group::Mapping,
        &[ANY, takes("message", Types::STRING)],
        Types::VALUE,
        "The value; null is a failure with this message",
        ("required(a, 'an order needs a number')", "{\"a\": 1}", "1"),
        required,
    )),
    last_optional(context(
        "if",
        Group::Mapping,
        &[
            takes("condition", Types::VALUE),
            takes("then", Types::VALUE),
            takes("else", Types::VALUE),
        ],
        Types::VALUE,
        "The second argument where the condition is truthy, else the third, or null; only the chosen one is evaluated",
        ("if(paid, 'paid', 'open')", "{\"paid\": false}", "\"open\""),
        choose,
    )),
    Function {
        repeats: true,
        ..context(
            "one_of",
            Group::Mapping,
            &[ANY, takes("choice", Types::VALUE)],
            Types::BOOLEAN,
            "Whether the value equals one of the choices",
            (
                "one_of(status, 'open', 'held')",
                "{\"status\": \"held\"}",
                "true",
            ),
            one_of,
        )
    },
];

fn header<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let name = arguments.string(0).to_ascii_lowercase();
    let message = run.scope.message("header")?;
    Ok(named(message.headers.get(name.as_str())))
}

fn key<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let name = arguments.string(0);
    let message = run.scope.message("key")?;
    Ok(named(message.keys.get(&*name)))
}

fn named(text: Option<&String>) -> Value<'_> {
    text.map_or(Value::Null, |text| Value::Text(Cow::Borrowed(text)))
}

fn received_at<'a>(run: &mut Run<'_, 'a>, _: Arguments<'a>) -> Outcome<'a> {
    let message = run.scope.message("received_at")?;
    Ok(Value::text(
        time::instant(message.received_at_ms)?.to_string(),
    ))
}

fn today<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let message = run.scope.message("today")?;
    let zone = time::zone(&mut arguments, 0)?;
    let local = time::instant(message.received_at_ms)?.to_zoned(zone);
    Ok(Value::text(local.date().to_string()))
}

fn message_id<'a>(run: &mut Run<'_, 'a>, _: Arguments<'a>) -> Outcome<'a> {
    Ok(Value::text(run.scope.message("message_id")?.id.to_string()))
}

fn item_key<'a>(run: &mut Run<'_, 'a>, _: Arguments<'a>) -> Outcome<'a> {
    let message = run.scope.message("item_key")?;
    Ok(Value::Text(Cow::Borrowed(&message.item)))
}

/// A UUID of version 8 from a hash. Without a name the hash is of the message, the place and a running number.
fn uuid<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let mut hash = Sha256::new();
    if arguments.len() > 0 {
        hash.update(b"name\0");
        hash.update(arguments.text(0).as_bytes());
    } else {
        let message = run.scope.message("uuid")?;
        hash.update(b"message\0");
        hash.update(message.id.to_bytes());
        hash.update(run.scope.site().as_bytes());
        hash.update([0]);
        hash.update((arguments.call.name_end as u64).to_be_bytes());
        hash.update(run.budget.ids.to_be_bytes());
        run.budget.ids += 1;
    }
    let mut bytes: [u8; 16] = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    bytes[6] = (bytes[6] & 0x0F) | 0x80;
    bytes[8] = (bytes[8] & 0x3F) | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    Ok(Value::text(format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )))
}

fn sha256<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let value = arguments.take(0);
    let hash = match value.as_str() {
        Some(text) => Sha256::digest(text.as_bytes()),
        None => Sha256::digest(super::standard::json_text(run, &value)?.as_bytes()),
    };
    let mut hex = String::with_capacity(64);
    for byte in hash {
        for digit in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    Ok(Value::text(hex))
}

fn keep_null<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let value = arguments.take(0);
    Ok(if value.kind() == Kind::Null {
        Value::KeptNull
    } else {
        value
    })
}

fn required<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let value = arguments.take(0);
    if !value.is_null() {
        return Ok(value);
    }
    let message = match arguments.len() {
        1 => Cow::Borrowed("a required value is null"),
        _ => arguments.string(1),
    };
    Err(arguments.refuse(0, message))
}

/// The evaluator chooses before it evaluates; this is reached with values only from a table of functions.
fn choose<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let chosen = if arguments.values[0].is_truthy() {
        1
    } else {
        2
    };
    Ok(arguments.take(chosen))
}

fn one_of<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let value = arguments.take(0);
    for at in 1..arguments.len() {
        let choice = arguments.take(at);
        if run.equal(&value, &choice)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}
