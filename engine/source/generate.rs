//! The source `generate`: made-up messages, for demos and benches. It reads nothing.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::Ready;
use super::literal::{self, Counted};
use super::offer::{Offered, offer, pause_or_stop, room_or_stop};
use crate::component::words::{Duration, Rate};
use crate::component::{Arrival, Batch, Build, Intake, Part, Progress, Source, codes};
use crate::failure::{Class, Failure};
use crate::world::Pending;

/// Makes messages up: so many, at a rate or as fast as the engine takes them. In the body `{{@n}}` stands for the message's number,
/// from 1. How far it has come survives a restart.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// How many messages there are in all; without it they never end.
    pub count: Option<u64>,
    /// The time between two messages. Without `every` and `rate`: as fast as the engine takes them.
    pub every: Option<Duration>,
    /// How many messages there are in a time: `200/s`.
    pub rate: Option<Rate>,
    /// The body: any value, with `{{@n}}` in its texts.
    pub body: Option<serde_json::Value>,
    /// The body as plain text, for what is not JSON or needs the number without quotes: `'{"n": {{@n}}}'`.
    pub text: Option<String>,
    /// How many messages are handed over at once. Default 128.
    #[schemars(range(min = 1, max = 1024))]
    pub batch: Option<u32>,
}

/// How many batches may be under way where no rate is asked for.
const LANES: u64 = 4;
/// How often messages are handed over where a rate is asked for, in milliseconds.
const BEAT_MS: u64 = 20;

impl Part for Generate {
    type Ready = Ready;
    const EXAMPLE: &'static str = "source:
  generate:
    count: 1000
    rate: 200/s
    body: { order: \"SO-{{@n}}\", lines: [{ sku: A-1, quantity: 2, price: 19.90 }] }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        if self.every.is_some() && self.rate.is_some() {
            cx.error(
                codes::CONFLICTING_SETTINGS,
                &["rate"],
                "`every` and `rate` say the same in two ways",
                "keep one of them",
            );
        }
        let text = match (&self.body, &self.text) {
            (Some(_), None) => cx.node.get("body").map(literal::json),
            (None, Some(text)) => Some(text.clone()),
            (None, None) => Some(r#"{"n":"{{@n}}"}"#.to_owned()),
            (Some(_), Some(_)) => {
                cx.error(
                    codes::CONFLICTING_SETTINGS,
                    &["text"],
                    "`body` and `text` are two bodies",
                    "keep one of them",
                );
                None
            }
        }?;
        let place = if self.text.is_some() { "text" } else { "body" };
        let body = match Counted::parse(&text) {
            Ok(body) => body,
            Err(odd) => {
                cx.error(
                    codes::BAD_TEMPLATE,
                    &[place],
                    format!("`{odd}` means nothing here"),
                    "only the message's number is known: `{{@n}}`",
                );
                return None;
            }
        };
        if self.every.is_some_and(|every| every.ms == 0) {
            cx.error(
                codes::BAD_VALUE,
                &["every"],
                "no time between two messages is no pace",
                "leave `every` out to have them as fast as the engine takes them",
            );
            return None;
        }
        let pace = match (self.every, self.rate) {
            (Some(every), _) => Some((1, every.ms)),
            (None, Some(rate)) => Some((u64::from(rate.count), rate.per_ms)),
            (None, None) => None,
        };
        Some(Ready::Runs(Arc::new(Generator {
            body,
            count: self.count,
            batch: u64::from(self.batch.unwrap_or(128).clamp(1, 1024)),
            pace,
        })))
    }
}

struct Generator {
    body: Counted,
    count: Option<u64>,
    batch: u64,
    /// So many in so many milliseconds.
    pace: Option<(u64, u64)>,
}

impl Source for Generator {
    fn run(self: Arc<Self>, cx: Intake) -> Pending<'static, Result<(), Failure>> {
        Box::pin(async move {
            let lanes = if self.pace.is_some() { 1 } else { LANES };
            let mut running = JoinSet::new();
            for lane in 0..lanes {
                running.spawn(self.clone().lane(cx.clone(), lane, lanes));
            }
            while let Some(ended) = running.join_next().await {
                ended.map_err(|error| Failure::internal(format!("generate: {error}")))??;
            }
            Ok(())
        })
    }

    fn ends(&self) -> bool {
        self.count.is_some()
    }
    fn alone(&self) -> bool {
        true
    }
}

impl Generator {
    /// Makes the messages `lane + 1`, `lane + 1 + lanes`, ..; each lane has a cursor: how many it has made.
    async fn lane(self: Arc<Self>, cx: Intake, lane: u64, lanes: u64) -> Result<(), Failure> {
        let cursor = format!("generate:{lane}/{lanes}");
        let (mut made, mut known) = read(&cx, &cursor).await?;
        let (began_ms, began) = (cx.world.clock.steady_ms(), made);
        while room_or_stop(&cx).await {
            let left = self.left(lane, lanes, made);
            if left == 0 {
                return Ok(());
            }
            let due = self.due(began_ms, cx.world.clock.steady_ms(), made - began);
            if due == 0 {
                let (count, per_ms) = self.pace.unwrap_or((1, 1));
                if !pause_or_stop(&cx, (per_ms / count).clamp(1, BEAT_MS)).await {
                    return Ok(());
                }
                continue;
            }
            let now = left.min(due).min(self.batch);
            let batch = self.batch(&cursor, &known, lane, lanes, made, now);
            let to = batch
                .progress
                .as_ref()
                .and_then(|progress| progress.to.clone());
            match offer(&cx, batch).await? {
                Offered::Durable => (made, known) = (made + now, to),
                Offered::Stopped => return Ok(()),
                Offered::Moved => (made, known) = read(&cx, &cursor).await?,
            }
        }
        Ok(())
    }

