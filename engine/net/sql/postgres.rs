//! A PostgreSQL server that messages are written to: a few connections, made when they are needed. Values travel as text, and the server
//! makes of each what its column is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Config, Error, SimpleQueryMessage, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Deed, Dialect, Done, Field, Looked, Once, SWEEP_MOST, Trouble, differs, too_few};
use crate::failure::{Class, Failure};
use crate::net::tls;

/// How many prepared statements a connection keeps.
const STATEMENTS_MAX: usize = 64;

/// Connections to a server.
pub(super) struct Pool {
    name: String,
    config: Config,
    tls: MakeRustlsConnect,
    idle: Mutex<Vec<Connected>>,
    /// Whether the ledger was found or made.
    ledger: AtomicBool,
}

/// A connection, and the task that drives it.
struct Connected {
    client: tokio_postgres::Client,
    statements: HashMap<String, Statement>,
    driver: JoinHandle<()>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why a step of a deed did not work.
enum Fault {
    Late,
    Server(Error),
    Told(Trouble),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Server(error)
    }
}

impl Pool {
    pub(super) fn new(name: &str, config: &Config, ca: Option<&str>) -> Result<Pool, String> {
        Ok(Pool {
            name: name.to_owned(),
            config: config.clone(),
            tls: MakeRustlsConnect::new(trust(ca)?),
            idle: Mutex::new(Vec::new()),
            ledger: AtomicBool::new(false),
        })
    }

    pub(super) async fn apply(&self, deed: &Deed, timeout: Duration) -> Result<Done, Trouble> {
        let until = Instant::now() + timeout;
        let mut connected = self.take(until).await?;
        // Until the commit is sent nothing can have been applied: whatever goes wrong, the server forgets it with the connection.
        match timeout_at(until, self.work(&mut connected, deed)).await {
            Ok(Ok(Some(rows))) => self.commit(connected, rows, until).await,
            Ok(Ok(None)) => {
                self.leave(connected, until).await;
                Ok(Done::Before)
            }
            Ok(Err(fault)) => {
                let refused = matches!(fault, Fault::Told(_))
                    || matches!(&fault, Fault::Server(error) if error.code().is_some());
                if refused {
                    self.leave(connected, until).await;
                }
                Err(self.trouble(fault, false))
            }
            Err(_) => Err(self.trouble(Fault::Late, false)),
        }
    }

