//! The source `poll`: what a system has that is new. It asks page by page, and remembers how far it is with each page's messages. What a
//! page's address is, `paging` knows.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Ready;
use super::offer::{Offered, offer, pause_or_stop, room_or_stop};
use crate::body::Body;
use crate::component::words::{Duration, ExpressionText, TemplateText};
use crate::component::{Arrival, Batch, Build, Intake, Part, Progress, Source, codes};
use crate::expression::{Expression, Scope, Tables, Value};
use crate::failure::{Class, Failure};
use crate::message::{Message, MessageId};
use crate::system::request::{Answered, Sending};
use crate::system::{System, TIMEOUT};
use crate::template::{Escape, Root, Template};
use crate::world::{Pending, failpoint};

mod paging;
#[cfg(test)]
mod tests;

use paging::{Next, Pages, Paging};

/// Asks a system, again and again, for what is new. Every page's messages are committed together with the place behind it, so that
/// nothing is left out or doubled by a restart. A cursor with an `overlap` brings things again: such a flow needs `once`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Poll {
    /// The system that is asked.
    pub system: String,
    /// The path, with `{{@cursor}}` where the system wants to know from where on: `/orders?updated_since={{@cursor}}`.
    pub get: TemplateText,
    /// The list of items in an answer, such as `data.orders`. Default: the answer is the list.
    pub items: Option<ExpressionText>,
    /// The time from one round to the next. Default 1m.
    pub every: Option<Duration>,
    /// How an answer that comes in pages goes on. Without it there is one page.
    pub paging: Option<Paging>,
    /// What tells new items from old ones. Without it every round brings all items.
    pub cursor: Option<Cursor>,
    /// How many pages there are in a round; the rest comes in the next round. Default 1000.
    #[schemars(range(min = 1))]
    pub max_pages: Option<u32>,
}

/// What tells new items from old ones.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The value that grows, in an item: `updated_at`. Times, numbers and texts are each compared as such.
    pub value: ExpressionText,
    /// Where the first round begins, such as `2026-01-01T00:00:00Z`.
    pub start: String,
    /// How far back each round looks, for items that show up late; only for times. Default none.
    pub overlap: Option<Duration>,
}

/// The time from one round to the next where nothing is said.
const EVERY_MS: u64 = 60_000;
/// How many pages there are in a round where nothing is said.
const PAGES_MAX: u32 = 1_000;
/// The wait after a first failure, in milliseconds; it doubles.
const FIRST_MS: u64 = 1_000;
/// The longest wait after a failure, unless the system asks for more.
const MOST_MS: u64 = 300_000;
/// The longest wait that a system may ask for.
const ASKED_MOST_MS: u64 = 86_400_000;
/// How many failures in a row are waited out before the engine is told.
const FAILURES_MAX: u32 = 3;
/// How far ahead of now a time may be and still move the cursor, in milliseconds.
const AHEAD_MS: i64 = 86_400_000;
/// The name of the cursor in the store.
const CURSOR: &str = "poll";

impl Part for Poll {
    type Ready = Ready;
    const EXAMPLE: &'static str = "source:
  poll:
    system: erp
    get: \"/orders?updated_since={{@cursor}}\"
    items: orders
    every: 1m
    paging: { page: { param: page, size_param: per_page, size: 100 } }
    cursor: { value: updated_at, start: \"2026-01-01T00:00:00Z\", overlap: 10m }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let before = cx.findings.len();
        let system = cx.system(&["system"], &self.system);
        let get = self.path(cx);
        let items = match &self.items {
            Some(items) => cx.expression(&["items"], &items.0),
            None => Expression::compile("@").ok(),
        };
        let cursor = match &self.cursor {
            Some(cursor) => {
                if cursor.overlap.is_some() && time(&cursor.start).is_none() {
                    cx.error(
                        codes::CONFLICTING_SETTINGS,
                        &["cursor", "overlap"],
                        "only times can overlap, and `start` is none",
                        "leave `overlap` out, or write `start` as a time with offset, such as `2026-01-01T00:00:00Z`",
                    );
                }
                let value = cx.expression(&["cursor", "value"], &cursor.value.0);
                value.map(|value| Mark {
                    value,
                    start: cursor.start.clone(),
                    overlap_ms: cursor.overlap.map_or(0, |overlap| overlap.ms),
                })
            }
            None => None,
        };
        let pages = Pages::build(self.paging.as_ref(), cx);
        if self.every.is_some_and(|every| every.ms == 0) {
            cx.error(
                codes::BAD_VALUE,
                &["every"],
                "no time between two rounds asks the system without pause",
                "1m is usual",
            );
        }
        if cx.findings.len() > before {
            return None;
        }
        Some(Ready::Runs(Arc::new(Rounds {
            system: system?,
            get: get?,
            items: items?,
            cursor,
            pages: pages?,
            every_ms: self.every.map_or(EVERY_MS, |every| every.ms),
            pages_max: self.max_pages.unwrap_or(PAGES_MAX).max(1),
            tables: cx.library.tables.clone(),
        })))
    }
}

