//! Texts: case, space, parts, padding, patterns, entities. Characters are code points.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex::{Regex, RegexBuilder};

use super::{Arguments, Function, Group, Parameter, Types, takes};
use crate::body::Kind;
use crate::expression::Value;
use crate::expression::evaluate::{Outcome, Run};
use crate::expression::{Fault, FaultKind, shortened};

const fn text(
    name: &'static str,
    parameters: &'static [Parameter],
    optional: usize,
    gives: Types,
    doc: &'static str,
    example: (&'static str, &'static str, &'static str),
    run: for<'s, 'a> fn(&mut Run<'s, 'a>, Arguments<'a>) -> Outcome<'a>,
) -> Function {
    Function {
        name,
        group: Group::Text,
        parameters,
        optional,
        repeats: false,
        null_gives_null: true,
        gives,
        doc,
        example,
        run,
    }
}

const TEXT_OR_NULL: Types = Types::STRING.or(Types::NULL);
const TEXT: Parameter = takes("text", TEXT_OR_NULL);
const PART: Parameter = takes("part", Types::STRING);
const CODE: Parameter = takes("x", Types::TEXT.or(Types::NULL));
const WIDTH: Parameter = takes("width", Types::NUMBER);
const FILL: Parameter = takes("fill", Types::STRING);

pub(super) const FUNCTIONS: &[Function] = &[
    text(
        "lower",
        &[TEXT],
        0,
        TEXT_OR_NULL,
        "The text in lowercase",
        ("lower('Ärger')", "null", "\"ärger\""),
        lower,
    ),
    text(
        "upper",
        &[TEXT],
        0,
        TEXT_OR_NULL,
        "The text in uppercase",
        ("upper('abc')", "null", "\"ABC\""),
        upper,
    ),
    text(
        "trim",
        &[TEXT],
        0,
        TEXT_OR_NULL,
        "The text without space at either end",
        ("trim('  a b ')", "null", "\"a b\""),
        trim,
    ),
    text(
        "trim_left",
        &[TEXT],
        0,
        TEXT_OR_NULL,
        "The text without space at its beginning",
        ("trim_left('  a ')", "null", "\"a \""),
        trim_left,
    ),
    text(
        "trim_right",
        &[TEXT],
        0,
        TEXT_OR_NULL,
        "The text without space at its end",
        ("trim_right(' a  ')", "null", "\" a\""),
        trim_right,
    ),
    text(
        "split",
        &[
            TEXT,
            takes("at", Types::STRING),
            takes("most", Types::NUMBER),
        ],
        1,
        Types::ARRAY.or(Types::STRINGS).or(Types::NULL),
        "The parts between a separator, at most so many where that is said; an empty separator gives the characters",
        ("split('a-b-c', '-')", "null", "[\"a\",\"b\",\"c\"]"),
        split,
    ),
    text(
        "lines",
        &[TEXT],
        0,
        Types::ARRAY.or(Types::STRINGS).or(Types::NULL),
        "The lines, without their ends",
        ("lines(@)", "\"a\\r\\nb\"", "[\"a\",\"b\"]"),
        lines,
    ),
    text(
        "replace",
        &[TEXT, PART, takes("with", Types::STRING)],
        0,
        TEXT_OR_NULL,
        "The text with every occurrence of a part replaced",
        ("replace('1,234,567', ',', '')", "null", "\"1234567\""),
        replace,
    ),
    text(
        "substring",
        &[
            TEXT,
            takes("start", Types::NUMBER),
            takes("length", Types::NUMBER),
        ],
        1,
        TEXT_OR_NULL,
        "The characters from a place on, from 0; a negative place counts from the end",
        ("substring('SO-1001', `3`, `2`)", "null", "\"10\""),
        substring,
    ),
    text(
        "truncate",
        &[
            TEXT,
            takes("length", Types::NUMBER),
            takes("ending", Types::STRING),
        ],
        1,
        TEXT_OR_NULL,
        "The text, at most so long; the ending replaces what is cut off and counts",
        (
            "truncate('Hammer drill', `8`, '..')",
            "null",
            "\"Hammer..\"",
        ),
        truncate,
    ),
    text(
        "pad_left",
        &[CODE, WIDTH, FILL],
        1,
        TEXT_OR_NULL,
        "The text, filled at its beginning, with spaces unless said",
        ("pad_left(`42`, `6`, '0')", "null", "\"000042\""),
        pad_left,
    ),
    text(
        "pad_right",
        &[CODE, WIDTH, FILL],
        1,
        TEXT_OR_NULL,
        "The text, filled at its end, with spaces unless said",
        ("pad_right('ab', `4`, '.')", "null", "\"ab..\""),
        pad_right,
    ),
    text(
        "matches",
        &[TEXT, takes("pattern", Types::STRING)],
        0,
        Types::BOOLEAN.or(Types::NULL),
        "Whether a regular expression matches somewhere; ^ and $ tie it to the ends; no look-around, so that it runs in linear time",
        ("matches('SO-1001', '^SO-[0-9]+$')", "null", "true"),
        matches,
    ),
    text(
        "find_first",
        &[TEXT, PART],
        0,
        Types::NUMBER.or(Types::NULL),
        "The place of the first occurrence, from 0; null where there is none",
        ("find_first('a-b-c', '-')", "null", "1"),
        find_first,
    ),
    text(
        "find_last",
        &[TEXT, PART],
        0,
        Types::NUMBER.or(Types::NULL),
        "The place of the last occurrence, from 0; null where there is none",
        ("find_last('a-b-c', '-')", "null", "3"),
        find_last,
    ),
    Function {
        repeats: true,
        null_gives_null: false,
        ..text(
            "concat",
            &[takes("x", Types::TEXT.or(Types::NULL))],
            0,
            Types::STRING,
            "The texts and numbers in one; nulls are left out",
            ("concat('SO-', n, b)", "{\"n\": 7}", "\"SO-7\""),
            concat,
        )
    },
    text(
        "html_decode",
        &[TEXT],
        0,
        TEXT_OR_NULL,
        "The text with HTML's entities resolved: `&amp;` `&lt;` `&gt;` `&quot;` `&apos;` `&nbsp;`, the common letters and signs, and numeric ones",
        (
            "html_decode('Nuts &amp; Bolts &#8364;')",
            "null",
            "\"Nuts & Bolts €\"",
        ),
        html_decode,
    ),
    text(
        "base64_encode",
        &[TEXT],
        0,
        TEXT_OR_NULL,
        "The UTF-8 of the text in Base64",
        ("base64_encode('abc')", "null", "\"YWJj\""),
        base64_encode,
    ),
    text(
        "base64_decode",
        &[TEXT],
        0,
        TEXT_OR_NULL,
        "The text whose UTF-8 stands there in Base64",
        ("base64_decode('YWJj')", "null", "\"abc\""),
        base64_decode,
    ),
    text(
        "url_encode",
        &[CODE],
        0,
        TEXT_OR_NULL,
        "The text as a part of a URL: all but letters, digits and - . _ ~ as %XX",
        ("url_encode('a b/ü')", "null", "\"a%20b%2F%C3%BC\""),
        url_encode,
    ),
];

/// How wide a text may be padded.
const WIDTH_MAX: i64 = 10_000;
/// How large a compiled pattern may be, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// How long a pattern may be that is not a literal.
const COMPUTED_PATTERN_MAX: usize = 200;

/// The compiled form of a regular expression.
pub(crate) fn pattern(text: &str) -> Result<Regex, Fault> {
    RegexBuilder::new(text)
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default();
            Fault::new(
                FaultKind::InvalidValue,
                format!(
                    "`{}` is no regular expression: {}",
                    shortened(text),
                    reason.trim_start_matches("error: ")
                ),
            )
            .with_help("a backslash makes the next character plain: \\. \\( \\+")
        })
}

