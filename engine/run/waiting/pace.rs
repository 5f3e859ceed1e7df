//! `throttle`: messages go on at a rate, in their order. Those that wait are ready hops of the store that this stage holds or has not taken
//! yet; the pace itself is in memory, and a start begins without a burst, so that no restart makes it faster.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Batch, WaitStage};
use crate::component::waiting::{Pace, key_of};
use crate::handoff::Hop;

/// How many messages the stage holds, so that one value does not hold up the others at once.
const HELD_MAX: usize = 4_096;
/// How many bytes of messages it holds.
const HELD_BYTES_MAX: usize = 16 << 20;
/// How much earlier than its place a message may go, so that a timer that rings late does not make the rate slower.
const SLACK_US: i64 = 20_000;

/// What waits, by value, and when the next of each may go.
struct Line {
    interval_us: i64,
    tolerance_us: i64,
    /// Before this time nothing was known: the time at which a value that is new here has its first place.
    began_us: i64,
    queues: BTreeMap<String, Queue>,
    held: usize,
    bytes: usize,
}

/// The messages of one value.
struct Queue {
    hops: VecDeque<Hop>,
    /// The place of the next message, in microseconds since 1970.
    place_us: i64,
}

impl WaitStage {
    pub(super) async fn pace(&self, pace: &Pace) {
        let clock = self.shared.world.clock.clone();
        let mut line = Line::new(pace, clock.now_ms() * 1_000);
        loop {
            let ready = line.ready(clock.now_ms() * 1_000, self.shared.batch_max);
            if !ready.is_empty() {
                let mut batch = Batch::default();
                for hop in ready {
                    let finished = self.over(&hop, self.goes_on(&hop));
                    batch.add(hop, finished);
                }
                self.settle(batch).await;
                continue;
            }
            let wait = line.wait(clock.now_ms() * 1_000);
            let room = line.room(pace, self.shared.batch_max);
            tokio::select! {
                biased;
                () = self.post.stop.cancelled() => break,
                () = async { clock.sleep(wait.unwrap_or_default()).await }, if wait.is_some() => {}
                hops = self.take(room.unwrap_or(1)), if room.is_some() => match hops {
                    Some(hops) => self.line_up(pace, &mut line, hops).await,
                    None => break,
                },
            }
        }
        // Whoever comes in its place lines them up anew, in the order of their numbers.
        for hop in line.all().into_iter().rev() {
            self.shared.handoff.give_back(hop);
        }
    }

    /// Each message behind those of its value; what the step does not work on goes on at once.
    async fn line_up(&self, pace: &Pace, line: &mut Line, hops: Vec<Hop>) {
        let mut passing = Batch::default();
        for hop in hops {
            let value = self.ask(&hop, |message, cx| match &pace.by {
                Some(by) => key_of(by, message, cx),
                None => Ok(String::new()),
            });
            match value {
                Ok(value) => line.push(value, hop),
                Err(walked) => {
                    let finished = self.over(&hop, *walked);
                    passing.add(hop, finished);
                }
            }
        }
        self.settle(passing).await;
    }
}

impl Line {
    fn new(pace: &Pace, now_us: i64) -> Line {
        let burst_us = (i64::from(pace.burst) - 1).saturating_mul(pace.interval_us);
        Line {
            interval_us: pace.interval_us,
            tolerance_us: burst_us.max(SLACK_US.min(pace.interval_us / 2)),
            began_us: now_us.saturating_add(burst_us),
            queues: BTreeMap::new(),
            held: 0,
            bytes: 0,
        }
    }

    fn push(&mut self, value: String, hop: Hop) {
        let began_us = self.began_us;
        self.held += 1;
        self.bytes += hop.message.body.len();
        let queue = self.queues.entry(value).or_insert_with(|| Queue {
            hops: VecDeque::new(),
            place_us: began_us,
        });
        queue.hops.push_back(hop);
    }

    /// The messages that may go now, at most so many.
    fn ready(&mut self, now_us: i64, most: usize) -> Vec<Hop> {
        let mut ready = Vec::new();
        for queue in self.queues.values_mut() {
            // A clock that was set back does not hold anything up.
            let farthest_us = now_us.saturating_add(self.tolerance_us + self.interval_us);
            queue.place_us = queue.place_us.min(farthest_us);
            while ready.len() < most && queue.place_us - self.tolerance_us <= now_us {
                let Some(hop) = queue.hops.pop_front() else {
                    break;
                };
                queue.place_us = queue.place_us.max(now_us) + self.interval_us;
                self.held -= 1;
                self.bytes -= hop.message.body.len();
                ready.push(hop);
            }
        }
        self.queues
            .retain(|_, queue| !queue.hops.is_empty() || queue.place_us > now_us);
        ready
    }

    /// All that wait, in the order of their numbers.
    fn all(self) -> Vec<Hop> {
        let queues = self.queues.into_values();
        let mut all: Vec<Hop> = queues.flat_map(|queue| queue.hops).collect();
        all.sort_by_key(|hop| hop.hop);
        all
    }

    /// How long until the next message may go; `None` if none waits.
    fn wait(&self, now_us: i64) -> Option<Duration> {
        let waiting = self.queues.values().filter(|queue| !queue.hops.is_empty());
        let next_us = waiting
            .map(|queue| queue.place_us - self.tolerance_us)
            .min()?;
        let wait_us = u64::try_from(next_us - now_us).unwrap_or(0);
        // The clock shows milliseconds: waiting for less would be waiting in a circle.
        Some(Duration::from_millis(wait_us.div_ceil(1_000).max(1)))
    }

    /// How many more may be held; `None` if no more.
    fn room(&self, pace: &Pace, batch_max: usize) -> Option<usize> {
        let most = match pace.by {
            Some(_) => HELD_MAX,
            None => batch_max,
        };
        let room = most.saturating_sub(self.held).min(batch_max);
        (room > 0 && self.bytes < HELD_BYTES_MAX).then_some(room)
    }
}
