//! The source `stdin`: what is piped into the engine. It ends when its standard input ends.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::Ready;
use super::offer::{Offered, offer, pause_or_stop};
use crate::component::{Arrival, Batch, Build, Intake, Part, Source, codes};
use crate::failure::Failure;
use crate::format::{Decoder, Format, FormatConfig, FormatName, Position};
use crate::world::Pending;
use crate::world::stdin::{Pieces, pieces};

/// Takes what is piped into the engine, and ends with it: `cat orders.jsonl | crossdock run`. A line that cannot be read becomes an
/// exception. What was read and not yet accepted is gone if the engine is killed: whoever pipes must pipe it again.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stdin {
    /// What comes in: `jsonl` (the default), `csv`, `json` or `xml`, or one of them with settings.
    pub format: Option<FormatConfig>,
}

/// How many messages are handed over at once.
const BATCH_MAX: usize = 128;
/// The pause after the engine could not take what was read, in milliseconds.
const PAUSE_MS: u64 = 1_000;

impl Part for Stdin {
    type Ready = Ready;
    const EXAMPLE: &'static str = "source: { stdin: { format: jsonl } }\n";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let format = match &self.format {
            Some(format) => format.ready(),
            None => FormatConfig::Name(FormatName::Jsonl).ready(),
        };
        match format {
            Ok(format) => Some(Ready::Runs(Arc::new(Piped {
                format,
                schema: cx.accepts.map(|schema| schema.raw().clone()),
            }))),
            Err(fault) => {
                let kind = cx
                    .node
                    .get("format")
                    .and_then(|node| node.entries().first());
                let kind = kind.map_or(String::new(), |(key, _)| key.text.clone());
                cx.error(
                    codes::BAD_VALUE,
                    &["format", &kind, fault.field],
                    fault.message,
                    fault.help,
                );
                None
            }
        }
    }
}

struct Piped {
    format: Format,
    schema: Option<Value>,
}

impl Source for Piped {
    fn run(self: Arc<Self>, cx: Intake) -> Pending<'static, Result<(), Failure>> {
        Box::pin(async move { self.take(&cx, pieces()).await })
    }

    fn ends(&self) -> bool {
        true
    }
}

impl Piped {
    /// Takes all pieces, to the end or to the stop.
    async fn take(&self, cx: &Intake, pieces: &Pieces) -> Result<(), Failure> {
        let mut decoder = self
            .format
            .decoder(self.schema.as_ref(), Position::default());
        loop {
            let piece = tokio::select! {
                biased;
                () = cx.stop.cancelled() => return Ok(()),
                piece = async { pieces.lock().await.recv().await } => piece,
            };
            let last = piece.is_none();
            match piece {
                Some(piece) => decoder.feed(&piece?),
                None => decoder.finish(),
            }
            if !hand_over(cx, &mut decoder).await? || last {
                return Ok(());
            }
        }
    }
}

/// Hands over what the decoder has; false if the source must stop, or nothing behind can be read.
async fn hand_over(cx: &Intake, decoder: &mut Decoder) -> Result<bool, Failure> {
    loop {
        let (mut arrivals, mut goes_on) = (Vec::new(), true);
        while arrivals.len() < BATCH_MAX && goes_on {
            match decoder.next_document() {
                Some(Ok(document)) => arrivals.push(Arrival {
                    body: document.body.bytes().clone(),
                    ..Arrival::default()
                }),
                Some(Err(broken)) => {
                    goes_on = !broken.fatal;
                    let mut failure = broken.failure;
                    failure.message = format!("line {}: {}", broken.line, failure.message);
                    arrivals.push(Arrival {
                        body: broken.bytes,
                        breach: Some(failure),
                        ..Arrival::default()
                    });
                }
                None => break,
            }
        }
        if arrivals.is_empty() {
            return Ok(goes_on);
        }
        let batch = Batch {
            arrivals,
            progress: None,
        };
        // What was read cannot be read again.
        let offered = loop {
            match offer(cx, batch.clone()).await {
                Ok(offered) => break offered,
                Err(failure) => {
                    tracing::error!(flow = &*cx.flow, %failure, "what was read is kept, and offered again");
                    if !pause_or_stop(cx, PAUSE_MS).await {
                        return Ok(false);
                    }
                }
            }
        };
        match offered {
            Offered::Durable if goes_on => {}
            Offered::Durable | Offered::Moved | Offered::Stopped => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::{Mutex, mpsc};

    use super::*;
    use crate::failure::Class;
    use crate::net::listener::Listener;
    use crate::source::fake::{self, Fake};
    use crate::world::World;

    /// Pipes these pieces through and gives what was stored.
    async fn check(piped: &[&[u8]], format: FormatName, expect: &[&str]) -> Arc<Fake> {
        let fake = Fake::new();
        let down = Failure::new(Class::Unavailable, "down");
        let never = Failure::new(Class::Internal, "impossible");
        fake.state().failing = [Some(down), Some(never)].into();
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let cx = fake::intake(&fake, World::real(), std::path::Path::new("."), &listener);
        let (sender, receiver) = mpsc::channel(piped.len().max(1));
        for piece in piped {
            sender.try_send(Ok(Bytes::copy_from_slice(piece))).unwrap();
        }
        drop(sender);
        let format = FormatConfig::Name(format).ready().unwrap();
        let piped = Piped {
            format,
            schema: None,
        };
        piped.take(&cx, &Mutex::new(receiver)).await.unwrap();
        assert_eq!(fake.bodies(), expect);
        fake
    }

    #[tokio::test]
    async fn lines_come_in_whatever_the_pieces() {
        check(
            &[b"{\"a\":1}\n{\"a\"", b":2.50}\n\n{\"a\":3}"],
            FormatName::Jsonl,
            &["{\"a\":1}", "{\"a\":2.50}", "{\"a\":3}"],
        )
        .await;
        check(
            &[b"a,b\n1,2\n"],
            FormatName::Csv,
            &["{\"a\":\"1\",\"b\":\"2\"}"],
        )
        .await;
        check(&[], FormatName::Jsonl, &[]).await;
    }

    #[tokio::test]
    async fn a_broken_line_is_shown_and_the_next_one_goes_on() {
        let fake = check(
            &[b"{\"a\":1}\n{oops\n{\"a\":3}\n"],
            FormatName::Jsonl,
            &["{\"a\":1}", "{oops", "{\"a\":3}"],
        )
        .await;
        let breach = fake.state().stored[1].breach.clone().unwrap();
        assert!(breach.message.starts_with("line 2: "), "{breach}");
    }
}