fn lower<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let text = arguments.string(0);
    run.write(text.len())?;
    let same = text.is_ascii() && !text.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(Value::Text(if same {
        text
    } else {
        Cow::Owned(text.to_lowercase())
    }))
}

fn upper<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let text = arguments.string(0);
    run.write(text.len())?;
    let same = text.is_ascii() && !text.bytes().any(|byte| byte.is_ascii_lowercase());
    Ok(Value::Text(if same {
        text
    } else {
        Cow::Owned(text.to_uppercase())
    }))
}

fn trim<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    Ok(part(arguments.string(0), str::trim, str::trim))
}

fn trim_left<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    Ok(part(arguments.string(0), str::trim_start, str::trim_start))
}

fn trim_right<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    Ok(part(arguments.string(0), str::trim_end, str::trim_end))
}

/// A part of a text, borrowed where the text is.
fn part<'a>(
    text: Cow<'a, str>,
    of_borrowed: impl Fn(&'a str) -> &'a str,
    of_owned: impl Fn(&str) -> &str,
) -> Value<'a> {
    match text {
        Cow::Borrowed(text) => Value::Text(Cow::Borrowed(of_borrowed(text))),
        Cow::Owned(text) => Value::text(of_owned(&text).to_owned()),
    }
}

fn split<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let most = match arguments.len() {
        3 => arguments.whole(2, 1, i64::from(u32::MAX))? as usize,
        _ => usize::MAX,
    };
    let (text, at) = (arguments.string(0), arguments.string(1));
    run.write(text.len())?;
    let mut parts: Vec<Value> = Vec::new();
    if at.is_empty() {
        for character in text.chars() {
            run.make(1)?;
            parts.push(Value::text(character.to_string()));
        }
        return Ok(Value::List(parts));
    }
    for part in text.splitn(most, &*at) {
        run.make(1)?;
        parts.push(Value::text(part.to_owned()));
    }
    Ok(Value::List(parts))
}

