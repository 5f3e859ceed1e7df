//! The paths of people who sign in: to the provider, back from it, who is signed in, and out again.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::Door;
use super::asker::{Asked, Asker, Given, Page, Paged};
use super::authenticate::Peer;
use super::people::{Cookie, People, Person, landing};
use super::problem::Problem;
use super::rights::Right;
use crate::net::oidc::{Attempt, Refused, is_plain, same, secret};
use crate::store::audit::{Acting, ActorKind};
use crate::store::commit::Commit;
use crate::store::sessions::{NewSession, SessionChange, SessionRow};

/// Where a browser goes that has not said where to.
const LANDING: &str = "/api/v1/session";
/// What is asked for by who comes back, for the audit log.
const CALLBACK: &str = "GET /api/v1/session/callback";
/// How long somebody may take to sign in at the provider, in seconds.
const SIGN_IN_SECONDS: i64 = 600;

/// Who asks, when they come to a path that is open to all.
#[derive(Clone)]
pub(super) struct Caller {
    /// From where.
    pub(super) peer: Peer,
    /// The request's id.
    pub(super) request: Arc<str>,
}

/// What a sign-in begins with.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Begin {
    /// The path to go to afterwards, of this API's own address: `/`. Others are not followed.
    to: Option<String>,
}

/// What a browser comes back with. Providers add things of their own.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Back {
    /// The code.
    code: Option<String>,
    /// What was sent along.
    state: Option<String>,
    /// Who has sent it back.
    iss: Option<String>,
    /// Why there is no code.
    error: Option<String>,
}

/// Sends a browser to the provider, to sign in there. Open to all.
#[utoipa::path(get, path = "/session/begin", tag = "session", params(Begin),
    responses((status = 303, description = "To the provider")))]
pub(super) async fn begin(
    Extension(door): Extension<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Asked(asked): Asked<Begin>,
) -> Response {
    let begun = begun(&door, &caller, &asked).await;
    begun.unwrap_or_else(IntoResponse::into_response)
}

async fn begun(door: &Door, caller: &Caller, asked: &Begin) -> Result<Response, Problem> {
    let people = people(door, caller)?;
    let attempt = Attempt::new(&*door.desk.world().random);
    let url = people
        .provider
        .address(&attempt, door.desk.world().clock.now_ms())
        .await
        .map_err(|refused| turned_away(&refused))?;
    let to = landing(asked.to.as_deref(), LANDING);
    let cookie = format!(
        "{}.{}.{}.{}",
        attempt.state,
        attempt.nonce,
        attempt.verifier,
        URL_SAFE_NO_PAD.encode(to)
    );
    let cookie = people.given(Cookie::SignIn, &cookie, SIGN_IN_SECONDS);
    Ok(sent(url.as_str(), cookie))
}

/// Where a browser comes back to from the provider. Open to all: it is the provider's code that counts.
#[utoipa::path(get, path = "/session/callback", tag = "session", params(Back),
    responses((status = 303, description = "Signed in, to where the sign-in began")))]
pub(super) async fn callback(
    Extension(door): Extension<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Asked(back): Asked<Back>,
) -> Response {
    // It is done to its end, also if the browser goes away: a code counts once.
    let doing = door.clone();
    let come = async move { come_back(&doing, &caller, &headers, &back).await };
    let come = door.open.spawn(come).await;
    let come = come.unwrap_or_else(|_| {
        let detail = "the sign-in was broken off by a defect; begin again";
        Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            detail,
        ))
    });
    let mut response = come.unwrap_or_else(IntoResponse::into_response);
    let over = door.people.as_ref();
    let over = over.and_then(|people| people.given(Cookie::SignIn, "", 0));
    if let Some(over) = over {
        response.headers_mut().append(header::SET_COOKIE, over);
    }
    response
}

