//! The hand-off over RabbitMQ: several engines share the work. It holds no truth, and the broker neither: a hop is announced after its commit,
//! a delivery is acknowledged after the commit of the hop's end, and whatever a broker loses is announced again.
//!
//! What was delivered waits in the queues of the embedded hand-off, from which stages take; how much may wait there is what the broker may
//! deliver without an acknowledgement. Every hop that is here has its delivery noted in `holding`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::embedded::{Embedded, Load};
use super::{Hop, Station};
use crate::failure::{Class, Failure};
use crate::net::amqp::consumer::Receipts;
use crate::net::amqp::line::Line;
use crate::net::amqp::link::Link;
use crate::net::amqp::publisher::{Manner, Publisher};
use crate::net::amqp::receipts::Receipt;
use crate::net::amqp::{Broker, Identity};
use crate::store::Store;
use crate::store::commit::{Commit, HopId};
use crate::store::facts::Fact;
use crate::world::World;

mod announcing;
mod counts;
mod letter;
mod taking;
pub mod topology;
mod vigil;

use announcing::Marks;
use counts::Counts;
use letter::{Notice, Read};
use topology::{Queues, Stage, Topology};

/// How large a message may be to travel whole, where nobody says so: 64 KiB.
pub const BODY_MAX: usize = 64 << 10;
/// How many hops may wait to be announced; those beyond are found by the sweep.
const ANNOUNCING_MAX: usize = 4096;
/// How many bytes their messages may have together, in about.
const ANNOUNCING_BYTES_MAX: usize = 64 << 20;
/// How long a start waits for a broker that cannot be reached, before it goes on without.
pub const START_PATIENCE: Duration = Duration::from_secs(3);
/// The shortest and the longest time for which a hop that somebody else works on is put off.
const PUT_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// How long a stop may take to tell the broker what is over.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// The fact by which the hops of one store are told from those of another.
const STORE_FACT: &str = "store/number";

/// Where the broker is, and what travels over it.
pub struct Options {
    /// The broker.
    pub place: Place,
    /// Which queues there are.
    pub topology: Topology,
    /// How large a message with its headers may be to travel whole, in bytes.
    pub body_max: usize,
    /// How long a start waits for the broker, before it goes on without.
    pub patience: Duration,
}

/// Where a broker is.
#[derive(Clone)]
pub struct Place(Arc<Broker>);

/// The broker at these URLs, trusted by the certificates in `ca` or by the machine's; `identity` is the client's own certificate chain with
/// its key. All are PEM. Connects to nothing; the error says what is wrong.
pub fn place(
    urls: &[String],
    ca: Option<&str>,
    identity: Option<(&str, &str)>,
) -> Result<Place, String> {
    let identity = identity.map(|(certificate, key)| Identity { certificate, key });
    Broker::new(urls, ca, identity).map(|broker| Place(Arc::new(broker)))
}

impl Place {
    /// The broker's addresses, without credentials.
    pub fn shown(&self) -> String {
        self.0.shown()
    }

    /// The broker, for one who looks whether it can be used.
    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.0
    }

    /// Connects, and gives what there is, without any engine; with `delete` what is left over is deleted, and the outcome told beside it.
    pub async fn look(
        &self,
        topology: &Topology,
        store: &crate::store::reader::Reader,
        delete: bool,
    ) -> Result<Vec<(topology::Found, Option<Result<(), String>>)>, Failure> {
        let link = Link::open(&self.0, 0, "topology").await?;
        let mut told = Vec::new();
        for found in topology.survey(&link, store).await? {
            let deleted = match delete && found.state == topology::State::LeftOver {
                true => Some(topology.delete(&link, &found.name).await?),
                false => None,
            };
            told.push((found, deleted));
        }
        link.close().await;
        Ok(told)
    }
}

/// The hand-off over RabbitMQ. A clone is the same one.
#[derive(Clone)]
pub struct Rabbit(Arc<Inner>);

