//! The step `validate`: the body keeps to a schema, or fails with every breach.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::{Build, Context, Outcome, Part, Pure};
use crate::failure::Failure;
use crate::message::Message;
use crate::schema::{Breach, Schema};

/// Lets a message go on if its body keeps to a schema of the project, named by its file below `schemas/`; else it fails with class
/// `validation`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Validate(String);

impl Part for Validate {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: check
  validate: canonical/order.v1
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let schema = cx.schema(&[], &self.0)?;
        Some(Ready::Pure(Box::new(Validated { schema })))
    }
}

struct Validated {
    schema: Arc<Schema>,
}

impl Pure for Validated {
    fn apply(&self, message: Message, _: &Context<'_>) -> Result<Outcome, Failure> {
        let checked = self.schema.validate(message.body.document()?);
        checked.map_err(|breaches| breached("the body", self.schema.name(), &breaches))?;
        Ok(Outcome::Goes(message))
    }
}

/// The failure of a document that breaks its schema; the detail has a line for each breach.
pub(crate) fn breached(what: &str, schema: &str, breaches: &[Breach]) -> Failure {
    let first = breaches.first().map(Breach::to_string).unwrap_or_default();
    let more = match breaches.len() {
        0 | 1 => String::new(),
        count => format!(", and {} more", count - 1),
    };
    let lines: Vec<String> = breaches.iter().map(Breach::to_string).collect();
    Failure::validation(format!("{what} breaks {schema}: {first}{more}"))
        .with_detail(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use crate::failure::Class;
    use crate::step::bench::Bench;

    #[test]
    fn every_breach_is_told() {
        let bench = Bench::new().schema(
            "order.v1",
            r#"{"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}"#,
        );
        bench.check("validate: order.v1", r#"{"n": 1}"#, r#"{"n": 1}"#);
        let failure = bench.fails("validate: order.v1", r#"{"n": "x", "s": 1}"#);
        assert_eq!(failure.class, Class::Validation);
        assert!(
            failure.message.contains("order.v1: /") && failure.message.ends_with("and 1 more"),
            "{}",
            failure.message
        );
        assert_eq!(failure.detail.unwrap().lines().count(), 2);
        let failure = bench.fails("validate: order.v1", "{");
        assert_eq!(failure.class, Class::Parse);
        bench.finds("validate: order.v2", &["unknown-schema:1:11"]);
    }
}
