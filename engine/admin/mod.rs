//! The doors into a running engine: one API, over a socket of this machine for the command line, and over the network for those who have a
//! token. Only this module knows the API's status codes; what is asked for is done at the desk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::component::words::Rate;
use crate::failure::{Class, Failure};
use crate::net::certified::Certified;
use crate::net::local::LocalListener;
use crate::run::desk::Desk;
use crate::store::audit::{Acting, ActorKind, Entry};
use crate::world::clock::Clock;

mod acts;
pub mod api;
pub mod approvals;
mod asker;
mod authenticate;
mod changes;
pub mod client;
mod guard;
mod listen;
pub mod people;
mod problem;
mod read;
pub mod rights;
pub mod routes;
mod session;
mod shadows;
pub mod shown;
mod stops;
mod taps;
mod throttle;
pub mod tokens;
mod views;

use authenticate::{Known, Peer};
use changes::Changes;
use people::People;
use throttle::Throttle;

/// How many requests may be under way at once; more are answered 503.
const REQUESTS_MAX: usize = 64;
/// How many of those who sign in may be under way at once. They are counted by themselves: nobody knows them, and they wait for the provider.
const SIGN_INS_MAX: usize = 16;
/// How many refusals are written into the audit log at once, and then a second; what is beyond is counted.
const DENIALS: (f64, f64) = (20.0, 0.5);
/// The same for those of strangers: 1,440 a day, because whoever reaches the door can have them written.
const STRANGERS: (f64, f64) = (20.0, 1.0 / 60.0);
/// How often a token may ask at once, as a multiple of what it may a second.
const BURST: f64 = 2.0;
/// How often the end of the audit log is written to the engine's log.
const HEAD_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Where the API listens on the network.
pub struct Network {
    /// Host and port.
    pub address: String,
    /// The files of the certificate and of its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether another address than loopback may be without TLS, because something before it has it.
    pub plain_http: bool,
    /// How often a token or a person may ask.
    pub rate: Rate,
    /// How people sign in, if they can.
    pub people: Option<People>,
}

/// The doors of a running engine. They are open until `close`.
pub struct Admin {
    door: Arc<Door>,
    address: Option<SocketAddr>,
}

/// What both doors share.
struct Door {
    desk: Desk,
    known: Known,
    rate: Throttle,
    places: Arc<Semaphore>,
    /// The places of those who sign in.
    sign_ins: Arc<Semaphore>,
    denials: Throttle,
    /// The same for strangers, apart: they cannot use up what is there for those who are known.
    strangers: Throttle,
    /// How many refusals were not written down since one last was.
    unwritten: AtomicU64,
    changes: Changes,
    people: Option<People>,
    stop: CancellationToken,
    open: TaskTracker,
}

impl Admin {
    /// Opens the doors of the engine that has the store in this file.
    ///
    /// Fails with class `config` if the network's address is taken, is not this machine's alone and has no TLS, or the certificate is none.
    pub async fn open(
        store: &Path,
        desk: Desk,
        mut network: Option<Network>,
    ) -> Result<Admin, Failure> {
        let per_second = network.as_ref().map_or(1.0, |network| {
            f64::from(network.rate.count) * 1000.0 / network.rate.per_ms as f64
        });
        let door = Arc::new(Door {
            desk,
            known: Known::new(),
            rate: Throttle::new((per_second * BURST).max(1.0), per_second),
            places: Arc::new(Semaphore::new(REQUESTS_MAX)),
            sign_ins: Arc::new(Semaphore::new(SIGN_INS_MAX)),
            denials: Throttle::new(DENIALS.0, DENIALS.1),
            strangers: Throttle::new(STRANGERS.0, STRANGERS.1),
            unwritten: AtomicU64::new(0),
            changes: Changes::new(),
            people: network.as_mut().and_then(|network| network.people.take()),
            stop: CancellationToken::new(),
            open: TaskTracker::new(),
        });
        let socket = LocalListener::bind(store)?;
        let router = routes::router(&door);
        let mut address = None;
        if let Some(network) = network {
            let certified = network
                .tls
                .as_ref()
                .map(|(certificate, key)| Certified::load(certificate, key))
                .transpose()?;
            let listener = listen::bind(&network).await?;
            address = listener.local_addr().ok();
            let tls = certified.as_ref().map(Certified::server);
            if let Some(certified) = certified {
                door.open.spawn(certified.keep(door.stop.clone()));
            }
            let serving = listen::over_net(door.clone(), listener, tls, router.clone());
            door.open.spawn(serving);
        }
        door.open
            .spawn(listen::over_socket(door.clone(), socket, router));
        door.open.spawn(heads(door.clone()));
        Ok(Admin { door, address })
    }

