//! The step `map`: a mapping makes a new body.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::{Build, Context, Outcome, Part, Pure};
use crate::expression::Scope;
use crate::failure::Failure;
use crate::mapping::Mapping;
use crate::message::Message;

/// Makes a new body by a mapping of the project, named by its file below `mappings/`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Map(String);

impl Part for Map {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: canonical
  map: storefront-order
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let mapping = cx.mapping_here(&[], &self.0)?;
        Some(Ready::Pure(Box::new(Mapped { mapping })))
    }
}

struct Mapped {
    mapping: Arc<Mapping>,
}

impl Pure for Mapped {
    fn apply(&self, message: Message, cx: &Context<'_>) -> Result<Outcome, Failure> {
        let scope = Scope::of(&message, cx.tables)?.with_site(cx.step);
        let body = self.mapping.apply_scope(scope)?;
        Ok(Outcome::Goes(message.with_body(body)))
    }
}

#[cfg(test)]
mod tests {
    use crate::step::bench::{Bench, Ended};

    #[test]
    fn the_body_is_what_the_mapping_makes_of_it() {
        let bench = Bench::new().mapping(
            "short",
            "mapping: short\nfields: { number: name, total: decimal(total), who: $customer.code }\n",
        );
        let mut message = bench.message(r#"{"name": "A-1", "total": "19.90"}"#);
        message.bind("customer", crate::body::Body::new(r#"{"code": "C-7"}"#));
        let ended = bench.variable("customer").apply("map: short", message);
        assert_eq!(
            ended,
            Ended::Goes(r#"{"number":"A-1","total":19.90,"who":"C-7"}"#.to_owned())
        );
    }

    #[test]
    fn what_the_mapping_needs_must_be_there() {
        let bench =
            Bench::new().mapping("short", "mapping: short\nfields: { who: $customer.code }\n");
        bench.finds("map: short", &["unknown-variable:1:6"]);
        bench.finds("map: shrot", &["unknown-mapping:1:6"]);
    }
}