impl Poll {
    /// The path's template: it knows the cursor and nothing else, for there is no message yet.
    fn path(&self, cx: &mut Build<'_>) -> Option<Template> {
        let fresh = cx.variables.insert("cursor".to_owned());
        let template = cx.template(&["get"], &self.get.0);
        if fresh {
            cx.variables.remove("cursor");
        }
        let template = template?;
        let is_cursor = |root: &Root| matches!(root, Root::Variable(name) if name == "cursor");
        let odd = template.paths().iter().find(|path| !is_cursor(&path.root));
        if let Some(path) = odd {
            let message = format!("`{}` leads nowhere: there is no message yet", path.text);
            cx.error(
                codes::BAD_TEMPLATE,
                &["get"],
                message,
                "only the cursor is known here: `{{@cursor}}`",
            );
        }
        let used = template.paths().iter().any(|path| is_cursor(&path.root));
        if used != self.cursor.is_some() {
            let (message, help) = match used {
                true => (
                    "the path wants a cursor and there is none",
                    "add `cursor: { value: .., start: .. }`",
                ),
                false => (
                    "the cursor is not used: every round would bring all items",
                    "put `{{@cursor}}` into the path, or remove `cursor`",
                ),
            };
            cx.error(codes::CONFLICTING_SETTINGS, &["get"], message, help);
        }
        Some(template)
    }
}

/// What grows, where it begins and how far back a round looks.
struct Mark {
    value: Expression,
    start: String,
    overlap_ms: u64,
}

struct Rounds {
    system: Arc<System>,
    get: Template,
    items: Expression,
    cursor: Option<Mark>,
    pages: Pages,
    every_ms: u64,
    pages_max: u32,
    tables: Arc<Tables>,
}

/// How far the rounds are: what the store keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct State {
    /// From where on this round asks; nothing before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// The highest value that has been seen: from there the next round asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    high: Option<String>,
    /// The page that comes next, of a round that is not over.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Next>,
    /// Of a page whose messages are durable: tells a system that gives the same page forever.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
}

/// How a page went.
enum Turn {
    /// There is more.
    More,
    /// The round is over.
    Over,
    /// The source must stop.
    Stop,
}

impl Source for Rounds {
    fn run(self: Arc<Self>, cx: Intake) -> Pending<'static, Result<(), Failure>> {
        Box::pin(async move {
            let mut memory = Memory::read(&cx).await?;
            let mut failures = 0;
            loop {
                let began_ms = cx.world.clock.steady_ms();
                let wait_ms = match self.round(&cx, &mut memory).await {
                    Ok(Turn::Stop) => return Ok(()),
                    Ok(_) => {
                        failures = 0;
                        let took = cx.world.clock.steady_ms().saturating_sub(began_ms);
                        self.every_ms
                            .saturating_sub(u64::try_from(took).unwrap_or(0))
                            .max(1)
                    }
                    Err(failure) => {
                        failures += 1;
                        self.wait_out(&cx, failure, failures).await?;
                        1
                    }
                };
                if !pause_or_stop(&cx, wait_ms).await {
                    return Ok(());
                }
            }
        })
    }

    fn overlaps(&self) -> bool {
        self.cursor
            .as_ref()
            .is_some_and(|cursor| cursor.overlap_ms > 0)
    }
    fn alone(&self) -> bool {
        true
    }
}

/// What the store has, and its text there.
struct Memory {
    state: State,
    known: Option<String>,
}

impl Memory {
    async fn read(cx: &Intake) -> Result<Memory, Failure> {
        let known = cx.accept.cursor(CURSOR).await?;
        let state = match &known {
            Some(text) => serde_json::from_str(text).map_err(|error| {
                Failure::new(
                    Class::Config,
                    format!("the cursor {CURSOR} cannot be read: {error}"),
                )
            })?,
            None => State::default(),
        };
        Ok(Memory { state, known })
    }
}

