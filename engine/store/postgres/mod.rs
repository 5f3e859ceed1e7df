//! The store on a PostgreSQL server: where it is, how it is connected to, and what its errors mean. Any number of engines may share it.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::failure::{Class, Failure};
use crate::net::sql;

use super::database::{Connection, Error, Sql};

mod away;
pub mod begin;
pub mod lead;
pub mod restored;
pub(super) mod session;
pub mod witness;
pub(super) mod writer;

#[cfg(test)]
mod tests;

pub(super) use away::Away;
use session::Session;

/// The schema, where none is named.
pub const SCHEMA_DEFAULT: &str = "crossdock";

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A server, and the schema of it that is the store.
#[derive(Clone)]
pub struct Server {
    config: Config,
    tls: MakeRustlsConnect,
    schema: String,
    shown: String,
    /// Whether times are those of the world's clock: tests move that.
    pub(super) by_the_worlds_clock: bool,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Server {
    /// A server by its URL, a schema, and the certificates of authorities that the server is trusted by (PEM), if not the machine's.
    /// Connects to nothing yet; the error says what is wrong with what was given.
    pub fn new(url: &str, schema: &str, ca: Option<&str>) -> Result<Server, String> {
        let mut config = sql::server(url)?;
        let known = schema
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !known || schema.is_empty() || schema.len() > 63 || schema.starts_with("pg_") {
            return Err(format!(
                "`{schema}` cannot be the schema: write lowercase letters, digits and `_`, at most 63"
            ));
        }
        // A connection that is cut without a word is noticed within seconds: here by the probes, at the server by those of `settings`.
        config
            .connect_timeout(CONNECT)
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(15));
        Ok(Server {
            shown: shown(&config, schema),
            tls: sql::tls(ca)?,
            config,
            schema: schema.to_owned(),
            by_the_worlds_clock: false,
        })
    }

    /// Where it is, without credentials: for people.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The schema that is the store.
    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// A connection, on a thread that may block.
    pub(super) fn connect(&self) -> Sql<Connection> {
        Ok(Connection::Postgres(Box::new(Session::connect(self)?)))
    }

    /// The number of a lock of this store.
    pub(super) fn lock(&self, name: &str) -> i64 {
        let hash = Sha256::digest(format!("crossdock\n{}\n{name}", self.schema));
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        i64::from_be_bytes(first)
    }

    /// What an error means for the caller. Errors that no user can cause are of class `internal`.
    pub(super) fn failure(&self, error: &Error) -> Failure {
        failure(&self.shown, error)
    }
}

fn shown(config: &Config, schema: &str) -> String {
    use tokio_postgres::config::Host;
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    format!(
        "postgres://{}/{} (schema {schema})",
        hosts.join(","),
        config
            .get_dbname()
            .or(config.get_user())
            .unwrap_or_default()
    )
}

/// What holds in every connection of the store. A server that notices a cut connection late would keep the lock of a dead engine.
fn settings(schema: &str, statement_seconds: u64) -> String {
    format!(
        "SET search_path TO \"{schema}\";
         SET client_min_messages TO warning;
         SET default_transaction_isolation TO 'read committed';
         SET default_transaction_read_only TO off;
         SET statement_timeout TO '{statement_seconds}s';
         SET lock_timeout TO 0;
         SET idle_in_transaction_session_timeout TO '10s';
         SET tcp_keepalives_idle TO 4;
         SET tcp_keepalives_interval TO 2;
         SET tcp_keepalives_count TO 3;
         SET tcp_user_timeout TO '10s';
         SET jit TO off;
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
}

/// What an error of a server means for the caller.
pub(super) fn failure(shown: &str, error: &Error) -> Failure {
    let code = match error {
        Error::Postgres(error) => error.code().map(|state| state.code().to_owned()),
        Error::Late(_) | Error::Broken => None,
        _ => {
            return Failure::internal(format!(
                "the store {shown} was asked for something impossible: {error}"
            ));
        }
    };
    let Some(code) = code else {
        return Failure::new(
            Class::Unavailable,
            format!(
                "the store {shown} cannot be reached ({error}); check that the server runs and that nothing stands between; nothing is lost"
            ),
        );
    };
    let (class, what) = match (&code[..2], code.as_str()) {
        (_, "53100") => (
            Class::Unavailable,
            "has no room on its disk; free some space, nothing is lost",
        ),
        (_, "53300") => (
            Class::Unavailable,
            "takes no more connections; raise its `max_connections`, an engine needs seven",
        ),
        (_, "25006") => (
            Class::Unavailable,
            "only reads: this is a standby; connect to the primary (`target_session_attrs=read-write`)",
        ),
        (_, "3D000") => (
            Class::Config,
            "has no such database; make it with `createdb`, or correct the URL",
        ),
        ("28", _) => (
            Class::Auth,
            "refuses the user or the password; correct `store.postgres.url`",
        ),
        (_, "42501" | "3F000") => (
            Class::Forbidden,
            "does not let this user use the schema; grant it, or make it beforehand with this user as its owner",
        ),
        ("54", _) => (
            Class::TooLarge,
            "cannot find a key again that has more than about 2,600 bytes",
        ),
        ("08" | "40" | "53" | "55" | "57" | "58" | "XX", _) => (
            Class::Unavailable,
            "cannot do it now; it is tried again, nothing is lost",
        ),
        _ => (Class::Internal, "was asked for something impossible"),
    };
    Failure::new(class, format!("the store {shown} {what} ({error})"))
}
