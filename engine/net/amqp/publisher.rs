//! Publishing with confirms: one task has a channel for itself, so that no confirm is swapped, and has up to a window of letters on their way.
//! It repeats nothing: what is not confirmed goes back to who wanted it published.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::line::Line;
use super::link::Link;
use super::{answer, failure};
use crate::failure::{Class, Failure};

/// How many letters may be on their way. Measured: with more the broker gets no faster.
pub const WINDOW: usize = 256;
/// How long a round takes letters, where they may come back.
const ROUND_OPEN: Duration = Duration::from_millis(250);
/// The pause after a channel could not be opened.
const CHANNEL_PAUSE: Duration = Duration::from_millis(500);

/// What is published.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The exchange.
    pub exchange: ShortString,
    /// The routing key.
    pub routing_key: ShortString,
    /// Headers, delivery mode and the like.
    pub properties: BasicProperties,
    /// The bytes.
    pub body: Bytes,
}

/// What became of a letter.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The broker has it, durably where its queues are.
    Stored,
    /// The exchange has no queue for it; the broker has dropped it. Only where returns are asked for.
    Unroutable(Failure),
    /// The broker has turned it down: a queue is full, or could not write.
    Refused(Failure),
    /// It was not sent.
    NotSent(Failure),
    /// It was sent, and nobody knows.
    Unknown(Failure),
}

/// How a publisher publishes.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// How many letters may be on their way.
    pub window: usize,
    /// Whether a letter without a queue comes back (`mandatory`). Each letter then needs a message id of its own.
    pub returns: bool,
    /// How long a confirm may take.
    pub confirm_within: Duration,
}

impl Default for Manner {
    /// 256 letters, without returns, 30 s.
    fn default() -> Manner {
        Manner {
            window: WINDOW,
            returns: false,
            confirm_within: Duration::from_secs(30),
        }
    }
}

/// A publisher. A clone is the same one.
#[derive(Clone)]
pub struct Publisher(Arc<Inner>);

struct Inner {
    orders: mpsc::Sender<Order>,
    stop: CancellationToken,
    work: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Whom to tell.
enum Done {
    /// Who waits for it, and may have given up.
    Asker(oneshot::Sender<Outcome>),
    Call(Box<dyn FnOnce(Outcome) + Send>),
}

/// A letter, and whom to tell.
struct Order {
    letter: Letter,
    done: Done,
}

impl Order {
    fn tell(self, outcome: Outcome) {
        match self.done {
            Done::Asker(asker) => drop(asker.send(outcome)),
            Done::Call(call) => call(outcome),
        }
    }

    /// Whether nobody waits for it any more: it may be tried elsewhere by now.
    fn is_given_up(&self) -> bool {
        matches!(&self.done, Done::Asker(asker) if asker.is_closed())
    }
}

impl Publisher {
    /// Publishes over this line.
    pub fn start(line: Line, manner: Manner) -> Publisher {
        let (orders, queue) = mpsc::channel(manner.window.max(1));
        let stop = CancellationToken::new();
        let desk = Desk {
            line,
            manner,
            orders: queue,
            stop: stop.clone(),
        };
        Publisher(Arc::new(Inner {
            orders,
            stop,
            work: Mutex::new(Some(tokio::spawn(desk.work()))),
        }))
    }

    /// Publishes a letter. Waits while the window is full, and then for the confirm. A letter that was not sent when the caller gives up is not
    /// sent any more.
    pub async fn publish(&self, letter: Letter) -> Outcome {
        let (asker, outcome) = oneshot::channel();
        self.order(letter, Done::Asker(asker)).await;
        outcome
            .await
            .unwrap_or_else(|_| Outcome::NotSent(stopped()))
    }

    /// Gives a letter to be published; `done` is told what became of it, always. Waits while the window is full, not for the confirm.
    pub async fn send(&self, letter: Letter, done: impl FnOnce(Outcome) + Send + 'static) {
        self.order(letter, Done::Call(Box::new(done))).await;
    }

    async fn order(&self, letter: Letter, done: Done) {
        if let Err(mpsc::error::SendError(order)) = self.0.orders.send(Order { letter, done }).await
        {
            order.tell(Outcome::NotSent(stopped()));
        }
    }