fn lines<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let text = arguments.string(0);
    run.write(text.len())?;
    let mut lines: Vec<Value> = Vec::new();
    for line in text.replace("\r\n", "\n").replace('\r', "\n").lines() {
        run.make(1)?;
        lines.push(Value::text(line.to_owned()));
    }
    Ok(Value::List(lines))
}

fn replace<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let (text, part, with) = (
        arguments.string(0),
        arguments.string(1),
        arguments.string(2),
    );
    if part.is_empty() {
        return Err(arguments.refuse(1, "replace() cannot replace an empty text"));
    }
    let count = text.matches(&*part).count();
    if count == 0 {
        return Ok(Value::Text(text));
    }
    run.write(text.len().saturating_add(count.saturating_mul(with.len())))?;
    Ok(Value::text(text.replace(&*part, &with)))
}

fn substring<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let start = arguments.whole(1, i64::from(i32::MIN), i64::from(i32::MAX))?;
    let length = match arguments.len() {
        3 => arguments.whole(2, 0, i64::from(i32::MAX))? as usize,
        _ => usize::MAX,
    };
    let text = arguments.string(0);
    run.step(text.len() as u64 / 16)?;
    let start = match usize::try_from(start) {
        Ok(start) => start,
        Err(_) => text
            .chars()
            .count()
            .saturating_sub(start.unsigned_abs() as usize),
    };
    let bytes = |text: &str, characters: usize| {
        text.char_indices()
            .nth(characters)
            .map_or(text.len(), |(at, _)| at)
    };
    let from = bytes(&text, start);
    let to = from + bytes(&text[from..], length);
    Ok(part(text, |text| &text[from..to], |text| &text[from..to]))
}

fn truncate<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let length = arguments.whole(1, 0, i64::from(i32::MAX))? as usize;
    let (text, ending) = (arguments.string(0), arguments.string(2));
    run.write(text.len())?;
    if text.chars().nth(length).is_none() {
        return Ok(Value::Text(text));
    }
    let room = length.saturating_sub(ending.chars().count());
    let mut short: String = text.chars().take(room).collect();
    short.extend(ending.chars().take(length - room));
    Ok(Value::text(short))
}

fn pad_left<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    pad(run, arguments, true)
}

fn pad_right<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    pad(run, arguments, false)
}

