//! A stand-in storefront: signs its webhooks as the real one does, sends some twice, and goes on sending until somebody accepts. It believes only answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;
use sha2::Sha256;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::client::Client;
use super::dice::Dice;
use super::journal::{Journal, now_us};
use super::orders::{Again, Kind, Order, Plan};

/// Where the engine takes orders.
pub const HOOK: &str = "/hooks/storefront/orders";
/// How long the storefront waits for an answer, as the real one does.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The wait before the first resend, and the longest one.
const RESEND_FIRST: Duration = Duration::from_millis(50);
const RESEND_MOST: Duration = Duration::from_secs(2);
/// How many deliveries wait for a free connection.
const WAITING_MAX: usize = 256;
/// How many orders share one sync of the journal before they are sent.
const ORDERS_A_SYNC: usize = 128;

/// How and where the storefront sends.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The engines' listeners. A connection stays with one of them while that takes what it sends, and goes to the next when it does not.
    pub addresses: Vec<SocketAddr>,
    /// The key that signs.
    pub secret: String,
    /// How many connections send at the same time.
    pub concurrency: usize,
    /// At most this many orders a second; 0 is as fast as it goes.
    pub rate: u64,
    /// A delivery that nobody accepts within this time is given up.
    pub give_up_after: Duration,
    /// Where the journal goes.
    pub journal: PathBuf,
    /// Where chance starts.
    pub seed: u64,
    /// Which copy of the whole plan this is: another copy has other delivery ids, but for broken orders, of which a second one with
    /// another id would be a second exception.
    pub copy: u32,
}

/// What has happened so far; others read it while the storefront sends.
#[derive(Debug, Default)]
pub struct Progress {
    /// Deliveries that were answered with a 2xx.
    pub acknowledged: AtomicU64,
    /// Of those, first deliveries of orders that must be booked.
    pub acknowledged_good: AtomicU64,
    /// Deliveries that were refused for good.
    pub refused: AtomicU64,
    /// Deliveries that nobody answered in time.
    pub given_up: AtomicU64,
    /// Requests whose answer is awaited now.
    pub in_flight: AtomicU64,
    /// Requests that were sent again, for want of an answer.
    pub resent: AtomicU64,
}

