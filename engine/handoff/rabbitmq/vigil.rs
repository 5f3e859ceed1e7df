//! Healing: queues that are not there are made, and what a broker has lost is announced again. It cannot know what was lost; it knows what the
//! store has and nobody works on.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Inner;
use super::topology::Asker;
use crate::failure::Failure;
use crate::net::amqp::link::Link;
use crate::store::announcements::ReadyCount;
use crate::store::commit::Commit;

/// How often queues are compared with the store.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long hops may have been announced, with nothing in their queue, before they count as lost; doubled each time that it was in vain.
/// The longest is for a queue from which other engines take as well: what they work on is not in it either, and the broker does not tell
/// how much that is.
const LOST_AFTER_MS: (i64, i64) = (15_000, 300_000);
/// The pause after the queues could not be made.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes the queues over each new connection, and whenever one is missed. Over the `first` one the start has done it, if there was one.
pub(super) async fn raise(inner: Arc<Inner>, first: Option<Link>) {
    let mut known = first;
    let mut told = false;
    loop {
        if let Some(link) = known.take() {
            tokio::select! {
                () = inner.stop.cancelled() => return,
                () = link.lost() => {}
                () = inner.doubt.notified() => {}
            }
        }
        let link = tokio::select! {
            () = inner.stop.cancelled() => return,
            link = inner.publishing.link() => link,
        };
        // A broker with an alarm answers nothing on this connection. What is there is used meanwhile.
        let mut blocked = link.blocked();
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = link.lost() => continue,
            _ = blocked.wait_for(Option::is_none) => {}
        }
        match made(&inner, &link).await {
            Ok(()) => {
                if std::mem::take(&mut told) {
                    tracing::info!(
                        "the queues of the broker are there, and what waits is announced"
                    );
                }
                known = Some(link);
                inner.sweep.notify_one();
            }
            Err(failure) => {
                inner.raised.send_replace(None);
                if !link.is_lost() && !std::mem::replace(&mut told, true) {
                    tracing::error!(
                        "the queues of the broker cannot be made; messages wait in the store: {failure}"
                    );
                }
                tokio::select! {
                    () = inner.stop.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
}

/// What a message is for that only asks whether the broker takes messages. Nobody has a queue for it.
const QUESTION: &str = "question";

/// Says once that the broker takes no messages, because of its alarm for memory or disk, and once that it takes them again.
pub(super) async fn alarm(inner: Arc<Inner>) {
    let said = async {
        loop {
            let link = inner.publishing.link().await;
            let asked = async {
                // The exchange is there once the queues are. Who has other things to announce need not ask.
                inner.queues().await;
                let exchange = inner.topology().exchange();
                if let Ok(None) = link.ask_blocked(&exchange, QUESTION).await {
                    say_blocked(&inner, &link, None);
                }
                std::future::pending().await
            };
            tokio::select! {
                () = link.lost() => {}
                () = asked => {}
                () = tell_blocked(&inner, &link) => {}
            }
        }
    };
    tokio::select! {
        () = inner.stop.cancelled() => {}
        () = said => {}
    }
}

/// Goes on until the connection is lost.
async fn tell_blocked(inner: &Inner, link: &Link) {
    let mut blocked = link.blocked();
    loop {
        let begun = blocked.wait_for(Option::is_some).await;
        let Some(why) = begun.ok().and_then(|why| why.clone()) else {
            return link.lost().await;
        };
        say_blocked(inner, link, Some(&why));
        if blocked.wait_for(Option::is_none).await.is_err() {
            return link.lost().await;
        }
        say_blocked(inner, link, None);
    }
}

/// One line when it begins and one when it ends, over however many connections.
fn say_blocked(inner: &Inner, link: &Link, why: Option<&str>) {
    let was = inner.alarmed.swap(why.is_some(), Ordering::AcqRel);
    match why {
        Some(why) if !was => tracing::warn!(
            "the broker {} takes no messages: {why}; free memory or disk there. Messages wait in the store meanwhile",
            link.shown()
        ),
        None if was => {
            tracing::info!("the broker {} takes messages again", link.shown());
            inner.sweep.notify_one();
        }
        _ => {}
    }
}

/// Makes what is missing over this connection. What was announced for a queue that was not there is to be announced again.
pub(super) async fn made(inner: &Inner, link: &Link) -> Result<(), Failure> {
    let broken = std::mem::take(&mut *inner.broken());
    let raised = inner.topology().raise(link, &inner.store, &broken).await?;
    if !raised.made.is_empty() {
        let commit = Commit {
            forget: raised.made.clone(),
            ..Commit::default()
        };
        inner.store.commit(commit).await?;
    }
    let before = inner.raised.send_replace(Some(Arc::new(raised.queues)));
    let gone = before.map_or(0, |before| {
        let gone = raised.made.iter().filter(|at| before.contains_key(at));
        gone.count()
    });
    if gone > 0 {
        tracing::warn!(
            "queues of the broker were gone and are made anew; what waits in the store for {gone} steps is announced again"
        );
    }
    Ok(())
}

/// What was found in vain for a step.
struct Suspicion {
    /// When hops count as lost, in milliseconds.
    after_ms: i64,
    /// Whether the last look has found the same.
    seen: bool,
}

/// Compares queues with the store until the engine stops.
pub(super) async fn watch(inner: Arc<Inner>) {
    let mut suspicions = BTreeMap::new();
    loop {
        let pause = LOOK_EVERY.mul_f64(0.8 + inner.world.random.below(400) as f64 / 1000.0);
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if let Err(failure) = look(&inner, &mut suspicions).await {
            tracing::debug!("the queues could not be compared with the store: {failure}");
        }
    }
}

type Suspicions = BTreeMap<(Arc<str>, Arc<str>), Suspicion>;

async fn look(inner: &Inner, suspicions: &mut Suspicions) -> Result<(), Failure> {
    let Some(queues) = inner.raised.borrow().clone() else {
        return Ok(());
    };
    let now_ms = inner.store.now_ms();
    let mut asker = None;
    for count in inner.store.ready_counts().await? {
        let at = (count.flow.clone(), count.step.clone());
        let Some(queue) = queues.get(&at) else {
            let mut strays = inner.strays.lock().unwrap_or_else(PoisonError::into_inner);
            strays.insert(at);
            continue;
        };
        let suspicion = suspicions.entry(at).or_insert(Suspicion {
            after_ms: LOST_AFTER_MS.0,
            seen: false,
        });
        if !overdue(inner, &count, now_ms, suspicion.after_ms) {
            suspicion.seen = false;
            if count.announced == 0 {
                suspicion.after_ms = LOST_AFTER_MS.0;
            }
            continue;
        }
        if asker.is_none() {
            asker = Some(Asker::new(&inner.publishing.link().await).await?);
        }
        let Some(asker) = &mut asker else { continue };
        let Some((ready, consumers)) = asker.look(queue).await? else {
            inner.doubt.notify_one();
            return Ok(());
        };
        let shared = consumers > u32::from(inner.takes().contains(queue));
        let long_ago = !shared || overdue(inner, &count, now_ms, LOST_AFTER_MS.1);
        suspicion.seen = ready == 0 && long_ago && !suspicion.seen;
        if ready == 0 && long_ago && !suspicion.seen {
            suspicion.after_ms = (suspicion.after_ms * 2).min(LOST_AFTER_MS.1);
            tell_lost(&count, shared);
            let (flow, step) = (&count.flow, &count.step);
            inner.store.forget_announcements(flow, step).await?;
            inner.sweep.notify_one();
        }
    }
    Ok(())
}

/// A loss is told of as one only where nobody else can have the messages.
fn tell_lost(count: &ReadyCount, shared: bool) {
    let (flow, step, many) = (&*count.flow, &*count.step, count.announced);
    if shared {
        tracing::info!(
            flow,
            step,
            "{many} messages of which the broker was told long ago are not in its queue and not here; other engines may be at work on them. They are announced again, in case that they are lost"
        );
    } else {
        tracing::warn!(
            flow,
            step,
            "{many} messages of which the broker was told long ago are not in its queue; they are announced again, in case that it has lost them"
        );
    }
}

/// Whether hops were announced long ago and are not all here.
fn overdue(inner: &Inner, count: &ReadyCount, now_ms: i64, after_ms: i64) -> bool {
    let here = inner.held_of(&count.flow, &count.step) as u64;
    let old = count
        .announced_at_ms
        .is_some_and(|at_ms| now_ms - at_ms >= after_ms);
    old && count.announced > here
}