fn pad<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>, left: bool) -> Outcome<'a> {
    let width = arguments.whole(1, 0, WIDTH_MAX)? as usize;
    let fill = match arguments.len() {
        3 => arguments.string(2),
        _ => Cow::Borrowed(" "),
    };
    let mut characters = fill.chars();
    let (Some(fill), None) = (characters.next(), characters.next()) else {
        return Err(arguments.refuse(2, "the fill is one character"));
    };
    let text = arguments.text(0);
    let missing = width.saturating_sub(text.chars().count());
    if missing == 0 {
        return Ok(Value::Text(text));
    }
    run.write(text.len() + missing * fill.len_utf8())?;
    let fill = std::iter::repeat_n(fill, missing);
    Ok(Value::text(if left {
        fill.chain(text.chars()).collect::<String>()
    } else {
        text.chars().chain(fill).collect::<String>()
    }))
}

fn matches<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let text = arguments.string(0);
    run.step(text.len() as u64 / 16)?;
    if let Some(pattern) = arguments.call.pattern.get() {
        return Ok(Value::Bool(pattern.is_match(&text)));
    }
    // A pattern that is computed is compiled each time, which is charged, and kept small.
    run.step(5_000)?;
    let written = arguments.string(1);
    if written.len() > COMPUTED_PATTERN_MAX {
        let message = format!("a computed pattern has at most {COMPUTED_PATTERN_MAX} bytes");
        return Err(arguments.refuse(1, message));
    }
    let pattern = pattern(&written)?;
    Ok(Value::Bool(pattern.is_match(&text)))
}

fn find_first<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    find(run, arguments, |text, part| text.find(part))
}

fn find_last<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    find(run, arguments, |text, part| text.rfind(part))
}

fn find<'a>(
    run: &mut Run<'_, 'a>,
    mut arguments: Arguments<'a>,
    search: fn(&str, &str) -> Option<usize>,
) -> Outcome<'a> {
    let (text, part) = (arguments.string(0), arguments.string(1));
    run.step(text.len() as u64 / 16)?;
    let place = search(&text, &part).map(|at| text[..at].chars().count());
    Ok(place.map_or(Value::Null, Value::count))
}

fn concat<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let mut whole = String::new();
    for at in 0..arguments.len() {
        if arguments.values[at].kind() == Kind::Null {
            continue;
        }
        let part = arguments.text(at);
        run.write(part.len())?;
        whole.push_str(&part);
    }
    Ok(Value::text(whole))
}

fn html_decode<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let text = arguments.string(0);
    if !text.contains('&') {
        return Ok(Value::Text(text));
    }
    run.write(text.len())?;
    let mut out = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let entity = rest
            .find(';')
            .and_then(|end| Some((end, entity(&rest[1..end])?)));
        match entity {
            Some((end, character)) => {
                out.push(character);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    Ok(Value::text(out))
}

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        "ndash" => '–',
        "mdash" => '—',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "hellip" => '…',
        "euro" => '€',
        "pound" => '£',
        "copy" => '©',
        "reg" => '®',
        "trade" => '™',
        "deg" => '°',
        "times" => '×',
        "auml" => 'ä',
        "ouml" => 'ö',
        "uuml" => 'ü',
        "Auml" => 'Ä',
        "Ouml" => 'Ö',
        "Uuml" => 'Ü',
        "szlig" => 'ß',
        "eacute" => 'é',
        "egrave" => 'è',
        "agrave" => 'à',
        "ccedil" => 'ç',
        _ => return None,
    })
}

fn base64_encode<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let text = arguments.string(0);
    run.write(text.len().saturating_mul(2))?;
    Ok(Value::text(STANDARD.encode(text.as_bytes())))
}

fn base64_decode<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let text = arguments.string(0);
    run.write(text.len())?;
    let bytes = STANDARD.decode(text.trim().as_bytes()).ok();
    match bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(text) => Ok(Value::text(text)),
        None => Err(arguments.refuse(0, "the text is not Base64 of UTF-8")),
    }
}

fn url_encode<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let text = arguments.text(0);
    run.write(text.len().saturating_mul(3))?;
    let mut out = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(Value::text(out))
}
