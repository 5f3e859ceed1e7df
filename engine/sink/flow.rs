//! The sink `flow`: hands a message to another flow, in the same commit.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::{Build, Part};

/// Hands the message to another flow of the project. That flow's contract, keys and `once` hold for it as for any arrival.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Flow(String);

impl Part for Flow {
    type Ready = Ready;
    const EXAMPLE: &'static str = "booking:
  flow: order-booking
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        cx.flow_named(&[], &self.0).map(Ready::Flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::SinkKind;
    use crate::step::bench::Bench;

    #[test]
    fn the_flow_must_exist() {
        let bench = Bench::new().flow("order-booking");
        let (ready, found) = bench.build::<SinkKind>("flow: order-booking");
        assert!(matches!(ready, Some(Ready::Flow(name)) if &*name == "order-booking"));
        assert_eq!(found, [""; 0]);
        let (_, found) = bench.build::<SinkKind>("flow: order-bocking");
        assert_eq!(found, ["unknown-flow:1:7"]);
    }
}
