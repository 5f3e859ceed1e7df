//! Leadership: what one engine at a time may do. A name is led by the engine that holds its lock on the server; all locks of an engine are held
//! by one connection, which is asked all the time whether it is still there. When it is not, the engine leads nothing any more, before the
//! server notices and lets another one lead.

use std::collections::HashSet;
use std::sync::{Arc, Mutex as Plain, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::store::database::Error;

use super::{CONNECT, Server};

/// How often the connection is asked. With `ANSWER` it is less than what the server takes to notice that a client is gone: see
/// `super::settings`.
const EVERY: Duration = Duration::from_secs(2);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(3);

/// The right to do what only one engine may do. Dropped, another engine may.
pub struct Lead {
    lost: CancellationToken,
    place: Option<Place>,
}

/// What a lead gives back.
struct Place {
    name: String,
    line: Arc<Line>,
}

impl Lead {
    /// One that is always granted, and never lost: nobody else can have the store.
    pub(in crate::store) fn alone() -> Lead {
        Lead {
            lost: CancellationToken::new(),
            place: None,
        }
    }

    /// Waits until another engine may lead: what is done under this lead must end then.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Whether another engine may lead.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            place.line.leave(&place.name);
        }
    }
}

/// The connection that holds the locks.
struct Line {
    client: Client,
    lost: CancellationToken,
    held: Plain<HashSet<String>>,
    left: mpsc::UnboundedSender<String>,
}

impl Line {
    fn leave(&self, name: &str) {
        self.held().remove(name);
        self.left.send(name.to_owned()).ok();
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The leads of one engine.
pub(in crate::store) struct Leads {
    server: Server,
    line: Mutex<Option<Running>>,
}

/// A line, and the tasks that keep it.
struct Running {
    line: Arc<Line>,
    driver: JoinHandle<()>,
    keeper: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.line.lost.cancel();
        self.keeper.abort();
        self.driver.abort();
    }
}

impl Leads {
    pub(in crate::store) fn of(server: &Server) -> Leads {
        Leads {
            server: server.clone(),
            line: Mutex::new(None),
        }
    }

    /// The right to lead this, unless another engine has it, or a part of this one.
    pub(in crate::store) async fn lead(&self, name: &str) -> Result<Option<Lead>, Failure> {
        let mut running = self.line.lock().await;
        if running
            .as_ref()
            .is_some_and(|running| running.line.lost.is_cancelled())
        {
            *running = None;
        }
        if running.is_none() {
            *running = Some(self.connect().await?);
        }
        let Some(line) = running.as_ref().map(|running| running.line.clone()) else {
            return Ok(None);
        };
        if line.held().contains(name) {
            return Ok(None);
        }
        let lock = self.server.lock(&format!("lead {name}"));
        match asked(&line.client, "SELECT pg_try_advisory_lock($1)", lock).await {
            Ok(true) => {
                line.held().insert(name.to_owned());
                Ok(Some(Lead {
                    lost: line.lost.clone(),
                    place: Some(Place {
                        name: name.to_owned(),
                        line,
                    }),
                }))
            }
            Ok(false) => Ok(None),
            Err(error) => {
                *running = None;
                Err(self.server.failure(&error))
            }
        }
    }

    /// Leads nothing any more.
    pub(in crate::store) async fn close(&self) {
        self.line.lock().await.take();
    }

    async fn connect(&self) -> Result<Running, Failure> {
        let failed = |error: Error| self.server.failure(&error);
        let connecting = self.server.config.connect(self.server.tls.clone());
        let (client, connection) = timeout(CONNECT, connecting)
            .await
            .map_err(|_| failed(Error::Late(CONNECT.as_secs())))?
            .map_err(|error| failed(error.into()))?;
        let lost = CancellationToken::new();
        let ended = lost.clone();
        let shown = self.server.shown().to_owned();
        // The locks of a connection that the server ends are free at once.
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::info!(
                    "the connection to the store {shown} that leads is lost ({error}); another engine may lead"
                );
            }
            ended.cancel();
        });
        let settings = super::settings(&self.server.schema, ANSWER.as_secs());
        let (left, leaving) = mpsc::unbounded_channel();
        let line = Arc::new(Line {
            client,
            lost,
            held: Plain::default(),
            left,
        });
        let keeper = tokio::spawn(keep(line.clone(), leaving, self.server.clone()));
        let running = Running {
            line,
            driver,
            keeper,
        };
        timeout(CONNECT, running.line.client.batch_execute(&settings))
            .await
            .map_err(|_| failed(Error::Late(CONNECT.as_secs())))?
            .map_err(|error| failed(error.into()))?;
        Ok(running)
    }
}

/// Asks whether the line is still there, and gives back what is left. Ends with the line.
async fn keep(line: Arc<Line>, mut leaving: mpsc::UnboundedReceiver<String>, server: Server) {
    loop {
        let answered = tokio::select! {
            () = line.lost.cancelled() => return,
            left = leaving.recv() => match left {
                Some(name) => {
                    let lock = server.lock(&format!("lead {name}"));
                    asked(&line.client, "SELECT pg_advisory_unlock($1)", lock).await
                }
                None => return,
            },
            () = tokio::time::sleep(EVERY) => {
                asked(&line.client, "SELECT $1::bigint IS NOT NULL", 0).await
            }
        };
        if let Err(error) = answered {
            tracing::info!(
                "the connection to the store {} that leads is lost ({error}); another engine may lead",
                server.shown()
            );
            line.lost.cancel();
            return;
        }
    }
}

async fn asked(client: &Client, sql: &str, number: i64) -> Result<bool, Error> {
    match timeout(ANSWER, client.query_one(sql, &[&number])).await {
        Ok(Ok(row)) => Ok(row.try_get(0)?),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Error::Late(ANSWER.as_secs())),
    }
}
