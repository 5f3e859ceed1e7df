//! The step `filter`: keeps what matches.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::words::ExpressionText;
use crate::component::{Build, Context, Outcome, Part, Pure};
use crate::expression::Expression;
use crate::failure::Failure;
use crate::message::Message;

/// Keeps the messages for which an expression is true; the others end here, counted as filtered by this step. Anything but true or
/// false is a failure of class `mapping`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Filter(ExpressionText);

impl Part for Filter {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: live
  filter: status != 'cancelled'
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let keeps = cx.expression(&[], &self.0.0)?;
        Some(Ready::Pure(Box::new(Filtered { keeps })))
    }
}

struct Filtered {
    keeps: Expression,
}

impl Pure for Filtered {
    fn apply(&self, message: Message, cx: &Context<'_>) -> Result<Outcome, Failure> {
        let keeps = self.keeps.decide(&cx.scope(&message, &self.keeps)?)?;
        Ok(if keeps {
            Outcome::Goes(message)
        } else {
            Outcome::Filtered
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::failure::Class;
    use crate::step::bench::{Bench, Ended};

    #[test]
    fn only_what_matches_goes_on() {
        let bench = Bench::new();
        let live = "filter: status != 'cancelled'";
        bench.check(live, r#"{"status": "open"}"#, r#"{"status": "open"}"#);
        let message = bench.message(r#"{"status": "cancelled"}"#);
        assert_eq!(bench.apply(live, message), Ended::Filtered);
        let failure = bench.fails("filter: status", r#"{"status": "open"}"#);
        assert_eq!(failure.class, Class::Mapping);
        bench.finds("filter: 'status =='", &["expression-syntax:1:19"]);
    }
}
