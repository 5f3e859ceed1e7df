//! The step `emit`: hands a copy to another flow, and goes on.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::{Build, Context, Outcome, Part, Pure};
use crate::expression::Scope;
use crate::failure::Failure;
use crate::mapping::Mapping;
use crate::message::Message;

/// Hands a copy of the message to another flow of the project, in the same commit, and goes on. `emit: flow`, or with a mapping
/// `emit: { flow: .., map: .. }`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Emit {
    /// The flow.
    Flow(String),
    /// The flow, and what it gets.
    Mapped(EmitMapped),
}

/// The flow, and what it gets.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmitMapped {
    /// The flow.
    pub flow: String,
    /// The mapping that makes the copy's body. Default: the whole body.
    pub map: Option<String>,
}

impl Part for Emit {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: tell-stock
  emit: { flow: stock-reservation, map: reservation }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let (flow, mapping) = match self {
            Emit::Flow(name) => (cx.flow_named(&[], name), None),
            Emit::Mapped(mapped) => {
                let mapping = mapped.map.as_deref();
                let mapping = mapping.map(|name| cx.mapping_here(&["map"], name));
                (cx.flow_named(&["flow"], &mapped.flow), mapping)
            }
        };
        let mapping = match mapping {
            Some(mapping) => Some(mapping?),
            None => None,
        };
        Some(Ready::Pure(Box::new(Emitting {
            flow: flow?,
            mapping,
        })))
    }
}

struct Emitting {
    flow: Arc<str>,
    mapping: Option<Arc<Mapping>>,
}

impl Pure for Emitting {
    fn apply(&self, message: Message, cx: &Context<'_>) -> Result<Outcome, Failure> {
        let copy = match &self.mapping {
            None => message.clone(),
            Some(mapping) => {
                let scope = Scope::of(&message, cx.tables)?.with_site(cx.step);
                let body = mapping.apply_scope(scope)?;
                message.clone().with_body(body)
            }
        };
        Ok(Outcome::Emits(message, vec![(self.flow.clone(), copy)]))
    }
}

#[cfg(test)]
mod tests {
    use crate::step::bench::{Bench, Ended};

    #[test]
    fn a_copy_goes_to_the_flow() {
        let bench = Bench::new()
            .flow("stock")
            .mapping("short", "mapping: short\nfields: { n: number }\n");
        let emits = |entry: &str| bench.apply(entry, bench.message(r#"{"number": 7}"#));
        let copy = |text: &str| Ended::Emits(vec![text.to_owned()]);
        assert_eq!(emits("emit: stock"), copy(r#"stock {"number": 7}"#));
        assert_eq!(
            emits("emit: { flow: stock, map: short }"),
            copy(r#"stock {"n":7}"#)
        );
        bench.finds("emit: stok", &["unknown-flow:1:7"]);
        bench.finds(
            "emit: { flow: stock, map: shrt }",
            &["unknown-mapping:1:27"],
        );
    }
}
