//! Who asks. Over the socket the machine's user; over the network the holder of a token, a person whose browser has a session, or the holder of
//! a token of the provider. Everything else that makes somebody known belongs here.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest, Sha256};

use super::Door;
use super::people::{Cookie, People};
use super::problem::Problem;
use super::rights::{Actor, Role};
use super::throttle::Throttle;
use crate::net::jwt::{Refusal, Verifier};
use crate::store::audit::{Acting, ActorKind, Via};
use crate::store::commit::Commit;
use crate::store::sessions::{SessionChange, SessionRow};
use crate::store::tokens::{TokenChange, TokenRow};

/// Over the socket: in whose name the command line acts.
pub(super) const AS: &str = "crossdock-as";
/// With what each token begins, so that one that lies around is known for what it is.
pub(super) const PREFIX: &str = "crossdock_";
/// How many letters a token has.
const TOKEN_LENGTH: usize = PREFIX.len() + 43;
/// How often the last use of a token is noted at most, in milliseconds.
const USE_NOTED_EVERY_MS: i64 = 60_000;
/// How many wrong tokens an address may send at once, and then a second.
const WRONG: (f64, f64) = (10.0, 0.2);
/// For how many valid tokens it is remembered that they were, so that wrong ones from the same address do not shut them out.
const VALID_MAX: usize = 1_000;

/// From where a request comes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    /// The engine's socket: a user of this machine, by number.
    Socket(u32),
    /// The network.
    Net(SocketAddr),
}

impl Peer {
    /// The address, for the audit log.
    pub(super) fn source(self) -> Option<Arc<str>> {
        match self {
            Peer::Socket(_) => None,
            Peer::Net(address) => Some(Arc::from(address.ip().to_string())),
        }
    }

    /// The door, for the audit log.
    pub(super) fn via(self) -> Via {
        match self {
            Peer::Socket(_) => Via::Cli,
            Peer::Net(_) => Via::Api,
        }
    }
}

/// What is remembered of those who came.
pub(super) struct Known {
    wrong: Throttle,
    valid: moka::sync::Cache<[u8; 32], ()>,
}

impl Known {
    pub(super) fn new() -> Known {
        Known {
            wrong: Throttle::new(WRONG.0, WRONG.1),
            valid: moka::sync::Cache::new(VALID_MAX as u64),
        }
    }

    /// What has this hash counts.
    pub(super) fn count(&self, hash: [u8; 32]) {
        self.valid.insert(hash, ());
    }
}

/// Who asks, if that is known. A token is looked up in the store each time: one that is revoked is refused from then on, by every engine.
pub(super) async fn authenticate(
    door: &Door,
    peer: Peer,
    (method, headers): (&Method, &HeaderMap),
    request: &Arc<str>,
) -> Result<Actor, Problem> {
    let address = match peer {
        Peer::Socket(user) => return Ok(of_socket(user, headers, request)),
        Peer::Net(address) => address.ip().to_string(),
    };
    let shown = door
        .people
        .as_ref()
        .filter(|_| !headers.contains_key(header::AUTHORIZATION));
    let shown = shown.and_then(|people| Some((people, people.shown(headers, Cookie::Session)?)));
    let token = match shown {
        Some((_, cookie)) => cookie,
        None => bearer(door, headers)?,
    };
    let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    let now_ms = door.clock().steady_ms();
    let known = &door.known;
    if !known.valid.contains_key(&hash) && known.wrong.is_empty(&address, now_ms) {
        let problem = "too many wrong tokens have come from this address";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", problem).after(5));
    }
    let from = (peer, request);
    if let Some((people, _)) = shown {
        people.is_own(method, headers)?;
        return by_session(door, people, hash, &address, from).await;
    }
    if let Some(people) = &door.people
        && let Some(bearers) = &people.bearers
        && !token.starts_with(PREFIX)
        && bearers.concerns(token)
    {
        let verified = of_provider(door, (people, bearers), token, from).await;
        return match verified {
            Ok(actor) => {
                known.count(hash);
                actor
            }
            Err(problem) => Err(problem.unwrap_or_else(|| {
                door.wrong(&hash, &address, "the token does not count, or not any more")
            })),
        };
    }
    let well_formed = token.len() == TOKEN_LENGTH && token.starts_with(PREFIX);
    let row = match well_formed {
        true => door.desk.store().token(hash).await?,
        false => None,
    };
    let row = row.filter(|row| row.is_valid(door.desk.store().now_ms()));
    let Some(row) = row else {
        return Err(door.wrong(
            &hash,
            &address,
            "the token is not valid, or not valid any more",
        ));
    };
    known.count(hash);
    note_use(door, &row);
    Ok(of_token(&row, peer, request))
}

/// The person whose browser shows this session. It is looked up in the store each time, as tokens are.
async fn by_session(
    door: &Door,
    people: &People,
    hash: [u8; 32],
    address: &str,
    from: (Peer, &Arc<str>),
) -> Result<Actor, Problem> {
    let row = door.desk.store().session(hash).await?;
    let now_ms = door.desk.store().now_ms();
    let over = "the session is over";
    let Some(row) = row else {
        return Err(door.wrong(&hash, address, over));
    };
    if !row.is_valid(now_ms, people.idle_ms) || row.issuer != people.provider.issuer() {
        // It did count once, so it is no guess: a browser that was left open shuts nobody out.
        door.known.valid.invalidate(&hash);
        return Err(unknown(door, over));
    }
    door.known.count(hash);
    note_session(door, &row, hash);
    of_session(people, &row, hash, from)
}

impl Door {
    /// Something that was shown does not count.
    fn wrong(&self, hash: &[u8; 32], address: &str, detail: &'static str) -> Problem {
        self.known.valid.invalidate(hash);
        self.known
            .wrong
            .take(address, self.clock().steady_ms())
            .ok();
        unknown(self, detail)
    }
}