    pub(super) async fn look(&self, within: Duration) -> Result<Looked, Failure> {
        let until = Instant::now() + within;
        let sql = "SELECT current_setting('server_version'), (pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean)::text,
                          coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)::text";
        let looked = async {
            let connected = self.take(until).await?;
            let rows = match timeout_at(until, connected.client.simple_query(sql)).await {
                Ok(Ok(rows)) => rows,
                Ok(Err(error)) => return Err(self.trouble(Fault::Server(error), false)),
                Err(_) => return Err(self.trouble(Fault::Late, false)),
            };
            self.give_back(connected);
            Ok(rows)
        };
        let rows = looked
            .await
            .map_err(|(Trouble::Refused(failure) | Trouble::Unknown(failure))| failure)?;
        let row = rows.iter().find_map(|row| match row {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let cell = |column| row.and_then(|row| row.get(column)).unwrap_or_default();
        Ok(Looked {
            version: format!("PostgreSQL {}", cell(0)),
            writable: cell(1) == "false",
            makes_tables: cell(2) == "true",
        })
    }

    pub(super) async fn sweep(&self, ledger: &str, keep: Duration) -> Result<(), Failure> {
        let until = Instant::now() + Duration::from_secs(10);
        let sql = format!(
            "DELETE FROM {ledger} WHERE effect IN (SELECT effect FROM {ledger} WHERE done_at < now() - interval '{} seconds' LIMIT {SWEEP_MOST})",
            keep.as_secs()
        );
        let swept = async {
            let connected = self.take(until).await?;
            match timeout_at(until, connected.client.batch_execute(&sql)).await {
                Ok(Ok(())) => {
                    self.give_back(connected);
                    Ok(())
                }
                Ok(Err(error)) => Err(self.trouble(Fault::Server(error), false)),
                Err(_) => Err(self.trouble(Fault::Late, false)),
            }
        };
        swept
            .await
            .map_err(|(Trouble::Refused(failure) | Trouble::Unknown(failure))| failure)
    }

    /// An idle connection, or a new one.
    async fn take(&self, until: Instant) -> Result<Connected, Trouble> {
        loop {
            let idle = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            match idle {
                Some(connected) if connected.client.is_closed() => {}
                Some(connected) => return Ok(connected),
                None => break,
            }
        }
        let connecting = timeout_at(until, self.config.connect(self.tls.clone())).await;
        let (client, connection) = match connecting {
            Ok(Ok(both)) => both,
            Ok(Err(error)) => return Err(self.trouble(Fault::Server(error), false)),
            Err(_) => return Err(self.trouble(Fault::Late, false)),
        };
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a database ended");
            }
        });
        Ok(Connected {
            client,
            statements: HashMap::new(),
            driver,
        })
    }

    fn give_back(&self, connected: Connected) {
        if !connected.client.is_closed() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(connected);
        }
    }

    /// Everything but the commit; `None` if the ledger says that it was done before.
    async fn work(&self, connected: &mut Connected, deed: &Deed) -> Result<Option<u64>, Fault> {
        if let Some(once) = &deed.once {
            self.ledger(connected, once).await?;
        }
        connected.client.batch_execute("BEGIN").await?;
        if let Some(once) = &deed.once
            && let Some(request) = known(connected, once).await?
        {
            return match request == once.request {
                true => Ok(None),
                false => Err(Fault::Told(differs(&self.name))),
            };
        }
        let values: Vec<&(dyn ToSql + Sync)> = deed
            .values
            .iter()
            .map(|value| value as &(dyn ToSql + Sync))
            .collect();
        let statement = connected.statement(&deed.statement).await?;
        if statement.params().len() != values.len() {
            let failure = Failure::internal(format!(
                "{}: a statement of {} parameters was given {} values",
                self.name,
                statement.params().len(),
                values.len()
            ));
            return Err(Fault::Told(Trouble::Refused(failure)));
        }
        let rows = connected.client.execute(&statement, &values).await?;
        if rows < deed.least {
            return Err(Fault::Told(too_few(&self.name, rows, deed.least)));
        }
        Ok(Some(rows))
    }

    async fn commit(
        &self,
        connected: Connected,
        rows: u64,
        until: Instant,
    ) -> Result<Done, Trouble> {
        match timeout_at(until, connected.client.batch_execute("COMMIT")).await {
            Ok(Ok(())) => {
                self.give_back(connected);
                Ok(Done::Now(rows))
            }
            Ok(Err(error)) => Err(self.trouble(Fault::Server(error), true)),
            Err(_) => Err(self.trouble(Fault::Late, true)),
        }
    }

    /// Ends a transaction of which nothing is to stay.
    async fn leave(&self, connected: Connected, until: Instant) {
        let left = timeout_at(until, connected.client.batch_execute("ROLLBACK")).await;
        if matches!(left, Ok(Ok(()))) {
            self.give_back(connected);
        }
    }

    /// Finds the ledger, or makes it. Who may not make tables finds one that was made for them.
    async fn ledger(&self, connected: &Connected, once: &Once) -> Result<(), Fault> {
        if self.ledger.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !there(&connected.client, &once.ledger).await? {
            let sql = Dialect::Postgres.ledger(&once.ledger);
            if let Err(error) = connected.client.batch_execute(&sql).await {
                // Another engine may have made it at the same moment.
                if error.code().is_none() {
                    return Err(error.into());
                }
                if !there(&connected.client, &once.ledger).await? {
                    let Trouble::Refused(failure) = self.trouble(Fault::Server(error), false)
                    else {
                        return Err(Fault::Late);
                    };
                    let message = format!(
                        "{}; the ledger is missing and cannot be made, have it made with: {sql}",
                        failure.message
                    );
                    return Err(Fault::Told(Trouble::Refused(Failure {
                        message,
                        ..failure
                    })));
                }
            }
        }
        self.ledger.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn trouble(&self, fault: Fault, committing: bool) -> Trouble {
        let name = &self.name;
        match fault {
            Fault::Told(trouble) => trouble,
            Fault::Late if committing => Trouble::Unknown(Failure::new(
                Class::Ambiguous,
                format!("{name}: the commit was sent and not answered in time"),
            )),
            Fault::Late => Trouble::Refused(Failure::new(
                Class::Timeout,
                format!("{name}: no answer in time; nothing was changed"),
            )),
            Fault::Server(error) => {
                let Some(said) = error.as_db_error() else {
                    let what = said(&error);
                    return match committing {
                        true => Trouble::Unknown(Failure::new(
                            Class::Ambiguous,
                            format!("{name}: the connection broke at the commit: {what}"),
                        )),
                        false => Trouble::Refused(Failure::new(
                            Class::Unavailable,
                            format!("{name}: {what}"),
                        )),
                    };
                };
                let class = class_of(said.code());
                let mut failure = Failure::new(
                    class,
                    format!("{name} says {}: {}", said.code().code(), said.message()),
                );
                failure.detail = said.detail().map(str::to_owned);
                // A server that is stopped in the middle of a commit says so, and not whether it was made.
                let stopped = ["08", "57", "58", "XX"].contains(&&said.code().code()[..2]);
                match committing && stopped {
                    true => Trouble::Unknown(failure),
                    false => Trouble::Refused(failure),
                }
            }
        }
    }
}

