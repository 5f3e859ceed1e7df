//! What the engine itself says about its books, read from its store. The demo waits by them and prints them; it judges by the journals.

use std::collections::HashSet;
use std::path::Path;

use crate::failure::Failure;
use crate::store::books::{Books, Counts};
use crate::store::postgres::Server;
use crate::store::reader::{Place, Reader};
use crate::store::runs::{RunFilter, RunState};

/// Where the reference project keeps its store, below its folder.
const STORE: &str = ".crossdock/store.db";
/// How many runs are read at once.
const PAGE: usize = 1_000;

/// The engine's own counts, and who waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Each flow with its counts.
    pub flows: Vec<Books>,
    /// Hops that are not over, those between flows among them.
    pub hops: u64,
}

impl Tally {
    /// Whether the books of every flow balance.
    pub fn balances(&self) -> bool {
        self.flows.iter().all(|flow| flow.counts.balanced())
    }

    /// The sum of one count over all flows.
    pub fn sum(&self, count: impl Fn(&Counts) -> i64) -> i64 {
        self.flows.iter().map(|flow| count(&flow.counts)).sum()
    }

    /// Whether messages came, and none is on its way.
    pub fn is_quiet(&self) -> bool {
        self.hops == 0
            && self.sum(|counts| counts.in_flight) == 0
            && self.sum(|counts| counts.received) > 0
    }
}

/// Opens the store of the project in a folder, to read it while the engine runs and while it does not.
pub fn open(project: &Path) -> Result<Reader, String> {
    Reader::open(&project.join(STORE)).map_err(said)
}

/// The same for a store on a PostgreSQL server, in this schema.
pub fn open_server(url: &str, schema: &str) -> Result<Reader, String> {
    let server = Server::new(url, schema, None)?;
    Reader::at(&Place::Server(Box::new(server))).map_err(said)
}

/// The counts of now.
pub async fn read(store: &Reader) -> Result<Tally, String> {
    let flows = store.books().await.map_err(said)?;
    let hops = store.hop_counts().await.map_err(said)?;
    Ok(Tally {
        flows,
        hops: hops
            .iter()
            .map(|hop| hop.ready + hop.waiting + hop.held)
            .sum(),
    })
}

/// The `order` keys of all messages that wait for a person.
pub async fn read_waiting(store: &Reader) -> Result<HashSet<String>, String> {
    let mut waiting = HashSet::new();
    let mut before = None;
    loop {
        let filter = RunFilter {
            state: Some(RunState::InException),
            before,
            limit: PAGE,
            ..RunFilter::default()
        };
        let page = store.runs(filter).await.map_err(said)?;
        before = page.last().map(|row| row.run);
        let end = page.len() < PAGE;
        waiting.extend(
            page.into_iter()
                .filter_map(|row| row.keys.get("order").cloned()),
        );
        if end {
            return Ok(waiting);
        }
    }
}

fn said(failure: Failure) -> String {
    failure.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn tally(counts: Counts, hops: u64) -> Tally {
        Tally {
            flows: vec![Books {
                flow: Arc::from("a"),
                counts,
            }],
            hops,
        }
    }

    #[test]
    fn an_engine_is_quiet_when_messages_came_and_none_is_on_its_way() {
        let done = Counts {
            received: 2,
            accepted: 2,
            delivered: 2,
            ..Counts::default()
        };
        assert!(tally(done, 0).is_quiet());
        assert!(!tally(done, 1).is_quiet());
        assert!(
            !tally(
                Counts {
                    in_flight: 1,
                    ..done
                },
                0
            )
            .is_quiet()
        );
        assert!(!tally(Counts::default(), 0).is_quiet());
    }

    #[test]
    fn books_balance_only_if_every_flow_does() {
        let good = Counts {
            received: 2,
            accepted: 1,
            duplicates: 1,
            delivered: 1,
            ..Counts::default()
        };
        let mut both = tally(good, 0);
        assert!(both.balances());
        both.flows.push(Books {
            flow: Arc::from("b"),
            counts: Counts {
                delivered: 2,
                ..good
            },
        });
        assert!(!both.balances());
        assert_eq!(both.sum(|counts| counts.delivered), 3);
    }
}
