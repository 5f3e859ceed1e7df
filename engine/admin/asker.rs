//! What a path gets of a request: who asks, the query, the body, a page. Whatever cannot be read is a problem that says why.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Door;
use super::problem::Problem;
use super::rights::{Actor, Object, Refusal, Right, authorise};
use crate::run::desk::Desk;
use crate::store::Store;
use crate::store::personal::Veil;

/// How many items a page has where nobody says so, and at most.
const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 200;

/// Who asks.
#[derive(Clone)]
pub(super) struct Asker {
    /// The door.
    pub(super) door: Arc<Door>,
    /// Who it is, and what they may do.
    pub(super) actor: Arc<Actor>,
    /// Where they act.
    pub(super) desk: Desk,
    /// What they ask for: method and path.
    pub(super) what: Arc<str>,
}

impl Asker {
    /// Whether they may do something to an object. A refusal is written down.
    pub(super) fn may(&self, right: Right, object: Object<'_>) -> Result<(), Problem> {
        authorise(&self.actor, right, object).map_err(|refusal| {
            let why = match refusal {
                Refusal::Right(right) => format!("the right `{}` is missing", right.name()),
                Refusal::Scope => "it concerns all flows".to_owned(),
                Refusal::NotThere => "it is not in the token's flows".to_owned(),
            };
            self.door.denied(&self.actor.acting, &self.what, why);
            refusal.into()
        })
    }

    /// The same without an object of its own, for what is only left out otherwise.
    pub(super) fn has(&self, right: Right) -> bool {
        authorise(&self.actor, right, Object::Flows).is_ok()
    }

    /// Whether they ask for a flow that is none of theirs: it is not there for them, and neither is a next page.
    pub(super) fn asks_for_others(&self, flow: Option<&str>) -> bool {
        flow.is_some_and(|flow| !self.sees(flow))
    }

    /// Whether they see what belongs to a flow.
    pub(super) fn sees(&self, flow: &str) -> bool {
        authorise(&self.actor, Right::Metadata, Object::Flow(flow)).is_ok()
    }

    /// The flows that they see, of those that there are or were; `None` if they see all. Lists are made of these alone, so that not even the
    /// length of a page, or that there is a next one, says what others have.
    pub(super) async fn flows(&self) -> Result<Option<Vec<String>>, Problem> {
        if self.sees_all() {
            return Ok(None);
        }
        let books = self.store().books().await?;
        let known = books.into_iter().map(|books| books.flow.to_string());
        Ok(Some(known.filter(|flow| self.sees(flow)).collect()))
    }

    /// Whether they see all flows.
    pub(super) fn sees_all(&self) -> bool {
        authorise(&self.actor, Right::Metadata, Object::Whole).is_ok()
    }

    /// What is hidden from everybody who does not ask to see it.
    pub(super) async fn veil(&self) -> Result<Veil, Problem> {
        Ok(self.store().veil().await?)
    }

    /// They want to see what is personal of something that belongs to a flow. If they may, that is written down before they do.
    pub(super) async fn reveal(
        &self,
        flow: &str,
        kind: &'static str,
        which: i64,
    ) -> Result<(), Problem> {
        self.may(Right::Payload, Object::Flow(flow))?;
        self.may(Right::Personal, Object::Flow(flow))?;
        Ok(self.desk.reveals(kind, which, flow).await?)
    }

    /// Their name.
    pub(super) fn who(&self) -> &str {
        &self.actor.acting.actor
    }

    /// The store.
    pub(super) fn store(&self) -> &Store {
        self.desk.store()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Asker, Problem> {
        parts.extensions.get::<Asker>().cloned().ok_or_else(|| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "nobody is known",
            )
        })
    }
}

/// The query of a request.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, Problem> {
        let asked = Query::<T>::from_request_parts(parts, state).await;
        let Query(asked) = asked
            .map_err(|rejection: QueryRejection| Problem::unreadable(rejection.body_text()))?;
        Ok(Asked(asked))
    }
}

