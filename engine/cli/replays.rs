//! `crossdock replays`: lists of runs that are done again, their receipts, and stopping them.

use std::io::Write;

use clap::{Args, Subcommand};

use super::office::{Actor, Office};
use super::{FINDINGS, GOOD, ProjectArguments, Terminal, reader, table, wait_for, written};
use crate::admin::shown;
use crate::failure::Failure;
use crate::store::replays::{ReplayId, ReplayItem, ReplayRow, ReplayState};

/// How many receipts are read at once.
const RECEIPTS: usize = 1_000;

#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  crossdock replays
  crossdock replays show 3           one line for each run
  crossdock replays pause 3
  crossdock replays resume 3
  crossdock replays abort 3          what was begun goes on, the rest is left"
)]
pub(super) struct Replays {
    #[command(subcommand)]
    act: Option<Act>,
    /// Print JSON, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

#[derive(Subcommand)]
enum Act {
    /// Show a list with its receipts
    Show {
        /// The list
        replay: i64,
        /// Print JSON, one receipt a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        project: ProjectArguments,
    },
    /// Begin no more items for a while
    Pause(Named),
    /// Go on
    Resume(Named),
    /// End it: what was begun goes on, the rest is left
    Abort(Named),
}

#[derive(Args)]
struct Named {
    /// The list
    replay: i64,
    #[command(flatten)]
    project: ProjectArguments,
    #[command(flatten)]
    actor: Actor,
}

impl Replays {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        match &self.act {
            None => self.list(terminal),
            Some(Act::Show {
                replay,
                json,
                project,
            }) => show(ReplayId(*replay), *json, project, terminal),
            Some(Act::Pause(named)) => named.turn(ReplayState::Paused, terminal),
            Some(Act::Resume(named)) => named.turn(ReplayState::Running, terminal),
            Some(Act::Abort(named)) => named.turn(ReplayState::Aborted, terminal),
        }
    }

    fn list(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        let mut lists = wait_for(reader.replays(100))?;
        let veil = wait_for(reader.veil())?;
        lists.iter_mut().for_each(|list| veil.list(list));
        if self.json {
            for list in &lists {
                written(writeln!(terminal.out, "{}", shown::replay(list)))?;
            }
            return Ok(GOOD);
        }
        if lists.is_empty() {
            written(writeln!(terminal.out, "no replays"))?;
            return Ok(GOOD);
        }
        written(table::columns(
            &mut terminal.out,
            &HEADINGS,
            &lists.iter().map(cells).collect::<Vec<_>>(),
        ))?;
        Ok(GOOD)
    }
}

const HEADINGS: [&str; 11] = [
    "replay",
    "made (UTC)",
    "who",
    "state",
    "runs",
    "waiting",
    "in flight",
    "ended",
    "in exception",
    "refused",
    "chosen",
];

fn cells(list: &ReplayRow) -> Vec<String> {
    vec![
        list.id.0.to_string(),
        table::time(list.at_ms),
        list.who.clone(),
        list.state.name().to_owned(),
        list.total.to_string(),
        list.waiting.to_string(),
        list.in_flight.to_string(),
        list.ended.to_string(),
        list.in_exceptions.to_string(),
        list.refused.to_string(),
        list.filter.clone(),
    ]
}

fn show(
    id: ReplayId,
    as_json: bool,
    project: &ProjectArguments,
    terminal: &mut Terminal,
) -> Result<u8, Failure> {
    let reader = reader(project)?;
    let Some(list) = wait_for(reader.replay(id))? else {
        writeln!(
            terminal.err,
            "crossdock: there is no replay {}; `crossdock replays` lists them",
            id.0
        )
        .ok();
        return Ok(FINDINGS);
    };
    if !as_json {
        written(table::columns(
            &mut terminal.out,
            &HEADINGS,
            &[cells(&list)],
        ))?;
        written(writeln!(terminal.out))?;
    }
    let mut after = 0;
    loop {
        let items = wait_for(reader.replay_items(id, after, RECEIPTS))?;
        let Some(last) = items.last() else {
            return Ok(GOOD);
        };
        after = last.n;
        for item in &items {
            let line = if as_json {
                shown::replay_item(item).to_string()
            } else {
                receipt(item)
            };
            written(writeln!(terminal.out, "{line}"))?;
        }
    }
}

fn receipt(item: &ReplayItem) -> String {
    let what = match (&item.note, item.became, item.state) {
        (Some(why), _, _) => format!("refused: {why}"),
        (None, Some(became), Some(state)) if became == item.run => state.name().to_owned(),
        (None, Some(became), Some(state)) => format!("run {} {}", became.0, state.name()),
        (None, Some(became), None) => format!("run {} (removed since)", became.0),
        (None, None, _) => "waits for its turn".to_owned(),
    };
    format!("{:>6}  run {}: {what}", item.n, item.run.0)
}

impl Named {
    fn turn(&self, to: ReplayState, terminal: &mut Terminal) -> Result<u8, Failure> {
        let done = wait_for(async {
            let who = self.actor.name(&self.project.world()?);
            let mut office = Office::open(&self.project).await?;
            let done = office.turn_list(self.replay, to, &who).await;
            office.close().await;
            done
        })?;
        if !done {
            writeln!(
                terminal.err,
                "crossdock: replay {} has ended, or there is none; `crossdock replays` lists them",
                self.replay
            )
            .ok();
            return Ok(FINDINGS);
        }
        written(writeln!(
            terminal.out,
            "replay {} is {}",
            self.replay,
            to.name()
        ))?;
        Ok(GOOD)
    }
}
