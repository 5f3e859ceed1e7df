//! What a restored store does not know: whatever was done after its backup was made. Here it is marked, and asked for effect by effect. It
//! copies no files.
//!
//! A message that was in flight at the backup may have gone on since, and what it sends may have been sent. So an effect of such a message
//! counts as tried with an unknown outcome, unless the ledger says that it was done: the target recognises a repeat, or is asked, or a
//! person decides. The numbers of runs, hops, owners and generations jump, so that none is given twice.

use super::commit::Intent;
use super::database::{Connection, Sql};
use super::facts;
use super::numbers::{Block, RESERVED};
use super::writer::Writing;

/// By how much the numbers of runs jump: more than an engine gives in the life of a backup, and the old digits stay in sight.
const RUNS_JUMP: i64 = 10_000_000_000;
/// The same on a server, where the numbers end at those of the first region.
const SERVER_RUNS_JUMP: i64 = 1_000_000_000;
/// By how much the numbers of hops jump.
const HOPS_JUMP: i64 = 1 << 40;
/// By how much the numbers of starts jump.
const OWNERS_JUMP: i64 = 1_000;
/// How many generations a message may have been given since the backup.
const GENERATIONS_JUMP: i64 = 1_000;

/// Up to where a restored store is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    /// The highest run of the backup.
    pub(super) run: i64,
    /// The last start before the backup.
    pub(super) owner: i64,
    /// The highest generation that may have been given before the restore.
    pub(super) generation: i64,
    /// When the backup was made, in milliseconds since 1970.
    pub(super) as_of_ms: i64,
    /// When it was restored.
    pub(super) at_ms: i64,
}

impl Doubt {
    /// The facts that say it.
    const FACTS: [&str; 5] = [
        "doubt_run",
        "doubt_owner",
        "doubt_generation",
        "doubt_as_of",
        "doubt_at",
    ];

    /// What a restore has left in the store; `None` if it was never restored.
    pub(super) fn read(connection: &Connection) -> Sql<Option<Doubt>> {
        let mut found = [0; 5];
        for (value, name) in found.iter_mut().zip(Doubt::FACTS) {
            match facts::get(connection, name)? {
                Some(known) => *value = known,
                None => return Ok(None),
            }
        }
        let [run, owner, generation, as_of_ms, at_ms] = found;
        Ok(Some(Doubt {
            run,
            owner,
            generation,
            as_of_ms,
            at_ms,
        }))
    }

    /// Marks a store whose content is as of this time, and lets its numbers jump.
    pub(super) fn mark(connection: &Connection, as_of_ms: i64, at_ms: i64) -> Sql<()> {
        let number = |sql: &str| connection.query_row(sql, (), |row| row.get::<i64>(0));
        let doubt = Doubt {
            run: highest_run(connection)?,
            owner: facts::get(connection, "owner")?.unwrap_or(0),
            generation: number("SELECT coalesce(max(generation), 0) FROM runs")? + GENERATIONS_JUMP,
            as_of_ms,
            at_ms,
        };
        let values = [
            doubt.run,
            doubt.owner,
            doubt.generation,
            doubt.as_of_ms,
            doubt.at_ms,
        ];
        for (name, value) in Doubt::FACTS.into_iter().zip(values) {
            facts::put(connection, name, value)?;
        }
        // What a person sends as new from here on is above all that may have been given.
        connection.execute(
            "UPDATE runs SET generation = generation + ?1",
            [GENERATIONS_JUMP],
        )?;
        Ok(())
    }

    /// Whether this effect may have been sent after the backup by a start that the store knows nothing of. `owner` is who tried it last, if
    /// anybody did.
    pub(super) fn holds(
        &self,
        writing: &Writing<'_>,
        intent: &Intent,
        owner: Option<i64>,
    ) -> Sql<bool> {
        if i64::from(intent.generation) > self.generation {
            return Ok(false);
        }
        if let Some(owner) = owner {
            return Ok(owner <= self.owner);
        }
        let region = self.region(writing.connection);
        if intent.run.0 <= self.run || (region.from..region.to).contains(&intent.run.0) {
            return Ok(true);
        }
        // A later run of a message that was there at the backup: behind another flow's door, or done again.
        writing
            .connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM runs AS later JOIN runs AS earlier ON earlier.root = later.root
                                WHERE later.id = ?1 AND (earlier.id <= ?2 OR earlier.id >= ?3 AND earlier.id < ?4))",
            )?
            .query_row(
                [intent.run.0, self.run, region.from, region.to],
                |row| row.get(0),
            )
    }

    /// The numbers of runs that starts before the backup may have given beside all others: see `numbers`.
    fn region(&self, connection: &Connection) -> Block {
        match connection {
            Connection::Sqlite(_) => Block::default(),
            Connection::Postgres(_) => Block {
                from: Block::region(1).from,
                to: Block::region(self.owner).to,
            },
        }
    }
}

/// Lets the numbers of runs, hops and starts jump, so that none is given that was given after the backup. On a server the numbers of hops are
/// those of the start.
pub(super) fn jump(connection: &Connection) -> Sql<()> {
    let known = |name| -> Sql<i64> { Ok(facts::get(connection, name)?.unwrap_or(0)) };
    let runs = highest_run(connection)?;
    match connection {
        Connection::Sqlite(_) => {
            facts::put(connection, "runs_high", runs + RUNS_JUMP)?;
            let hops = known("hops_reserved")? + HOPS_JUMP;
            facts::put(connection, "hops_reserved", hops)?;
        }
        Connection::Postgres(_) => facts::put(connection, RESERVED, runs + SERVER_RUNS_JUMP)?,
    }
    facts::put(connection, "owner", known("owner")? + OWNERS_JUMP)
}

/// The highest number of a run that was given, those of regions aside.
fn highest_run(connection: &Connection) -> Sql<i64> {
    let (fact, below) = match connection {
        Connection::Sqlite(_) => ("runs_high", i64::MAX),
        Connection::Postgres(_) => (RESERVED, Block::region(1).from),
    };
    let highest: i64 = connection.query_row(
        "SELECT coalesce(max(id), 0) FROM runs WHERE id < ?1",
        [below],
        |row| row.get(0),
    )?;
    Ok(highest.max(facts::get(connection, fact)?.unwrap_or(0)))
}
