//! The step `encode`: a document becomes bytes of a format.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::body::Body;
use crate::component::{Build, Context, Outcome, Part, Pure};
use crate::failure::Failure;
use crate::format::{Format, FormatConfig};
use crate::message::Message;

/// Writes the body as `csv`, `xml`, `jsonl` or `json`: the new body. A list becomes rows or lines.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Encode {
    /// What the bytes shall be.
    pub format: FormatConfig,
}

impl Part for Encode {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: rows
  encode: { format: { csv: { columns: [sku, quantity] } } }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        match self.format.ready() {
            Ok(format) => Some(Ready::Pure(Box::new(Encoding { format }))),
            Err(fault) => {
                cx.format_fault(&["format"], fault);
                None
            }
        }
    }
}

struct Encoding {
    format: Format,
}

impl Pure for Encoding {
    fn apply(&self, message: Message, _: &Context<'_>) -> Result<Outcome, Failure> {
        let bytes = self.format.encode(message.body.document()?)?;
        Ok(Outcome::Goes(message.with_body(Body::new(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use crate::step::bench::Bench;

    #[test]
    fn a_list_becomes_rows() {
        let bench = Bench::new();
        let rows = r#"[{"a": "x,y", "n": 1.50}, {"a": "z"}]"#;
        let entry = "encode: { format: { csv: { columns: [n, a] } } }";
        let next = bench.goes(entry, bench.message(rows));
        let text = String::from_utf8_lossy(next.body.bytes()).replace('\r', "");
        assert_eq!(text, "n,a\n1.50,\"x,y\"\n,z\n");
        bench.finds(
            "encode: { format: { csv: { delimiter: '--' } } }",
            &["bad-value:1:39"],
        );
    }
}
