//! `crossdock systems`: is the ERP up? How every outside system is, since when, why, and what waits for it.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::{GOOD, ProjectArguments, Terminal, reader, table, wait_for, written};
use crate::failure::Failure;
use crate::store::systems::SystemRow;
use crate::world::clock::{Clock, SystemClock};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock systems
  crossdock systems --json

up                   it takes calls
down                 too many calls failed: messages wait, and one call after the other tries whether it is back
credentials refused  it refuses the credentials: messages wait; check the system's auth
maintenance          it is not called now, as its file says: messages wait
paused               a person has stopped it: messages wait until `crossdock resume system:NAME`

Messages that wait lose no attempt. This is what the engine last wrote down; it writes at every change.
Where several engines share the store, the worst is shown that one of them has seen within 20 s, with the engines that see it so where they differ")]
pub(super) struct Systems {
    #[command(flatten)]
    project: ProjectArguments,
    /// Print JSON, one system a line
    #[arg(long)]
    json: bool,
}

const COLUMNS: [&str; 7] = [
    "system",
    "state",
    "since (UTC)",
    "next try (UTC)",
    "waiting",
    "oldest",
    "reason",
];

impl Systems {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        let systems = wait_for(reader.systems())?;
        if self.json {
            for system in &systems {
                written(writeln!(terminal.out, "{}", as_json(system)))?;
            }
            return Ok(GOOD);
        }
        if systems.is_empty() {
            written(writeln!(terminal.out, "the project has no systems"))?;
            return Ok(GOOD);
        }
        let now_ms = SystemClock.now_ms();
        let mut columns = COLUMNS.to_vec();
        let mut rows: Vec<_> = systems.iter().map(|system| row(system, now_ms)).collect();
        if systems.iter().any(|system| !system.others.is_empty()) {
            columns.push("seen so by");
            for (row, system) in rows.iter_mut().zip(&systems) {
                row.push(seen_by(system));
            }
        }
        written(table::columns(&mut terminal.out, &columns, &rows))?;
        Ok(GOOD)
    }
}

fn row(system: &SystemRow, now_ms: i64) -> Vec<String> {
    let state = &system.state;
    let nothing = || "-".to_owned();
    let reason = state
        .reason
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    vec![
        state.name.to_string(),
        state.health.to_string(),
        table::time(state.since_ms),
        state.until_ms.map_or_else(nothing, table::time),
        system.waiting.to_string(),
        system
            .oldest_at_ms
            .map_or_else(nothing, |at_ms| table::age(now_ms - at_ms)),
        reason,
    ]
}

/// The engines that see it so, where others do not.
fn seen_by(system: &SystemRow) -> String {
    if system.others.is_empty() {
        return "all".to_owned();
    }
    let all = system.seen_by.len() + system.others.len();
    format!(
        "{} of {all}: {}",
        system.seen_by.len(),
        system.seen_by.join(", ")
    )
}

fn as_json(system: &SystemRow) -> serde_json::Value {
    let state = &system.state;
    let others: Vec<_> = system
        .others
        .iter()
        .map(|(engine, state)| json!({ "engine": engine, "state": state }))
        .collect();
    json!({
        "system": state.name,
        "state": state.health,
        "since_ms": state.since_ms,
        "next_try_ms": state.until_ms,
        "times": state.times,
        "waiting": system.waiting,
        "oldest_ms": system.oldest_at_ms,
        "reason": state.reason,
        "engines": system.seen_by,
        "other_engines": others,
    })
}
