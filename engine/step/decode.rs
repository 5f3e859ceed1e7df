//! The step `decode`: bytes of a format become a document.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::body::Body;
use crate::component::{Build, Context, Outcome, Part, Pure};
use crate::failure::Failure;
use crate::format::{Format, FormatConfig};
use crate::message::Message;
use crate::schema::Schema;

/// Reads the body as `csv`, `xml`, `jsonl` or `json`; the document is the new body, or with `into` beside the step a variable. Rows and
/// lines become a list.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decode {
    /// What the bytes are.
    pub format: FormatConfig,
    /// The schema of one row, which says what its cells are; without it they are texts.
    pub schema: Option<String>,
}

impl Part for Decode {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: rows
  decode: { format: { csv: { delimiter: \";\" } } }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let format = match self.format.ready() {
            Ok(format) => Some(format),
            Err(fault) => {
                cx.format_fault(&["format"], fault);
                None
            }
        };
        let schema = match &self.schema {
            Some(name) => Some(cx.schema(&["schema"], name)?),
            None => None,
        };
        let into = cx.common.into.as_deref();
        let into = into.map(|name| name.trim_start_matches('$').to_owned());
        cx.variables.extend(into.clone());
        Some(Ready::Pure(Box::new(Decoding {
            format: format?,
            schema,
            into: into.map(Arc::from),
        })))
    }
}

struct Decoding {
    format: Format,
    schema: Option<Arc<Schema>>,
    into: Option<Arc<str>>,
}

impl Pure for Decoding {
    fn apply(&self, mut message: Message, _: &Context<'_>) -> Result<Outcome, Failure> {
        let schema = self.schema.as_ref().map(|schema| schema.raw());
        let document = Body::new(self.format.decode(message.body.bytes(), schema)?);
        match &self.into {
            Some(name) => message.bind(name.clone(), document),
            None => message.body = document,
        }
        Ok(Outcome::Goes(message))
    }
}

#[cfg(test)]
mod tests {
    use crate::failure::Class;
    use crate::step::bench::Bench;

    #[test]
    fn rows_become_a_list() {
        let bench = Bench::new().schema(
            "row",
            r#"{"type": "object", "properties": {"n": {"type": "integer"}}}"#,
        );
        bench.check(
            "decode: { format: csv }",
            "a,n\nx,1\n",
            r#"[{"a":"x","n":"1"}]"#,
        );
        let typed = "decode: { format: { csv: { delimiter: ';' } }, schema: row }";
        bench.check(typed, "a;n\nx;1\n", r#"[{"a":"x","n":1}]"#);
        let next = bench.goes(
            "decode: { format: csv }\ninto: rows\n",
            bench.message("a\nx\n"),
        );
        assert_eq!(next.body.bytes(), &"a\nx\n");
        assert_eq!(
            next.variables.get("rows").unwrap().bytes(),
            &r#"[{"a":"x"}]"#
        );
        assert_eq!(
            bench.fails("decode: { format: xml }", "<a>").class,
            Class::Parse
        );
    }
}