impl Rounds {
    /// Waits as the system asks, or longer from failure to failure. What does not pass by itself, or does not pass, is told at once.
    async fn wait_out(&self, cx: &Intake, failure: Failure, failures: u32) -> Result<(), Failure> {
        if !failure.class.retried_by_default() {
            return Err(failure);
        }
        let doubled = FIRST_MS.saturating_mul(1 << failures.min(20).saturating_sub(1));
        let grown = doubled.min(MOST_MS);
        let wait_ms = failure
            .retry_after_ms
            .map_or(grown, |asked| asked.clamp(grown, ASKED_MOST_MS));
        tracing::warn!(flow = %cx.flow, system = %self.system.name(), %failure, wait_ms, "polling waits");
        if pause_or_stop(cx, wait_ms).await && failures >= FAILURES_MAX {
            return Err(failure);
        }
        Ok(())
    }

    /// Asks for page after page until there is no more.
    async fn round(&self, cx: &Intake, memory: &mut Memory) -> Result<Turn, Failure> {
        for _ in 0..self.pages_max {
            if !room_or_stop(cx).await {
                return Ok(Turn::Stop);
            }
            tokio::select! {
                biased;
                () = cx.stop.cancelled() => return Ok(Turn::Stop),
                _ = self.system.admission().opened() => {}
            }
            match self.page(cx, memory).await? {
                Turn::More => {}
                other => return Ok(other),
            }
        }
        Ok(Turn::More)
    }

    async fn page(&self, cx: &Intake, memory: &mut Memory) -> Result<Turn, Failure> {
        let since = self.since(&memory.state)?;
        let path = self
            .pages
            .path(&self.path(since.as_deref())?, memory.state.next.as_ref());
        let timeout = self.system.timeout().unwrap_or(TIMEOUT).std();
        let sending = Sending::get(path.clone());
        let answered = tokio::select! {
            biased;
            () = cx.stop.cancelled() => return Ok(Turn::Stop),
            answered = self.system.fetch(&sending, timeout) => answered,
        };
        let answered = match answered {
            Err(failure) if memory.state.next.is_some() && gone(&failure) => {
                tracing::warn!(flow = %cx.flow, %failure, "the next page is not there any more; the round begins anew");
                let state = State {
                    next: None,
                    last: None,
                    ..memory.state.clone()
                };
                return self.commit(cx, memory, Vec::new(), state).await;
            }
            other => other?,
        };
        let latest_ms = cx.world.clock.now_ms().saturating_add(AHEAD_MS);
        let (arrivals, high) = self.read(&answered, &path, latest_ms)?;
        let seen = hash(answered.body.bytes());
        if memory.state.next.is_some() && memory.state.last == Some(seen) && !arrivals.is_empty() {
            let message = format!(
                "{} gives the same page again at {path}; does it know the paging?",
                self.system.name()
            );
            return Err(Failure::new(Class::Config, message));
        }
        let next = self.pages.next(
            &self.system,
            &path,
            &answered,
            arrivals.len(),
            memory.state.next.as_ref(),
        )?;
        let high = match (memory.state.high.clone(), high) {
            (Some(known), Some(new)) if compare(&new, &known) == Ordering::Less => Some(known),
            (known, new) => new.or(known),
        };
        let state = match &next {
            Some(_) => State {
                since: memory.state.since.clone(),
                high,
                last: Some(seen),
                next,
            },
            None => State {
                since: high.clone(),
                high,
                last: None,
                next,
            },
        };
        let over = next_is_none(&state);
        if over && arrivals.is_empty() && state == memory.state {
            return Ok(Turn::Over);
        }
        match self.commit(cx, memory, arrivals, state).await? {
            Turn::More if over => Ok(Turn::Over),
            other => Ok(other),
        }
    }

    /// The page's messages and where the rounds are after them, in one commit.
    async fn commit(
        &self,
        cx: &Intake,
        memory: &mut Memory,
        arrivals: Vec<Arrival>,
        state: State,
    ) -> Result<Turn, Failure> {
        let to = serde_json::to_string(&state)
            .map_err(|error| Failure::internal(format!("poll: {error}")))?;
        let progress = Progress {
            cursor: CURSOR.to_owned(),
            from: memory.known.clone(),
            to: Some(to.clone()),
        };
        let batch = Batch {
            arrivals,
            progress: Some(progress),
        };
        failpoint::hit("poll-before-commit");
        let offered = offer(cx, batch).await;
        failpoint::hit("poll-committed");
        match offered? {
            Offered::Durable => {
                *memory = Memory {
                    state,
                    known: Some(to),
                };
                Ok(Turn::More)
            }
            Offered::Stopped => Ok(Turn::Stop),
            Offered::Moved => {
                *memory = Memory::read(cx).await?;
                Ok(Turn::More)
            }
        }
    }

