//! The source `amqp`: takes messages from a queue of a broker, and acknowledges each when it is durable.

mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use super::offer::{offer_for, pause_or_stop, room_or_stop};
use crate::component::{Batch, Build, Intake, Part, Source, Verdict, codes};
use crate::failure::{Class, Failure};
use crate::net::amqp::consumer::{Consumer, Delivery};
use crate::net::amqp::link::Link;
use crate::net::amqp::receipts::Receipt;
use crate::net::amqp::{answer, failure, reply_code};
use crate::system::broker::Broker;
use crate::world::Pending;

use properties::Reading;

/// How many deliveries may be taken and not acknowledged where nobody says so.
const PREFETCH: u16 = 256;
/// How many messages are accepted in one commit.
const BATCH_MAX: usize = 128;
/// How long the source waits before it looks for its queue again after the connection was lost, in milliseconds.
const PAUSE_MS: u64 = 200;
/// How long there may be no connection before the source has failed, is started again, and people are told.
const LINK_WITHIN: Duration = Duration::from_secs(30);
/// The longest name of a queue, an exchange and a routing key, in bytes.
const SHORT_MAX: usize = 255;

/// Takes messages from a queue of a message broker (RabbitMQ). A message is acknowledged once it is durable here, never before; what was not
/// acknowledged when the engine or the connection dies comes again, with the same `message_id`, and has no second effect.
///
/// The queue belongs to others: it must be there, unless `declare` makes it. Nothing is ever put back to be delivered again at once: what cannot be
/// read, or breaks `accepts`, is an exception here. With `dead_letters` the flow may refuse such messages instead (`on_breach: refuse`):
/// they are rejected, and go where the owner of the queue has said.
///
/// Headers come as message headers, by lowercase name, with `message-id`, `correlation-id`, `content-type`, `amqp-exchange`,
/// `amqp-routing-key` and the like beside them. CloudEvents are understood in both modes; their attributes come as headers `ce-type`,
/// `ce-source` .., their data as the body. A body that was zipped (`content_encoding: gzip`) is unzipped.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Amqp {
    /// The broker: a system with `amqp`.
    pub system: String,
    /// The queue.
    pub queue: String,
    /// Makes the queue if it is not there. If it is there with other arguments the source fails, and says which.
    pub declare: Option<Declare>,
    /// Binds the queue to exchanges, which must be there.
    #[serde(default)]
    pub bindings: Vec<Binding>,
    /// How many messages may be taken and not acknowledged. Default 256.
    #[schemars(range(min = 1))]
    pub prefetch: Option<u16>,
    /// What tells a repeat: `message_id` (the default: that of the sender, or the id and source of a CloudEvents message), `none`, or the name
    /// of a header. `none` where senders give different messages the same id.
    pub delivery_id: Option<String>,
    /// The queue has a dead-letter exchange, so that what the flow refuses is not lost. Needed for `on_breach: refuse`. Default false.
    #[serde(default)]
    pub dead_letters: bool,
}

/// How a queue is made.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Declare {
    /// Whether it outlives a restart of the broker. Default true.
    pub durable: Option<bool>,
    /// Its arguments: `x-queue-type: quorum`. Default: `x-queue-type: quorum`, where it is durable.
    pub arguments: Option<BTreeMap<String, Argument>>,
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Argument {
    /// Yes or no.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(String),
}

/// What a queue is bound to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The exchange.
    pub exchange: String,
    /// The routing key, or its pattern. Default: none.
    #[serde(default)]
    pub routing_key: String,
    /// Arguments, for exchanges that go by headers.
    #[serde(default)]
    pub arguments: BTreeMap<String, Argument>,
}

