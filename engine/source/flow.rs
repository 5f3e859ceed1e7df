//! The source `flow`: messages that other flows hand over. It does nothing by itself; the hand-off is part of the other flow's commit.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::{Build, Part};

/// Takes the messages that other flows send here, with a sink `flow` or a step `emit`. The hand-over is part of the other flow's
/// commit: nothing is lost or doubled between the two.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flow {}

impl Part for Flow {
    type Ready = Ready;
    const EXAMPLE: &'static str = "source: { flow: {} }\n";

    fn build(&self, _: &mut Build<'_>) -> Option<Ready> {
        Some(Ready::Flow)
    }
}