/// What stands in the path of a request.
pub(super) struct Within<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Within<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Within<T>, Problem> {
        let within = Path::<T>::from_request_parts(parts, state).await;
        let Path(within) = within.map_err(|_: PathRejection| Problem::not_there())?;
        Ok(Within(within))
    }
}

/// The body of a request.
pub(super) struct Given<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Given<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Given<T>, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "a body is `application/json`",
            ));
        }
        let body = Bytes::from_request(request, state).await;
        let body =
            body.map_err(|rejection: BytesRejection| Problem::unreadable(rejection.body_text()))?;
        let given = serde_json::from_slice(&body);
        given.map(Given).map_err(|error| {
            Problem::unreadable(format!("what was asked for cannot be read: {error}"))
        })
    }
}

/// Which page of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Paged {
    /// How many items at most. Default 50.
    #[param(minimum = 1, maximum = 200)]
    pub(super) limit: Option<usize>,
    /// `next` of the page before.
    pub(super) cursor: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items. There may be fewer than `limit`, and still a next page.
    items: Vec<T>,
    /// What to send as `cursor` for the next page; missing on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// How many items, and where to begin.
pub(super) struct Cut {
    pub(super) limit: usize,
    /// The number behind which the page begins.
    pub(super) at: Option<i64>,
}

/// How many items a page has, and where it begins.
pub(super) fn cut(limit: Option<usize>, cursor: Option<&str>) -> Result<Cut, Problem> {
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::unreadable(format!(
            "`limit` is 1 to {LIMIT_MAX}, not {limit}"
        )));
    }
    let read = |cursor: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        text.strip_prefix("p1:")?.parse::<i64>().ok()
    };
    let at = match cursor {
        None => None,
        Some(cursor) => Some(read(cursor).filter(|at| *at >= 0).ok_or_else(|| {
            Problem::unreadable("`cursor` is not one that a page has given as `next`")
        })?),
    };
    Ok(Cut { limit, at })
}

impl<T> Page<T> {
    /// A page of rows that the store has given from the cut on: `number` is by what they are ordered, `shown` leaves out what is not theirs.
    pub(super) fn of<R>(
        cut: &Cut,
        rows: &[R],
        number: impl Fn(&R) -> i64,
        shown: impl Fn(&R) -> Option<T>,
    ) -> Page<T> {
        let last = rows.last().filter(|_| rows.len() >= cut.limit);
        Page {
            next: last.map(|last| cursor(number(last))),
            items: rows.iter().filter_map(shown).collect(),
        }
    }

    /// A page on which nothing is, and behind which nothing comes.
    pub(super) fn empty() -> Page<T> {
        Page {
            items: Vec::new(),
            next: None,
        }
    }

    /// A page of a list that is in memory.
    pub(super) fn of_all(paged: &Paged, all: Vec<T>) -> Result<Page<T>, Problem> {
        let cut = cut(paged.limit, paged.cursor.as_deref())?;
        let from = usize::try_from(cut.at.unwrap_or(0)).unwrap_or(usize::MAX);
        let end = from.saturating_add(cut.limit);
        let next = (end < all.len()).then(|| cursor(i64::try_from(end).unwrap_or(i64::MAX)));
        let items = all.into_iter().skip(from).take(cut.limit).collect();
        Ok(Page { items, next })
    }
}

fn cursor(at: i64) -> String {
    URL_SAFE_NO_PAD.encode(format!("p1:{at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let mut paged = Paged {
            limit: Some(2),
            cursor: None,
        };
        let mut seen = Vec::new();
        loop {
            let page = Page::of_all(&paged, (0..5).collect::<Vec<i32>>()).unwrap();
            seen.extend(page.items);
            paged.cursor = page.next;
            if paged.cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        for (limit, cursor) in [(Some(0), None), (Some(201), None), (None, Some("x"))] {
            assert_eq!(cut(limit, cursor).err().unwrap().code(), "bad_request");
        }
    }
}