impl Part for Amqp {
    type Ready = Ready;
    const EXAMPLE: &'static str = "source:
  amqp:
    system: events
    queue: crossdock.orders
    declare: { arguments: { x-queue-type: quorum } }
    bindings: [{ exchange: shop, routing_key: \"orders.#\" }]
    prefetch: 100
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let broker = cx.broker(&["system"], &self.system);
        if self.queue.is_empty() || self.queue.len() > SHORT_MAX {
            let message = format!("a queue has a name of 1 to {SHORT_MAX} bytes");
            let help = "write the name that the broker shows";
            cx.error(codes::BAD_VALUE, &["queue"], message, help);
            return None;
        }
        for (at, binding) in self.bindings.iter().enumerate() {
            if binding.exchange.is_empty() {
                let index = at.to_string();
                let path = &["bindings", &index, "exchange"];
                let message = "nothing can be bound to the broker's own exchange";
                let help = "name an exchange, or leave the binding out";
                cx.error(codes::BAD_VALUE, path, message, help);
                return None;
            }
        }
        Some(Ready::Runs(Arc::new(Taking {
            broker: broker?,
            queue: self.queue.clone(),
            declare: self.declare.clone(),
            bindings: self.bindings.clone(),
            prefetch: self.prefetch.unwrap_or(PREFETCH).max(1),
            reading: Reading::new(self.delivery_id.as_deref()),
            dead_letters: self.dead_letters,
        })))
    }
}

struct Taking {
    broker: Arc<Broker>,
    queue: String,
    declare: Option<Declare>,
    bindings: Vec<Binding>,
    prefetch: u16,
    reading: Reading,
    dead_letters: bool,
}

/// Why a consumer was left.
enum Left {
    /// The source must stop.
    Stopped,
    /// The connection is lost; what was not acknowledged comes again.
    Lost(Failure),
}

impl Source for Taking {
    fn run(self: Arc<Self>, cx: Intake) -> Pending<'static, Result<(), Failure>> {
        Box::pin(async move {
            let purpose = format!("flow {}", cx.flow);
            let line = self.broker.line(&purpose, cx.world.clone());
            let ended = loop {
                let link = tokio::select! {
                    biased;
                    () = cx.stop.cancelled() => break Ok(()),
                    link = line.link_within(LINK_WITHIN) => link,
                };
                let link = match link {
                    Ok(link) => link,
                    Err(failure) => break Err(failure),
                };
                match self.take_from(&link, &cx).await {
                    Ok(Left::Stopped) => break Ok(()),
                    Ok(Left::Lost(failure)) => {
                        tracing::warn!(flow = &*cx.flow, %failure, "the queue is not consumed for a moment");
                    }
                    Err(failure) if link.is_lost() => {
                        tracing::debug!(flow = &*cx.flow, %failure, "the connection was lost");
                    }
                    Err(failure) => break Err(failure),
                }
                if !pause_or_stop(&cx, PAUSE_MS).await {
                    break Ok(());
                }
            };
            line.close().await;
            ended
        })
    }

    fn answers(&self) -> bool {
        self.dead_letters
    }

    fn look(&self) -> Pending<'_, Result<Option<String>, Failure>> {
        Box::pin(async move {
            let link = self.broker.link(0, "doctor").await?;
            let found = self.find(&link).await;
            link.close().await;
            let messages = match (found, &self.declare) {
                (Err(failure), Some(_)) if failure.class == Class::NotFound => {
                    let found =
                        format!("the queue {} is not there yet and will be made", self.queue);
                    return Ok(Some(found));
                }
                (found, _) => found?,
            };
            let found = format!(
                "the queue {} is there, with {messages} messages",
                self.queue
            );
            Ok(Some(found))
        })
    }
}

impl Taking {
    /// Takes from the queue until the source must stop or the connection is lost. Fails where the queue cannot be used.
    async fn take_from(&self, link: &Link, cx: &Intake) -> Result<Left, Failure> {
        self.prepare(link).await?;
        let tag = format!("crossdock {}", cx.flow);
        let mut consumer = Consumer::open(link, &self.queue, self.prefetch, &tag).await?;
        tracing::info!(
            flow = &*cx.flow,
            queue = self.queue,
            "takes from {}",
            link.shown()
        );
        loop {
            if !room_or_stop(cx).await {
                consumer.close().await;
                return Ok(Left::Stopped);
            }
            let first = tokio::select! {
                biased;
                () = cx.stop.cancelled() => {
                    consumer.close().await;
                    return Ok(Left::Stopped);
                }
                next = consumer.next() => match next {
                    Ok(delivery) => delivery,
                    Err(failure) if link.is_lost() => return Ok(Left::Lost(failure)),
                    Err(failure) => return Err(failure),
                },
            };
            let deliveries = more(&mut consumer, first).await;
            let offered = tokio::select! {
                offered = self.accept(cx, &consumer, deliveries) => offered?,
                // What was not accepted comes again; to go on offering it would double what has no id.
                () = link.lost() => return Ok(Left::Lost(link.why_lost())),
            };
            if !offered {
                consumer.close().await;
                return Ok(Left::Stopped);
            }
        }
    }

