//! The paths of the API, `/api/v1/..`, and what is behind each. A path names a noun, a `:word` behind it what is done with it.

use http::{Method, Uri};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::shown;
use crate::failure::{Class, Failure};
use crate::run::desk::{Desk, Verb, Which};
use crate::store::exceptions::{ExceptionFilter, ExceptionId};

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
        _ => Err(unknown()),
    }
}

fn wish<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::validation(format!("what was asked for cannot be read: {error}")))
}

fn unknown() -> Failure {
    Failure::new(Class::NotFound, "there is nothing at this path")
}
