//! Who asks. Over the socket the machine's user, over the network the holder of a token. Everything else that makes somebody known belongs here.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};

use super::Door;
use super::problem::Problem;
use super::rights::{Actor, Role};
use super::throttle::Throttle;
use crate::store::audit::{Acting, ActorKind, Via};
use crate::store::commit::Commit;
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
}

/// Who asks, if that is known. A token is looked up in the store each time: one that is revoked is refused from then on, by every engine.
pub(super) async fn authenticate(
    door: &Door,
    peer: Peer,
    headers: &HeaderMap,
    request: &Arc<str>,
) -> Result<Actor, Problem> {
    let address = match peer {
        Peer::Socket(user) => return Ok(of_socket(user, headers, request)),
        Peer::Net(address) => address.ip().to_string(),
    };
    let token = bearer(headers)?;
    let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    let now_ms = door.clock().steady_ms();
    let known = &door.known;
    if !known.valid.contains_key(&hash) && known.wrong.is_empty(&address, now_ms) {
        let problem = "too many wrong tokens have come from this address";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", problem).after(5));
    }
    let well_formed = token.len() == TOKEN_LENGTH && token.starts_with(PREFIX);
    let row = match well_formed {
        true => door.desk.store().token(hash).await?,
        false => None,
    };
    let row = row.filter(|row| row.is_valid(door.desk.store().now_ms()));
    let Some(row) = row else {
        known.valid.invalidate(&hash);
        known.wrong.take(&address, now_ms).ok();
        return Err(unknown("the token is not valid, or not valid any more"));
    };
    known.valid.insert(hash, ());
    note_use(door, &row);
    Ok(of_token(&row, peer, request))
}

/// The token of a request: in the header, never in the path.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(unknown("the request has no `Authorization: Bearer TOKEN`"));
    };
    let text = value.to_str().unwrap_or_default();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unknown("the request has no `Authorization: Bearer TOKEN`"));
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
    }
}

fn of_token(row: &TokenRow, peer: Peer, request: &Arc<str>) -> Actor {
    let roles = row.roles.iter();
    Actor {
        acting: Acting {
            actor: Arc::from(row.name.as_str()),
            kind: ActorKind::Token,
            via: peer.via(),
            source: peer.source(),
            request: Some(request.clone()),
        },
        roles: roles.filter_map(|role| Role::from_name(role)).collect(),
        flows: row.flows.clone().into(),
        until_ms: Some(row.expires_at_ms),
    }
}

/// Notes that a token was used, beside the answer.
fn note_use(door: &Door, row: &TokenRow) {
    let store = door.desk.store().clone();
    let noted_ms = row.used_at_ms.unwrap_or(0);
    if store.now_ms() - noted_ms < USE_NOTED_EVERY_MS || door.stop.is_cancelled() {
        return;
    }
    let id = row.id;
    door.open.spawn(async move {
        let commit = Commit {
            tokens: vec![TokenChange::Used { id }],
            ..Commit::default()
        };
        if let Err(failure) = store.commit(commit).await {
            tracing::debug!(%failure, "the use of a token was not noted");
        }
    });
}

fn unknown(detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
        .help("send a token that `crossdock token create` has shown: `Authorization: Bearer crossdock_..`")
}
