//! Outside systems that are message brokers (AMQP 0-9-1): connection, admission, limits. Which exchanges and queues there are is not its
//! matter: they belong to others.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use super::TIMEOUT;
use super::admission::Admission;
use crate::component::words;
use crate::failure::{Class, Failure};
use crate::net::amqp::line::Line;
use crate::net::amqp::link::Link;
use crate::net::amqp::publisher::{Letter, Manner, Outcome, Publisher};
use crate::net::amqp::{self, answer};
use crate::world::World;

#[cfg(test)]
pub(crate) mod tests;

/// How many letters with `mandatory` may be on their way.
const RETURNING_WINDOW: usize = 64;
/// How much longer than for a connection is waited until its exchange was seen: less than the second that a sink adds to its lease.
const SEEN_AFTER: Duration = Duration::from_millis(500);

/// A broker: what its file says, and its connections, made when they are needed.
pub struct Broker {
    pub(super) name: Arc<str>,
    pub(super) place: Arc<amqp::Broker>,
    pub(super) timeout: Option<words::Duration>,
    pub(super) concurrency: usize,
    pub(super) admission: Arc<Admission>,
    pub(super) publishers: Mutex<Publishers>,
}

/// The publishers of a broker, made at the first use: one of letters that come back where no queue is bound, one of all others.
#[derive(Default)]
pub(super) struct Publishers {
    line: Option<Line>,
    returning: Option<Publisher>,
    plain: Option<Publisher>,
    /// Exchanges that were seen.
    exchanges: BTreeSet<String>,
}

/// How one attempt ended, as far as anybody knows.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The broker has it.
    Stored,
    /// It surely does not.
    NotStored(Failure),
    /// It was sent, and nobody knows.
    Unknown(Failure),
    /// The broker takes no calls now, or refuses the credentials.
    Held(Failure),
}

impl Broker {
    /// The name by which flows know it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How long a confirm may take, if its file says so.
    pub fn timeout(&self) -> Option<words::Duration> {
        self.timeout
    }

    /// How many letters may be under way at once.
    pub fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// Whether it takes calls now.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// Where it is, without credentials.
    pub fn shown(&self) -> String {
        self.place.shown()
    }

    /// A connection that is kept up, for a purpose.
    pub(crate) fn line(&self, purpose: &str, world: World) -> Line {
        Line::open(self.place.clone(), purpose, world)
    }

    /// How many addresses it has.
    pub(crate) fn addresses(&self) -> usize {
        self.place.addresses()
    }

    /// One connection to one of its addresses, for a look.
    pub(crate) async fn link(&self, nth: usize, purpose: &str) -> Result<Link, Failure> {
        Link::open(&self.place, nth, purpose).await
    }

    /// Publishes a letter once, within the broker's limits. With `returns` a letter that no queue takes is not stored, class `not_found`.
    pub(crate) async fn attempt(
        &self,
        letter: Letter,
        returns: bool,
        timeout: Duration,
        high: bool,
    ) -> Ended {
        let pass = match self.admission.enter(high, timeout).await {
            Ok(pass) => pass,
            Err(shut) => return Ended::Held(shut),
        };
        let (line, publisher) = self.publisher(returns);
        let exchange = letter.exchange.to_string();
        let seen = async { self.see(&line.link_within(timeout).await?, &exchange).await };
        let late = || {
            let why = format!("the exchange {exchange} was not seen in time");
            Err(Failure::new(Class::Timeout, why))
        };
        let seen = tokio::time::timeout(timeout + SEEN_AFTER, seen).await;
        let outcome = match seen.unwrap_or_else(|_| late()) {
            Ok(()) => tokio::time::timeout(timeout, publisher.publish(letter)).await,
            // Nothing has left, and nothing will.
            Err(failure) => Ok(Outcome::NotSent(failure)),
        };
        let outcome = outcome.unwrap_or_else(|_| {
            let message = "no confirm in time; it may have been stored";
            Outcome::Unknown(Failure::new(Class::Timeout, message))
        });
        match &outcome {
            Outcome::Stored => pass.answered(),
            // The letter is the trouble, not the broker.
            Outcome::Unroutable(_) => pass.answered(),
            Outcome::Unknown(failure) if failure.class == Class::NotFound => {
                self.publishers().exchanges.remove(&exchange);
                pass.answered();
            }
            Outcome::Refused(failure) | Outcome::NotSent(failure) => pass.failed(failure),
            Outcome::Unknown(failure) => pass.unknown(failure),
        }
        let named = |failure: Failure| Failure {
            message: format!("{}: {}", self.name, failure.message),
            ..failure
        };
        match outcome {
            Outcome::Stored => Ended::Stored,
            Outcome::NotSent(failure) if failure.class == Class::Auth => {
                Ended::Held(named(failure))
            }
            Outcome::Unroutable(failure) => Ended::NotStored(Failure {
                class: Class::NotFound,
                ..named(failure)
            }),
            Outcome::Refused(failure) | Outcome::NotSent(failure) => {
                Ended::NotStored(named(failure))
            }
            Outcome::Unknown(failure) => Ended::Unknown(named(failure)),
        }
    }

    /// Looks once whether an exchange is there: a letter to one that is not would end the channel, and leave all that are on their way in doubt.
    async fn see(&self, link: &Link, exchange: &str) -> Result<(), Failure> {
        if exchange.is_empty() || self.publishers().exchanges.contains(exchange) {
            return Ok(());
        }
        find_exchange(link, exchange).await?;
        self.publishers().exchanges.insert(exchange.to_owned());
        Ok(())
    }

    fn publishers(&self) -> MutexGuard<'_, Publishers> {
        self.publishers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn publisher(&self, returns: bool) -> (Line, Publisher) {
        let mut held = self.publishers();
        let purpose = format!("publishes to {}", self.name);
        let line = held
            .line
            .get_or_insert_with(|| self.line(&purpose, self.admission.world().clone()))
            .clone();
        let manner = Manner {
            returns,
            window: match returns {
                true => RETURNING_WINDOW.min(self.concurrency),
                false => self.concurrency,
            },
            // Two letters without a confirm, one after the other, end their round before those that have one are given up.
            confirm_within: self.timeout.unwrap_or(TIMEOUT).std() / 3,
        };
        let slot = match returns {
            true => &mut held.returning,
            false => &mut held.plain,
        };
        let publisher = slot.get_or_insert_with(|| Publisher::start(line.clone(), manner));
        (line, publisher.clone())
    }
}

/// Fails with class `not_found` if an exchange is not there.
pub(crate) async fn find_exchange(link: &Link, exchange: &str) -> Result<(), Failure> {
    let channel = link.channel().await?;
    let options = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    let finding = channel.exchange_declare(
        exchange.into(),
        ExchangeKind::Direct,
        options,
        FieldTable::default(),
    );
    let what = format!("the exchange {exchange} cannot be used");
    answer(what, finding).await?;
    let closing = channel.close(200, "closed".into());
    tokio::time::timeout(amqp::ANSWER_WITHIN, closing)
        .await
        .ok();
    Ok(())
}
