//! `crossdock journey KEY`: where is order 1001? All runs that share a key, over all flows, on one timeline.

use std::io::Write;
use std::sync::Arc;

use clap::Args;

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, reader, runs, table, wait_for, written};
use crate::failure::Failure;
use crate::run::toggles;
use crate::store::reader::Reader;
use crate::store::runs::{RunDetail, RunState};
use crate::world::clock::{Clock, SystemClock};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock journey 1001             any key with this value
  crossdock journey order=1001       only the key `order`
  crossdock journey 1001 --json")]
pub(super) struct Journey {
    /// VALUE or NAME=VALUE
    key: String,
    /// Print JSON, one run a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

impl Journey {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        let mut found = wait_for(reader.journey(&self.key))?;
        let veil = wait_for(reader.veil())?;
        wait_for(reader.cover_rows(&veil, &mut found))?;
        if found.is_empty() {
            writeln!(terminal.err, "crossdock: no run has the key `{}`", self.key).ok();
            return Ok(FINDINGS);
        }
        if self.json {
            return runs::list(&found, true, terminal);
        }
        let details = wait_for(async {
            let mut details = Vec::new();
            for row in &found {
                if let Some(mut detail) = reader.run(&row.run.0.to_string()).await? {
                    reader.cover_run(&veil, &mut detail).await?;
                    details.push(detail);
                }
            }
            Ok(details)
        })?;
        let stopped = wait_for(stopped(&reader, &details))?;
        written(writeln!(
            terminal.out,
            "{}{stopped}\n",
            sentence(&self.key, &details)
        ))?;
        runs::list(&found, false, terminal)?;
        let mut lines: Vec<(i64, Vec<String>)> = details.iter().flat_map(lines).collect();
        lines.sort_by_key(|(at_ms, _)| *at_ms);
        let rows: Vec<_> = lines.into_iter().map(|(_, cells)| cells).collect();
        written(writeln!(terminal.out))?;
        written(table::columns(
            &mut terminal.out,
            &["at (UTC)", "run", "flow", "step", "what", "detail"],
            &rows,
        ))?;
        Ok(GOOD)
    }
}

/// What people have stopped, where it waits.
async fn stopped(reader: &Reader, details: &[RunDetail]) -> Result<String, Failure> {
    let Some(hop) = details.iter().flat_map(|run| &run.hops).next() else {
        return Ok(String::new());
    };
    let now_ms = SystemClock.now_ms();
    let (flow, step) = (Arc::from(&*hop.flow), Arc::from(&*hop.step));
    let toggles = reader.stopped_at(flow, step).await?.into_iter();
    let toggles = toggles.filter(|toggle| !toggle.is_over(now_ms));
    Ok(toggles
        .map(|toggle| format!("; {} is {}", toggle.target, toggles::told(&toggle)))
        .collect())
}

/// The answer in a sentence: what it waits for, or that it is done.
fn sentence(key: &str, details: &[RunDetail]) -> String {
    if let Some(exception) = details
        .iter()
        .filter(|run| run.row.state == RunState::InException)
        .flat_map(|run| &run.exceptions)
        .next_back()
    {
        return format!(
            "{key} waits for a person at {} / {}: {} (exception {})",
            exception.flow, exception.step, exception.message, exception.id.0
        );
    }
    let waits = details
        .iter()
        .find_map(|run| Some((run, run.row.waits_for.as_ref()?)));
    if let Some((run, ahead)) = waits {
        return format!(
            "{key} is on its way: run {} of {} {}",
            run.row.run.0,
            run.row.flow,
            runs::turn(ahead)
        );
    }
    if let Some(hop) = details.iter().flat_map(|run| &run.hops).next() {
        let until = hop
            .due_at_ms
            .map(|due| format!(" until {} UTC", table::time(due)))
            .unwrap_or_default();
        let attempt = match hop.attempt {
            0 => String::new(),
            attempt => format!(", attempt {attempt}"),
        };
        return format!(
            "{key} is on its way: it waits at {} / {}{until}{attempt}",
            hop.flow, hop.step
        );
    }
    let states: Vec<_> = details
        .iter()
        .map(|run| format!("{} {}", run.row.flow, run.row.state.name()))
        .collect();
    format!("{key} is done: {}", states.join(", "))
}

fn lines(detail: &RunDetail) -> Vec<(i64, Vec<String>)> {
    let row = &detail.row;
    let line = |at_ms: i64, step: &str, what: &str, more: &str| {
        (
            at_ms,
            vec![
                table::time(at_ms),
                row.run.0.to_string(),
                row.flow.to_string(),
                step.to_owned(),
                what.to_owned(),
                more.to_owned(),
            ],
        )
    };
    let accepted = line(
        row.received_at_ms,
        "@accept",
        "accepted",
        &runs::keys(&row.keys),
    );
    let trail = detail.trail.iter().map(|at| {
        line(
            at.at_ms,
            &at.step,
            &at.what,
            at.detail.as_deref().unwrap_or_default(),
        )
    });
    std::iter::once(accepted).chain(trail).collect()
}
