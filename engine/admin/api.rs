//! The paths of the API, `/api/v1/..`, and what is behind each. A path names a noun, a `:word` behind it what is done with it.

use http::{Method, Uri};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::shown;
use crate::failure::{Class, Failure};
use crate::run::again::Again;
use crate::run::desk::{Desk, Verb, Which};
use crate::run::replay::NewList;
use crate::store::exceptions::{ExceptionFilter, ExceptionId};
use crate::store::replays::{ReplayId, ReplayState};

/// What `POST /exceptions:act` takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// Which exceptions.
    pub which: Which,
    /// What is done.
    pub verb: Verb,
    /// Who does it.
    pub who: String,
    /// Only count.
    #[serde(default)]
    pub dry_run: bool,
}

/// What `POST /runs:again` takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunsAgain {
    /// The runs.
    pub runs: Vec<i64>,
    /// How.
    pub how: Again,
    /// Who does it.
    pub who: String,
    /// Why.
    #[serde(default)]
    pub why: Option<String>,
    /// Only say whether it could be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What `POST /replays` takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeList {
    /// The list.
    pub list: NewList,
    /// Who does it.
    pub who: String,
    /// Only count.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answers a question, or has something done.
pub(super) async fn answer(
    desk: &Desk,
    method: &Method,
    uri: &Uri,
    body: &[u8],
) -> Result<Value, Failure> {
    let path = uri.path().strip_prefix("/api/v1/").ok_or_else(unknown)?;
    let segments: Vec<&str> = path.split('/').collect();
    if *method == Method::POST {
        return act(desk, &segments, body).await;
    }
    let store = desk.store();
    match segments[..] {
        ["status"] => Ok(json!({
            "version": env!("CARGO_PKG_VERSION"), "revision": desk.revision(), "process": std::process::id(),
        })),
        ["exceptions"] => {
            let rows = store.exceptions(ExceptionFilter::default()).await?;
            Ok(rows.iter().map(shown::exception).collect())
        }
        ["exceptions", id] => {
            let id = ExceptionId(id.parse().map_err(|_| unknown())?);
            let found = store.exception(id).await?.ok_or_else(unknown)?;
            Ok(shown::whole_exception(&found))
        }
        ["issues"] => Ok(store.issues().await?.iter().map(shown::issue).collect()),
        ["books"] => {
            let books = store.books().await?;
            let flows: Map<String, Value> = books
                .iter()
                .map(|flow| (flow.flow.to_string(), shown::counts(&flow.counts)))
                .collect();
            Ok(json!({ "flows": flows }))
        }
        ["replays"] => {
            let lists = store.replays(100).await?;
            Ok(lists.iter().map(shown::replay).collect())
        }
        ["replays", id] => {
            let id = ReplayId(id.parse().map_err(|_| unknown())?);
            let found = store.replay(id).await?.ok_or_else(unknown)?;
            Ok(shown::replay(&found))
        }
        _ => Err(unknown()),
    }
}

async fn act(desk: &Desk, segments: &[&str], body: &[u8]) -> Result<Value, Failure> {
    match segments {
        ["exceptions:act"] => {
            let wish: Act = wish(body)?;
            let report = desk
                .act(&wish.which, &wish.verb, &wish.who, wish.dry_run)
                .await?;
            Ok(json!(report))
        }
        ["runs:again"] => {
            let wish: RunsAgain = wish(body)?;
            let why = wish.why.as_deref();
            let receipts = desk
                .again(&wish.runs, &wish.how, &wish.who, why, wish.dry_run)
                .await?;
            Ok(json!(receipts))
        }
        ["replays"] => {
            let wish: MakeList = wish(body)?;
            Ok(json!(desk.list(&wish.list, &wish.who, wish.dry_run).await?))
        }
        ["replays", which] => {
            let (id, word) = which.split_once(':').ok_or_else(unknown)?;
            let id = id.parse().map_err(|_| unknown())?;
            let to = state(word).ok_or_else(unknown)?;
            Ok(json!(desk.turn_list(id, to).await?))
        }
        _ => Err(unknown()),
    }
}

/// The state into which a word brings a list.
fn state(word: &str) -> Option<ReplayState> {
    match word {
        "pause" => Some(ReplayState::Paused),
        "resume" => Some(ReplayState::Running),
        "abort" => Some(ReplayState::Aborted),
        _ => None,
    }
}

fn wish<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::validation(format!("what was asked for cannot be read: {error}")))
}

fn unknown() -> Failure {
    Failure::new(Class::NotFound, "there is nothing at this path")
}
