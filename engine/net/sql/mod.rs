//! Databases that messages are written to: one statement with its values, and the row of the ledger that says so, in one transaction. It
//! knows no flows; the store's own database is not its matter.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::failure::{Class, Failure};

mod postgres;
mod sqlite;

/// How many rows of a ledger go at once.
const SWEEP_MOST: usize = 1_000;

/// How statements are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
}

impl Dialect {
    /// How the parameter with this number, from 1, is written.
    pub(crate) fn parameter(self, number: usize) -> String {
        match self {
            Dialect::Postgres => format!("${number}"),
            Dialect::Sqlite => format!("?{number}"),
        }
    }

    /// What makes a ledger, if it is not there. `table` is quoted.
    pub(crate) fn ledger(self, table: &str) -> String {
        match self {
            Dialect::Postgres => format!(
                "CREATE TABLE IF NOT EXISTS {table} (effect text PRIMARY KEY, request text NOT NULL, done_at timestamptz NOT NULL DEFAULT now())"
            ),
            Dialect::Sqlite => format!(
                "CREATE TABLE IF NOT EXISTS {table} (effect TEXT PRIMARY KEY, request TEXT NOT NULL, done_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
            ),
        }
    }
}

/// A value of a statement. The database makes of it what its column is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// NULL.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// A text; also of a date, or a JSON document.
    Text(String),
}

/// What is done in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    /// One statement; its values go through parameters.
    pub(crate) statement: String,
    /// The values, in the order of the parameters.
    pub(crate) values: Vec<Field>,
    /// With fewer rows changed nothing is.
    pub(crate) least: u64,
    /// What makes it happen once.
    pub(crate) once: Option<Once>,
}

/// The row of the ledger that stands for a deed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Once {
    /// The ledger's table, quoted.
    pub(crate) ledger: String,
    /// The effect's id.
    pub(crate) effect: String,
    /// What the request is known by.
    pub(crate) request: String,
}

/// What became of a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// It is done; so many rows were changed.
    Now(u64),
    /// The ledger says that it was done before; nothing was changed.
    Before,
}

/// Why a deed is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It surely is not.
    Refused(Failure),
    /// The commit was sent and nobody knows.
    Unknown(Failure),
}

/// What a look at a database has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Its kind and version.
    pub(crate) version: String,
    /// Whether it takes writes.
    pub(crate) writable: bool,
    /// Whether this user may make tables.
    pub(crate) makes_tables: bool,
}

/// Where a database is.
pub(crate) enum Place {
    /// A PostgreSQL server, and the certificates of authorities that it is trusted by, if not the machine's.
    Postgres(Box<tokio_postgres::Config>, Option<String>),
    /// A SQLite file.
    Sqlite(PathBuf),
}

/// A PostgreSQL server by its URL. The error says what is wrong with it.
pub(crate) fn server(url: &str) -> Result<Config, String> {
    let scheme = url.split("://").next().unwrap_or_default();
    if !["postgres", "postgresql"].contains(&scheme) {
        return Err("there is no client for this URL".to_owned());
    }
    let mut config = Config::from_str(url).map_err(|error| {
        let cause = std::error::Error::source(&error);
        let cause = cause.map_or(String::new(), |cause| format!(": {cause}"));
        format!("the URL cannot be read{cause}")
    })?;
    if config.get_hosts().is_empty() {
        return Err("the URL names no host".to_owned());
    }
    if !url.contains("sslmode=") {
        // On the way to another machine anybody could read along; who wants that says so with `sslmode`.
        let here = config.get_hosts().iter().all(is_here);
        config.ssl_mode(if here {
            SslMode::Disable
        } else {
            SslMode::Require
        });
    }
    config.application_name("crossdock");
    Ok(config)
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

/// TLS to a server that is trusted by these authorities (PEM), or by the machine's.
pub(crate) fn tls(ca: Option<&str>) -> Result<MakeRustlsConnect, String> {
    postgres::trust(ca).map(MakeRustlsConnect::new)
}

/// What an error of the client says, down to its last cause.
pub(crate) fn said(error: &tokio_postgres::Error) -> String {
    postgres::said(error)
}

/// A database, connected to at the first use.
pub(crate) struct Client {
    kind: Kind,
}

enum Kind {
    Postgres(Box<postgres::Pool>),
    Sqlite(sqlite::File),
}

impl Client {
    /// Opens nothing yet. `name` is the system's.
    pub(crate) fn new(name: &str, place: &Place) -> Result<Client, String> {
        Ok(Client {
            kind: match place {
                Place::Postgres(config, ca) => {
                    let pool = postgres::Pool::new(name, config, ca.as_deref())?;
                    Kind::Postgres(Box::new(pool))
                }
                Place::Sqlite(path) => Kind::Sqlite(sqlite::File::new(name, path)),
            },
        })
    }

    /// Does it, or finds that it was done.
    pub(crate) async fn apply(&self, deed: &Deed, timeout: Duration) -> Result<Done, Trouble> {
        match &self.kind {
            Kind::Postgres(pool) => pool.apply(deed, timeout).await,
            Kind::Sqlite(file) => file.apply(deed, timeout).await,
        }
    }

    /// Connects, and asks what may be done there; writes nothing.
    pub(crate) async fn look(&self, within: Duration) -> Result<Looked, Failure> {
        match &self.kind {
            Kind::Postgres(pool) => pool.look(within).await,
            Kind::Sqlite(file) => file.look(within).await,
        }
    }

    /// Removes rows of a ledger that are older than this; some, not all at once.
    pub(crate) async fn sweep(&self, ledger: &str, keep: Duration) -> Result<(), Failure> {
        match &self.kind {
            Kind::Postgres(pool) => pool.sweep(ledger, keep).await,
            Kind::Sqlite(file) => file.sweep(ledger, keep).await,
        }
    }
}

/// The ledger knows the effect with another request.
fn differs(name: &str) -> Trouble {
    Trouble::Refused(Failure::new(
        Class::Conflict,
        format!(
            "{name}: the ledger has this effect with another request; nothing was changed: compare both and decide"
        ),
    ))
}

/// The statement has found less than it must.
fn too_few(name: &str, rows: u64, least: u64) -> Trouble {
    Trouble::Refused(Failure::new(
        Class::NotFound,
        format!(
            "{name}: the statement met {rows} rows and must meet {least} at least; nothing was changed"
        ),
    ))
}
