//! The rules of single values: types in words, closed lists, ranges, lengths and patterns.

use serde_json::{Map, Value};

use super::{Shape, codes, cut, description, listed};
use crate::diagnostic::{Findings, Span, closest};
use crate::yaml::{Data, Node, Style};

/// Whether the value is of this JSON Schema type.
pub(super) fn is(node: &Node, name: &str) -> bool {
    match &node.data {
        Data::Null => name == "null",
        Data::Bool(_) => name == "boolean",
        Data::Number(text) => name == "number" || (name == "integer" && is_whole(text)),
        Data::Text(_) => name == "string",
        Data::List(_) => name == "array",
        Data::Map(_) => name == "object",
    }
}

fn is_whole(text: &str) -> bool {
    text.starts_with("0x") || !text.contains(['.', 'e', 'E'])
}

pub(super) fn type_in_words(name: &str) -> &'static str {
    match name {
        "null" => "nothing",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a text",
        "array" => "a list",
        _ => "a mapping",
    }
}

/// The value for a message.
pub(super) fn in_words(node: &Node) -> String {
    match &node.data {
        Data::Null => "nothing".to_owned(),
        Data::Bool(value) => format!("`{value}`"),
        Data::Number(text) => format!("the number `{}`", cut(text)),
        // It may be a secret.
        Data::Text(text) if text.style == Style::Variable => "the text of a variable".to_owned(),
        Data::Text(text) => format!("the text `{}`", cut(&text.value)),
        Data::List(_) => "a list".to_owned(),
        Data::Map(_) => "a mapping".to_owned(),
    }
}

/// What to do about a number where a length of time, a size or a rate is expected.
pub(super) fn unit_help(schema: &Map<String, Value>, node: &Node) -> Option<String> {
    let Data::Number(number) = &node.data else {
        return None;
    };
    let unit = match schema.get("format").and_then(Value::as_str)? {
        "duration-text" => "s",
        "size" => "MB",
        "rate" => "/s",
        "percent" => "%",
        _ => return None,
    };
    Some(format!("write it with its unit, such as `{number}{unit}`"))
}

/// What to do about a value of the wrong type, where that is clear.
pub(super) fn type_help(types: &[&str], node: &Node) -> Option<String> {
    let expects = |name: &str| types.contains(&name);
    match &node.data {
        Data::Number(text) if expects("string") => Some(format!("quote it: \"{text}\"")),
        Data::Bool(value) if expects("string") => Some(format!("quote it: \"{value}\"")),
        Data::Number(_) if expects("integer") => Some("write it without a fraction".to_owned()),
        Data::Text(text) if expects("integer") || expects("number") => {
            let number = text.value.trim();
            let numeric = number.parse::<f64>().is_ok_and(f64::is_finite);
            (numeric && text.style == Style::Quoted).then(|| format!("remove the quotes: {number}"))
        }
        Data::Text(text) if expects("boolean") => match text.value.to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" | "y" => Some("write true".to_owned()),
            "no" | "off" | "false" | "n" => Some("write false".to_owned()),
            _ => Some("write true or false".to_owned()),
        },
        Data::Text(_) | Data::Map(_) if types == ["array"] => {
            Some("write it as a list: [ .. ], or one `- ` line for each item".to_owned())
        }
        _ => None,
    }
}