    /// Finishes what was given to it, and ends. The line is not closed.
    pub async fn close(&self) {
        self.0.stop.cancel();
        let work = self
            .0
            .work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(work) = work {
            work.await.ok();
        }
    }
}

fn stopped() -> Failure {
    Failure::new(Class::Unavailable, "the publisher has stopped")
}

/// Where orders come in.
struct Desk {
    line: Line,
    manner: Manner,
    orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
}

impl Desk {
    async fn work(mut self) {
        while let Some(link) = self.wait_for_link().await {
            let channel = async {
                let channel = link.channel().await?;
                let what = format!("confirms of {}", link.shown());
                answer(
                    what,
                    channel.confirm_select(ConfirmSelectOptions::default()),
                )
                .await?;
                Ok::<_, Failure>(channel)
            };
            let why = match channel.await {
                Ok(channel) => match self.serve(&link, &channel).await {
                    Served::Ended => {
                        tokio::time::timeout(
                            super::ANSWER_WITHIN,
                            channel.close(200, "closed".into()),
                        )
                        .await
                        .ok();
                        break;
                    }
                    Served::Broken(why) => {
                        // Confirms that come late must not be taken for those of other letters.
                        drop(channel);
                        why
                    }
                },
                Err(why) => why,
            };
            tracing::debug!("a publisher's channel is lost: {why}");
            if !link.is_lost() {
                let pause = tokio::time::sleep(CHANNEL_PAUSE);
                self.turn_down_until(pause, &why).await;
            }
        }
        self.orders.close();
        while let Some(order) = self.orders.recv().await {
            order.tell(Outcome::NotSent(stopped()));
        }
    }

    /// The next connection; until there is one, orders are turned down. `None` once all is over.
    async fn wait_for_link(&mut self) -> Option<Link> {
        loop {
            let line = self.line.clone();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                link = line.link() => return Some(link),
                order = self.orders.recv() => {
                    let order = order?;
                    order.tell(Outcome::NotSent(self.line.why_down()));
                }
            }
        }
    }

    async fn turn_down_until(&mut self, end: impl Future<Output = ()>, why: &Failure) {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = &mut end => return,
                order = self.orders.recv() => match order {
                    Some(order) => order.tell(Outcome::NotSent(why.clone())),
                    None => return,
                },
            }
        }
    }

    /// Publishes over a channel until it breaks, or until there is nothing more to do.
    async fn serve(&mut self, link: &Link, channel: &Channel) -> Served {
        let manner = self.manner;
        let mut flight = FuturesUnordered::new();
        let mut round = Round::default();
        let mut blocked = link.blocked();
        self.see_blocked(&blocked);
        let (mut broken, mut ending) = (None, false);
        loop {
            // Where letters may come back, a round is over before the next one begins: only then all that come back have done so.
            let room = if manner.returns {
                round.over.len() + flight.len() < manner.window && round.is_open()
            } else {
                flight.len() < manner.window
            };
            if broken.is_some() && flight.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some((order, confirmed)) = flight.next(), if !flight.is_empty() => {
                    let outcome = verdict(&order, confirmed, &mut round.returned, &mut broken);
                    self.count(&outcome);
                    if !manner.returns {
                        order.tell(outcome);
                        continue;
                    }
                    round.over.push((order, outcome));
                    if flight.is_empty() {
                        round.settle();
                    }
                }
                () = link.lost(), if broken.is_none() => broken = Some(link.why_lost()),
                () = self.stop.cancelled(), if !ending => {
                    self.orders.close();
                    ending = true;
                }
                order = self.orders.recv(), if broken.is_none() && room => match order {
                    None => {
                        if flight.is_empty() {
                            return Served::Ended;
                        }
                        // Nothing comes any more: what is on its way is waited for.
                        while let Some((order, confirmed)) = flight.next().await {
                            let outcome = verdict(&order, confirmed, &mut round.returned, &mut broken);
                            self.count(&outcome);
                            round.over.push((order, outcome));
                        }
                        round.settle();
                        return Served::Ended;
                    }
                    Some(order) if order.is_given_up() => {}
                    Some(order) => match (blocked.borrow().clone(), unfit(&order.letter, manner)) {
                        (Some(reason), _) => order.tell(Outcome::NotSent(blocks(link, &reason))),
                        (None, Some(why)) => order.tell(Outcome::NotSent(why)),
                        (None, None) => {
                            round.began.get_or_insert_with(Instant::now);
                            self.line.meter().unconfirmed.inc();
                            flight.push(deliver(channel, order, manner));
                        }
                    },
                },
                _ = blocked.changed() => self.see_blocked(&blocked),
            }
        }
        round.settle();
        Served::Broken(broken.unwrap_or_else(|| link.why_lost()))
    }
}

