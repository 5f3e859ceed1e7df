//! Taking deliveries: one consumer for each step, and one for what had no queue.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::letter::{self, Notice};
use super::topology::Stage;
use super::{Arrival, Inner, announcing};
use crate::failure::{Class, Failure};
use crate::net::amqp::consumer::{Consumer, Delivery, Receipts};
use crate::net::amqp::link::Link;
use crate::net::amqp::receipts::Receipt;

/// The pause after a queue could not be taken from.
const PAUSE: Duration = Duration::from_millis(500);
/// How often it is looked whether a step takes.
const LOOK: Duration = Duration::from_millis(500);
/// After so many waits in vain for the word that a queue delivers, it counts as broken.
const MUTE_MOST: usize = 2;
/// A step that has taken nothing for so long gives its deliveries back: a broker does not wait for ever, and others may be able to work.
const SHUT_MOST: Duration = Duration::from_secs(20);
/// How many deliveries without a queue are here at a time, and the pause between two: they are few, or something is wrong.
const ASTRAY: (u16, Duration) = (16, Duration::from_millis(20));

/// Takes the deliveries of a stage until it is stopped.
pub(super) async fn run(inner: Arc<Inner>, stage: Stage, stop: CancellationToken) {
    let mut mute = 0;
    loop {
        let ready = async {
            while inner.local.is_shut(&stage.flow, &stage.step) {
                tokio::time::sleep(LOOK).await;
            }
            (inner.consuming.link().await, inner.queues().await)
        };
        let (link, queues) = tokio::select! {
            () = stop.cancelled() => return,
            ready = ready => ready,
        };
        let Some(queue) = queues.get(&(stage.flow.clone(), stage.step.clone())) else {
            // A reload has brought it, and it is being made.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => continue,
            }
        };
        let taken = take(&inner, &stage, (&link, queue), &stop).await;
        inner.takes().remove(queue);
        inner.withdraw(&stage);
        match taken {
            Err(failure) if !link.is_lost() => {
                tracing::debug!("deliveries of {queue} are interrupted: {failure}");
                let silent = failure.class == Class::Timeout;
                mute = if silent { mute + 1 } else { 0 };
                if mute >= MUTE_MOST {
                    // It is there in name only: one that a broker has lost by half looks like that.
                    inner.broken().insert(queue.clone());
                    mute = 0;
                }
                inner.doubt.notify_one();
            }
            _ => mute = 0,
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Takes until the connection is lost, the step is shut for long, or it is stopped.
async fn take(
    inner: &Inner,
    stage: &Stage,
    (link, queue): (&Link, &Arc<str>),
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut consumer = Consumer::open(link, queue, stage.prefetch, "").await?;
    inner.takes().insert(queue.clone());
    let receipts = consumer.receipts();
    let (mut looks, mut shut_for) = (tokio::time::interval(LOOK), Duration::ZERO);
    while shut_for < SHUT_MOST {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = looks.tick() => {
                let shut = inner.local.is_shut(&stage.flow, &stage.step);
                shut_for = if shut { shut_for + LOOK } else { Duration::ZERO };
            }
            delivery = consumer.next() => accept(inner, stage, delivery?, &receipts).await,
        }
    }
    // Before the channel goes: what is still waiting here must not be taken once the broker gives it to somebody else.
    inner.withdraw(stage);
    consumer.close().await;
    Ok(())
}

/// Takes a delivery in, if it is for us and the hop is there.
async fn accept(inner: &Inner, stage: &Stage, delivery: Delivery, receipts: &Receipts) {
    let (tag, again) = (delivery.tag, delivery.redelivered);
    let drop_it = || receipts.settle(tag, Receipt::Taken);
    let mut read = match letter::read(&delivery.properties, delivery.body) {
        Ok(read) => read,
        Err(failure) => {
            tracing::warn!(
                flow = &*stage.flow,
                step = &*stage.step,
                "what is no message of ours was in a queue of ours, and is dropped: {failure}"
            );
            return drop_it();
        }
    };
    if read.store != inner.number {
        inner.stranger(&stage.flow);
        return drop_it();
    }
    let mut steps = stage.steps().filter(|_| *read.flow == *stage.flow);
    let Some(step) = steps.find(|step| ***step == *read.step) else {
        tracing::warn!(
            flow = &*stage.flow,
            step = &*stage.step,
            "a message for {}/{} was in this queue; it is announced again",
            read.flow,
            read.step
        );
        let (flow, step) = (Arc::from(read.flow), Arc::from(read.step));
        inner.store.forget_announcements(&flow, &step).await.ok();
        return drop_it();
    };
    if again {
        // It may be over: somebody had it, and nobody knows how far they got. If the store cannot say, the end of the hop will.
        let there = inner.store.hops_there(vec![(read.hop, read.fence)]).await;
        if matches!(there.as_deref(), Ok([false])) {
            return drop_it();
        }
    }
    if let Some(hop) = &mut read.whole {
        (hop.flow, hop.step) = (stage.flow.clone(), step.clone());
    }
    inner.arrived(Arrival {
        at: (stage.flow.clone(), step.clone()),
        read,
        tag,
        receipts: receipts.clone(),
    });
}

/// Announces again what had no queue when it was announced, until the engine stops.
pub(super) async fn astray(inner: Arc<Inner>) {
    let queue = inner.topology().unroutable();
    loop {
        let ready = async {
            inner.queues().await;
            inner.consuming.link().await
        };
        let link = tokio::select! {
            () = inner.stop.cancelled() => return,
            link = ready => link,
        };
        let taking = async {
            let mut consumer = Consumer::open(&link, &queue, ASTRAY.0, "").await?;
            let receipts = consumer.receipts();
            loop {
                let delivery = consumer.next().await?;
                let tag = delivery.tag;
                again(&inner, delivery).await;
                receipts.settle(tag, Receipt::Taken);
                tokio::time::sleep(ASTRAY.1).await;
            }
        };
        let over: Result<(), Failure> = tokio::select! {
            () = inner.stop.cancelled() => return,
            over = taking => over,
        };
        if let Err(failure) = over {
            tracing::debug!("deliveries of {queue} are interrupted: {failure}");
        }
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// A hop had no queue: it is announced once more, if it has one now. If not, the store has it, and its queue's return brings it back.
async fn again(inner: &Inner, delivery: Delivery) {
    let Ok(read) = letter::read(&delivery.properties, delivery.body) else {
        return;
    };
    if read.store != inner.number {
        return inner.stranger(&read.flow);
    }
    if let Some(hop) = read.whole {
        announcing::publish(inner, &Notice::Whole(Box::new(hop))).await;
        return;
    }
    let notice = Notice::Number(Arc::from(read.flow), Arc::from(read.step), read.hop);
    announcing::publish(inner, &notice).await;
}