impl Shape<'_> {
    /// `enum` and `const`.
    pub(super) fn value(&self, schema: &Map<String, Value>, node: &Node, findings: &mut Findings) {
        let allowed: Vec<&Value> = match (schema.get("enum"), schema.get("const")) {
            (Some(Value::Array(allowed)), _) => allowed.iter().collect(),
            (_, Some(only)) => vec![only],
            _ => return,
        };
        let value = node.to_json();
        if !allowed.contains(&&value) {
            let words: Vec<String> = allowed.iter().map(|value| word(value)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.unknown_value(&words, node, node.span, findings);
        }
    }

    /// Reports a word that is not in the list.
    pub(super) fn unknown_value(
        &self,
        words: &[&str],
        node: &Node,
        span: Span,
        findings: &mut Findings,
    ) {
        let near = node
            .as_text()
            .and_then(|text| closest(text, words.iter().copied()));
        let message = format!(
            "expected one of: {}; found {}",
            listed(words),
            in_words(node)
        );
        let help = near.map_or_else(
            || "write one of them".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        self.error(codes::UNKNOWN_VALUE, span, message, help, findings);
    }

    /// Ranges of numbers; lengths and patterns of texts.
    pub(super) fn scalar(&self, schema: &Map<String, Value>, node: &Node, findings: &mut Findings) {
        let broken = match &node.data {
            Data::Number(text) => broken_range(schema, text),
            Data::Text(text) => broken_text(schema, &text.value),
            _ => None,
        };
        if let Some(message) = broken {
            let help = description(schema);
            self.error(codes::BAD_VALUE, node.span, message, help, findings);
        }
    }
}

fn broken_range(schema: &Map<String, Value>, text: &str) -> Option<String> {
    let node_value = super::super::number_to_json(text);
    let Some(number) = node_value.as_f64() else {
        return Some(format!("the number `{}` is too large", cut(text)));
    };
    let limit = |word: &str| schema.get(word).and_then(Value::as_f64);
    let found = format!("found `{}`", cut(text));
    let (least, most) = (limit("minimum"), limit("maximum"));
    if let (Some(least), Some(most)) = (least, most)
        && (number < least || number > most)
    {
        return Some(format!("expected a number from {least} to {most}, {found}"));
    }
    if let Some(least) = least.filter(|least| number < *least) {
        return Some(format!("expected a number of at least {least}, {found}"));
    }
    if let Some(most) = most.filter(|most| number > *most) {
        return Some(format!("expected a number of at most {most}, {found}"));
    }
    if let Some(below) = limit("exclusiveMaximum").filter(|below| number >= *below) {
        return Some(format!("expected a number below {below}, {found}"));
    }
    if let Some(above) = limit("exclusiveMinimum").filter(|above| number <= *above) {
        return Some(format!("expected a number above {above}, {found}"));
    }
    let format = schema.get("format").and_then(Value::as_str)?;
    let fits = match format {
        "uint8" => in_range(&node_value, 0, u8::MAX.into()),
        "uint16" => in_range(&node_value, 0, u16::MAX.into()),
        "uint32" => in_range(&node_value, 0, u32::MAX.into()),
        "uint64" | "uint" => in_range(&node_value, 0, u64::MAX.into()),
        "int8" => in_range(&node_value, i8::MIN.into(), i8::MAX.into()),
        "int16" => in_range(&node_value, i16::MIN.into(), i16::MAX.into()),
        "int32" => in_range(&node_value, i32::MIN.into(), i32::MAX.into()),
        "int64" | "int" => in_range(&node_value, i64::MIN.into(), i64::MAX.into()),
        _ => true,
    };
    (!fits).then(|| format!("the number `{}` is out of range", cut(text)))
}

fn in_range(value: &Value, least: i128, most: i128) -> bool {
    let number = match (value.as_i64(), value.as_u64()) {
        (Some(number), _) => i128::from(number),
        (None, Some(number)) => i128::from(number),
        // More than 64 bits, or a fraction that another rule has refused.
        (None, None) => return false,
    };
    (least..=most).contains(&number)
}

fn broken_text(schema: &Map<String, Value>, text: &str) -> Option<String> {
    let limit = |word: &str| schema.get(word).and_then(Value::as_u64);
    let count = text.chars().count() as u64;
    if let Some(least) = limit("minLength").filter(|least| count < *least) {
        return Some(if least == 1 {
            "the text must not be empty".to_owned()
        } else {
            format!("expected at least {least} characters, found {count}")
        });
    }
    if let Some(most) = limit("maxLength").filter(|most| count > *most) {
        return Some(format!("expected at most {most} characters, found {count}"));
    }
    let pattern = schema.get("pattern").and_then(Value::as_str)?;
    let rule = serde_json::json!({ "pattern": pattern });
    let matches = jsonschema::is_valid(&rule, &Value::String(text.to_owned()));
    (!matches).then(|| format!("`{}` does not match the pattern `{pattern}`", cut(text)))
}

fn word(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
