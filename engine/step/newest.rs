//! The step `newest`: what is older than the last seen version of its key does not go on.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::words::{Duration, ExpressionText};
use crate::component::{Build, Claimed, Claiming, Context, Part, codes};
use crate::expression::Expression;
use crate::failure::Failure;
use crate::message::{KEY_BYTES_MAX, Message};

/// How long a version is kept where nobody says so.
const KEEP: Duration = Duration {
    ms: 90 * 86_400_000,
};
/// The longest time that a version may be kept.
const KEEP_MOST: Duration = Duration {
    ms: 400 * 86_400_000,
};
/// How many bytes a version may have.
const VERSION_BYTES_MAX: usize = 128;

/// Drops what is older than the last seen version of its key, and what brings the same version again; both end here, counted as filtered, and
/// the timeline says why. For stock, prices and other states of which only the last counts, however late and in whatever order they come.
///
/// Versions are numbers, times or texts: two numbers are compared as numbers, two times as times (a time without a zone is taken as UTC),
/// everything else byte by byte, so that `v10` is older than `v9`: take the number out of such a text. Versions of different kinds, and a null,
/// are failures.
///
/// A message carries its version with it, also to other flows: every later step that acts on the outside asks again before it sends, so that
/// an old update that waited for a retry cannot overwrite a newer one, and lets no two messages of a key be under way at once.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Newest {
    /// What tells the things apart whose versions are compared; a list such as `[sku, warehouse]` makes a key of several values. A null is a
    /// failure.
    pub key: ExpressionText,
    /// The version of the thing: a number, a time or a text that rises with each change. A null is a failure.
    pub version: ExpressionText,
    /// How long the last seen version of a key is kept after it was seen, at most 400d. Default 90d.
    pub keep: Option<Duration>,
}

impl Part for Newest {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: latest
  newest: { key: \"[sku, warehouse]\", version: updated_at, keep: 30d }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let key = cx.expression(&["key"], &self.key.0);
        let version = cx.expression(&["version"], &self.version.0);
        let keep = self.keep.unwrap_or(KEEP);
        if keep.ms > KEEP_MOST.ms {
            let message = format!("{keep} is longer than a version may be kept ({KEEP_MOST})");
            let help =
                format!("keep at most {KEEP_MOST}: one row a key stays in the store for so long");
            cx.error(codes::BAD_VALUE, &["keep"], message, help);
            return None;
        }
        Some(Ready::Claim(Arc::new(Last {
            key: key?,
            version: version?,
            keep_ms: i64::try_from(keep.ms).unwrap_or(i64::MAX / 4),
        })))
    }
}

struct Last {
    key: Expression,
    version: Expression,
    keep_ms: i64,
}

impl Claiming for Last {
    fn claim(&self, message: &Message, cx: &Context<'_>) -> Result<Claimed, Failure> {
        Ok(Claimed {
            key: key_of(&self.key, message, cx)?,
            keep_ms: self.keep_ms,
            version: Some(version_of(&self.version, message, cx)?),
        })
    }
}

/// A text or a number, or a list of them.
fn key_of(key: &Expression, message: &Message, cx: &Context<'_>) -> Result<String, Failure> {
    let scope = cx.scope(message, key)?;
    let value = key.evaluate(&scope)?;
    let what = value.type_name();
    let found = match value.to_text() {
        Some(text) => Some(text),
        None => value.into_items().and_then(|items| {
            let parts: Option<Vec<String>> = items.map(|item| item.to_text()).collect();
            parts.map(|parts| serde_json::Value::from(parts).to_string())
        }),
    };
    let sound = found.filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
    sound.ok_or_else(|| {
        Failure::mapping(format!(
            "the key `{}` must be a text or a number, or a list of them, of at most {KEY_BYTES_MAX} bytes; it is {what}",
            key.text()
        ))
    })
}

/// The version of a message: a text or a number.
pub fn version_of(
    version: &Expression,
    message: &Message,
    cx: &Context<'_>,
) -> Result<String, Failure> {
    let scope = cx.scope(message, version)?;
    let value = version.evaluate(&scope)?;
    let found = value.to_text();
    let sound = found.filter(|text| (1..=VERSION_BYTES_MAX).contains(&text.len()));
    sound.ok_or_else(|| {
        Failure::mapping(format!(
            "the version `{}` must be a number, a time or a text of at most {VERSION_BYTES_MAX} bytes; it is {}",
            version.text(),
            value.type_name()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Class;
    use crate::step::StepKind;
    use crate::step::bench::Bench;

    #[test]
    fn key_and_version_are_taken_from_the_message() {
        let check = |key: &str, body: &str, expect: Result<(&str, &str), Class>| {
            let bench = Bench::new();
            let entry = format!("newest: {{ key: \"{key}\", version: v }}");
            let (Some(Ready::Claim(step)), _) = bench.build::<StepKind>(&entry) else {
                panic!("{key}: it claims nothing");
            };
            let claimed = step.claim(&bench.message(body), &bench.cx());
            let found = claimed.as_ref().map(|claimed| {
                assert_eq!(claimed.keep_ms, 90 * 86_400_000);
                (claimed.key.as_str(), claimed.version.as_deref().unwrap())
            });
            assert_eq!(
                found.map_err(|failure| failure.class),
                expect,
                "{key} {body}"
            );
        };
        check("s", r#"{"s": "A-1", "v": 7}"#, Ok(("A-1", "7")));
        let both = Ok((r#"["A","1"]"#, "2026-11-21"));
        check("[s, w]", r#"{"s": "A", "w": 1, "v": "2026-11-21"}"#, both);
        check("[s, w]", r#"{"s": "A", "v": 7}"#, Err(Class::Mapping));
        check("s", r#"{"v": 7}"#, Err(Class::Mapping));
        check("s", r#"{"s": "A-1"}"#, Err(Class::Mapping));
        check("s", r#"{"s": "A-1", "v": ""}"#, Err(Class::Mapping));
        check("s", r#"{"s": "A-1", "v": [1]}"#, Err(Class::Mapping));
    }

    #[test]
    fn mistakes_have_places() {
        let bench = Bench::new();
        bench.finds(
            "newest: { key: $x, version: v }",
            &["unknown-variable:1:16"],
        );
        bench.finds(
            "newest: { key: k, version: v, keep: 900d }",
            &["bad-value:1:37"],
        );
    }
}
