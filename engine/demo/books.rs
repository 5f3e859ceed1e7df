//! What the engine itself says about its books. The demo waits by them and prints them; it judges by the journals.

use std::collections::HashSet;

use crate::world::Pending;

/// The counts of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that came.
    pub received: u64,
    /// Messages that were taken.
    pub accepted: u64,
    /// Messages that were known.
    pub duplicates: u64,
    /// Messages that were turned away.
    pub refused: u64,
    /// Messages that reached a sink.
    pub delivered: u64,
    /// Messages that a step filtered.
    pub filtered: u64,
    /// Messages that were dropped for a reason.
    pub discarded: u64,
    /// Messages on their way, or waiting for another attempt.
    pub in_flight: u64,
    /// Messages that wait for a person.
    pub in_exceptions: u64,
}

impl Counts {
    /// Whether everything that came in is accounted for.
    pub fn balance(&self) -> bool {
        let places =
            self.delivered + self.filtered + self.discarded + self.in_flight + self.in_exceptions;
        self.received == self.accepted + self.duplicates + self.refused && self.accepted == places
    }
}

/// The engine's own counts, and who waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Each flow with its counts.
    pub flows: Vec<(String, Counts)>,
    /// The `order` keys of all messages that wait for a person.
    pub waiting: HashSet<String>,
}

impl Tally {
    /// Whether the books of every flow balance.
    pub fn balances(&self) -> bool {
        self.flows.iter().all(|(_, counts)| counts.balance())
    }

    /// The sum of one count over all flows.
    pub fn sum(&self, count: impl Fn(&Counts) -> u64) -> u64 {
        self.flows.iter().map(|(_, counts)| count(counts)).sum()
    }
}

/// Reads the engine's books from outside, while it runs and while it does not.
pub trait Books: Send + Sync {
    /// The counts of now.
    fn read(&self) -> Pending<'_, Result<Tally, String>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_balance_when_every_message_is_somewhere() {
        let good = Counts {
            received: 10,
            accepted: 7,
            duplicates: 2,
            refused: 1,
            delivered: 4,
            filtered: 1,
            discarded: 0,
            in_flight: 1,
            in_exceptions: 1,
        };
        assert!(good.balance());
        let check = |wrong: Counts| {
            let flows = vec![("a".to_owned(), good), ("b".to_owned(), wrong)];
            assert!(
                !Tally {
                    flows,
                    ..Tally::default()
                }
                .balances()
            );
        };
        check(Counts {
            in_flight: 0,
            ..good
        });
        check(Counts {
            duplicates: 3,
            ..good
        });
        check(Counts {
            delivered: 5,
            ..good
        });
    }
}
