//! Outside systems that are databases: connection, admission, limits. What is written to them, and whether it is written again, is not decided
//! here.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::admission::Admission;
use crate::component::words;
use crate::failure::{Class, Failure};
use crate::net::sql::{Client, Deed, Dialect, Done, Place, Trouble};

/// A database: what its file says, and its connections, made when they are needed.
pub struct Database {
    pub(super) name: Arc<str>,
    pub(super) place: Place,
    pub(super) timeout: Option<words::Duration>,
    pub(super) concurrency: usize,
    pub(super) admission: Arc<Admission>,
    pub(super) client: OnceLock<Result<Client, String>>,
}

/// How one attempt ended, as far as anybody knows.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It is done, or was before.
    Done(Done),
    /// It surely is not.
    NotDone(Failure),
    /// The commit was sent and nobody knows.
    Unknown(Failure),
    /// The database takes no calls now, or refuses the credentials.
    Held(Failure),
}

impl Database {
    /// The name by which flows know it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How long one transaction may take, if its file says so.
    pub fn timeout(&self) -> Option<words::Duration> {
        self.timeout
    }

    /// How many transactions may be under way at once.
    pub fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// Whether it takes calls now.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match &self.place {
            Place::Postgres(..) => Dialect::Postgres,
            Place::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Does it once, within the database's limits.
    pub(crate) async fn attempt(&self, deed: &Deed, timeout: Duration, high: bool) -> Ended {
        let client = match self.client() {
            Ok(client) => client,
            Err(failure) => return Ended::NotDone(failure),
        };
        let pass = match self.admission.enter(high, timeout).await {
            Ok(pass) => pass,
            Err(shut) => return Ended::Held(shut),
        };
        let ended = client.apply(deed, timeout).await;
        match &ended {
            Ok(_) => pass.answered(),
            Err(Trouble::Refused(failure)) => pass.failed(failure),
            Err(Trouble::Unknown(failure)) => pass.unknown(failure),
        }
        match ended {
            Ok(done) => Ended::Done(done),
            Err(Trouble::Refused(failure)) if failure.class == Class::Auth => Ended::Held(failure),
            Err(Trouble::Refused(failure)) => Ended::NotDone(failure),
            Err(Trouble::Unknown(failure)) => Ended::Unknown(failure),
        }
    }

    /// Removes old rows of a ledger; what goes wrong is only told.
    pub(crate) async fn sweep(&self, ledger: &str, keep: Duration) {
        if let Ok(client) = self.client()
            && let Err(failure) = client.sweep(ledger, keep).await
        {
            tracing::warn!(%failure, ledger, "old rows of a ledger could not be removed");
        }
    }

    pub(super) fn client(&self) -> Result<&Client, Failure> {
        self.client
            .get_or_init(|| Client::new(&self.name, &self.place))
            .as_ref()
            .map_err(|reason| {
                let message = format!("{}: no client can be made: {reason}", self.name);
                Failure::config(message)
            })
    }
}
