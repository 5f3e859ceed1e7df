//! The start of an engine on a PostgreSQL store: what it must find there, and what it begins with.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use crate::failure::{Class, Failure};
use crate::store::database::{Connection, Error, Optional, Sql};
use crate::store::doubt::Doubt;
use crate::store::{Options, announcements, facts, migrations, numbers};

use super::Server;
use super::session::Session;
use super::witness::{self, LIFE, Seen, Witness};

/// For so long an engine that has not ended properly is remembered, in milliseconds: 30 days.
const REMEMBERED_MS: i64 = 30 * 86_400_000;

/// How often a store that another engine has is asked for, and the pause between two times: a server that has not noticed yet that an engine
/// has died must not keep the next one from starting.
const TAKE_TRIES: u32 = 20;
const TAKE_PAUSE: Duration = Duration::from_millis(100);

/// How an engine uses a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// For itself: no other engine may have it open.
    Alone,
    /// Together with others that do so as well.
    Shared,
}

/// What a start begins with.
pub(in crate::store) struct Started {
    pub(in crate::store) owner: i64,
    pub(in crate::store) runs: numbers::Block,
    pub(in crate::store) doubt: Option<Doubt>,
    /// In which life of the store.
    pub(in crate::store) life: i64,
    /// Notes what the engine sees, where it is to be noted.
    pub(in crate::store) witness: Option<Witness>,
    /// The number of the last transaction that counts.
    pub(in crate::store) counts: Arc<AtomicI64>,
}

/// Connects, and opens the store for writing. `drawn` is its life if it is new.
pub(in crate::store) fn open(
    server: &Server,
    options: &Options,
    drawn: i64,
) -> Result<(Connection, Started), Failure> {
    let connection = server.connect().map_err(|error| server.failure(&error))?;
    let started = begin(server, &connection, options, drawn)?;
    Ok((connection, started))
}

/// Opens the store for writing: makes it or brings it up to date, and takes it in the way that it is to be used.
fn begin(
    server: &Server,
    connection: &Connection,
    options: &Options,
    drawn: i64,
) -> Result<Started, Failure> {
    let Connection::Postgres(session) = connection else {
        unreachable!("the caller has connected to a server");
    };
    let failed = |error| server.failure(&error);
    let folder = options.witness.as_deref();
    let earlier = folder.map_or(Ok(Vec::new()), witness::noted)?;
    take(server, connection, options.sharing)?;
    migrations::postgres::migrate(server, connection)?;
    careless(server, connection);
    session.put_batch("BEGIN").map_err(failed)?;
    hold(server, connection).map_err(failed)?;
    witness::all_in(server, connection, &earlier)?;
    let mut started = start(connection, options.sharing, drawn)
        .and_then(|started| session.batch("COMMIT").map(|()| started))
        .map_err(failed)?;
    if let Some(folder) = folder {
        let seen = Seen {
            life: started.life,
            owner: started.owner,
            number: 0,
        };
        started.witness = Some(Witness::begin(folder, seen, &earlier, &started.counts)?);
    }
    Ok(started)
}

/// Takes the store on this connection, for as long as it lives.
pub(super) fn take(server: &Server, connection: &Connection, how: Use) -> Result<(), Failure> {
    let sql = match how {
        Use::Alone => "SELECT pg_try_advisory_lock(?1)",
        Use::Shared => "SELECT pg_try_advisory_lock_shared(?1)",
    };
    for again in 0..=TAKE_TRIES {
        let taken: bool = connection
            .query_row(sql, [server.lock("use")], |row| row.get(0))
            .map_err(|error| server.failure(&error))?;
        if taken {
            return Ok(());
        }
        if again < TAKE_TRIES {
            std::thread::sleep(TAKE_PAUSE);
        }
    }
    let message = match how {
        Use::Alone => format!(
            "another engine runs on the store {}; stop it, or give this one a schema of its own, or let both share it with `handoff: rabbitmq`",
            server.shown()
        ),
        Use::Shared => format!(
            "an engine has the store {} for itself, because it runs with `handoff: embedded`; stop it, or act where it runs",
            server.shown()
        ),
    };
    Err(Failure::new(Class::Config, message))
}