struct Inner {
    store: Store,
    /// The store's number: what was announced by engines of another store means nothing here.
    number: i64,
    local: Embedded,
    world: World,
    body_max: usize,
    topology: RwLock<Arc<Topology>>,
    /// Who takes for a stage, by flow and step.
    taken: Mutex<BTreeMap<At, (CancellationToken, JoinHandle<()>)>>,
    publishing: Line,
    consuming: Line,
    publisher: Publisher,
    announcing: mpsc::Sender<Notice>,
    /// The bytes of what waits to be announced.
    announcing_bytes: AtomicUsize,
    holding: Mutex<FxHashMap<HopId, Holding>>,
    /// Hops that were announced by their number a moment ago: their whole announcement, which follows, is no news.
    numbered: Mutex<FxHashSet<HopId>>,
    marks: Marks,
    counts: Counts,
    /// The names of the queues, once they are there; `None` while that is not known.
    raised: watch::Sender<Option<Arc<Queues>>>,
    /// A queue is not there, or does not answer.
    doubt: Notify,
    /// Queues that are there in name only: nothing can be taken from them.
    broken: Mutex<BTreeSet<Arc<str>>>,
    /// Queues from which this engine takes.
    takes: Mutex<BTreeSet<Arc<str>>>,
    /// Steps at which messages stand and that have no queue here.
    strays: Mutex<BTreeSet<At>>,
    /// Something must be announced again soon.
    sweep: Notify,
    /// Taking is over.
    stop: CancellationToken,
    /// Telling is over too.
    end: CancellationToken,
    takers: TaskTracker,
    keepers: TaskTracker,
    /// Whether people were told of messages of another store.
    strangers: AtomicBool,
    /// Whether the broker takes no messages because of its alarm for memory or disk.
    alarmed: AtomicBool,
    /// Whether announcements get no answer, for another reason.
    silent: AtomicBool,
    /// Queues that turn down what is announced.
    refusing: Mutex<BTreeSet<Arc<str>>>,
}

/// A flow and a step.
type At = (Arc<str>, Arc<str>);

/// The delivery of a hop that is here.
struct Holding {
    /// Flow and step.
    at: At,
    fence: i64,
    tag: u64,
    receipts: Receipts,
    /// The same hop, released again before we have heard of the end of our turn.
    next: Option<Box<Arrival>>,
}

/// A delivery that was read.
struct Arrival {
    /// Flow and step.
    at: At,
    read: Read,
    tag: u64,
    receipts: Receipts,
}

impl Rabbit {
    /// Connects, makes the queues, and begins to take and to announce. A broker that cannot be reached is waited for as long as the patience
    /// lasts, and then in the background: the store has the messages. Fails at once where waiting cannot help.
    pub async fn start(
        store: Store,
        local: Embedded,
        world: World,
        options: Options,
    ) -> Result<Rabbit, Failure> {
        let number = store_number(&store, &world).await?;
        let publishing = Line::open(options.place.0.clone(), "announces", world.clone());
        let consuming = Line::open(options.place.0.clone(), "takes", world.clone());
        let (announcing, notices) = mpsc::channel(ANNOUNCING_MAX);
        let rabbit = Rabbit(Arc::new(Inner {
            publisher: Publisher::start(publishing.clone(), Manner::default()),
            store,
            number,
            local,
            world,
            body_max: options.body_max,
            topology: RwLock::new(Arc::new(options.topology)),
            taken: Mutex::default(),
            publishing,
            consuming,
            announcing,
            announcing_bytes: AtomicUsize::new(0),
            holding: Mutex::default(),
            numbered: Mutex::default(),
            marks: Marks::default(),
            counts: Counts::default(),
            raised: watch::Sender::new(None),
            doubt: Notify::new(),
            broken: Mutex::default(),
            takes: Mutex::default(),
            strays: Mutex::default(),
            sweep: Notify::new(),
            stop: CancellationToken::new(),
            end: CancellationToken::new(),
            takers: TaskTracker::new(),
            keepers: TaskTracker::new(),
            strangers: AtomicBool::new(false),
            alarmed: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            refusing: Mutex::default(),
        }));
        let told = Arc::downgrade(&rabbit.0);
        rabbit.0.local.tell_gone(move |hop| {
            if let Some(inner) = told.upgrade() {
                inner.over(hop);
            }
        });
        let first = match rabbit.first(&options.place, options.patience).await {
            Ok(link) => link,
            Err(failure) => {
                rabbit.close().await;
                return Err(failure);
            }
        };
        rabbit.0.counts.refresh(&rabbit.0.store).await?;
        rabbit.begin(notices, first);
        Ok(rabbit)
    }

    /// Begins to take and to announce.
    fn begin(&self, notices: mpsc::Receiver<Notice>, first: Option<Link>) {
        let inner = &self.0;
        for stage in inner.topology().stages() {
            inner.take(stage);
        }
        inner.takers.spawn(taking::astray(inner.clone()));
        inner
            .keepers
            .spawn(announcing::announce(inner.clone(), notices));
        inner.keepers.spawn(announcing::mark(inner.clone()));
        inner.takers.spawn(announcing::sweep(inner.clone()));
        inner.takers.spawn(vigil::raise(inner.clone(), first));
        inner.takers.spawn(vigil::watch(inner.clone()));
        inner.takers.spawn(vigil::alarm(inner.clone()));
        inner.takers.spawn(counts::run(inner.clone()));
    }