    /// From where on to ask: the last round's highest value, less the overlap.
    fn since(&self, state: &State) -> Result<Option<String>, Failure> {
        let Some(cursor) = &self.cursor else {
            return Ok(None);
        };
        let Some(since) = &state.since else {
            return Ok(Some(cursor.start.clone()));
        };
        if cursor.overlap_ms == 0 {
            return Ok(Some(since.clone()));
        }
        let overlap = i64::try_from(cursor.overlap_ms).unwrap_or(i64::MAX);
        let back = time(since).and_then(|at| {
            at.checked_sub(jiff::SignedDuration::from_millis(overlap))
                .ok()
        });
        let back = back.ok_or_else(|| {
            Failure::new(
                Class::Config,
                format!(
                    "the cursor's value `{since}` is no time with offset; only times can overlap"
                ),
            )
        })?;
        Ok(Some(back.to_string()))
    }

    fn path(&self, since: Option<&str>) -> Result<String, Failure> {
        let mut message = Message::new(MessageId::default(), 0, Body::null());
        if let Some(since) = since {
            let mut text = Vec::new();
            crate::body::write_string(&mut text, since);
            message.bind("cursor", Body::new(text));
        }
        self.get.render(&message, Escape::UrlPath)
    }

    /// The items of an answer, and the highest cursor value among them.
    fn read(
        &self,
        answered: &Answered,
        path: &str,
        latest_ms: i64,
    ) -> Result<(Vec<Arrival>, Option<String>), Failure> {
        let document = answered.body.document()?;
        let scope = Scope::bare(document, &self.tables);
        let items = self.items.evaluate(&scope)?;
        let Value::Null = items else {
            return self.arrivals(items, &scope, path, latest_ms);
        };
        let message = format!(
            "the answer of {} to {path} has no items: `{}` is null",
            self.system.name(),
            self.items.text()
        );
        Err(Failure::mapping(message))
    }

    fn arrivals<'a>(
        &'a self,
        items: Value<'a>,
        scope: &Scope<'a>,
        path: &str,
        latest_ms: i64,
    ) -> Result<(Vec<Arrival>, Option<String>), Failure> {
        let kind = items.type_name();
        let Some(items) = items.into_items() else {
            let message = format!(
                "the items in the answer of {} to {path} are no list but {kind}",
                self.system.name()
            );
            return Err(Failure::mapping(message));
        };
        let (mut arrivals, mut high) = (Vec::new(), None::<String>);
        for item in items {
            if let Some(cursor) = &self.cursor {
                let value = cursor.value.evaluate_on(scope, &item)?.to_text();
                // A value of a clock that is years ahead must not hide everything until then.
                let sane = |at: Timestamp| at.as_millisecond() <= latest_ms;
                let value = value.filter(|value| time(value).is_none_or(sane));
                if let Some(value) = value
                    && high
                        .as_deref()
                        .is_none_or(|high| compare(&value, high) == Ordering::Greater)
                {
                    high = Some(value);
                }
            }
            let mut body = Vec::new();
            item.write_json(&mut body);
            arrivals.push(Arrival {
                body: body.into(),
                ..Arrival::default()
            });
        }
        Ok((arrivals, high))
    }
}

fn next_is_none(state: &State) -> bool {
    state.next.is_none()
}

/// A page that was promised and is no longer there: the system has forgotten its token.
fn gone(failure: &Failure) -> bool {
    matches!(
        failure.class,
        Class::NotFound | Class::Validation | Class::Conflict
    )
}

fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Times as times, whole and decimal numbers as numbers, all else as text.
fn compare(a: &str, b: &str) -> Ordering {
    if let (Some(a), Some(b)) = (time(a), time(b)) {
        return a.cmp(&b);
    }
    match (
        a.parse::<rust_decimal::Decimal>(),
        b.parse::<rust_decimal::Decimal>(),
    ) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        _ => a.cmp(b),
    }
}

fn hash(bytes: &[u8]) -> u64 {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytes);
    digest
        .iter()
        .take(8)
        .fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}