/// The token of a request: in the header, never in the path.
fn bearer<'h>(door: &Door, headers: &'h HeaderMap) -> Result<&'h str, Problem> {
    let none = || unknown(door, "the request has no `Authorization: Bearer TOKEN`");
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(none());
    };
    let text = value.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(none());
    }
    Ok(token.trim())
}

/// Whoever can reach the socket is the user of the engine, or root: they may do everything.
fn of_socket(user: u32, headers: &HeaderMap, request: &Arc<str>) -> Actor {
    let said = headers.get(AS).map(|name| name.as_bytes());
    let said = said.and_then(|name| std::str::from_utf8(name).ok());
    let name = said.map_or_else(|| format!("uid {user}"), str::to_owned);
    Actor {
        acting: Acting {
            request: Some(request.clone()),
            ..Acting::user(&name)
        },
        roles: vec![Role::Admin],
        flows: Arc::from(["*".to_owned()]),
        until_ms: None,
        session: None,
    }
}

/// A person whose browser has a session. What they may do follows from the settings of now.
fn of_session(
    people: &People,
    row: &SessionRow,
    hash: [u8; 32],
    from: (Peer, &Arc<str>),
) -> Result<Actor, Problem> {
    let person = (&*row.name, &*row.subject, &*row.groups);
    let actor = of_person(people, person, from);
    let actor = actor.ok_or_else(|| people.nothing_for(&row.name))?;
    Ok(Actor {
        until_ms: Some(row.ends_at_ms),
        session: Some(hash),
        ..actor
    })
}

/// The holder of a token that the provider has made for this API. The outer error is that it does not count, or why nobody knows; the inner
/// one that its holder may do nothing.
async fn of_provider(
    door: &Door,
    (people, bearers): (&People, &Verifier),
    token: &str,
    from: (Peer, &Arc<str>),
) -> Result<Result<Actor, Problem>, Option<Problem>> {
    let claims = bearers
        .verify(token, door.desk.world().clock.now_ms())
        .await;
    let claims = claims.map_err(|refusal| match refusal {
        Refusal::Bad(why) => {
            tracing::debug!(why, "a token of the provider was refused");
            None
        }
        Refusal::Unavailable(why) => {
            tracing::debug!(why, "a token of the provider cannot be verified");
            let detail =
                "the provider cannot be reached now, so nobody knows whether its token counts";
            Some(
                Problem::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "provider_unavailable",
                    detail,
                )
                .help("tokens that `crossdock token create` has shown go on to count")
                .after(10),
            )
        }
    })?;
    let person = people.person(&claims).map_err(|why| {
        tracing::debug!(why, "a token of the provider was refused");
        None
    })?;
    let known = (&*person.name, &*person.subject, &*person.groups);
    let actor = of_person(people, known, from);
    Ok(actor
        .map(|actor| Actor {
            until_ms: Some(claims.expires_at_ms),
            ..actor
        })
        .ok_or_else(|| people.nothing_for(&person.name)))
}

/// Somebody whom the provider knows; `None` if none of their groups may do anything.
fn of_person(
    people: &People,
    (name, subject, groups): (&str, &str, &[String]),
    (peer, request): (Peer, &Arc<str>),
) -> Option<Actor> {
    let roles = people.roles(groups);
    (!roles.is_empty()).then(|| Actor {
        acting: Acting {
            actor: Arc::from(name),
            kind: ActorKind::Identity,
            behind: Some(people.behind(subject)),
            via: peer.via(),
            source: peer.source(),
            request: Some(request.clone()),
        },
        roles,
        flows: Arc::from(["*".to_owned()]),
        until_ms: None,
        session: None,
    })
}

fn of_token(row: &TokenRow, peer: Peer, request: &Arc<str>) -> Actor {
    let roles = row.roles.iter();
    Actor {
        acting: Acting {
            actor: Arc::from(row.name.as_str()),
            kind: ActorKind::Token,
            behind: Some(Arc::from(row.created_by.as_str())),
            via: peer.via(),
            source: peer.source(),
            request: Some(request.clone()),
        },
        roles: roles.filter_map(|role| Role::from_name(role)).collect(),
        flows: row.flows.clone().into(),
        until_ms: Some(row.expires_at_ms),
        session: None,
    }
}

/// Notes that a session was used, beside the answer: it ends when it was not for a while.
fn note_session(door: &Door, row: &SessionRow, hash: [u8; 32]) {
    let commit = Commit {
        sessions: vec![SessionChange::Used(hash)],
        ..Commit::default()
    };
    note(door, row.used_at_ms, commit);
}

/// Notes that a token was used, beside the answer.
fn note_use(door: &Door, row: &TokenRow) {
    let commit = Commit {
        tokens: vec![TokenChange::Used { id: row.id }],
        ..Commit::default()
    };
    note(door, row.used_at_ms.unwrap_or(0), commit);
}

fn note(door: &Door, noted_ms: i64, commit: Commit) {
    let store = door.desk.store().clone();
    if store.now_ms() - noted_ms < USE_NOTED_EVERY_MS || door.stop.is_cancelled() {
        return;
    }
    door.open.spawn(async move {
        if let Err(failure) = store.commit(commit).await {
            tracing::debug!(%failure, "the use of a token or of a session was not noted");
        }
    });
}

fn unknown(door: &Door, detail: &'static str) -> Problem {
    let help = match &door.people {
        None => {
            "send a token that `crossdock token create` has shown: `Authorization: Bearer crossdock_..`"
        }
        Some(_) => {
            "sign in with a browser at `/api/v1/session/begin`, or send a token: `Authorization: Bearer crossdock_..`"
        }
    };
    Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail).help(help)
}
