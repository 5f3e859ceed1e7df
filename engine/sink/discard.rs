//! The sink `discard`: messages end here, counted as delivered.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::{Build, Part};

/// Lets messages end here, counted as delivered: for flows whose steps are all that matters, and for measurements.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Discard {}

impl Part for Discard {
    type Ready = Ready;
    const EXAMPLE: &'static str = "nowhere:
  discard: {}
";

    fn build(&self, _: &mut Build<'_>) -> Option<Ready> {
        Some(Ready::Discard)
    }
}
