//! What every request passes, whatever its path: who asks, how often, whether they may, how long it may take, and that asking twice does once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use sha2::{Digest, Sha256};

use super::Door;
use super::asker::Asker;
use super::authenticate::{Peer, authenticate};
use super::problem::Problem;
use super::routes::Row;
use super::session::Caller;
use crate::store::answers::{AnswerChange, Known};
use crate::store::commit::Commit;

/// How large a body may be over the network.
const BODY_BYTES_MAX: usize = 10 << 20;
/// How large over the socket: an edited body and what stands around it.
const SOCKET_BODY_BYTES_MAX: usize = 40 << 20;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How large an answer may be that is kept for who asks once more.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How large an answer to an act may be at all.
const ACT_BYTES_MAX: usize = 64 << 20;
/// How long the id of a request and the key of an idempotent one may be.
const ID_LENGTH_MAX: usize = 64;
const KEY_LENGTH_MAX: usize = 200;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Finds out who asks, and hands the request on in their name.
pub(super) async fn know(
    State(door): State<Arc<Door>>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = *request
        .extensions()
        .get::<Peer>()
        .unwrap_or(&Peer::Net(([0, 0, 0, 0], 0).into()));
    let id = request_id(&door, request.headers());
    let path = request.uri().path().replace("/-/", ":");
    let what = format!("{} {}", request.method(), without_key(&path));
    let asked = (request.method(), request.headers());
    let response = match admit(&door, peer, asked, &id, &what).await {
        Err(problem) => problem.into_response(),
        Ok((asker, _place)) => {
            request.extensions_mut().insert(asker);
            next.run(request).await
        }
    };
    signed(response, &id)
}

/// Stands before a path that is open to all: those who sign in are known only then.
pub(super) async fn open(
    State((row, door)): State<(Arc<Row>, Arc<Door>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let id = request_id(&door, request.headers());
    // Places of their own: strangers must not take those of who is known.
    let Ok(_place) = door.sign_ins.clone().try_acquire_owned() else {
        return signed(crowded().into_response(), &id);
    };
    request.extensions_mut().insert(Caller {
        peer: peer.unwrap_or(Peer::Net(([0, 0, 0, 0], 0).into())),
        request: id.clone(),
    });
    request.extensions_mut().insert(door.clone());
    let answered = tokio::time::timeout(row.within, next.run(request)).await;
    signed(answered.unwrap_or_else(|_| late().into_response()), &id)
}

fn crowded() -> Problem {
    let detail = "too many requests are under way";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).after(1)
}

/// What every answer carries.
fn signed(mut response: Response, id: &str) -> Response {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// A path as it is written down: the value of a business key may be personal.
fn without_key(path: &str) -> String {
    let journey = path.split_once("/journeys/");
    match journey.and_then(|(before, key)| Some((before, key.split_once('/')?.0))) {
        Some((before, name)) => format!("{before}/journeys/{name}/.."),
        None => path.to_owned(),
    }
}

async fn admit(
    door: &Arc<Door>,
    peer: Peer,
    asked: (&Method, &HeaderMap),
    id: &Arc<str>,
    what: &str,
) -> Result<(Asker, tokio::sync::OwnedSemaphorePermit), Problem> {
    let actor = match authenticate(door, peer, asked, id).await {
        Ok(actor) => actor,
        Err(problem) => {
            door.refused(peer, id, what, problem.code());
            return Err(problem);
        }
    };
    if let Peer::Net(_) = peer {
        let name = format!("{} {}", actor.acting.kind.name(), actor.acting.actor);
        let taken = door.rate.take(&name, door.clock().steady_ms());
        taken.map_err(|seconds| {
            let detail = "this token asks more often than `admin.rate` allows";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", detail).after(seconds)
        })?;
    }
    let place = door.places.clone().try_acquire_owned();
    let place = place.map_err(|_| crowded())?;
    let asker = Asker {
        desk: door.desk.of(actor.acting.clone()),
        door: door.clone(),
        actor: Arc::new(actor),
        what: Arc::from(what),
    };
    Ok((asker, place))
}

/// The id that the request brings, or a new one.
fn request_id(door: &Door, headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.:".contains(letter);
    let good = |id: &&str| !id.is_empty() && id.len() <= ID_LENGTH_MAX && id.chars().all(plain);
    match given.filter(good) {
        Some(id) => Arc::from(id),
        None => Arc::from(format!("{:016x}", door.desk.world().random.next())),
    }
}

/// Stands before one path: nobody passes without its right.
pub(super) async fn guard(
    State((row, door)): State<(Arc<Row>, Arc<Door>)>,
    asker: Result<Asker, Problem>,
    request: Request,
    next: Next,
) -> Response {
    let asker = match asker {
        Ok(asker) => asker,
        Err(problem) => return problem.into_response(),
    };
    if let Err(problem) = asker.may(row.right, row.reach.object()) {
        return problem.into_response();
    }
    if request.method() != Method::POST {
        let answered = tokio::time::timeout(row.within, next.run(request)).await;
        return answered.unwrap_or_else(|_| late().into_response());
    }
    act(row, door, asker, request, next)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

/// An act is done to its end, also if nobody waits for its answer any more.
async fn act(
    row: Arc<Row>,
    door: Arc<Door>,
    asker: Asker,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let body = whole(&parts, body).await?;
    let key = idempotency_key(&parts.headers)?;
    if door.stop.is_cancelled() {
        let detail = "the engine is stopping";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).after(5));
    }
    let acting = door.open.clone().spawn(async move {
        let Some(key) = key else {
            let request = Request::from_parts(parts, Body::from(body));
            return Ok(next.run(request).await);
        };
        once(&row, &asker, key, (parts, body), next).await
    });
    acting.await.unwrap_or_else(|_| {
        Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "this was broken off by a defect; look what was done before you repeat it",
        ))
    })
}