async fn come_back(
    door: &Door,
    caller: &Caller,
    headers: &HeaderMap,
    back: &Back,
) -> Result<Response, Problem> {
    let people = people(door, caller)?;
    let proved = proved(door, people, headers, back).await;
    let (person, to) = proved.inspect_err(|problem| {
        door.refused(caller.peer, &caller.request, CALLBACK, problem.code());
    })?;
    let acting = Acting {
        actor: Arc::from(person.name.as_str()),
        kind: ActorKind::Identity,
        behind: Some(people.behind(&person.subject)),
        via: caller.peer.via(),
        source: caller.peer.source(),
        request: Some(caller.request.clone()),
    };
    if people.roles(&person.groups).is_empty() {
        door.denied(
            &acting,
            CALLBACK,
            "no group of theirs has a role".to_owned(),
        );
        return Err(people.nothing_for(&person.name));
    }
    let session = secret(&*door.desk.world().random);
    let before = people.shown(headers, Cookie::Session).map(hash_of);
    let before = before.map(|hash| SessionChange::End(hash, person.name.clone()));
    let hash = hash_of(&session);
    let begins = SessionChange::Begin(NewSession {
        hash,
        issuer: people.provider.issuer().to_owned(),
        subject: person.subject,
        name: person.name,
        groups: person.groups,
        ends_at_ms: door.desk.store().now_ms().saturating_add(people.lasts_ms),
    });
    let commit = Commit {
        sessions: before.into_iter().chain([begins]).collect(),
        by: Some(Box::new(acting)),
        ..Commit::default()
    };
    door.desk.store().commit(commit).await?;
    // Wrong ones from the same address, such as a session that is over, must not shut out who has just signed in.
    door.known.count(hash);
    let cookie = people.given(Cookie::Session, &session, people.lasts_ms / 1_000);
    Ok(sent(&to, cookie))
}

/// Who it is that has come back, and where they want to go.
async fn proved(
    door: &Door,
    people: &People,
    headers: &HeaderMap,
    back: &Back,
) -> Result<(Person, String), Problem> {
    let (attempt, to) = begun_by(people, headers)
        .ok_or_else(|| wrong("this browser has begun no sign-in, or it took too long"))?;
    let state = back.state.as_deref().unwrap_or_default();
    if !same(state, &attempt.state) {
        return Err(wrong("this is not the sign-in that this browser has begun"));
    }
    let issuer = people.provider.issuer();
    if back.iss.as_ref().is_some_and(|iss| iss != issuer) {
        return Err(wrong("another provider has answered"));
    }
    let Some(code) = &back.code else {
        let error = back.error.as_deref().filter(|error| is_plain(error));
        let error = error.unwrap_or("it gives no reason");
        return Err(wrong(format!(
            "the provider has not signed you in: {error}"
        )));
    };
    let now_ms = door.desk.world().clock.now_ms();
    let claims = people.provider.redeem(code, &attempt, now_ms).await;
    let claims = claims.map_err(|why| {
        tracing::warn!(%why, "a sign-in was refused");
        turned_away(&why)
    })?;
    let person = people.person(&claims).map_err(|why| {
        tracing::warn!(why, "a sign-in was refused");
        wrong(why)
    })?;
    Ok((person, to))
}

/// What the browser has kept of the sign-in that it has begun.
fn begun_by(people: &People, headers: &HeaderMap) -> Option<(Attempt, String)> {
    let mut parts = people.shown(headers, Cookie::SignIn)?.split('.');
    let mut part = || Some(parts.next()?.to_owned()).filter(|part| part.len() == 43);
    let attempt = Attempt {
        state: part()?,
        nonce: part()?,
        verifier: part()?,
    };
    let to = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
    let to = String::from_utf8(to).ok()?;
    Some((attempt, landing(Some(&to), LANDING)))
}

/// How people sign in, if they can; and this address does not try too often.
fn people<'d>(door: &'d Door, caller: &Caller) -> Result<&'d People, Problem> {
    let detail = "nobody signs in here: `admin.sign_in` in crossdock.yaml is not set";
    let none = || {
        Problem::new(StatusCode::NOT_FOUND, "no_sign_in", detail)
            .help("send a token that `crossdock token create` has shown")
    };
    let people = door.people.as_ref().ok_or_else(none)?;
    let Peer::Net(address) = caller.peer else {
        return Err(none());
    };
    let address = address.ip().to_string();
    let taken = people.sign_ins.take(&address, door.clock().steady_ms());
    taken.map_err(|seconds| {
        let detail = "too many sign-ins are begun from this address";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", detail).after(seconds)
    })?;
    Ok(people)
}

/// Why nobody is signed in, without what the log says of it.
fn turned_away(refused: &Refused) -> Problem {
    match refused {
        Refused::Away(_) => {
            let detail = "the provider that people sign in with cannot be reached now";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", detail)
                .help("who is signed in stays so; meanwhile a token opens the API: `Authorization: Bearer crossdock_..`, and `crossdock token create` on the engine's machine makes one")
                .after(10)
        }
        Refused::Wrong(_) => {
            wrong("what the provider has answered does not count; the engine's log says why")
        }
    }
}

fn wrong(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "sign_in_refused", detail)
        .help("begin again at `/api/v1/session/begin`")
}

fn hash_of(shown: &str) -> [u8; 32] {
    Sha256::digest(shown.as_bytes()).into()
}

