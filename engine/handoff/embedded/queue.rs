//! What is ready for one step: first tries and repeats, each in the order in which they came. It knows no places and no store.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Notify;

use super::Hop;
use crate::store::commit::HopId;

/// While both wait, one hop of so many is a repeat: retries that have piled up do not stand before new messages.
const REPEAT_SHARE: usize = 5;

/// Which of the two lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// First tries.
    First,
    /// Repeats.
    Again,
}

impl Way {
    /// The lane of a hop.
    pub(super) fn of(hop: &Hop) -> Way {
        Way::of_attempt(hop.attempt)
    }

    /// The lane of a hop whose attempt to come has this number.
    pub(super) fn of_attempt(attempt: u32) -> Way {
        if attempt > 1 { Way::Again } else { Way::First }
    }
}

/// Hops in the order in which they came.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) ready: VecDeque<Hop>,
    /// Ready hops that only the store has, in the order in which they came; all of them after `ready`.
    pub(super) stored: VecDeque<HopId>,
    /// Somebody is fetching from the store.
    pub(super) fetching: bool,
}

impl Lane {
    fn offers(&self) -> bool {
        !self.ready.is_empty() || (!self.stored.is_empty() && !self.fetching)
    }
}

/// What is ready for one step.
#[derive(Default)]
pub(super) struct Queue {
    first: Lane,
    again: Lane,
    /// Counts what is taken, so that repeats get their share.
    turn: usize,
    /// Its taker takes nothing now: what is here does not count as being worked on.
    pub(super) shut: bool,
    /// People let nothing be taken from it.
    pub(super) held: bool,
    pub(super) came: Arc<Notify>,
}

/// What comes next.
pub(super) enum Next {
    /// This one.
    Hop(Hop),
    /// One that only the store has.
    Fetch(Way),
    /// Nothing.
    Nothing,
}

impl Queue {
    pub(super) fn lane(&mut self, way: Way) -> &mut Lane {
        match way {
            Way::First => &mut self.first,
            Way::Again => &mut self.again,
        }
    }

    /// How many hops are ready, here or in the store.
    pub(super) fn len(&self) -> usize {
        let lanes = [&self.first, &self.again];
        let sizes = lanes.map(|lane| lane.ready.len() + lane.stored.len());
        sizes[0] + sizes[1]
    }

    /// Takes the next hop; a repeat only if there may be one.
    pub(super) fn next(&mut self, repeats: bool) -> Next {
        let way = match (self.first.offers(), repeats && self.again.offers()) {
            (false, false) => return Next::Nothing,
            (true, false) => Way::First,
            (false, true) => Way::Again,
            (true, true) if self.turn % REPEAT_SHARE == REPEAT_SHARE - 1 => Way::Again,
            (true, true) => Way::First,
        };
        match self.lane(way).ready.pop_front() {
            Some(hop) => {
                self.turn = self.turn.wrapping_add(1);
                Next::Hop(hop)
            }
            None => Next::Fetch(way),
        }
    }
}