    /// Makes them durable, then acknowledges them. False if the source must stop.
    async fn accept(
        &self,
        cx: &Intake,
        consumer: &Consumer,
        deliveries: Vec<Delivery>,
    ) -> Result<bool, Failure> {
        let receipts = consumer.receipts();
        let tags: Vec<u64> = deliveries.iter().map(|delivery| delivery.tag).collect();
        let arrivals = deliveries
            .into_iter()
            .map(|delivery| self.reading.arrival(delivery))
            .collect();
        let batch = Batch {
            arrivals,
            progress: None,
        };
        let Some(verdicts) = offer_for(cx, batch).await? else {
            return Ok(false);
        };
        for (tag, verdict) in tags.into_iter().zip(verdicts) {
            let receipt = match verdict {
                Verdict::Accepted | Verdict::Duplicate => Receipt::Taken,
                Verdict::Refused(_) => Receipt::Rejected,
            };
            receipts.settle(tag, receipt);
        }
        Ok(true)
    }

    /// Declares the queue, or finds it, and binds it.
    async fn prepare(&self, link: &Link) -> Result<(), Failure> {
        match &self.declare {
            None => drop(self.find(link).await?),
            Some(declare) => self.make(link, declare).await?,
        }
        let channel = link.channel().await?;
        for binding in &self.bindings {
            let what = format!(
                "the queue {} cannot be bound to the exchange {}",
                self.queue, binding.exchange
            );
            let binding = channel.queue_bind(
                self.queue.as_str().into(),
                binding.exchange.as_str().into(),
                binding.routing_key.as_str().into(),
                QueueBindOptions::default(),
                table(&binding.arguments),
            );
            answer(what, binding).await?;
        }
        close(&channel).await;
        Ok(())
    }

    /// How many messages are in the queue. Fails if it is not there.
    async fn find(&self, link: &Link) -> Result<u32, Failure> {
        let channel = link.channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let finding =
            channel.queue_declare(self.queue.as_str().into(), options, FieldTable::default());
        let what = format!(
            "the queue {} cannot be used; have it made, or add `declare`",
            self.queue
        );
        let found = answer(what, finding).await?;
        let messages = found.message_count();
        close(&channel).await;
        Ok(messages)
    }

    async fn make(&self, link: &Link, declare: &Declare) -> Result<(), Failure> {
        let channel = link.channel().await?;
        let durable = declare.durable.unwrap_or(true);
        let arguments = match &declare.arguments {
            Some(given) => given.clone(),
            None if durable => {
                let quorum = Argument::Text("quorum".to_owned());
                BTreeMap::from([("x-queue-type".to_owned(), quorum)])
            }
            None => BTreeMap::new(),
        };
        let options = QueueDeclareOptions {
            durable,
            ..QueueDeclareOptions::default()
        };
        let queue = &self.queue;
        let making = channel.queue_declare(queue.as_str().into(), options, table(&arguments));
        let made = tokio::time::timeout(crate::net::amqp::ANSWER_WITHIN, making).await;
        match made {
            Ok(Ok(_)) => {
                close(&channel).await;
                Ok(())
            }
            Ok(Err(error)) if reply_code(&error) == Some(406) => {
                let what = format!(
                    "the queue {queue} is there with other arguments than `declare` says; write those that it has, or leave `declare` out"
                );
                Err(failure(what, &error))
            }
            Ok(Err(error)) => Err(failure(format!("the queue {queue} cannot be made"), &error)),
            Err(_) => Err(Failure::new(
                Class::Timeout,
                format!("the queue {queue}: the broker gives no answer"),
            )),
        }
    }
}

/// The first delivery, and those that are there already.
async fn more(consumer: &mut Consumer, first: Delivery) -> Vec<Delivery> {
    let mut deliveries = vec![first];
    while deliveries.len() < BATCH_MAX {
        let next = tokio::time::timeout(std::time::Duration::ZERO, consumer.next()).await;
        match next {
            Ok(Ok(delivery)) => deliveries.push(delivery),
            // The end is told again by the next one.
            _ => break,
        }
    }
    deliveries
}

/// Ends a channel; it may have ended by itself.
async fn close(channel: &lapin::Channel) {
    let closing = channel.close(200, "closed".into());
    let limit = crate::net::amqp::ANSWER_WITHIN;
    tokio::time::timeout(limit, closing).await.ok();
}

fn table(arguments: &BTreeMap<String, Argument>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Flag(flag) => AMQPValue::Boolean(*flag),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
        };
        table.insert(name.as_str().into(), value);
    }
    table
}