    /// How many this lane still has to make.
    fn left(&self, lane: u64, lanes: u64, made: u64) -> u64 {
        match self.count {
            Some(count) => count
                .saturating_sub(lane)
                .div_ceil(lanes)
                .saturating_sub(made),
            None => u64::MAX,
        }
    }

    /// How many may be made by now.
    fn due(&self, began_ms: i64, now_ms: i64, made: u64) -> u64 {
        let Some((count, per_ms)) = self.pace else {
            return u64::MAX;
        };
        let passed = u128::try_from(now_ms.saturating_sub(began_ms)).unwrap_or(0);
        let allowed = 1 + passed * u128::from(count) / u128::from(per_ms);
        u64::try_from(allowed)
            .unwrap_or(u64::MAX)
            .saturating_sub(made)
    }

    fn batch(
        &self,
        cursor: &str,
        known: &Option<String>,
        lane: u64,
        lanes: u64,
        made: u64,
        now: u64,
    ) -> Batch {
        let arrivals = (made..made + now).map(|index| {
            let number = index * lanes + lane + 1;
            Arrival {
                body: self.body.render(number).into(),
                identity: Some(format!("generate:{number}")),
                ..Arrival::default()
            }
        });
        Batch {
            arrivals: arrivals.collect(),
            progress: Some(Progress {
                cursor: cursor.to_owned(),
                from: known.clone(),
                to: Some((made + now).to_string()),
            }),
        }
    }
}

/// How many a lane has made, and the cursor that says so.
async fn read(cx: &Intake, cursor: &str) -> Result<(u64, Option<String>), Failure> {
    let known = cx.accept.cursor(cursor).await?;
    let made = match &known {
        Some(text) => text.parse().map_err(|_| {
            Failure::new(
                Class::Config,
                format!("the cursor {cursor} is `{text}`, not a number"),
            )
        })?,
        None => 0,
    };
    Ok((made, known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::Library;
    use crate::net::listener::Listener;
    use crate::source::fake::{self, Fake};
    use crate::world::World;

    async fn run(yaml: &str, fake: &Arc<Fake>, world: World) -> Intake {
        let (ready, findings) = fake::build(yaml, &Library::default());
        assert_eq!(findings, Vec::<String>::new());
        let Some(Ready::Runs(source)) = ready else {
            panic!("it runs")
        };
        assert!(source.ends());
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let cx = fake::intake(fake, world, std::path::Path::new("."), &listener);
        source.run(cx.clone()).await.unwrap();
        cx
    }

    #[tokio::test]
    async fn every_number_comes_once_also_after_failures_and_restarts() {
        let fake = Fake::new();
        let full = Failure::new(Class::Throttled, "full");
        fake.state().failing = [None, Some(full.clone()), None, Some(full)].into();
        fake.state().lost_after = Some(1);
        let yaml = "source: { generate: { count: 1001, batch: 100, body: { n: \"{{@n}}\" } } }";
        run(yaml, &fake, World::real()).await;
        let mut bodies = fake.bodies();
        bodies.sort();
        let mut expected: Vec<_> = (1..=1001).map(|n| format!("{{\"n\":\"{n}\"}}")).collect();
        expected.sort();
        assert_eq!(bodies, expected);
        assert!(fake.state().batches.iter().all(|&size| size <= 100));
        run(yaml, &fake, World::real()).await;
        assert_eq!(
            fake.state().stored.len(),
            1001,
            "it is remembered how far it has come"
        );
    }

    #[tokio::test]
    async fn a_rate_is_kept() {
        let fake = Fake::new();
        let clock = Arc::new(crate::world::clock::ManualClock::at(0));
        let world = World {
            clock: clock.clone(),
            ..World::real()
        };
        let yaml = "source: { generate: { count: 101, rate: 50/s, text: 'n={{@n}}' } }";
        run(yaml, &fake, world).await;
        assert_eq!(fake.bodies()[100], "n=101");
        let now_ms = crate::world::clock::Clock::now_ms(&*clock);
        assert!((2_000..2_100).contains(&now_ms), "{now_ms}");
    }

    #[test]
    fn contradictions_are_found() {
        for (yaml, expect) in [
            (
                "generate: { every: 1s, rate: 1/s }",
                "conflicting-settings 1:30",
            ),
            (
                "generate: { body: 1, text: x }",
                "conflicting-settings 1:28",
            ),
            ("generate: { text: '{{order}}' }", "bad-template 1:19"),
            ("generate: { every: 0s }", "bad-value 1:20"),
        ] {
            assert_eq!(fake::build(yaml, &Library::default()).1, [expect], "{yaml}");
        }
    }
}