impl Progress {
    /// How many deliveries are settled, one way or the other.
    pub fn settled(&self) -> u64 {
        [&self.acknowledged, &self.refused, &self.given_up]
            .into_iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

/// Sends every order of the plan, and comes back when each delivery is settled.
pub async fn send(plan: &Plan, settings: &Settings, progress: Arc<Progress>) -> Result<(), String> {
    let journal = Journal::open(&settings.journal)
        .map_err(|error| format!("{}: {error}", settings.journal.display()))?;
    let journal = Arc::new(journal);
    let (deliveries, inbox) = mpsc::channel(WAITING_MAX);
    let inbox = Arc::new(Mutex::new(inbox));
    let mut senders = JoinSet::new();
    for nth in 0..settings.concurrency.max(1) {
        let clients = settings.addresses.iter();
        let sender = Sender {
            clients: clients
                .map(|address| (*address, Client::new(*address, ANSWER_WITHIN)))
                .collect(),
            at: nth,
            settings: settings.clone(),
            journal: Arc::clone(&journal),
            progress: Arc::clone(&progress),
            dice: Dice::of(settings.seed, 1 << 40 | nth as u64),
        };
        senders.spawn(sender.run(Arc::clone(&inbox)));
    }
    let planned = plan_deliveries(plan, settings.rate, &journal, deliveries).await;
    while let Some(ended) = senders.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    planned
}

/// One delivery of one order.
struct Delivery {
    order: Arc<Order>,
    nth: u32,
}

async fn plan_deliveries(
    plan: &Plan,
    rate: u64,
    journal: &Journal,
    deliveries: mpsc::Sender<Delivery>,
) -> Result<(), String> {
    let started = Instant::now();
    let mut later: BTreeMap<usize, Vec<Arc<Order>>> = BTreeMap::new();
    let mut index = 0;
    while index < plan.len() {
        let end = plan.len().min(index + ORDERS_A_SYNC);
        let orders: Vec<Arc<Order>> = (index..end)
            .map(|each| Arc::new(plan.order(each)))
            .collect();
        let journaled: Vec<_> = orders
            .iter()
            .map(|order| journal.submit(&order_line(order)))
            .collect();
        for synced in journaled {
            synced.wait().await.map_err(|error| error.to_string())?;
        }
        for order in orders {
            if rate > 0 {
                tokio::time::sleep_until(
                    (started + Duration::from_secs_f64(index as f64 / rate as f64)).into(),
                )
                .await;
            }
            let mut due = vec![Delivery {
                order: Arc::clone(&order),
                nth: 1,
            }];
            match plan.again(index) {
                Again::No => {}
                Again::AtOnce => due.push(Delivery { order, nth: 2 }),
                Again::Later(distance) => {
                    later
                        .entry(
                            index.saturating_add(usize::try_from(distance).unwrap_or(usize::MAX)),
                        )
                        .or_default()
                        .push(order);
                }
            }
            let still_later = later.split_off(&(index + 1));
            due.extend(
                std::mem::replace(&mut later, still_later)
                    .into_values()
                    .flatten()
                    .map(|order| Delivery { order, nth: 2 }),
            );
            for delivery in due {
                deliveries
                    .send(delivery)
                    .await
                    .map_err(|_| "every sender has stopped".to_owned())?;
            }
            index += 1;
        }
    }
    for order in later.into_values().flatten() {
        deliveries
            .send(Delivery { order, nth: 2 })
            .await
            .map_err(|_| "every sender has stopped".to_owned())?;
    }
    Ok(())
}

fn order_line(order: &Order) -> serde_json::Value {
    json!({"at_us": now_us(), "order": {
        "number": order.number,
        "kind": order.kind.name(),
        "customer": order.customer,
        "total": order.total,
        "lines": order.lines,
        "sha256": order.sha256(),
    }})
}

/// One connection that delivers one order at a time.
struct Sender {
    clients: Vec<(SocketAddr, Client)>,
    /// Which of the engines is its own at the moment, counted round and round.
    at: usize,
    settings: Settings,
    journal: Arc<Journal>,
    progress: Arc<Progress>,
    dice: Dice,
}

/// How a delivery ended.
enum End {
    Answered(StatusCode),
    GivenUp(String),
}

impl Sender {
    async fn run(mut self, inbox: Arc<Mutex<mpsc::Receiver<Delivery>>>) -> Result<(), String> {
        loop {
            let next = inbox.lock().await.recv().await;
            let Some(delivery) = next else { return Ok(()) };
            let first_sent_us = now_us();
            let (end, attempts, latency) = self.deliver(&delivery).await?;
            let number = &delivery.order.number;
            let accepted = matches!(&end, End::Answered(status) if status.is_success());
            let (count, line) = match end {
                End::Answered(status) => {
                    let count = if accepted {
                        &self.progress.acknowledged
                    } else {
                        &self.progress.refused
                    };
                    let answer = json!({"number": number, "delivery": delivery.nth, "status": status.as_u16(), "attempts": attempts,
                        "first_sent_us": first_sent_us, "latency_us": u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)});
                    (count, json!({"at_us": now_us(), "answer": answer}))
                }
                End::GivenUp(why) => {
                    let gave_up = json!({"number": number, "delivery": delivery.nth, "attempts": attempts, "why": why});
                    (
                        &self.progress.given_up,
                        json!({"at_us": now_us(), "gave_up": gave_up}),
                    )
                }
            };
            self.journal
                .append(&line)
                .await
                .map_err(|error| error.to_string())?;
            count.fetch_add(1, Ordering::Relaxed);
            if accepted && delivery.nth == 1 && delivery.order.kind == Kind::Good {
                self.progress
                    .acknowledged_good
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Sends until somebody answers for good: how it ended, after how many attempts, and how long the last one took.
    async fn deliver(&mut self, delivery: &Delivery) -> Result<(End, u32, Duration), String> {
        let started = Instant::now();
        let signature = sign(&self.settings.secret, &delivery.order.body)?;
        let mut wait = RESEND_FIRST;
        for attempt in 1u32.. {
            let engines = self.clients.len().max(1);
            let Some((address, client)) = self.clients.get_mut(self.at % engines) else {
                return Err("there is no engine to send to".to_owned());
            };
            let request = request(&self.settings, *address, delivery, &signature)?;
            let sent = Instant::now();
            self.progress.in_flight.fetch_add(1, Ordering::Relaxed);
            let answer = client.send(request).await;
            self.progress.in_flight.fetch_sub(1, Ordering::Relaxed);
            let why = match answer {
                Ok((status, _)) if is_final(status) => {
                    return Ok((End::Answered(status), attempt, sent.elapsed()));
                }
                Ok((status, _)) => format!("the answer was {status}"),
                Err(why) => why,
            };
            if started.elapsed() + wait > self.settings.give_up_after {
                return Ok((End::GivenUp(why), attempt, sent.elapsed()));
            }
            self.at += 1;
            self.progress.resent.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(wait.mul_f64(0.5 + self.dice.fraction() / 2.0)).await;
            wait = (wait * 2).min(RESEND_MOST);
        }
        Err("a delivery was tried more often than can be counted".to_owned())
    }
}

fn request(
    settings: &Settings,
    to: SocketAddr,
    delivery: &Delivery,
    signature: &str,
) -> Result<Request<Full<Bytes>>, String> {
    let copy = match (settings.copy, delivery.order.kind) {
        (0, _) | (_, Kind::BreaksContract) => String::new(),
        (copy, _) => format!("-{copy}"),
    };
    let number = delivery.order.number.trim_start_matches('#');
    Request::post(HOOK)
        .header("host", to.to_string())
        .header("content-type", "application/json")
        .header("x-shopify-topic", "orders/create")
        .header("x-shopify-shop-domain", "crossdock-demo.example")
        .header("x-shopify-api-version", "2026-10")
        .header(
            "x-shopify-webhook-id",
            format!("{number}-{}{copy}", delivery.nth),
        )
        .header("x-shopify-hmac-sha256", signature)
        .body(Full::new(delivery.order.body.clone()))
        .map_err(|error| error.to_string())
}

/// The storefront's signature over the raw body.
pub fn sign(secret: &str, body: &[u8]) -> Result<String, String> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|error| error.to_string())?;
    mac.update(body);
    Ok(STANDARD.encode(mac.finalize().into_bytes()))
}

/// Whether there is no use in sending again: accepted, or refused for a reason that stays.
fn is_final(status: StatusCode) -> bool {
    let passes = matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
    );
    status.is_success() || (status.is_client_error() && !passes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_the_scheme_says() {
        // HMAC-SHA256 with the key `key`, a test vector in general use, in base64.
        let signature = sign("key", b"The quick brown fox jumps over the lazy dog").unwrap();
        assert_eq!(signature, "97yD9DBThCSxMpjmqm+xQ+9NWaFJRhdZl0edvC0aPNg=");
    }

    #[test]
    fn only_what_may_pass_is_sent_again() {
        let check = |status: u16, expect: bool| {
            assert_eq!(
                is_final(StatusCode::from_u16(status).unwrap()),
                expect,
                "{status}"
            )
        };
        check(200, true);
        check(202, true);
        check(401, true);
        check(422, true);
        check(404, false);
        check(429, false);
        check(408, false);
        check(500, false);
        check(503, false);
    }
}
