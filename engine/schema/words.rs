//! The validator's errors in the words of a person who repairs data: short, and with little of the data itself.

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use serde_json::Value;

use super::fit::Rule;

/// How many characters of data a message shows.
const SHOWN_MAX: usize = 80;

/// One error as a sentence without its place.
pub(super) fn message(error: &ValidationError<'_>) -> String {
    use ValidationErrorKind as Kind;
    match error.kind() {
        Kind::AdditionalItems { limit } => format!("must not have more than {limit} items"),
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            unknown_fields(unexpected)
        }
        Kind::UnevaluatedItems { .. } => "has items that are not allowed".to_owned(),
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            none_fits(context, error.instance_path().as_str())
        }
        Kind::OneOfMultipleValid { .. } => {
            "fits more than one of the alternatives, and must fit exactly one".to_owned()
        }
        Kind::Constant { expected_value } => format!("must be {}", shown(expected_value)),
        Kind::Contains => "holds no item of the kind that is required".to_owned(),
        Kind::Enum { options } => format!("must be one of: {}", listed(options)),
        Kind::ExclusiveMaximum { limit } => format!("must be below {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be above {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::MaxItems { limit } => format!("must have at most {}", counted(*limit, "item")),
        Kind::MinItems { limit } => format!("must have at least {}", counted(*limit, "item")),
        Kind::MaxLength { limit } => format!("must have at most {}", counted(*limit, "character")),
        Kind::MinLength { limit } => format!("must have at least {}", counted(*limit, "character")),
        Kind::MaxProperties { limit } => format!("must have at most {}", counted(*limit, "field")),
        Kind::MinProperties { limit } => format!("must have at least {}", counted(*limit, "field")),
        Kind::FalseSchema => "is not allowed".to_owned(),
        Kind::Format { format } => format!("is not a valid {format}"),
        Kind::ContentEncoding { content_encoding } => {
            format!("is not encoded as {content_encoding}")
        }
        Kind::ContentMediaType { content_media_type } => format!("is no {content_media_type}"),
        Kind::FromUtf8 { .. } => "does not decode to UTF-8".to_owned(),
        Kind::Not { .. } => "is of a form that is not allowed".to_owned(),
        Kind::Pattern { pattern } => format!("does not match the pattern {}", cut(pattern)),
        Kind::BacktrackLimitExceeded { .. } | Kind::RegexEngineFailure { .. } => {
            "is too long or too involved for its pattern".to_owned()
        }
        Kind::PropertyNames { error } => {
            format!(
                "has a field whose name is not allowed: the name {}",
                message(error)
            )
        }
        Kind::Required { property } => match property.as_str() {
            Some(name) => format!("the field `{}` is missing", cut(name)),
            None => "a field is missing".to_owned(),
        },
        Kind::Type { kind } => wrong_type(kind, error.instance()),
        Kind::UniqueItems => "holds the same item twice".to_owned(),
        Kind::Custom { message, .. } => cut(message),
        Kind::Referencing(error) => cut(&error.to_string()),
    }
}

/// What an error is about, and the field that is missing.
pub(super) fn rule(error: &ValidationError<'_>) -> (Rule, Option<String>) {
    use ValidationErrorKind as Kind;
    let rule = match error.kind() {
        Kind::Required { property } => {
            return (Rule::Missing, property.as_str().map(str::to_owned));
        }
        Kind::Type { .. } => Rule::Type,
        Kind::Constant { .. } | Kind::Enum { .. } => Rule::Values,
        Kind::MaxLength { .. } | Kind::MinLength { .. } => Rule::Length,
        Kind::Pattern { .. } => Rule::Pattern,
        Kind::Format { .. } => Rule::Format,
        Kind::Maximum { .. }
        | Kind::Minimum { .. }
        | Kind::ExclusiveMaximum { .. }
        | Kind::ExclusiveMinimum { .. }
        | Kind::MultipleOf { .. } => Rule::Range,
        Kind::MaxItems { .. } | Kind::MinItems { .. } | Kind::AdditionalItems { .. } => Rule::Count,
        Kind::AdditionalProperties { .. } | Kind::UnevaluatedProperties { .. } => Rule::Extra,
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } | Kind::OneOfMultipleValid { .. } => {
            Rule::Choice
        }
        _ => Rule::Other,
    };
    (rule, None)
}

fn unknown_fields(names: &[String]) -> String {
    let list: Vec<String> = names
        .iter()
        .take(5)
        .map(|name| format!("`{}`", cut(name)))
        .collect();
    let more = names.len().saturating_sub(list.len());
    let noun = if names.len() == 1 { "field" } else { "fields" };
    let tail = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("unknown {noun} {}{tail}", list.join(", "))
}

/// Of the alternatives, the one that takes values of this type and has the fewest errors is most likely meant.
fn none_fits(context: &[Vec<ValidationError<'static>>], path: &str) -> String {
    let count = context.len();
    let other_type = |errors: &[ValidationError<'static>]| {
        errors.iter().any(|error| {
            matches!(error.kind(), ValidationErrorKind::Type { .. })
                && error.instance_path().as_str() == path
        })
    };
    let nearest = context
        .iter()
        .filter(|errors| !errors.is_empty())
        .min_by_key(|errors| (other_type(errors), errors.len()))
        .and_then(|errors| errors.first());
    match nearest {
        Some(error) => {
            let inner = error.instance_path().as_str();
            let at = if inner == path {
                String::new()
            } else {
                format!("{}: ", cut(inner))
            };
            format!(
                "fits none of {count} alternatives; nearest: {at}{}",
                message(error)
            )
        }
        None => format!("fits none of {count} alternatives"),
    }
}

fn wrong_type(kind: &TypeKind, found: &Value) -> String {
    let names: Vec<&str> = match kind {
        TypeKind::Single(name) => vec![name.as_str()],
        TypeKind::Multiple(names) => names.iter().map(jsonschema::JsonType::as_str).collect(),
    };
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let names: Vec<String> = names.iter().map(|name| with_article(name)).collect();
    format!("must be {}, but is {found}", names.join(" or "))
}

fn with_article(name: &str) -> String {
    match name {
        "null" => name.to_owned(),
        "array" | "integer" | "object" => format!("an {name}"),
        _ => format!("a {name}"),
    }
}

fn listed(options: &Value) -> String {
    let options = options.as_array().map_or(&[][..], Vec::as_slice);
    let list: Vec<String> = options.iter().take(10).map(shown).collect();
    let more = options.len().saturating_sub(list.len());
    if more > 0 {
        format!("{} and {more} more", list.join(", "))
    } else {
        list.join(", ")
    }
}

fn shown(value: &Value) -> String {
    cut(&value.to_string())
}

fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= SHOWN_MAX {
        return text.to_owned();
    }
    format!("{}…", text.chars().take(SHOWN_MAX - 1).collect::<String>())
}
