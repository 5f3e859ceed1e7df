//! Consuming from a queue: one channel, with a bounded number of deliveries that are not acknowledged, and acknowledgements in batches. It
//! lives as long as its connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::receipts::{Receipt, Told, Window};
use super::{ANSWER_WITHIN, answer, failure};
use crate::failure::{Class, Failure};

/// So many acknowledgements go together.
const BATCH: usize = 32;
/// After this time fewer do.
const IDLE: Duration = Duration::from_millis(5);

/// A message that the broker has delivered.
#[derive(Debug)]
pub struct Delivery {
    /// Its number on this consumer's channel.
    pub tag: u64,
    /// Whether it was, or may have been, delivered before.
    pub redelivered: bool,
    /// The exchange that it was published to.
    pub exchange: String,
    /// Its routing key.
    pub routing_key: String,
    /// Headers and the like.
    pub properties: BasicProperties,
    /// The bytes.
    pub body: Bytes,
}

/// Takes from a queue. When it goes away, what was not acknowledged goes back to the queue.
pub struct Consumer {
    deliveries: lapin::Consumer,
    channel: Channel,
    link: Link,
    queue: String,
    receipts: Receipts,
}

/// Where deliveries of one consumer are settled. A clone is the same one. Once the consumer's connection is lost it does nothing: the
/// deliveries come again.
#[derive(Clone)]
pub struct Receipts(Arc<Desk>);

struct Desk {
    window: Mutex<Window>,
    batch: usize,
    /// Something is to be told.
    some: Notify,
    /// A batch is.
    full: Notify,
    /// The consumer is gone.
    over: CancellationToken,
}

impl Consumer {
    /// Begins to take from a queue; at most `prefetch` deliveries are not acknowledged at a time. `tag` is shown in the broker's lists.
    pub async fn open(
        link: &Link,
        queue: &str,
        prefetch: u16,
        tag: &str,
    ) -> Result<Consumer, Failure> {
        let channel = link.channel().await?;
        let what = || format!("the queue {queue} of {}", link.shown());
        let prefetch = prefetch.max(1);
        answer(
            what(),
            channel.basic_qos(prefetch, BasicQosOptions::default()),
        )
        .await?;
        let consuming = channel.basic_consume(
            queue.into(),
            tag.into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let deliveries = answer(what(), consuming).await?;
        let receipts = Receipts(Arc::new(Desk {
            window: Mutex::default(),
            batch: BATCH.min(usize::from(prefetch).div_ceil(4)),
            some: Notify::new(),
            full: Notify::new(),
            over: CancellationToken::new(),
        }));
        tokio::spawn(tell(receipts.clone(), channel.clone(), link.clone()));
        Ok(Consumer {
            deliveries,
            channel,
            link: link.clone(),
            queue: queue.to_owned(),
            receipts,
        })
    }

    /// The next delivery. Fails once there will be none: the connection is lost, or the queue was deleted. May be dropped while it waits.
    pub async fn next(&mut self) -> Result<Delivery, Failure> {
        let next = tokio::select! {
            biased;
            next = self.deliveries.next() => next,
            () = self.link.lost() => return Err(self.link.why_lost()),
        };
        let queue = &self.queue;
        match next {
            Some(Ok(delivery)) => {
                self.receipts.window().came(delivery.delivery_tag);
                Ok(Delivery {
                    tag: delivery.delivery_tag,
                    redelivered: delivery.redelivered,
                    exchange: delivery.exchange.into(),
                    routing_key: delivery.routing_key.into(),
                    properties: delivery.properties,
                    body: Bytes::from(delivery.data),
                })
            }
            Some(Err(error)) => Err(failure(format_args!("the queue {queue}"), &error)),
            None => {
                let why =
                    format!("the queue {queue}: the broker delivers no more; it may be deleted");
                Err(Failure::new(Class::NotFound, why))
            }
        }
    }

    /// Where its deliveries are settled.
    pub fn receipts(&self) -> Receipts {
        self.receipts.clone()
    }

    /// Tells the broker what is settled, and ends. What is not goes back to the queue.
    pub async fn close(self) {
        let told = self.receipts.window().tell();
        if self.receipts.0.tell(&self.channel, told).await.is_ok() {
            let closing = self.channel.close(200, "closed".into());
            tokio::time::timeout(ANSWER_WITHIN, closing).await.ok();
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.receipts.0.over.cancel();
    }
}

impl Receipts {
    /// A delivery is done with. The broker hears of it soon, together with others.
    pub fn settle(&self, tag: u64, receipt: Receipt) {
        let done = self.window().settle(tag, receipt);
        if done >= self.0.batch {
            self.0.full.notify_one();
        }
        if done == 1 || done >= self.0.batch {
            self.0.some.notify_one();
        }
    }

    /// Whether the consumer is gone, so that nothing can be settled any more: the delivery comes again.
    pub fn is_over(&self) -> bool {
        self.0.over.is_cancelled()
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.0.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the broker what is settled, in batches, as long as the consumer is there.
async fn tell(receipts: Receipts, channel: Channel, link: Link) {
    let desk = &receipts.0;
    loop {
        tokio::select! {
            () = desk.over.cancelled() => return,
            () = link.lost() => return,
            () = desk.some.notified() => {}
        }
        if receipts.window().done() < desk.batch {
            tokio::select! {
                () = desk.over.cancelled() => return,
                () = desk.full.notified() => {}
                () = tokio::time::sleep(IDLE) => {}
            }
        }
        let told = receipts.window().tell();
        if let Err(failure) = desk.tell(&channel, told).await {
            // Without acknowledgements the broker would stop delivering, and nobody would know.
            link.give_up(failure);
            return;
        }
    }
}

impl Desk {
    /// All of it is begun in its order, then waited for together.
    async fn tell(&self, channel: &Channel, told: Vec<Told>) -> Result<(), Failure> {
        let telling = told.into_iter().map(|told| async move {
            match told {
                Told::TakenUpTo(tag) => {
                    channel
                        .basic_ack(tag, BasicAckOptions { multiple: true })
                        .await
                }
                Told::Taken(tag) => {
                    channel
                        .basic_ack(tag, BasicAckOptions { multiple: false })
                        .await
                }
                Told::Refused { tag, back } => {
                    let options = BasicNackOptions {
                        multiple: false,
                        requeue: back,
                    };
                    channel.basic_nack(tag, options).await
                }
            }
        });
        let all = async {
            join_all(telling)
                .await
                .into_iter()
                .collect::<lapin::Result<()>>()
        };
        answer("an acknowledgement", all).await
    }
}