impl Connected {
    async fn statement(&mut self, text: &str) -> Result<Statement, Error> {
        if let Some(known) = self.statements.get(text) {
            return Ok(known.clone());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        let statement = self.client.prepare(text).await?;
        self.statements.insert(text.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// Whether there is a table of this quoted name.
async fn there(client: &tokio_postgres::Client, table: &str) -> Result<bool, Error> {
    let find = format!("SELECT to_regclass('{table}')::text");
    let found = client.simple_query(&find).await?;
    Ok(found
        .iter()
        .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0).is_some())))
}

/// Puts the effect into the ledger; gives the request with which it was there before. Another engine that is at it is waited for.
async fn known(connected: &mut Connected, once: &Once) -> Result<Option<String>, Error> {
    let insert = format!(
        "INSERT INTO {} (effect, request) VALUES ($1, $2) ON CONFLICT (effect) DO NOTHING",
        once.ledger
    );
    let insert = connected.statement(&insert).await?;
    let new = connected
        .client
        .execute(&insert, &[&once.effect, &once.request])
        .await?;
    if new == 1 {
        return Ok(None);
    }
    let select = format!("SELECT request FROM {} WHERE effect = $1", once.ledger);
    let select = connected.statement(&select).await?;
    let row = connected.client.query_opt(&select, &[&once.effect]).await?;
    row.map(|row| row.try_get(0)).transpose()
}

/// Whom the server's certificate must come from.
pub(super) fn trust(ca: Option<&str>) -> Result<ClientConfig, String> {
    tls::provider();
    let builder = ClientConfig::builder();
    let Some(pem) = ca else {
        return builder
            .with_platform_verifier()
            .map(|builder| builder.with_no_client_auth())
            .map_err(|error| error.to_string());
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(builder
        .with_root_certificates(Arc::new(roots))
        .with_no_client_auth())
}

/// The last cause says most.
pub(super) fn said(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn class_of(state: &SqlState) -> Class {
    match state.code() {
        "23505" | "23P01" => Class::Conflict,
        "23503" => Class::UnknownReference,
        "42501" => Class::Forbidden,
        "42P18" => Class::Config,
        "57014" => Class::Timeout,
        code => match code.get(..2).unwrap_or_default() {
            "22" | "23" | "44" => Class::Validation,
            "28" => Class::Auth,
            // Serialization, resources, limits, intervention of a person, trouble of the system, and a server that only reads.
            "08" | "40" | "53" | "55" | "57" | "58" | "25" | "XX" => Class::Unavailable,
            "P0" => Class::Conflict,
            _ => Class::Config,
        },
    }
}

impl ToSql for Field {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Field::Null => return Ok(IsNull::Yes),
            Field::Bool(yes) => out.put_slice(if *yes { b"true" } else { b"false" }),
            Field::Number(text) | Field::Text(text) => out.put_slice(text.as_bytes()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}
