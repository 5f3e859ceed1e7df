//! What the engine itself says about its books. The demo waits by them and prints them; it judges by the journals.

use std::collections::HashSet;

/// The engine's own counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Deliveries that came in.
    pub received: u64,
    /// Messages that were taken.
    pub accepted: u64,
    /// Deliveries that were known.
    pub duplicates: u64,
    /// Deliveries that were turned away.
    pub refused: u64,
    /// Messages that reached their sinks.
    pub delivered: u64,
    /// Messages that a step filtered.
    pub filtered: u64,
    /// Messages that were dropped for a reason.
    pub discarded: u64,
    /// Messages on their way or waiting for another attempt.
    pub in_flight: u64,
    /// Messages that wait for a person.
    pub in_exceptions: u64,
    /// The `order` keys of those.
    pub waiting: HashSet<String>,
}

impl Tally {
    /// Whether everything that came in is accounted for.
    pub fn balances(&self) -> bool {
        let ended =
            self.delivered + self.filtered + self.discarded + self.in_flight + self.in_exceptions;
        self.received == self.accepted + self.duplicates + self.refused && self.accepted == ended
    }
}

/// Reads the engine's books from outside, while it runs and while it does not.
pub trait Books: Send + Sync {
    /// The counts of now.
    fn read(&self) -> Result<Tally, String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_balance_when_every_message_is_somewhere() {
        let mut tally = Tally {
            received: 10,
            accepted: 7,
            duplicates: 2,
            refused: 1,
            delivered: 4,
            filtered: 1,
            in_flight: 1,
            in_exceptions: 1,
            ..Tally::default()
        };
        assert!(tally.balances());
        tally.in_flight = 0;
        assert!(!tally.balances());
        tally.delivered = 5;
        assert!(tally.balances());
        tally.duplicates = 3;
        assert!(!tally.balances());
    }
}