    /// The flows and steps at which messages stand and that are no stations here.
    pub(super) fn strays(&self) -> BTreeSet<At> {
        let mut strays = self.0.strays.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *strays)
    }

    /// Messages may stand at these steps as well from now on.
    pub(super) fn stations(&self, more: Topology) {
        let inner = &self.0;
        let before = inner.topology();
        let now = Arc::new(before.with(more));
        let known = |stage: &Stage| before.stages().contains(stage);
        let news: Vec<Stage> = now
            .stages()
            .iter()
            .filter(|stage| !known(stage))
            .cloned()
            .collect();
        if news.is_empty() {
            return;
        }
        *inner
            .topology
            .write()
            .unwrap_or_else(PoisonError::into_inner) = now;
        for stage in &news {
            inner.take(stage);
        }
        inner.doubt.notify_one();
    }

    /// The first connection, over which the queues were made; `None` where there is none in time.
    async fn first(&self, place: &Place, patience: Duration) -> Result<Option<Link>, Failure> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let made = match self.0.publishing.link_within(Duration::from_secs(2)).await {
                Ok(link) => vigil::made(&self.0, &link).await.map(|()| link),
                Err(failure) => Err(failure),
            };
            let failure = match made {
                Ok(link) => return Ok(Some(link)),
                Err(failure) => failure,
            };
            if !matches!(failure.class, Class::Unavailable | Class::Timeout) {
                return Err(Failure {
                    message: format!("the hand-off over RabbitMQ: {}", failure.message),
                    ..failure
                });
            }
            if tokio::time::Instant::now() >= until {
                tracing::warn!(
                    "the broker {} cannot be reached; messages are accepted and wait in the store until it can: {failure}",
                    place.shown()
                );
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A hop is ready: its commit is durable. Where the broker cannot be told now, the sweep does it later.
    pub(super) fn announce(&self, hop: Hop) {
        if self.0.numbered().remove(&hop.hop) {
            return;
        }
        self.0.counts.came(&hop.flow);
        self.tell(Notice::Whole(Box::new(hop)));
    }

    /// A hop is ready, and only the store has its message.
    pub(super) fn announce_stored(&self, at: Station<'_>, hop: HopId) {
        let mut numbered = self.0.numbered();
        if numbered.len() >= ANNOUNCING_MAX {
            numbered.clear();
        }
        numbered.insert(hop);
        drop(numbered);
        self.0.counts.came(at.flow);
        self.tell(Notice::Number(Arc::from(at.flow), Arc::from(at.step), hop));
    }

    fn tell(&self, notice: Notice) {
        let (bytes, inner) = (notice.bytes(), &self.0);
        let waiting = inner.announcing_bytes.load(Ordering::Relaxed);
        if inner.raised.borrow().is_none() || waiting + bytes > ANNOUNCING_BYTES_MAX {
            return;
        }
        inner.announcing_bytes.fetch_add(bytes, Ordering::Relaxed);
        if inner.announcing.try_send(notice).is_err() {
            inner.announcing_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// A hop that was taken is over, or waits: its commit is durable, or the store no longer has it with this fence.
    pub(super) fn over(&self, hop: HopId) {
        self.0.over(hop);
    }

    /// A taken hop is the next one again after this time.
    pub(super) fn put_off(&self, hop: Hop, wait: Duration) {
        let inner = self.0.clone();
        let wait = wait.clamp(PUT_OFF.0, PUT_OFF.1);
        self.0.takers.spawn(async move {
            tokio::select! {
                () = inner.stop.cancelled() => {}
                () = tokio::time::sleep(wait) => inner.local.give_back(hop),
            }
        });
    }

    /// How much there is of a flow, and of all flows together, in the store.
    pub(super) fn load(&self, flow: &str) -> (Load, Load) {
        self.0
            .counts
            .load(flow, |flow, step| self.0.local.is_shut(flow, step))
    }

    /// How many hops there are.
    pub(super) fn in_flight(&self) -> usize {
        self.load("").1.all
    }

    /// How many hops are ready for a step.
    pub(super) fn ready(&self, flow: &str, step: &str) -> usize {
        self.0.counts.ready(flow, step)
    }

    /// How many hops the store has.
    pub(super) async fn standing(&self) -> Result<u64, Failure> {
        let counts = self.0.store.hop_counts().await?;
        Ok(counts
            .iter()
            .map(|count| count.ready + count.waiting + count.held)
            .sum())
    }

    /// Whether nothing in the store can go on by itself.
    pub(super) async fn at_rest(&self) -> Result<bool, Failure> {
        let counts = self.0.store.hop_counts().await?;
        Ok(counts.iter().all(|count| count.ready + count.waiting == 0))
    }

    /// Takes no more, tells the broker what is over, and says goodbye. What is not over goes back to its queue.
    pub(super) async fn close(&self) {
        let inner = &self.0;
        inner.stop.cancel();
        inner.takers.close();
        inner.keepers.close();
        let closing = async {
            inner.takers.wait().await;
            inner.end.cancel();
            inner.keepers.wait().await;
            inner.publisher.close().await;
            inner.consuming.close().await;
            inner.publishing.close().await;
        };
        tokio::time::timeout(STOP_WITHIN, closing).await.ok();
        inner.end.cancel();
    }
}

impl Inner {
    /// Which exchanges and queues there are to be.
    fn topology(&self) -> Arc<Topology> {
        let topology = self.topology.read();
        topology.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes for a stage from now on, once who did has given back what nobody has taken: what that one withdraws must not be ours.
    fn take(self: &Arc<Inner>, stage: &Stage) {
        let stop = self.stop.child_token();
        let at = (stage.flow.clone(), stage.step.clone());
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let last = taken.remove(&at);
        if let Some((stop, _)) = &last {
            stop.cancel();
        }
        let taking = taking::run(self.clone(), stage.clone(), stop.clone());
        let task = self.takers.spawn(async move {
            if let Some((_, last)) = last {
                last.await.ok();
            }
            taking.await;
        });
        taken.insert(at, (stop, task));
    }

    fn holding(&self) -> MutexGuard<'_, FxHashMap<HopId, Holding>> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn numbered(&self) -> MutexGuard<'_, FxHashSet<HopId>> {
        self.numbered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A hop was delivered. It is taken in, unless it is here already.
    fn arrived(&self, arrival: Arrival) {
        let mut holding = self.holding();
        if let Some(held) = holding.get_mut(&arrival.read.hop) {
            let fence = arrival.read.fence;
            if fence == held.fence && held.receipts.is_over() {
                // The connection over which it came is lost, and the broker has brought it again.
                (held.tag, held.receipts) = (arrival.tag, arrival.receipts);
            } else if fence > held.fence
                && held
                    .next
                    .as_ref()
                    .is_none_or(|next| next.read.fence < fence)
            {
                if let Some(before) = held.next.replace(Box::new(arrival)) {
                    before.settle();
                }
            } else {
                arrival.settle();
            }
            return;
        }
        let Arrival {
            at,
            read,
            tag,
            receipts,
        } = arrival;
        let (flow, step) = at.clone();
        let held = Holding {
            at,
            fence: read.fence,
            tag,
            receipts,
            next: None,
        };
        holding.insert(read.hop, held);
        drop(holding);
        match read.whole {
            Some(hop) => self.local.announce(hop),
            None => {
                let at = Station::of(&flow, &read.revision, &step);
                self.local.announce_stored(at, read.hop);
            }
        }
    }

    fn over(&self, hop: HopId) {
        self.marks.drop_out(hop);
        // In this order: what arrives in between is seen to be here already, and not told to a hand-off that still has it as taken.
        self.local.ended(hop);
        let Some(held) = self.holding().remove(&hop) else {
            return;
        };
        held.receipts.settle(held.tag, Receipt::Taken);
        if let Some(next) = held.next {
            self.arrived(*next);
        }
    }

    /// What was delivered for a stage and nobody has taken goes back to the broker with its channel.
    fn withdraw(&self, stage: &Stage) {
        for step in stage.steps() {
            let gone = self.local.withdraw(&stage.flow, step);
            let mut holding = self.holding();
            for hop in gone {
                holding.remove(&hop);
            }
        }
    }

    fn broken(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn takes(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.takes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusing(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many hops of a step are here.
    fn held_of(&self, flow: &str, step: &str) -> usize {
        let holding = self.holding();
        holding
            .values()
            .filter(|held| *held.at.0 == *flow && *held.at.1 == *step)
            .count()
    }

    /// The names of the queues, once they are there.
    async fn queues(&self) -> Arc<Queues> {
        let mut raised = self.raised.subscribe();
        loop {
            if let Some(queues) = &*raised.borrow_and_update() {
                return queues.clone();
            }
            if raised.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Says once a run that messages of another store came.
    fn stranger(&self, flow: &str) {
        if !self.strangers.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                flow,
                "the broker has messages of another store; they are dropped here. If two projects share the broker, give each a `handoff.rabbitmq.name` of its own"
            );
        }
    }
}

impl Arrival {
    fn settle(self) {
        self.receipts.settle(self.tag, Receipt::Taken);
    }
}

/// The number of the store: drawn by the first engine that asks.
async fn store_number(store: &Store, world: &World) -> Result<i64, Failure> {
    let drawn = i64::try_from(world.random.next() >> 1).unwrap_or(1).max(1);
    let fact = Fact {
        name: STORE_FACT.to_owned(),
        from: None,
        to: drawn,
    };
    store
        .commit(Commit {
            facts: vec![fact],
            ..Commit::default()
        })
        .await?;
    let found = store.facts(STORE_FACT).await?;
    let number = found.first().map(|(_, number)| *number);
    number.ok_or_else(|| Failure::internal("the store has no number"))
}
