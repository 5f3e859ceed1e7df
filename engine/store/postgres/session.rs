//! One connection to PostgreSQL for one thread: calls block, and statements whose results nobody needs go out together with the next one
//! whose result somebody does. It does not reconnect: what is broken stays broken.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::future::try_join_all;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Row};

use super::Server;
use crate::store::database::{Error, Sql, Value, escape};

/// How long the server may work on a statement; it ends one that takes longer.
const STATEMENT_SECONDS: u64 = 30;
/// How long an answer may take; more than the server's own limit, so that this is about connections that are cut.
const ANSWER: Duration = Duration::from_secs(STATEMENT_SECONDS + 10);
/// How many statements may be under way before one waits for them.
const PENDING_MAX: usize = 256;

/// A prepared statement.
pub(in crate::store) type Prepared = tokio_postgres::Statement;

type Pending = Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + Send>>;

/// A connection with its statements.
pub(in crate::store) struct Session {
    client: Arc<Client>,
    /// Drives the connection while somebody waits for it. `None` only while it is dropped.
    runtime: Option<Runtime>,
    statements: RefCell<HashMap<String, Prepared>>,
    pending: RefCell<VecDeque<Pending>>,
    broken: Cell<bool>,
}

impl Session {
    /// Connects. To be called on a thread that may block.
    pub(super) fn connect(server: &Server) -> Sql<Session> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|_| Error::Broken)?;
        let connecting = async {
            let connecting = server.config.connect(server.tls.clone());
            match tokio::time::timeout(super::CONNECT, connecting).await {
                Ok(connected) => connected.map_err(Error::from),
                Err(_) => Err(Error::Late(super::CONNECT.as_secs())),
            }
        };
        let (client, connection) = runtime.block_on(connecting)?;
        runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of the store ended");
            }
        });
        let session = Session {
            client: Arc::new(client),
            runtime: Some(runtime),
            statements: RefCell::default(),
            pending: RefCell::default(),
            broken: Cell::new(false),
        };
        session.batch(&super::settings(&server.schema, STATEMENT_SECONDS))?;
        Ok(session)
    }

    /// Whether it is of no use any more.
    pub(in crate::store) fn is_broken(&self) -> bool {
        self.broken.get() || self.client.is_closed()
    }

    /// Whether the server has not closed it, as far as is known here. Sends what was put off.
    pub(in crate::store) fn is_there(&self) -> bool {
        let looked = self.wait(async {
            tokio::task::yield_now().await;
            Ok(())
        });
        looked.is_ok() && !self.is_broken()
    }

    /// A statement, prepared at its first use.
    pub(in crate::store) fn prepare(&self, sql: &str) -> Sql<Prepared> {
        if let Some(known) = self.statements.borrow().get(sql) {
            return Ok(known.clone());
        }
        let numbered = numbered(sql);
        let prepared = self.wait(self.client.prepare(&numbered))?;
        let mut statements = self.statements.borrow_mut();
        statements.insert(sql.to_owned(), prepared.clone());
        Ok(prepared)
    }

    /// Runs a statement; gives how many rows it has changed.
    pub(in crate::store) fn execute(
        &self,
        prepared: &Prepared,
        values: &[Value<'_>],
    ) -> Sql<usize> {
        let changed = self.wait(
            self.client
                .execute_raw(prepared, values.iter().map(|value| value as &dyn ToSql)),
        )?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    /// Runs a query.
    pub(in crate::store) fn query(
        &self,
        prepared: &Prepared,
        values: &[Value<'_>],
    ) -> Sql<Vec<Row>> {
        let values: Vec<&(dyn ToSql + Sync)> = values
            .iter()
            .map(|value| value as &(dyn ToSql + Sync))
            .collect();
        self.wait(self.client.query(prepared, &values))
    }

    /// Sends a statement whose result nobody needs. If it fails, what waits for a result next does.
    pub(in crate::store) fn put(&self, prepared: &Prepared, values: &[Value<'_>]) -> Sql<()> {
        let values: Vec<Owned> = values.iter().map(Owned::of).collect();
        let (client, prepared) = (self.client.clone(), prepared.clone());
        self.send(async move { client.execute_raw(&prepared, values).await })
    }

    /// Sends a statement that must change a row; that it did not is logged with these words.
    pub(in crate::store) fn put_one(
        &self,
        prepared: &Prepared,
        values: &[Value<'_>],
        missed: &'static str,
    ) -> Sql<()> {
        let values: Vec<Owned> = values.iter().map(Owned::of).collect();
        let (client, prepared) = (self.client.clone(), prepared.clone());
        self.send(async move {
            let changed = client.execute_raw(&prepared, values).await?;
            if changed == 0 {
                tracing::error!("{missed}");
            }
            Ok(changed)
        })
    }

    /// Runs a statement for each of these, all of them under way at a time; gives how many rows each has changed.
    pub(in crate::store) fn execute_each<const N: usize>(
        &self,
        prepared: &Prepared,
        each: &[[Value<'_>; N]],
    ) -> Sql<Vec<usize>> {
        let mut changed = Vec::with_capacity(each.len());
        for some in each.chunks(PENDING_MAX) {
            let requests = some.iter().map(|values| {
                self.client
                    .execute_raw(prepared, values.iter().map(|value| value as &dyn ToSql))
            });
            let rows = self.wait(try_join_all(requests))?;
            let rows = rows.into_iter().map(usize::try_from);
            changed.extend(rows.map(|rows| rows.unwrap_or(usize::MAX)));
        }
        Ok(changed)
    }

    /// Runs a query for each of these, all of them under way at a time; gives the rows of all, in the order of the queries.
    pub(in crate::store) fn query_each<const N: usize>(
        &self,
        prepared: &Prepared,
        each: &[[Value<'_>; N]],
    ) -> Sql<Vec<Row>> {
        let mut found = Vec::with_capacity(each.len());
        for some in each.chunks(PENDING_MAX) {
            let requests = some.iter().map(|values| async move {
                let values = values.each_ref().map(|value| value as &(dyn ToSql + Sync));
                self.client.query(prepared, &values).await
            });
            let rows = self.wait(try_join_all(requests))?;
            found.extend(rows.into_iter().flatten());
        }
        Ok(found)
    }

    /// Sends statements without parameters, whose results nobody needs.
    pub(in crate::store) fn put_batch(&self, sql: &'static str) -> Sql<()> {
        let client = self.client.clone();
        self.send(async move { client.batch_execute(sql).await.map(|()| 0) })
    }

    /// Runs statements without parameters.
    pub(in crate::store) fn batch(&self, sql: &str) -> Sql<()> {
        self.wait(self.client.batch_execute(sql))
    }

    /// Leaves a transaction, and forgets what was under way.
    pub(in crate::store) fn roll_back(&self) -> Sql<()> {
        self.pending.borrow_mut().clear();
        self.batch("ROLLBACK")
    }

    fn send(
        &self,
        request: impl Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'static,
    ) -> Sql<()> {
        if self.pending.borrow().len() >= PENDING_MAX {
            self.wait(async { Ok(()) })?;
        }
        let mut request: Pending = Box::pin(request);
        // The first poll puts the request into the queue; the answer is looked at when something else is waited for.
        match request
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Pending => self.pending.borrow_mut().push_back(request),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Err(self.judge(error)),
        }
        Ok(())
    }

    /// Waits for a result, and for those of all that was sent before; the first that fails is given.
    fn wait<T>(&self, request: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Sql<T> {
        if self.broken.get() {
            return Err(Error::Broken);
        }
        let mut pending = std::mem::take(&mut *self.pending.borrow_mut());
        let mut result = None;
        let all = async {
            let mut request = pin!(request);
            poll_fn(|context| {
                if result.is_none()
                    && let Poll::Ready(ready) = request.as_mut().poll(context)
                {
                    result = Some(ready);
                }
                // Answers come in the order of the requests.
                while let Some(first) = pending.front_mut() {
                    match first.as_mut().poll(context) {
                        Poll::Ready(Ok(_)) => drop(pending.pop_front()),
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                match result.take() {
                    Some(result) => Poll::Ready(result),
                    None => Poll::Pending,
                }
            })
            .await
        };
        let runtime = self.runtime.as_ref().ok_or(Error::Broken)?;
        match runtime.block_on(async { tokio::time::timeout(ANSWER, all).await }) {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(self.judge(error)),
            Err(_) => {
                self.broken.set(true);
                Err(Error::Late(ANSWER.as_secs()))
            }
        }
    }

    /// Without an answer of the server, or with one that it is going away, nothing more comes over this connection; and a server that only
    /// reads now was the primary when this connection was made: a new one may lead to the one that is.
    fn judge(&self, error: tokio_postgres::Error) -> Error {
        let code = error.code().map(|state| state.code());
        let gone =
            |code: &str| code.starts_with("57P") || code.starts_with("08") || code == "25006";
        if code.is_none_or(gone) {
            self.broken.set(true);
        }
        Error::from(error)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.pending.get_mut().clear();
        if let Some(runtime) = self.runtime.take() {
            // Not where it would be waited for: this may be a thread that must not block.
            runtime.shutdown_background();
        }
    }
}

/// The statement with PostgreSQL's parameters.
fn numbered(sql: &str) -> String {
    sql.replace('?', "$")
}

/// A value that outlives its statement.
#[derive(Debug)]
enum Owned {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Owned {
    fn of(value: &Value<'_>) -> Owned {
        match value {
            Value::Null => Owned::Null,
            Value::Integer(number) => Owned::Integer(*number),
            Value::Real(number) => Owned::Real(*number),
            Value::Text(text) => Owned::Text((*text).to_owned()),
            Value::Blob(bytes) => Owned::Blob(bytes.to_vec()),
        }
    }

    fn value(&self) -> Value<'_> {
        match self {
            Owned::Null => Value::Null,
            Owned::Integer(number) => Value::Integer(*number),
            Owned::Real(number) => Value::Real(*number),
            Owned::Text(text) => Value::Text(text),
            Owned::Blob(bytes) => Value::Blob(bytes),
        }
    }
}

type Encoded = Result<IsNull, Box<dyn std::error::Error + Sync + Send>>;

impl ToSql for Owned {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Encoded {
        self.value().to_sql(kind, out)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Encoded {
        match (self, kind) {
            (Value::Null, _) => return Ok(IsNull::Yes),
            (Value::Integer(number), &Type::INT8) => out.put_i64(*number),
            (Value::Integer(number), &Type::INT4) => out.put_i32(i32::try_from(*number)?),
            (Value::Integer(number), &Type::BOOL) => out.put_u8(u8::from(*number != 0)),
            (Value::Real(number), &Type::FLOAT8) => out.put_f64(*number),
            (Value::Text(text), &Type::TEXT | &Type::NAME) => {
                out.put_slice(escape(text).as_bytes())
            }
            (Value::Blob(bytes), &Type::BYTEA) => out.put_slice(bytes),
            (value, kind) => {
                let kind_of = std::mem::discriminant(value);
                return Err(format!("a parameter of type {kind} was given {kind_of:?}").into());
            }
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'r> FromSql<'r> for Value<'r> {
    fn from_sql(
        kind: &Type,
        raw: &'r [u8],
    ) -> Result<Value<'r>, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match *kind {
            Type::INT8 => Value::Integer(i64::from_be_bytes(raw.try_into()?)),
            Type::INT4 => Value::Integer(i64::from(i32::from_be_bytes(raw.try_into()?))),
            Type::BOOL => Value::Integer(i64::from(raw == [1])),
            Type::FLOAT8 => Value::Real(f64::from_be_bytes(raw.try_into()?)),
            Type::TEXT | Type::NAME | Type::VARCHAR => Value::Text(std::str::from_utf8(raw)?),
            Type::BYTEA => Value::Blob(raw),
            ref other => return Err(format!("the store reads no {other}").into()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Value<'r>, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Value::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
