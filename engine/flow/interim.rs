//! Empty registries until the real ones land.
use crate::component::{Build, Kind, Registry};
/// Steps.
pub(crate) enum StepKind {}
/// Sinks.
pub(crate) enum SinkKind {}
macro_rules! none {
    ($t:ty, $r:ty) => {
        impl Registry for $t {
            type Ready = $r;
            const KINDS: &'static [Kind] = &[];
            fn parse(_: &str, _: serde_json::Value) -> Option<Result<Self, serde_json::Error>> {
                None
            }
            fn build(&self, _: &mut Build<'_>) -> Option<$r> {
                match *self {}
            }
        }
    };
}
none!(StepKind, crate::step::Ready);
none!(SinkKind, crate::sink::Ready);
