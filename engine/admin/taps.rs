//! Messages as they pass, as server-sent events: masked, sampled, bounded. A tap ends by itself, and whoever opens one is in the audit log.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::IntoParams;

use super::asker::{Asked, Asker, Within};
use super::problem::Problem;
use super::rights::{Object, Right};
use crate::failure::Failure;
use crate::personal::Mask;
use crate::run::tap::{Looking, Passed, WHOLE, Wanted};
use crate::store::commit::RunId;
use crate::store::personal::Veil;

/// How many messages a tap shows, and at most.
const LIMIT: u32 = 10;
const LIMIT_MAX: u32 = 1_000;
/// For how many seconds, and at most.
const SECONDS: u64 = 60;
const SECONDS_MAX: u64 = 600;
/// How much of a body is shown, in bytes.
const BODY_BYTES_MAX: usize = 64 << 10;
/// How often who sees nothing is told that the line is there.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What to show.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct TapQuery {
    /// Only behind this step.
    step: Option<String>,
    /// How many messages at most. Default 10.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// For how many seconds at most. Default 60.
    #[param(minimum = 1, maximum = 600)]
    seconds: Option<u64>,
    /// How many of 10,000 messages; each is shown at all its steps, or at none. Default all.
    #[param(minimum = 1, maximum = 10000)]
    share: Option<u32>,
}

/// A message that has passed a step.
#[derive(Debug, Serialize)]
struct Shown {
    at_ms: i64,
    run: i64,
    message: String,
    step: Arc<str>,
    what: &'static str,
    keys: std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

/// Shows messages of a flow as they pass, as server-sent events: `passed` with the step, the keys and, with the right `payload`, the body behind it;
/// `lost` with how many were left out because the listener is slow; `end` with why it ended. What is personal is masked. A message whose step is
/// tried twice passes twice. Only what this engine works on is shown.
#[utoipa::path(get, path = "/flows/{flow}/tap", tag = "flows", params(("flow" = String, Path, description = "The flow"), TapQuery),
    responses((status = 200, description = "Messages, until the limit or the time", content_type = "text/event-stream", body = String)))]
pub(super) async fn tap(
    asker: Asker,
    Within(flow): Within<String>,
    Asked(query): Asked<TapQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    asker.may(Right::Metadata, Object::Flow(&flow))?;
    let limit = within("limit", query.limit.unwrap_or(LIMIT), LIMIT_MAX)?;
    let seconds = within("seconds", query.seconds.unwrap_or(SECONDS), SECONDS_MAX)?;
    let share = within("share", query.share.unwrap_or(WHOLE), WHOLE)?;
    let begins = Instant::now();
    let wanted = Wanted {
        flow: Arc::from(flow),
        step: query.step.map(Arc::from),
        share,
        until: begins + Duration::from_secs(seconds),
    };
    let told = format!("{limit} messages, {seconds} s");
    let looking = asker.desk.tap(wanted.clone(), told).await?;
    let line = Line {
        payload: asker.has(Right::Payload),
        veil: asker.veil().await?,
        wanted,
        looking,
        mask: None,
        left: limit,
        beat: begins + HEARTBEAT,
        lost: 0,
        ended: false,
        asker,
    };
    let begun = stream::once(std::future::ready(Ok(Event::default().comment("tapped"))));
    let rest = stream::unfold(line, |mut line| async move {
        let event = line.next().await?;
        Some((Ok(event), line))
    });
    Ok(Sse::new(futures_util::StreamExt::chain(begun, rest)))
}

fn within<N: PartialOrd + From<u8> + std::fmt::Display>(
    name: &str,
    given: N,
    most: N,
) -> Result<N, Problem> {
    match N::from(1) <= given && given <= most {
        true => Ok(given),
        false => Err(Problem::unreadable(format!(
            "`{name}` is 1 to {most}, not {given}"
        ))),
    }
}

/// One tap on its way to who looks.
struct Line {
    asker: Asker,
    looking: Looking,
    wanted: Wanted,
    veil: Veil,
    payload: bool,
    /// The mask of the last run: its steps come one after another.
    mask: Option<(RunId, Option<Mask>)>,
    left: u32,
    /// When it is looked next whether the token is still known, whatever passes.
    beat: Instant,
    lost: u64,
    ended: bool,
}

impl Line {
    /// The next thing that is told; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let now = Instant::now();
        if now >= self.wanted.until {
            return Some(self.end("time"));
        }
        if now >= self.beat {
            self.beat = now + HEARTBEAT;
            if !super::changes::still(&self.asker).await {
                return Some(self.end("the token is not valid any more"));
            }
        }
        let lost = self.looking.lost();
        if lost > self.lost {
            self.lost = lost;
            let data = serde_json::json!({ "lost": lost });
            return Some(Event::default().event("lost").data(data.to_string()));
        }
        if self.left == 0 {
            return Some(self.end("limit"));
        }
        let asker = &self.asker;
        tokio::select! {
            passed = self.looking.next() => match passed {
                None if Instant::now() >= self.wanted.until => Some(self.end("time")),
                None => Some(self.end("the engine has ended")),
                Some(passed) => Some(self.show(passed).await),
            },
            () = tokio::time::sleep_until(self.wanted.until) => Some(self.end("time")),
            () = asker.door.stop.cancelled() => Some(self.end("the engine is stopping")),
            () = tokio::time::sleep_until(self.beat) => Some(Event::default().comment("still here")),
        }
    }

    async fn show(&mut self, passed: Passed) -> Event {
        if !super::changes::is_valid(&self.asker) {
            return self.end("the token has expired");
        }
        self.left -= 1;
        match self.shown(passed).await {
            Ok(shown) => {
                let data = serde_json::to_string(&shown).unwrap_or_default();
                Event::default().event("passed").data(data)
            }
            // Without its mask nothing is shown.
            Err(failure) => {
                tracing::warn!(%failure, "a tapped message could not be masked");
                self.end("the store did not answer")
            }
        }
    }

    async fn shown(&mut self, passed: Passed) -> Result<Shown, Failure> {
        let mask = match &self.mask {
            Some((run, mask)) if *run == passed.run => mask.clone(),
            _ => {
                let store = self.asker.store();
                let mask = store
                    .mask(&self.veil, &self.wanted.flow, passed.run)
                    .await?;
                self.mask = Some((passed.run, mask.clone()));
                mask
            }
        };
        let bytes = passed.body.bytes();
        let masked = match &mask {
            Some(mask) => mask.any(bytes),
            None => bytes.clone(),
        };
        let text = String::from_utf8_lossy(&masked);
        let mut end = text.len().min(BODY_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let keys = passed.keys.iter().map(|(name, value)| {
            let value = match &mask {
                Some(mask) => mask.key(name, value),
                None => value.clone(),
            };
            (name.to_string(), value)
        });
        Ok(Shown {
            at_ms: passed.at_ms,
            run: passed.run.0,
            message: passed.message.to_string(),
            step: passed.step,
            what: passed.what,
            keys: keys.collect(),
            cut: self.payload && end < text.len(),
            body: self.payload.then(|| text[..end].to_owned()),
        })
    }

    fn end(&mut self, why: &str) -> Event {
        self.ended = true;
        let data = serde_json::json!({ "why": why, "lost": self.looking.lost() });
        Event::default().event("end").data(data.to_string())
    }
}