    /// Where it listens on the network, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Takes no more, and lets what is under way be answered.
    pub async fn close(self) {
        self.door.stop.cancel();
        self.door.open.close();
        self.door.open.wait().await;
    }
}

impl Door {
    fn clock(&self) -> &dyn Clock {
        &*self.desk.world().clock
    }

    /// Somebody who is known may not do this.
    fn denied(&self, acting: &Acting, what: &str, why: String) {
        self.write_down(acting.clone(), what, why);
    }

    /// Somebody who is not known was turned away.
    fn refused(&self, peer: Peer, request: &Arc<str>, what: &str, code: &str) {
        let acting = Acting {
            actor: Arc::from("unknown"),
            kind: ActorKind::Unknown,
            behind: None,
            via: peer.via(),
            source: peer.source(),
            request: Some(request.clone()),
        };
        self.write_down(acting, what, code.to_owned());
    }

    fn write_down(&self, acting: Acting, what: &str, why: String) {
        let strange = acting.kind == ActorKind::Unknown;
        let denials = if strange {
            &self.strangers
        } else {
            &self.denials
        };
        let taken = denials.take("", self.clock().steady_ms());
        if taken.is_err() || self.stop.is_cancelled() {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let more = match self.unwritten.swap(0, Ordering::Relaxed) {
            0 => String::new(),
            more => format!("; {more} refusals before were not written down"),
        };
        let entry = Entry {
            acting,
            action: "api.request".into(),
            target_kind: "path",
            target: what.to_owned(),
            reason: None,
            outcome: "denied",
            detail: Some(format!("{why}{more}")),
        };
        let desk = self.desk.clone();
        self.open.spawn(async move {
            if let Err(failure) = desk.tell(entry).await {
                tracing::warn!(%failure, "a refusal was not written into the audit log");
            }
        });
    }

    /// Whether what made somebody known still does.
    async fn still_known(&self, actor: &rights::Actor) -> bool {
        let now_ms = self.desk.store().now_ms();
        if let (Some(hash), Some(people)) = (actor.session, &self.people) {
            return match self.desk.store().session(hash).await {
                Ok(row) => row.is_some_and(|row| row.is_valid(now_ms, people.idle_ms)),
                Err(_) => true,
            };
        }
        if actor.acting.kind != ActorKind::Token {
            return true;
        }
        match self.desk.store().tokens().await {
            Ok(tokens) => tokens.iter().any(|token| {
                // Another one may have its name by now.
                let same = Some(token.expires_at_ms) == actor.until_ms;
                same && token.name == *actor.acting.actor && token.is_valid(now_ms)
            }),
            // Who cannot be asked about is heard a little longer.
            Err(_) => true,
        }
    }
}

/// Writes the end of the audit log to the engine's log once a day, so that it is known outside of the store.
async fn heads(door: Arc<Door>) {
    loop {
        match door.desk.store().audit_head().await {
            Ok(Some(head)) => tracing::info!("audit log: head {head}"),
            Ok(None) => {}
            Err(failure) => tracing::debug!(%failure, "the audit log could not be read"),
        }
        tokio::select! {
            () = tokio::time::sleep(HEAD_EVERY) => {}
            () = door.stop.cancelled() => return,
        }
    }
}

/// An address that others can reach needs TLS.
fn open_to_others(address: SocketAddr) -> Failure {
    Failure::new(
        Class::Config,
        format!(
            "the admin API would listen at {address}, which others can reach, without TLS: give `admin.tls` a certificate, listen at 127.0.0.1, or say `admin.plain_http: true` if a proxy before it has TLS"
        ),
    )
}
