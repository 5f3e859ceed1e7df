//! What a clock that was set does to what the store keeps: waits count the time that passes, so they are moved with the clock.

use super::database::{Connection, Optional, Sql};
use super::facts;
use super::writer::Writing;
use crate::world::clock::{Clock, Vigil};

/// By how much the clock must be behind what the store has noted, at a start, to count as set back: one minute.
const BEHIND_MS: i64 = 60_000;

/// The fact under which the store notes what the clock shows.
const NOTED: &str = "clock_ms";

/// Which way a clock was set.
#[derive(Clone, Copy)]
pub(super) enum Way {
    Forward,
    Back,
}

/// Reads the clock for a transaction; if it was set this way, moves what waits with it. Forward before the commits are applied, so that
/// nothing is over too early; back after them, because they may hold times of before. Either way a wait can only become shorter.
pub(super) fn keep(
    writing: &mut Writing<'_>,
    clock: &dyn Clock,
    vigil: &Vigil,
    followed_ms: &mut i64,
    way: Way,
) -> Sql<()> {
    writing.now_ms = clock.now_ms();
    let by_ms = vigil.look(clock) - *followed_ms;
    // What is less is time that has passed between two looks.
    let moved = match way {
        Way::Forward => by_ms > 1_000,
        Way::Back => by_ms < -1_000,
    };
    if moved {
        let (by_s, there) = (
            by_ms.abs() / 1_000,
            if by_ms < 0 { "back" } else { "forward" },
        );
        tracing::warn!("the clock was set {there} by {by_s} s; what waits is moved with it");
        set(writing.connection, by_ms, writing.now_ms)?;
        *followed_ms += by_ms;
    }
    Ok(())
}

/// The clock was set by so much (less than zero: back): all that waits for a time waits as long as before, and nothing that is kept for
/// some time is kept shorter.
fn set(connection: &Connection, by_ms: i64, now_ms: i64) -> Sql<()> {
    connection.execute(
        "UPDATE hops SET due_at = due_at + ?1, ready_at = ready_at + ?1, announced = CASE WHEN announced > 0 THEN announced + ?1 ELSE announced END",
        [by_ms],
    )?;
    // What took effect keeps its times: nothing is decided by them any more.
    connection.execute(
        "UPDATE effects SET lease_until = lease_until + ?1, first_at = first_at + ?1, last_at = last_at + ?1 WHERE state <> 1",
        [by_ms],
    )?;
    // A wait for an answer, with its hop; answers that came a moment ago still count.
    connection.execute(
        "UPDATE waits SET until = until + ?1, since = since + CASE WHEN ?1 < 0 THEN ?1 ELSE 0 END WHERE answer IS NULL",
        [by_ms],
    )?;
    connection.execute(
        "UPDATE groups SET deadline = deadline + ?1, idle_at = idle_at + ?1 WHERE state = 0",
        [by_ms],
    )?;
    connection.execute("UPDATE turns SET until = until + ?1", [by_ms])?;
    if by_ms > 0 {
        connection.execute("UPDATE groups SET keep_until = keep_until + ?1", [by_ms])?;
        connection.execute("UPDATE claims SET keep_ms = keep_ms + ?1", [by_ms])?;
        connection.execute("UPDATE versions SET keep_ms = keep_ms + ?1", [by_ms])?;
    }
    note(connection, now_ms)
}

/// Notes what the clock shows.
pub(super) fn note(connection: &Connection, now_ms: i64) -> Sql<()> {
    facts::put(connection, NOTED, now_ms)
}

/// At a start: a clock that is behind what the store has seen was set back meanwhile. Gives by how much.
pub(super) fn catch_up(connection: &Connection, now_ms: i64) -> Sql<Option<i64>> {
    let seen = |sql: &str| -> Sql<i64> {
        let found = connection.query_row(sql, (), |row| row.get(0)).optional()?;
        Ok(found.unwrap_or(i64::MIN))
    };
    let noted = facts::get(connection, NOTED)?
        .unwrap_or(i64::MIN)
        .max(seen(
            "SELECT received_at FROM runs ORDER BY id DESC LIMIT 1",
        )?)
        .max(seen(
            "SELECT first_at FROM effects ORDER BY n DESC LIMIT 1",
        )?);
    let by_ms = now_ms.saturating_sub(noted);
    if by_ms >= -BEHIND_MS {
        note(connection, now_ms)?;
        return Ok(None);
    }
    set(connection, by_ms, now_ms)?;
    Ok(Some(by_ms))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::commit::{Accepted, Leaf};
    use super::super::sample::*;
    use super::super::{Options, Store};
    use crate::world::World;
    use crate::world::clock::{Clock, ManualClock, SetClock};

    const DAY: i64 = 86_400_000;

    #[tokio::test]
    async fn what_waits_is_moved_with_the_clock_and_claims_live_as_long_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(SetClock::default());
        let world = World {
            clock: clock.clone(),
            ..World::real()
        };
        let store = Store::open(Options::at(folder.path().join("store.db")), world).unwrap();
        let sample = Sample::over(store);
        let now_ms = clock.now_ms();
        let (order, waiting) = (sample.order("A", "1"), sample.order("B", "1"));
        sample.accept(vec![order.clone(), waiting.clone()]).await;
        let done = over(&order, first_hop(&order), vec![], vec![Leaf::Delivered]);
        let due_ms = now_ms + 10_000;
        sample
            .end(vec![done, waits(&waiting, first_hop(&waiting), due_ms)])
            .await;
        let ready = sample.order("C", "1");
        sample.accept(vec![ready.clone()]).await;
        let ready_at = async || {
            let hop = first_hop(&ready).0;
            let read = sample.store.read(move |connection| {
                let sql = "SELECT ready_at FROM hops WHERE id = ?1";
                connection.query_row(sql, [hop], |row| row.get::<i64>(0))
            });
            read.await.unwrap()
        };
        let (mut expect, ready_ms) = (due_ms, ready_at().await);
        for by_ms in [DAY, -DAY, -DAY, 40 * DAY] {
            clock.set_by(by_ms);
            // The claim is kept for less than 40 days.
            let again = sample.accept(vec![sample.order("A", "1")]).await;
            assert!(matches!(again[..], [Accepted::Duplicate(_)]), "{again:?}");
            expect += by_ms;
            let due = sample.store.next_due().await.unwrap().unwrap();
            assert!((due - expect).abs() < 1_000, "{} ms off", due - expect);
            let moved = ready_at().await - ready_ms - (expect - due_ms);
            assert!(moved.abs() < 1_000, "what is ready is {moved} ms off");
        }
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_while_the_engine_is_down_holds_nothing_up() {
        let mut sample = Sample::in_a_file();
        sample.clock.advance(Duration::from_millis(DAY as u64));
        let mut order = sample.order("A", "1");
        order.received_at_ms = START_MS + DAY;
        sample.accept(vec![order.clone()]).await;
        let due_ms = START_MS + DAY + 10_000;
        sample
            .end(vec![waits(&order, first_hop(&order), due_ms)])
            .await;
        sample.reopen().await;
        assert_eq!(sample.store.next_due().await.unwrap(), Some(due_ms));
        sample.clock = Arc::new(ManualClock::at(START_MS));
        for _ in 0..2 {
            sample.reopen().await;
            let due = sample.store.next_due().await.unwrap().unwrap();
            assert!(
                due <= START_MS + 10_000,
                "due {} ms from now",
                due - START_MS
            );
        }
    }
}
