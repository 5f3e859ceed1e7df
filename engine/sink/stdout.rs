//! The sink `stdout`: messages as lines on standard output.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use super::{Ready, Stream};
use crate::component::{Build, Part, codes};
use crate::failure::{Class, Failure};
use crate::format::{Format, FormatConfig};
use crate::message::Message;
use crate::world::Pending;

/// Writes messages to standard output, one after another: for trying things out and for pipes. Nobody can ask what has been read, so
/// after a crash a message may be there twice.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stdout {
    /// What a message looks like. Default `jsonl`.
    pub format: Option<FormatConfig>,
}

impl Part for Stdout {
    type Ready = Ready;
    const EXAMPLE: &'static str = "shown:
  stdout: { format: jsonl }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let format = match self.format.as_ref().map(FormatConfig::ready) {
            None => Format::Jsonl(crate::format::jsonl::Jsonl::default()),
            Some(Ok(format)) => format,
            Some(Err(fault)) => {
                cx.format_fault(&["format"], fault);
                return None;
            }
        };
        if !format.writes_lines() {
            let message = "the columns must be known before the first row";
            let help = "name them: `format: { csv: { columns: [order, total] } }`";
            cx.error(codes::CONFLICTING_SETTINGS, &["format"], message, help);
            return None;
        }
        Some(Ready::Stream(Arc::new(Shown {
            format,
            to: Mutex::new((true, Box::new(tokio::io::stdout()))),
        })))
    }
}

type Writer = Box<dyn AsyncWrite + Send + Unpin>;

struct Shown {
    format: Format,
    /// Whether nothing has been written yet, and where to.
    to: Mutex<(bool, Writer)>,
}

impl Stream for Shown {
    fn write<'a>(&'a self, messages: &'a [Message]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mut lines = Vec::new();
            for message in messages {
                lines.extend_from_slice(&self.format.line(message.body.document()?)?);
            }
            let mut to = self.to.lock().await;
            let (first, writer) = &mut *to;
            if *first {
                lines.splice(0..0, self.format.header()?);
            }
            let written = async {
                writer.write_all(&lines).await?;
                writer.flush().await
            };
            written.await.map_err(|error| {
                let message = format!("cannot write to standard output: {error}");
                Failure::new(Class::Unavailable, message)
            })?;
            *first = false;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::sink::SinkKind;
    use crate::step::bench::Bench;

    #[tokio::test]
    async fn a_line_a_message_after_one_header() {
        let format: FormatConfig =
            serde_json::from_str(r#"{"csv": {"columns": ["a", "b"]}}"#).unwrap();
        let (near, mut far) = tokio::io::duplex(1024);
        let shown = Shown {
            format: format.ready().unwrap(),
            to: Mutex::new((true, Box::new(near))),
        };
        let bench = Bench::new();
        let messages = [
            bench.message(r#"{"a": "1", "b": "2"}"#),
            bench.message(r#"{"a": "3"}"#),
        ];
        shown.write(&messages).await.unwrap();
        shown.write(&messages[..1]).await.unwrap();
        drop(shown);
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text.replace('\r', ""), "a,b\n1,2\n3,\n1,2\n");
    }

    #[test]
    fn lines_are_the_default() {
        let (ready, found) = Bench::new().build::<SinkKind>("stdout: {}");
        assert!(matches!(ready, Some(Ready::Stream(_))) && found.is_empty());
    }
}