async fn whole(parts: &Parts, body: Body) -> Result<Bytes, Problem> {
    let most = match parts.extensions.get::<Peer>() {
        Some(Peer::Socket(_)) => SOCKET_BODY_BYTES_MAX,
        _ => BODY_BYTES_MAX,
    };
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, most)).await;
    let read = read.map_err(|_| {
        let detail = "the body did not come in time";
        Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail)
    })?;
    read.map_err(|error| {
        let too_large =
            std::error::Error::source(&error).is_some_and(|source| source.is::<LengthLimitError>());
        match too_large {
            true => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                format!("a body may have {most} bytes"),
            ),
            false => Problem::unreadable("the body ended early"),
        }
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = key.to_str().unwrap_or_default();
    match key.is_empty() || key.len() > KEY_LENGTH_MAX {
        true => Err(Problem::unreadable(format!(
            "`Idempotency-Key` has 1 to {KEY_LENGTH_MAX} letters of ASCII"
        ))),
        false => Ok(Some(key.to_owned())),
    }
}

/// Does it if it was not done under this key before; else gives the answer that it had.
async fn once(
    row: &Row,
    asker: &Asker,
    key: String,
    (parts, body): (Parts, Bytes),
    next: Next,
) -> Result<Response, Problem> {
    let mut digest = Sha256::new();
    digest.update(parts.uri.to_string().as_bytes());
    digest.update([0]);
    digest.update(&body);
    let acting = &asker.actor.acting;
    let actor = format!("{} {}", acting.kind.name(), acting.actor);
    let begin = AnswerChange::Begin {
        actor: actor.clone(),
        key: key.clone(),
        hash: digest.finalize().into(),
    };
    match keep(asker, begin).await? {
        Known::New => {}
        Known::UnderWay => {
            let detail =
                "a request with this `Idempotency-Key` is under way, or its answer was lost";
            return Err(
                Problem::new(StatusCode::CONFLICT, "idempotency_under_way", detail)
                    .help("wait for it; if the engine was restarted meanwhile, look what was done and use another key"),
            );
        }
        Known::Differs => {
            let detail = "this `Idempotency-Key` came before with something else";
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return Err(Problem::new(status, "idempotency_key_reused", detail));
        }
        Known::Answered(status, body) => return Ok(again(status, body)),
    }
    let answer = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (head, body) = answer.into_parts();
    let body = to_bytes(body, ACT_BYTES_MAX).await.unwrap_or_default();
    let status = head.status;
    let kept = match status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        true => AnswerChange::Forget { actor, key },
        false => {
            let (status, body) = kept(row, status, &body);
            AnswerChange::End {
                actor,
                key,
                status,
                body,
            }
        }
    };
    if let Err(problem) = keep(asker, kept).await {
        tracing::warn!(
            code = problem.code(),
            "an answer could not be kept for who asks once more"
        );
    }
    Ok(Response::from_parts(head, Body::from(body)))
}

/// What is kept of an answer: no secret, and nothing that is too large.
fn kept(row: &Row, status: StatusCode, body: &Bytes) -> (i64, Vec<u8>) {
    let secret = row.secret && status.is_success();
    if !secret && body.len() <= ANSWER_BYTES_MAX {
        return (i64::from(status.as_u16()), body.to_vec());
    }
    let problem = Problem::new(
        StatusCode::CONFLICT,
        "answered_before",
        "this was done, and its answer is not given a second time",
    );
    (409, serde_json::to_vec(&problem).unwrap_or_default())
}

fn again(status: i64, body: Vec<u8>) -> Response {
    let status = u16::try_from(status).ok();
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.unwrap_or(StatusCode::OK);
    let kind = match status.is_success() {
        true => "application/json",
        false => "application/problem+json",
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (REPLAYED, HeaderValue::from_static("true")),
    ];
    (status, headers, body).into_response()
}

async fn keep(asker: &Asker, change: AnswerChange) -> Result<Known, Problem> {
    let commit = Commit {
        answers: vec![change],
        ..Commit::default()
    };
    let committed = asker.store().commit(commit).await?;
    Ok(committed.answers.into_iter().next().unwrap_or(Known::New))
}

fn late() -> Problem {
    let detail = "the store did not answer in time; ask for less, or later";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).after(5)
}