impl Desk {
    /// A letter is no longer on its way.
    fn count(&self, outcome: &Outcome) {
        let meter = self.line.meter();
        meter.unconfirmed.dec();
        match outcome {
            Outcome::Stored => meter.stored.inc(),
            Outcome::Refused(_) => meter.refused.inc(),
            Outcome::Unroutable(_) | Outcome::NotSent(_) | Outcome::Unknown(_) => {
                meter.unknown.inc()
            }
        };
    }

    fn see_blocked(&self, blocked: &watch::Receiver<Option<String>>) {
        let is = blocked.borrow().is_some();
        self.line.meter().blocked.set(i64::from(is));
    }
}

/// How serving over a channel has ended.
enum Served {
    /// There is nothing more to do.
    Ended,
    /// The channel cannot be used any more.
    Broken(Failure),
}

/// Letters that were confirmed while others of the same round were not, and what has come back.
#[derive(Default)]
struct Round {
    began: Option<Instant>,
    over: Vec<(Order, Outcome)>,
    returned: HashMap<String, Failure>,
}

impl Round {
    /// Whether it takes letters: not for long, so that the first does not wait for many others.
    fn is_open(&self) -> bool {
        self.began.is_none_or(|began| began.elapsed() < ROUND_OPEN)
    }

    fn settle(&mut self) {
        self.began = None;
        for (order, outcome) in self.over.drain(..) {
            let id = order.letter.properties.message_id().as_ref();
            let back = id.and_then(|id| self.returned.remove(id.as_str()));
            order.tell(match (outcome, back) {
                (Outcome::Stored, Some(back)) => Outcome::Unroutable(back),
                (outcome, _) => outcome,
            });
        }
        self.returned.clear();
    }
}

/// Publishes one letter and waits for its confirm. Begins to publish when it is first polled, which happens in the order of the letters.
async fn deliver(
    channel: &Channel,
    order: Order,
    manner: Manner,
) -> (Order, Option<lapin::Result<Confirmation>>) {
    let options = BasicPublishOptions {
        mandatory: manner.returns,
        immediate: false,
    };
    let letter = &order.letter;
    let confirming = async {
        let confirm = channel.basic_publish(
            letter.exchange.clone(),
            letter.routing_key.clone(),
            options,
            &letter.body,
            letter.properties.clone(),
        );
        confirm.await?.await
    };
    let confirmed = tokio::time::timeout(manner.confirm_within, confirming).await;
    (order, confirmed.ok())
}

/// What a confirm means; notes what has come back, and whether the channel can be used on.
fn verdict(
    order: &Order,
    confirmed: Option<lapin::Result<Confirmation>>,
    returned: &mut HashMap<String, Failure>,
    broken: &mut Option<Failure>,
) -> Outcome {
    let Letter {
        exchange,
        routing_key,
        ..
    } = &order.letter;
    let what = format_args!("{exchange} ({routing_key})");
    let failed = match confirmed {
        Some(Ok(Confirmation::Ack(back))) => {
            if let Some(back) = back {
                let id = back.delivery.properties.message_id().as_ref();
                let id = id.map(|id| id.as_str().to_owned()).unwrap_or_default();
                let why = format!("{what}: no queue takes it ({})", back.reply_text);
                returned.insert(id, Failure::new(Class::NotFound, why));
            }
            return Outcome::Stored;
        }
        Some(Ok(Confirmation::Nack(_))) => {
            let why =
                format!("{what}: the broker has turned the message down; a queue may be full");
            return Outcome::Refused(Failure::new(Class::Unavailable, why));
        }
        Some(Ok(Confirmation::NotRequested)) => {
            Failure::internal(format!("{what}: the channel gives no confirms"))
        }
        Some(Err(error)) => failure(what, &error),
        None => Failure::new(
            Class::Timeout,
            format!("{what}: the broker has not confirmed in time"),
        ),
    };
    broken.get_or_insert_with(|| failed.clone());
    Outcome::Unknown(failed)
}

fn unfit(letter: &Letter, manner: Manner) -> Option<Failure> {
    let lacks = manner.returns && letter.properties.message_id().is_none();
    lacks.then(|| Failure::internal("a message that may come back needs a message id"))
}

fn blocks(link: &Link, reason: &str) -> Failure {
    let why = format!(
        "the broker {} takes nothing at the moment: {reason}; it has an alarm for memory or disk",
        link.shown()
    );
    Failure::new(Class::Unavailable, why)
}
