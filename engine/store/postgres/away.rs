//! A server that is away is said once, and once that it is there again: not for each of the many who need it meanwhile. They are counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::failure::{Class, Failure};
use crate::world::clock::Clock;

/// For so long after the server is there again somebody may still come with what went wrong before. For so long must nothing go wrong, too,
/// where only readers found the server away, until it counts as there again.
const LATE_MS: i64 = 2_000;

/// While it lasts, the log speaks of it so often.
const AGAIN_MS: i64 = 60_000;

/// Whether a server is away, as the log has it.
pub(in crate::store) struct Away {
    shown: String,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
enum State {
    There {
        since_ms: Option<i64>,
    },
    Away {
        since_ms: i64,
        last_ms: i64,
        /// When the log last spoke of it.
        said_ms: i64,
        failed: u64,
        /// Whether the writer, too, has found it away.
        writer: bool,
    },
}

impl Away {
    pub(in crate::store) fn of(shown: &str, clock: Arc<dyn Clock>) -> Away {
        Away {
            shown: shown.to_owned(),
            clock,
            state: Mutex::new(State::There { since_ms: None }),
        }
    }

    /// The writer cannot connect.
    pub(super) fn begins(&self, failure: &Failure) {
        self.counts(failure, true);
    }

    /// Whether this failure belongs to an outage of which the log speaks. It is counted there.
    pub(in crate::store) fn has_said(&self, failure: &Failure) -> bool {
        let ours = failure.class == Class::Unavailable && failure.message.contains(&self.shown);
        if ours {
            self.counts(failure, false);
        }
        ours
    }

    fn counts(&self, failure: &Failure, by_writer: bool) {
        let now_ms = self.clock.steady_ms();
        let mut state = self.state();
        match &mut *state {
            State::Away {
                last_ms,
                failed,
                writer,
                said_ms,
                ..
            } => {
                *last_ms = now_ms;
                *failed += u64::from(!by_writer);
                *writer |= by_writer;
                if now_ms - *said_ms >= AGAIN_MS {
                    *said_ms = now_ms;
                    tracing::error!("{} ({failed} times by now)", failure.message);
                }
            }
            State::There {
                since_ms: Some(since_ms),
            } if !by_writer && now_ms - *since_ms < LATE_MS => {
                tracing::debug!(%failure, "this is of the outage that is over");
            }
            State::There { .. } => {
                tracing::error!("{}", failure.message);
                *state = State::Away {
                    since_ms: now_ms,
                    last_ms: now_ms,
                    said_ms: now_ms,
                    failed: u64::from(!by_writer),
                    writer: by_writer,
                };
            }
        }
    }

    /// The writer has committed something, or, `anew`, has connected again.
    pub(super) fn answers(&self, anew: bool) {
        let mut state = self.state();
        let State::Away {
            since_ms,
            last_ms,
            failed,
            writer,
            ..
        } = *state
        else {
            return;
        };
        let now_ms = self.clock.steady_ms();
        if !(anew && writer) && now_ms - last_ms < LATE_MS {
            return;
        }
        *state = State::There {
            since_ms: Some(now_ms),
        };
        let away = Duration::from_millis(u64::try_from(now_ms - since_ms).unwrap_or(0));
        tracing::info!(
            "the store {} is there again after {away:?}; {failed} times somebody needed it meanwhile, and tries again",
            self.shown
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
