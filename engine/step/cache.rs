//! Answers that may be used again, of one step: bounded in number and bytes, one request at a time for the same question.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::component::{Answer, Attempt};
use crate::failure::{Class, Failure};
use crate::system::admission::Admission;
use crate::world::Pending;

/// How many bytes the remembered answers of one step may have, with their requests.
const BYTES_MAX: u64 = 64 << 20;
/// What an entry costs beside its bytes: with `BYTES_MAX` it bounds how many there are to some 60,000.
const ENTRY_COST: u32 = 1 << 10;

/// Remembered answers, by request.
pub(super) struct Cache {
    entries: moka::sync::Cache<Bytes, Arc<Entry>>,
    fresh: Duration,
    stale: Duration,
    /// Of the system that is asked; it knows the time.
    admission: Arc<Admission>,
}

#[derive(Default)]
struct Entry {
    /// Locked while somebody asks: the others wait for the same answer.
    last: Mutex<Last>,
    weight: AtomicU32,
}

#[derive(Default)]
struct Last {
    /// The answer, and when it came: in the steady milliseconds of the system's clock.
    answer: Option<(Answer, i64)>,
    failure: Option<(Failure, Instant)>,
}

impl Cache {
    /// Answers are used for `fresh`, and for `stale` more when the system cannot be asked.
    pub(super) fn new(fresh: Duration, stale: Duration, admission: Arc<Admission>) -> Cache {
        let entries = moka::sync::Cache::builder()
            .max_capacity(BYTES_MAX)
            .weigher(|key: &Bytes, entry: &Arc<Entry>| {
                let key = u32::try_from(key.len()).unwrap_or(u32::MAX);
                let answer = entry.weight.load(Ordering::Relaxed);
                ENTRY_COST.saturating_add(key).saturating_add(answer)
            })
            .time_to_live(fresh + stale)
            .build();
        Cache {
            entries,
            fresh,
            stale,
            admission,
        }
    }

    /// The remembered answer, or a new attempt. Whoever asks the same meanwhile gets the outcome of that one.
    pub(super) async fn attempt<'a>(
        &self,
        request: &Bytes,
        wait: Duration,
        ask: impl FnOnce() -> Pending<'a, Attempt>,
    ) -> Attempt {
        let entry = self
            .entries
            .get_with(request.clone(), || Arc::new(Entry::default()));
        let asked_at = Instant::now();
        let Ok(mut last) = tokio::time::timeout(wait, entry.last.lock()).await else {
            let message = "another message asks the same, and gets no answer in time";
            return Attempt::NotApplied(Failure::new(Class::Timeout, message));
        };
        if let Some((answer, at)) = &last.answer
            && self.since(*at) < self.fresh
        {
            return Attempt::Applied(answer.clone());
        }
        if let Some((failure, at)) = &last.failure
            && *at >= asked_at
        {
            return self.fall_back(&last, failure.clone());
        }
        match ask().await {
            Attempt::Applied(answer) => {
                let weight = u32::try_from(answer.bytes.len()).unwrap_or(u32::MAX);
                entry.weight.store(weight, Ordering::Relaxed);
                *last = Last {
                    answer: Some((answer.clone(), self.admission.steady_ms())),
                    failure: None,
                };
                // Put in again, so that it is weighed again.
                self.entries.insert(request.clone(), entry.clone());
                Attempt::Applied(answer)
            }
            Attempt::NotApplied(failure) => {
                last.failure = Some((failure.clone(), Instant::now()));
                self.fall_back(&last, failure)
            }
            Attempt::Held(failure) => match self.fall_back(&last, failure) {
                Attempt::NotApplied(failure) => Attempt::Held(failure),
                other => other,
            },
            other @ (Attempt::Unknown(_) | Attempt::Instead(..)) => other,
        }
    }

    /// How long ago that was.
    fn since(&self, at_ms: i64) -> Duration {
        let passed_ms = self.admission.steady_ms() - at_ms;
        Duration::from_millis(u64::try_from(passed_ms).unwrap_or(0))
    }

    fn fall_back(&self, last: &Last, failure: Failure) -> Attempt {
        let away = matches!(
            failure.class,
            Class::Unavailable | Class::Timeout | Class::Throttled
        );
        match &last.answer {
            Some((answer, at)) if away && self.since(*at) < self.fresh + self.stale => {
                let age = self.since(*at).as_secs();
                let told = format!("an answer that is {age}s old, because {}", failure.message);
                Attempt::Instead(answer.clone(), told)
            }
            _ => Attempt::NotApplied(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(fresh: Duration, stale: Duration) -> Cache {
        let rules = crate::system::admission::Rules::default();
        Cache::new(fresh, stale, Arc::new(Admission::new("erp", rules)))
    }

    fn answer(text: &'static str) -> Attempt {
        Attempt::Applied(Answer {
            bytes: Bytes::from_static(text.as_bytes()),
        })
    }

    fn away() -> Attempt {
        Attempt::NotApplied(Failure::new(Class::Unavailable, "away"))
    }

    async fn ask(cache: &Cache, key: &'static str, outcome: Attempt) -> String {
        let key = Bytes::from_static(key.as_bytes());
        let wait = Duration::from_secs(1);
        let attempt = cache.attempt(&key, wait, || Box::pin(async { outcome }));
        match attempt.await {
            Attempt::Applied(answer) => String::from_utf8_lossy(&answer.bytes).into_owned(),
            Attempt::Instead(answer, told) => {
                format!("{} instead: {told}", String::from_utf8_lossy(&answer.bytes))
            }
            Attempt::NotApplied(failure) | Attempt::Unknown(failure) | Attempt::Held(failure) => {
                failure.message
            }
        }
    }

    #[tokio::test]
    async fn answers_are_used_again_while_they_are_fresh() {
        let cache = cache(Duration::from_secs(60), Duration::ZERO);
        assert_eq!(ask(&cache, "a", away()).await, "away");
        assert_eq!(ask(&cache, "a", answer("1")).await, "1");
        assert_eq!(ask(&cache, "a", answer("2")).await, "1");
        assert_eq!(ask(&cache, "b", answer("3")).await, "3");
    }

    #[tokio::test]
    async fn stale_answers_serve_while_the_system_is_away() {
        let cache = cache(Duration::ZERO, Duration::from_secs(60));
        assert_eq!(ask(&cache, "a", answer("1")).await, "1");
        let stale = "1 instead: an answer that is 0s old, because away";
        assert_eq!(ask(&cache, "a", away()).await, stale);
        let shut = Failure::new(Class::Unavailable, "away");
        assert_eq!(ask(&cache, "a", Attempt::Held(shut.clone())).await, stale);
        assert_eq!(ask(&cache, "b", Attempt::Held(shut)).await, "away");
        let gone = Attempt::NotApplied(Failure::new(Class::NotFound, "gone"));
        assert_eq!(ask(&cache, "a", gone).await, "gone");
        assert_eq!(ask(&cache, "a", answer("2")).await, "2");
    }

    #[tokio::test]
    async fn the_same_question_is_asked_once_at_a_time() {
        let cache = cache(Duration::from_secs(60), Duration::ZERO);
        let asked = AtomicU32::new(0);
        let key = Bytes::from_static(b"a");
        let one = || {
            cache.attempt(&key, Duration::from_secs(5), || {
                Box::pin(async {
                    asked.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    away()
                })
            })
        };
        let (first, second, third) = tokio::join!(one(), one(), one());
        for attempt in [first, second, third] {
            assert!(matches!(attempt, Attempt::NotApplied(_)));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
}
