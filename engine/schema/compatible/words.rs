//! What changed between two versions of a schema, in the words of somebody who must judge it.

use serde_json::Value;

use super::{Direction, Kind};

/// How many characters of a value are shown.
const SHOWN_MAX: usize = 60;
/// How many values of a list are shown.
const LISTED_MAX: usize = 6;

/// A difference in a few words, told from the old version to the new one.
pub(super) fn reason(kind: &Kind, direction: Direction) -> String {
    match direction {
        Direction::Backward => narrowed(kind),
        Direction::Forward => widened(kind),
    }
}

/// What the new version refuses.
fn narrowed(kind: &Kind) -> String {
    match kind {
        Kind::Never => "nothing is allowed here any more".to_owned(),
        Kind::Type(types) => format!("the type {} is no longer allowed", names(&types.names())),
        Kind::Value(value) => format!("the value {} is no longer allowed", shown(value)),
        Kind::Values(values) => format!("only these values are allowed now: {}", listed(values)),
        Kind::Required(name) => format!("the field `{name}` became required"),
        Kind::Field(name) => format!("the field `{name}` is gone, and further fields are refused"),
        Kind::Closed => "further fields are refused now".to_owned(),
        Kind::Free(name) => {
            format!(
                "the field `{name}` is described now, and was not: what was sent in it may not fit"
            )
        }
        Kind::Word { word, narrow, wide } => match narrow {
            Some(was) => format!("`{word}` is {} now, and was {}", shown(wide), shown(was)),
            None => format!("`{word}` is {} now, and was not there", shown(wide)),
        },
        Kind::Alternatives => {
            "none of the alternatives is known to take what was allowed".to_owned()
        }
        Kind::Unclear(word) => {
            format!("`{word}` is not the same; whether what was allowed still is cannot be told")
        }
    }
}

/// What the new version lets in, and the old one refused.
fn widened(kind: &Kind) -> String {
    match kind {
        Kind::Never => "something is allowed here now".to_owned(),
        Kind::Type(types) => format!("the type {} is allowed now", names(&types.names())),
        Kind::Value(value) => format!("the value {} is new", shown(value)),
        Kind::Values(values) => format!("other values are allowed now than {}", listed(values)),
        Kind::Required(name) => format!("the field `{name}` is no longer required"),
        Kind::Field(name) => {
            format!("the field `{name}` is new, and the old version refuses further fields")
        }
        Kind::Closed => "further fields are allowed now".to_owned(),
        Kind::Free(name) => {
            format!("the field `{name}` is no longer described: anything may be sent in it")
        }
        Kind::Word { word, narrow, wide } => match narrow {
            Some(now) => format!("`{word}` is {} now, and was {}", shown(now), shown(wide)),
            None => format!("`{word}` is gone, and was {}", shown(wide)),
        },
        Kind::Alternatives => {
            "none of the old alternatives is known to take what is allowed now".to_owned()
        }
        Kind::Unclear(word) => format!(
            "`{word}` is not the same; whether the old version takes what is allowed now cannot be told"
        ),
    }
}

fn names(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(" or ")
}

fn listed(values: &[Value]) -> String {
    let first: Vec<String> = values.iter().take(LISTED_MAX).map(shown).collect();
    let more = values.len().saturating_sub(first.len());
    if more > 0 {
        format!("{} and {more} more", first.join(", "))
    } else {
        first.join(", ")
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN_MAX {
        return text;
    }
    let start: String = text.chars().take(SHOWN_MAX - 1).collect();
    format!("{start}…")
}
