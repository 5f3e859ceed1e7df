//! Keeps one connection to a broker up: connects, watches, and connects again, with growing pauses that differ by chance, to one address after
//! the other. Who uses it asks for the connection of the moment.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Broker;
use super::link::Link;
use crate::failure::{Class, Failure};
use crate::world::World;
use crate::world::metrics::AmqpMeter;

/// The first and the longest pause between two attempts, in milliseconds.
const PAUSE_MS: (u64, u64) = (100, 2_000);
/// The pause after all addresses have refused the credentials, in milliseconds: a broker may lock who tries too often.
const REFUSED_PAUSE_MS: u64 = 5_000;
/// A connection that was up for longer counts as a good one: the pauses begin at the shortest again.
const GOOD_AFTER_MS: i64 = 5_000;

/// How a line is.
#[derive(Clone)]
pub enum Standing {
    /// There is a connection.
    Up(Link),
    /// There is none. Why, once one attempt has failed.
    Down(Option<Failure>),
}

/// A connection that is kept up. A clone is the same line; when the last one goes, the connection ends.
#[derive(Clone)]
pub struct Line(Arc<Inner>);

struct Inner {
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
    meter: AmqpMeter,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Line {
    /// Begins to connect. `purpose` says what it is for, in our lines and in the broker's lists.
    pub fn open(broker: Arc<Broker>, purpose: &str, world: World) -> Line {
        let (sender, standing) = watch::channel(Standing::Down(None));
        let stop = CancellationToken::new();
        let meter = world.metrics.amqp(purpose);
        let keeper = Keeper {
            meter: meter.clone(),
            broker,
            purpose: purpose.to_owned(),
            world,
            standing: sender,
            stop: stop.clone(),
        };
        let keeper = tokio::spawn(keeper.keep());
        Line(Arc::new(Inner {
            standing,
            stop,
            meter,
            keeper: Mutex::new(Some(keeper)),
        }))
    }

    /// The connection, as soon as there is one. Waits for ever where there is none: to be used beside something that stops it.
    pub async fn link(&self) -> Link {
        let mut standing = self.0.standing.clone();
        loop {
            if let Standing::Up(link) = &*standing.borrow_and_update()
                && !link.is_lost()
            {
                return link.clone();
            }
            if standing.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The connection, if there is one within this time; else why there is none.
    pub async fn link_within(&self, limit: Duration) -> Result<Link, Failure> {
        match tokio::time::timeout(limit, self.link()).await {
            Ok(link) => Ok(link),
            Err(_) => Err(self.why_down()),
        }
    }

    /// How it is now, and when that changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.clone()
    }

    /// Whether there is a connection.
    pub fn is_up(&self) -> bool {
        matches!(&*self.0.standing.borrow(), Standing::Up(link) if !link.is_lost())
    }

    /// Where what goes over it is counted.
    pub(super) fn meter(&self) -> &AmqpMeter {
        &self.0.meter
    }

    /// Why there is no connection.
    pub fn why_down(&self) -> Failure {
        match &*self.0.standing.borrow() {
            Standing::Up(link) => link.why_lost(),
            Standing::Down(Some(why)) => why.clone(),
            Standing::Down(None) => Failure::new(
                Class::Unavailable,
                "there is no connection to the broker yet",
            ),
        }
    }

    /// Says goodbye to the broker and ends.
    pub async fn close(&self) {
        self.0.stop.cancel();
        let keeper = self
            .0
            .keeper
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(keeper) = keeper {
            keeper.await.ok();
        }
    }
}

/// What keeps a line up.
struct Keeper {
    broker: Arc<Broker>,
    purpose: String,
    world: World,
    meter: AmqpMeter,
    standing: watch::Sender<Standing>,
    stop: CancellationToken,
}

/// Counts as a connection as long as it lives.
struct Connected<'a>(&'a AmqpMeter);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connected.dec();
    }
}

impl Keeper {
    async fn keep(self) {
        let clock = self.world.clock.clone();
        let mut nth = usize::try_from(self.world.random.below(1024)).unwrap_or(0);
        let (mut pause_ms, mut down_since_ms, mut told) = (PAUSE_MS.0, clock.steady_ms(), false);
        let (mut refusals, mut connections) = (0, 0);
        loop {
            let opened = tokio::select! {
                () = self.stop.cancelled() => return,
                opened = Link::open(&self.broker, nth, &self.purpose) => opened,
            };
            let failure = match opened {
                Ok(link) => {
                    if told {
                        let seconds = (clock.steady_ms() - down_since_ms) / 1_000;
                        tracing::info!(
                            "the broker {} is back after {seconds} s ({})",
                            link.shown(),
                            self.purpose
                        );
                    }
                    let up_ms = clock.steady_ms();
                    if connections > 0 {
                        self.meter.reconnects.inc();
                    }
                    connections += 1;
                    self.meter.connected.inc();
                    let _connected = Connected(&self.meter);
                    self.standing.send_replace(Standing::Up(link.clone()));
                    tokio::select! {
                        () = self.stop.cancelled() => return link.close().await,
                        () = link.lost() => {}
                    }
                    (told, down_since_ms) = (false, clock.steady_ms());
                    if down_since_ms - up_ms > GOOD_AFTER_MS {
                        pause_ms = PAUSE_MS.0;
                    }
                    link.why_lost()
                }
                Err(failure) => failure,
            };
            if !told {
                tracing::warn!(
                    "no connection to the broker ({}), trying again: {failure}",
                    self.purpose
                );
                told = true;
            }
            refusals = match failure.class {
                Class::Auth => refusals + 1,
                _ => 0,
            };
            self.standing.send_replace(Standing::Down(Some(failure)));
            nth += 1;
            let most_ms = match refusals >= self.broker.addresses() {
                true => REFUSED_PAUSE_MS,
                false => pause_ms,
            };
            let wait_ms = most_ms / 2 + self.world.random.below(most_ms / 2 + 1);
            pause_ms = (pause_ms * 2).min(PAUSE_MS.1);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            }
        }
    }
}
