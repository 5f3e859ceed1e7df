//! The seam between the nouns and the two databases: the little of SQL that the store needs, so that each noun has one text a statement.
//! It knows no tables.
//!
//! Statements are written for SQLite (`?1`, `?2`, ..) with words that PostgreSQL understands as well. What both must be told: which type a
//! parameter has that is only compared with null (`CAST(?1 AS TEXT) IS NULL`), and the table of a column that an upsert reads
//! (`books.received + ?2`). There is no `max(a, b)`, no `last_insert_rowid`, no JSON.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::postgres::session::{Prepared, Session};

/// What SQL gives.
pub(super) type Sql<T> = Result<T, Error>;

/// What went wrong with a statement.
#[derive(Debug)]
pub(super) enum Error {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// The server says so, or the connection to it is broken.
    Postgres(Box<tokio_postgres::Error>),
    /// The server did not answer within this time, in seconds.
    Late(u64),
    /// The connection was given up before.
    Broken,
    /// There is no such row.
    NoRow,
    /// A column holds another type than was asked for.
    Unlike(usize),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        Error::Sqlite(error)
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Error {
        Error::Postgres(Box::new(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Sqlite(error) => error.fmt(f),
            Error::Postgres(error) => match error.as_db_error() {
                Some(said) => write!(f, "{}: {}", said.code().code(), said.message()),
                None => crate::net::sql::said(error).fmt(f),
            },
            Error::Late(seconds) => write!(f, "no answer within {seconds} s"),
            Error::Broken => f.write_str("the connection is broken"),
            Error::NoRow => f.write_str("there is no such row"),
            Error::Unlike(column) => write!(f, "column {column} is of another type"),
        }
    }
}

impl Error {
    /// What SQLite calls it.
    pub(super) fn sqlite(&self) -> Option<rusqlite::ErrorCode> {
        match self {
            Error::Sqlite(error) => error.sqlite_error_code(),
            _ => None,
        }
    }
}

/// A row that may be missing.
pub(super) trait Optional<T> {
    /// `None` if there is no row.
    fn optional(self) -> Sql<Option<T>>;
}

impl<T> Optional<T> for Sql<T> {
    fn optional(self) -> Sql<Option<T>> {
        match self {
            Ok(found) => Ok(Some(found)),
            Err(Error::NoRow) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A value on its way into the database, or out of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'v> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'v str),
    Blob(&'v [u8]),
}

/// What can be a parameter.
pub(super) trait Give {
    fn give(&self) -> Value<'_>;
}

/// What a column can be read as; `None` if its type is another one.
pub(super) trait Take: Sized {
    fn take(value: Value<'_>) -> Option<Self>;
}

/// The parameters of a statement.
pub(super) trait Params {
    /// Calls `with` with them.
    fn give_all<R>(&self, with: impl FnOnce(&[Value<'_>]) -> R) -> R;
}

impl Params for () {
    fn give_all<R>(&self, with: impl FnOnce(&[Value<'_>]) -> R) -> R {
        with(&[])
    }
}

impl<T: Give, const N: usize> Params for [T; N] {
    fn give_all<R>(&self, with: impl FnOnce(&[Value<'_>]) -> R) -> R {
        with(&self.each_ref().map(Give::give))
    }
}

impl Params for [Value<'_>] {
    fn give_all<R>(&self, with: impl FnOnce(&[Value<'_>]) -> R) -> R {
        with(self)
    }
}

impl<P: Params + ?Sized> Params for &P {
    fn give_all<R>(&self, with: impl FnOnce(&[Value<'_>]) -> R) -> R {
        (**self).give_all(with)
    }
}

/// Parameters of several types.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::store::database::Give::give(&$value)),*]
    };
}
pub(super) use params;

/// A connection to either database.
pub(super) enum Connection {
    Sqlite(rusqlite::Connection),
    Postgres(Box<Session>),
}

impl Connection {
    /// A statement, prepared once for each connection.
    pub(super) fn prepare_cached(&self, sql: &str) -> Sql<Statement<'_>> {
        Ok(match self {
            Connection::Sqlite(connection) => Statement::Sqlite(connection.prepare_cached(sql)?),
            Connection::Postgres(session) => Statement::Postgres(session, session.prepare(sql)?),
        })
    }

    /// Runs a statement; gives how many rows it has changed.
    pub(super) fn execute(&self, sql: &str, params: impl Params) -> Sql<usize> {
        self.prepare_cached(sql)?.execute(params)
    }

    /// Runs a statement whose result nobody needs. It need not have run when this returns; if it fails, so does a later one, and the
    /// transaction with it.
    pub(super) fn put(&self, sql: &str, params: impl Params) -> Sql<()> {
        match self {
            Connection::Sqlite(_) => self.execute(sql, params).map(drop),
            Connection::Postgres(session) => {
                let prepared = session.prepare(sql)?;
                params.give_all(|values| session.put(&prepared, values))
            }
        }
    }

    /// Runs a statement for one row that must be there. It need not have run when this returns; if there is no such row, that is logged with
    /// these words.
    pub(super) fn put_one(&self, sql: &str, params: impl Params, missed: &'static str) -> Sql<()> {
        match self {
            Connection::Sqlite(_) => {
                if self.execute(sql, params)? == 0 {
                    tracing::error!("{missed}");
                }
                Ok(())
            }
            Connection::Postgres(session) => {
                let prepared = session.prepare(sql)?;
                params.give_all(|values| session.put_one(&prepared, values, missed))
            }
        }
    }

    /// Runs a statement for each of these, in their order; gives how many rows each has changed. None waits for the answer to another.
    pub(super) fn execute_each<const N: usize>(
        &self,
        sql: &str,
        each: &[[Value<'_>; N]],
    ) -> Sql<Vec<usize>> {
        match self.prepare_cached(sql)? {
            Statement::Sqlite(mut statement) => {
                let run = |values: &[Value<'_>; N]| {
                    Ok(statement.execute(rusqlite::params_from_iter(values))?)
                };
                each.iter().map(run).collect()
            }
            Statement::Postgres(session, prepared) => session.execute_each(&prepared, each),
        }
    }

    /// Asks a query for each of these, in their order; `look` is given each row that is found. None waits for the answer to another.
    pub(super) fn query_each<const N: usize>(
        &self,
        sql: &str,
        each: &[[Value<'_>; N]],
        mut look: impl FnMut(&Row<'_>) -> Sql<()>,
    ) -> Sql<()> {
        match self.prepare_cached(sql)? {
            Statement::Postgres(session, prepared) => {
                let found = session.query_each(&prepared, each)?;
                found.iter().try_for_each(|row| look(&Row::Postgres(row)))
            }
            mut statement => each
                .iter()
                .try_for_each(|values| statement.each(&values[..], &mut look)),
        }
    }

    /// The first row of a query.
    pub(super) fn query_row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Sql<T>,
    ) -> Sql<T> {
        self.prepare_cached(sql)?.query_row(params, read)
    }

    /// Begins a transaction that only reads, and sees the store as it is now.
    pub(super) fn snapshot(&self) -> Sql<()> {
        match self {
            Connection::Sqlite(connection) => Ok(connection.execute_batch("BEGIN")?),
            Connection::Postgres(session) => {
                session.put_batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            }
        }
    }

    /// Ends it.
    pub(super) fn end_snapshot(&self) -> Sql<()> {
        match self {
            Connection::Sqlite(connection) => Ok(connection.execute_batch("COMMIT")?),
            Connection::Postgres(session) => session.batch("COMMIT"),
        }
    }

    /// Whether it can still be used, as far as is known without asking.
    pub(super) fn is_there(&self) -> bool {
        match self {
            Connection::Sqlite(_) => true,
            Connection::Postgres(session) => session.is_there(),
        }
    }

    /// The connection to SQLite, where only that can be meant.
    pub(super) fn sqlite(&self) -> &rusqlite::Connection {
        match self {
            Connection::Sqlite(connection) => connection,
            Connection::Postgres(_) => unreachable!("files and their logs are SQLite's"),
        }
    }
}

/// A prepared statement.
pub(super) enum Statement<'c> {
    Sqlite(rusqlite::CachedStatement<'c>),
    Postgres(&'c Session, Prepared),
}

impl Statement<'_> {
    /// Runs it; gives how many rows it has changed.
    pub(super) fn execute(&mut self, params: impl Params) -> Sql<usize> {
        params.give_all(|values| match self {
            Statement::Sqlite(statement) => {
                Ok(statement.execute(rusqlite::params_from_iter(values))?)
            }
            Statement::Postgres(session, prepared) => session.execute(prepared, values),
        })
    }

    /// Calls `look` with each row, as long as that says to go on.
    fn walk(
        &mut self,
        params: impl Params,
        mut look: impl FnMut(&Row<'_>) -> Sql<bool>,
    ) -> Sql<()> {
        params.give_all(|values| {
            match self {
                Statement::Sqlite(statement) => {
                    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
                    while let Some(row) = rows.next()? {
                        if !look(&Row::Sqlite(row))? {
                            break;
                        }
                    }
                }
                Statement::Postgres(session, prepared) => {
                    for row in &session.query(prepared, values)? {
                        if !look(&Row::Postgres(row))? {
                            break;
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// Calls `look` with each row.
    pub(super) fn each(
        &mut self,
        params: impl Params,
        mut look: impl FnMut(&Row<'_>) -> Sql<()>,
    ) -> Sql<()> {
        self.walk(params, |row| look(row).map(|()| true))
    }

    /// All rows.
    pub(super) fn query_map<T>(
        &mut self,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Sql<T>,
    ) -> Sql<Vec<T>> {
        let mut found = Vec::new();
        self.each(params, |row| {
            found.push(read(row)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// The first row.
    pub(super) fn query_row<T>(
        &mut self,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Sql<T>,
    ) -> Sql<T> {
        let (mut found, mut read) = (None, Some(read));
        self.walk(params, |row| {
            if let Some(read) = read.take() {
                found = Some(read(row)?);
            }
            Ok(false)
        })?;
        found.ok_or(Error::NoRow)
    }

    /// Whether there is a row.
    pub(super) fn exists(&mut self, params: impl Params) -> Sql<bool> {
        self.query_row(params, |_| Ok(()))
            .optional()
            .map(|found| found.is_some())
    }
}

/// A row that was found.
pub(super) enum Row<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r tokio_postgres::Row),
}

impl Row<'_> {
    /// A column, from 0.
    pub(super) fn get<T: Take>(&self, column: usize) -> Sql<T> {
        let taken = match self.value(column)? {
            Value::Text(text) if self.is_escaped(text) => T::take(Value::Text(&unescape(text))),
            value => T::take(value),
        };
        taken.ok_or(Error::Unlike(column))
    }

    /// A column of text, without a copy where there need be none.
    pub(super) fn text(&self, column: usize) -> Sql<Cow<'_, str>> {
        match self.value(column)? {
            Value::Text(text) if self.is_escaped(text) => Ok(Cow::Owned(unescape(text))),
            Value::Text(text) => Ok(Cow::Borrowed(text)),
            _ => Err(Error::Unlike(column)),
        }
    }

    /// A column of bytes, without a copy.
    pub(super) fn blob(&self, column: usize) -> Sql<&[u8]> {
        match self.value(column)? {
            Value::Blob(bytes) => Ok(bytes),
            _ => Err(Error::Unlike(column)),
        }
    }

    fn value(&self, column: usize) -> Sql<Value<'_>> {
        use rusqlite::types::ValueRef;
        Ok(match self {
            Row::Sqlite(row) => match row.get_ref(column)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => Value::Integer(number),
                ValueRef::Real(number) => Value::Real(number),
                ValueRef::Text(text) => {
                    Value::Text(std::str::from_utf8(text).map_err(|_| Error::Unlike(column))?)
                }
                ValueRef::Blob(bytes) => Value::Blob(bytes),
            },
            Row::Postgres(row) => row.try_get(column)?,
        })
    }

    fn is_escaped(&self, text: &str) -> bool {
        matches!(self, Row::Postgres(_)) && text.contains(ESCAPE)
    }
}

/// PostgreSQL has no text with a zero byte. It is written as this and `0` there, and this itself twice; so texts that differ still do.
const ESCAPE: char = '\u{1}';

/// A text as PostgreSQL can hold it.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| byte <= 1) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 2);
    for letter in text.chars() {
        match letter {
            '\0' => escaped.extend([ESCAPE, '0']),
            ESCAPE => escaped.extend([ESCAPE, ESCAPE]),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ESCAPE => match letters.next() {
                Some('0') => plain.push('\0'),
                Some(other) => plain.push(other),
                None => plain.push(ESCAPE),
            },
            other => plain.push(other),
        }
    }
    plain
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// The types that are parameters as they are, and how.
macro_rules! gives {
    ($($kind:ty: $value:ident => $given:expr;)*) => {
        $(impl Give for $kind {
            fn give(&self) -> Value<'_> {
                let $value = self;
                $given
            }
        })*
    };
}

gives! {
    i32: number => Value::Integer(i64::from(*number));
    i64: number => Value::Integer(*number);
    u32: number => Value::Integer(i64::from(*number));
    f64: number => Value::Real(*number);
    bool: yes => Value::Integer(i64::from(*yes));
    str: text => Value::Text(text);
    String: text => Value::Text(text);
    Arc<str>: text => Value::Text(text);
    [u8]: bytes => Value::Blob(bytes);
    [u8; 16]: bytes => Value::Blob(bytes);
    Value<'_>: value => *value;
}

impl<T: Give + ?Sized> Give for &T {
    fn give(&self) -> Value<'_> {
        (**self).give()
    }
}

impl<T: Give> Give for Option<T> {
    fn give(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, Give::give)
    }
}

/// The types that columns are read as, and from what.
macro_rules! takes {
    ($($kind:ty: $from:pat => $taken:expr;)*) => {
        $(impl Take for $kind {
            fn take(value: Value<'_>) -> Option<Self> {
                match value {
                    $from => $taken,
                    _ => None,
                }
            }
        })*
    };
}

takes! {
    i64: Value::Integer(number) => Some(number);
    u32: Value::Integer(number) => u32::try_from(number).ok();
    bool: Value::Integer(number) => Some(number != 0);
    String: Value::Text(text) => Some(text.to_owned());
    Arc<str>: Value::Text(text) => Some(Arc::from(text));
    Vec<u8>: Value::Blob(bytes) => Some(bytes.to_vec());
    [u8; 16]: Value::Blob(bytes) => bytes.try_into().ok();
}

impl Take for f64 {
    fn take(value: Value<'_>) -> Option<f64> {
        match value {
            Value::Real(number) => Some(number),
            Value::Integer(number) => Some(number as f64),
            _ => None,
        }
    }
}

impl<T: Take> Take for Option<T> {
    fn take(value: Value<'_>) -> Option<Option<T>> {
        match value {
            Value::Null => Some(None),
            value => T::take(value).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_with_zero_bytes_comes_back_as_it_was() {
        for text in ["", "plain", "a\0b", "\u{1}0", "\0\u{1}", "\u{1}\u{1}0\0"] {
            let escaped = escape(text);
            assert!(!escaped.contains('\0'));
            assert_eq!(unescape(&escaped), text);
        }
    }
}