/// Says what the server does not promise.
fn careless(server: &Server, connection: &Connection) {
    let fsync = connection.query_row("SELECT current_setting('fsync')", (), |row| {
        row.get::<String>(0)
    });
    if fsync.is_ok_and(|fsync| fsync == "off") {
        tracing::warn!(
            "the server of the store {} runs with `fsync = off`: a power failure loses what was accepted; turn it on",
            server.shown()
        );
    }
}

fn start(connection: &Connection, how: Use, drawn: i64) -> Sql<Started> {
    let life = match facts::get(connection, LIFE)? {
        Some(life) => life,
        None => {
            facts::put(connection, LIFE, drawn)?;
            drawn
        }
    };
    let now_ms = now_ms(connection)?;
    if how == Use::Shared {
        announcements::begin(connection)?;
    }
    let owner = facts::get(connection, "owner")?.unwrap_or(0) + 1;
    facts::put(connection, "owner", owner)?;
    let runs = numbers::reserve(connection)?;
    connection.put(
        "DELETE FROM engines WHERE seen_at < ?1",
        [now_ms - REMEMBERED_MS],
    )?;
    connection.put(
        "INSERT INTO engines (owner, number, seen_at) VALUES (?1, 0, ?2)",
        [owner, now_ms],
    )?;
    let doubt = Doubt::read(connection)?;
    Ok(Started {
        owner,
        runs,
        doubt,
        life,
        witness: None,
        counts: Arc::default(),
    })
}

/// Waits until nobody else writes, and lets nobody write until the end of the transaction.
pub(in crate::store) fn hold(server: &Server, connection: &Connection) -> Sql<()> {
    connection.put("SELECT pg_advisory_xact_lock(?1)", [server.lock("write")])
}

/// What the server's clock shows.
pub(in crate::store) fn now_ms(connection: &Connection) -> Sql<i64> {
    connection.query_row(
        "SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)",
        (),
        |row| row.get(0),
    )
}

/// Connects anew, and takes the store again. The connection before may still be there for the server, and hold it: then this fails, and
/// is to be tried again. `None` if the store lacks what this engine has seen of it.
pub(super) fn again(server: &Server, how: Use, seen: Seen) -> Result<Option<Connection>, Failure> {
    let failed = |error| server.failure(&error);
    let connection = server.connect().map_err(failed)?;
    // A standby does not know yet what counts: nobody may be told by it that something does not.
    let standby: bool = connection
        .query_row("SELECT pg_is_in_recovery()", (), |row| row.get(0))
        .map_err(failed)?;
    if standby {
        return Err(Failure::new(
            Class::Unavailable,
            format!(
                "the store {} is a standby that only reads; it is asked again until it takes the place of its primary",
                server.shown()
            ),
        ));
    }
    take(server, &connection, how)?;
    let goes_on = seen.goes_on(&connection).map_err(failed)?;
    Ok(goes_on.then_some(connection))
}

/// Which transaction of this engine was the last that counts. Waits for one that is still under way.
pub(super) fn last_number(
    server: &Server,
    connection: &Connection,
    session: &Session,
    owner: i64,
) -> Sql<i64> {
    session.put_batch("BEGIN")?;
    hold(server, connection)?;
    let number = connection
        .query_row(
            "SELECT number FROM engines WHERE owner = ?1",
            [owner],
            |row| row.get(0),
        )
        .optional()?;
    session.batch("COMMIT")?;
    Ok(number.unwrap_or(0))
}

/// The longest and the shortest pause between two attempts to connect.
pub(super) const PAUSE: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_millis(2_000));

/// Whether an error says that the store itself is at fault, not a statement.
pub(super) fn is_worlds(failure: &Failure, error: &Error) -> bool {
    let of_one = matches!(failure.class, Class::Internal | Class::TooLarge);
    !of_one && !matches!(error, Error::NoRow | Error::Unlike(_))
}
