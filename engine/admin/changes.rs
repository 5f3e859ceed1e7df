//! Live changes as server-sent events. One look at the store a second serves all who listen, and nobody looks while nobody listens. Who is too
//! slow is told that something is missing; nobody is waited for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::Door;
use super::asker::Asker;
use super::problem::Problem;
use super::rights::{Object, Right, authorise};
use super::views::{Books, Cause};
use crate::failure::Failure;
use crate::store::Store;

/// How often the store is looked at while somebody listens.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often somebody who hears nothing is told that the line is there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How many changes wait for a slow listener; it loses the oldest.
const WAITING_MAX: usize = 256;
/// How many may listen at once.
const LISTENERS_MAX: usize = 64;

/// A change that is told.
#[derive(Clone, Debug)]
struct Change {
    what: &'static str,
    /// The flow that it belongs to; none for what concerns all.
    flow: Option<String>,
    data: String,
}

/// Where changes are told.
pub(super) struct Changes {
    told: broadcast::Sender<Change>,
    listeners: Arc<AtomicUsize>,
    looks: Mutex<bool>,
}

impl Changes {
    pub(super) fn new() -> Changes {
        Changes {
            told: broadcast::channel(WAITING_MAX).0,
            listeners: Arc::default(),
            looks: Mutex::new(false),
        }
    }
}

/// A place among those who listen, given back when it goes.
struct Listening(Arc<AtomicUsize>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Live changes as server-sent events: `books`, `issue`, `system` and `deployment` with the new state as data, `lagged` if some are missing
/// because the listener is too slow: then everything is to be read anew. Ends when the token does.
#[utoipa::path(get, path = "/changes", tag = "engine",
    responses((status = 200, description = "Changes, until one of the two ends it", content_type = "text/event-stream", body = String)))]
pub(super) async fn changes(
    asker: Asker,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let changes = &asker.door.changes;
    let place = Listening(changes.listeners.clone());
    if changes.listeners.fetch_add(1, Ordering::Relaxed) >= LISTENERS_MAX {
        let detail = "too many listen to changes";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).after(30));
    }
    let told = changes.told.subscribe();
    look(&asker.door);
    let begun = stream::once(std::future::ready(
        Ok(Event::default().comment("listening")),
    ));
    let beat = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
    let all = (told, beat, asker, place);
    let rest = stream::unfold(all, |(mut told, mut beat, asker, place)| async move {
        let event = next(&mut told, &mut beat, &asker).await?;
        Some((Ok(event), (told, beat, asker, place)))
    });
    Ok(Sse::new(futures_util::StreamExt::chain(begun, rest)))
}

/// The next thing that this listener is told; `None` at the end.
async fn next(
    told: &mut broadcast::Receiver<Change>,
    beat: &mut tokio::time::Interval,
    asker: &Asker,
) -> Option<Event> {
    loop {
        let change = tokio::select! {
            change = told.recv() => change,
            () = asker.door.stop.cancelled() => return None,
            _ = beat.tick() => {
                return still(asker).await.then(|| Event::default().comment("still here"));
            }
        };
        match change {
            Err(RecvError::Closed) => return None,
            Err(RecvError::Lagged(missing)) => {
                let data = format!("{{\"missing\":{missing}}}");
                return Some(Event::default().event("lagged").data(data));
            }
            Ok(change) => {
                if !is_valid(asker) {
                    return None;
                }
                let object = match &change.flow {
                    Some(flow) => Object::Flow(flow),
                    None => Object::Whole,
                };
                if authorise(&asker.actor, Right::Metadata, object).is_ok() {
                    return Some(Event::default().event(change.what).data(change.data));
                }
            }
        }
    }
}

pub(super) fn is_valid(asker: &Asker) -> bool {
    let until = asker.actor.until_ms;
    until.is_none_or(|until| until > asker.store().now_ms())
}

/// Whether the listener's token is valid still.
pub(super) async fn still(asker: &Asker) -> bool {
    is_valid(asker) && asker.door.still_known(&asker.actor).await
}

/// Looks at the store from now on, if nobody does.
fn look(door: &Arc<Door>) {
    let mut looks = lock(&door.changes.looks);
    if *looks {
        return;
    }
    *looks = true;
    let door = door.clone();
    door.open.clone().spawn(async move {
        let mut seen = None;
        loop {
            seen = step(&door, seen).await;
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = door.stop.cancelled() => return,
            }
            let mut looks = lock(&door.changes.looks);
            if door.changes.told.receiver_count() == 0 {
                *looks = false;
                return;
            }
        }
    });
}

/// Tells what is otherwise than when it was last looked.
async fn step(door: &Door, seen: Option<Seen>) -> Option<Seen> {
    let now = match Seen::of(door.desk.store()).await {
        Ok(now) => now,
        Err(failure) => {
            tracing::debug!(%failure, "the store could not say what has changed");
            return seen;
        }
    };
    if let Some(before) = seen {
        for (key, (flow, data)) in &now.0 {
            if before.0.get(key).is_none_or(|(_, known)| known != data) {
                // Nobody may listen any more: then nobody misses it.
                door.changes
                    .told
                    .send(Change {
                        what: key.0,
                        flow: flow.clone(),
                        data: data.clone(),
                    })
                    .ok();
            }
        }
    }
    Some(now)
}

/// What is told, by what it is and its name: the flow, and the state as JSON.
struct Seen(BTreeMap<(&'static str, String), (Option<String>, String)>);

impl Seen {
    async fn of(store: &Store) -> Result<Seen, Failure> {
        let mut seen = BTreeMap::new();
        for books in store.books().await? {
            let flow = books.flow.to_string();
            let data = text(&Books::of(&flow, &books.counts));
            seen.insert(("books", flow.clone()), (Some(flow), data));
        }
        for issue in store.issues().await? {
            let flow = Some(issue.flow.to_string());
            let data = text(&Cause::from(&issue));
            seen.insert(("issue", issue.fingerprint), (flow, data));
        }
        for state in store.system_states().await? {
            let shown = serde_json::json!({
                "system": state.name, "state": state.health, "since_ms": state.since_ms, "reason": state.reason,
            });
            seen.insert(
                ("system", state.name.to_string()),
                (None, shown.to_string()),
            );
        }
        if let Some(last) = store.deployments(1).await?.first() {
            seen.insert(("deployment", String::new()), (None, text(last)));
        }
        Ok(Seen(seen))
    }
}

fn text(shown: &impl Serialize) -> String {
    serde_json::to_string(shown).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