/// To another place, with a cookie.
fn sent(to: &str, cookie: Option<HeaderValue>) -> Response {
    let Ok(to) = HeaderValue::from_str(to) else {
        return wrong("the provider's address cannot be sent").into_response();
    };
    let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response();
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Who asks, and what they may do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Session {
    /// The name.
    name: String,
    /// What the name is one of: `user`, `token`, `identity`.
    kind: &'static str,
    /// The roles.
    roles: Vec<&'static str>,
    /// What these may do.
    rights: Vec<&'static str>,
    /// For which flows: names, with `*` for any letters.
    flows: Vec<String>,
    /// Until when at most, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    until_ms: Option<i64>,
    /// Whether a browser's session says so, which can be ended.
    browser: bool,
}

/// Who asks, and what they may do.
#[utoipa::path(get, path = "/session", tag = "session",
    responses((status = 200, description = "Who it is", body = Session)))]
pub(super) async fn session(asker: Asker) -> Json<Session> {
    let actor = &asker.actor;
    let rights = Right::ALL.into_iter().filter(|right| asker.has(*right));
    Json(Session {
        name: actor.acting.actor.to_string(),
        kind: actor.acting.kind.name(),
        roles: actor.roles.iter().map(|role| role.name()).collect(),
        rights: rights.map(Right::name).collect(),
        flows: actor.flows.to_vec(),
        until_ms: actor.until_ms,
        browser: actor.session.is_some(),
    })
}

/// Signs out: this browser's session counts no more, at any engine of the store.
#[utoipa::path(post, path = "/session:end", tag = "session",
    responses((status = 200, description = "It has ended", body = bool, content_type = "application/json")))]
pub(super) async fn end(asker: Asker) -> Result<Response, Problem> {
    let (Some(hash), Some(people)) = (asker.actor.session, &asker.door.people) else {
        let detail = "a token is no session: it is revoked, not ended";
        return Err(Problem::new(StatusCode::CONFLICT, "no_session", detail));
    };
    let ends = SessionChange::End(hash, asker.who().to_owned());
    change(&asker, ends).await?;
    let over = people.given(Cookie::Session, "", 0);
    let over = over.map(|over| (header::SET_COOKIE, over));
    Ok((AppendHeaders(over), Json(true)).into_response())
}

/// Somebody who is signed in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SignedIn {
    /// The name.
    name: String,
    /// How the provider calls them.
    subject: String,
    /// The provider.
    issuer: String,
    /// Their groups that mean something here.
    groups: Vec<String>,
    /// Since when, in milliseconds since 1970.
    since_ms: i64,
    /// When they last did something.
    used_at_ms: i64,
    /// Until when at most.
    ends_at_ms: i64,
}

impl From<&SessionRow> for SignedIn {
    fn from(row: &SessionRow) -> SignedIn {
        SignedIn {
            name: row.name.clone(),
            subject: row.subject.clone(),
            issuer: row.issuer.clone(),
            groups: row.groups.clone(),
            since_ms: row.since_ms,
            used_at_ms: row.used_at_ms,
            ends_at_ms: row.ends_at_ms,
        }
    }
}

/// Who is signed in, the newest first.
#[utoipa::path(get, path = "/sessions", tag = "session", params(Paged), responses((status = 200, description = "The sessions", body = Page<SignedIn>)))]
pub(super) async fn sessions(
    asker: Asker,
    Asked(paged): Asked<Paged>,
) -> Result<Json<Page<SignedIn>>, Problem> {
    let all = asker.store().sessions().await?;
    let now_ms = asker.store().now_ms();
    let idle_ms = asker
        .door
        .people
        .as_ref()
        .map_or(0, |people| people.idle_ms);
    let valid = all.iter().filter(|row| row.is_valid(now_ms, idle_ms));
    Ok(Json(Page::of_all(
        &paged,
        valid.map(SignedIn::from).collect(),
    )?))
}

/// Whose sessions end.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignOut {
    /// The name.
    name: String,
}

/// Ends all sessions of somebody: no engine of the store takes them from now on. Who may sign in again does the provider say.
#[utoipa::path(post, path = "/sessions:end", tag = "session", request_body = SignOut,
    responses((status = 200, description = "They have ended", body = bool, content_type = "application/json")))]
pub(super) async fn end_all(
    asker: Asker,
    Given(wish): Given<SignOut>,
) -> Result<Json<bool>, Problem> {
    let all = asker.store().sessions().await?;
    if !all.iter().any(|row| row.name == wish.name) {
        return Err(Problem::not_there());
    }
    change(&asker, SessionChange::EndAll(wish.name)).await?;
    Ok(Json(true))
}

async fn change(asker: &Asker, change: SessionChange) -> Result<(), Problem> {
    let commit = Commit {
        sessions: vec![change],
        by: Some(Box::new(asker.actor.acting.clone())),
        ..Commit::default()
    };
    asker.store().commit(commit).await?;
    Ok(())
}
