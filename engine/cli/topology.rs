//! `crossdock topology`: the exchanges and queues of the hand-off on RabbitMQ: what is there, what is missing, what is other than it must be,
//! and what nothing needs any more.

use std::io::Write;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{
    FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, reader, table, wait_for,
    written,
};
use crate::failure::Failure;
use crate::flow;
use crate::handoff::rabbitmq::topology::{Found, State};
use crate::run::supervisor::{broker_of, topology_of};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock topology
  crossdock topology --format json
  crossdock topology --delete

exists     it is there, as it must be
missing    an engine makes it when it starts
drifted    it is there with other arguments: both are shown, and an engine does not start on it
left over  nothing needs it any more: its flow or step is gone, or it was replaced

Nothing is changed without --delete, and with it only what is left over, empty and not in use. What waits in a queue is in the store as well.
Exit codes: 0 all is as it must be, 1 something is drifted, or could not be deleted, 78 the project cannot be loaded")]
pub(super) struct Topology {
    #[command(flatten)]
    project: ProjectArguments,
    /// The form of the list
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Delete queues that are left over, empty and not in use
    #[arg(long)]
    delete: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object a line
    Json,
}

const COLUMNS: [&str; 5] = ["kind", "name", "state", "messages", "consumers"];

/// An exchange or a queue, and what became of the wish to delete it.
type Told = (Found, Option<Result<(), String>>);

impl Topology {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let world = self.project.world()?;
        let root = absolute(&self.project.project);
        let Some(project) = flow::load(&root, &world).project else {
            writeln!(
                terminal.err,
                "crossdock: the project in {} cannot be loaded; `crossdock check` says why",
                root.display()
            )
            .ok();
            return Ok(UNLOADABLE);
        };
        let Some(given) = &project.settings.handoff.rabbitmq else {
            written(writeln!(
                terminal.out,
                "the project has no broker: its hand-off is embedded (`handoff.rabbitmq` in crossdock.yaml is not set)"
            ))?;
            return Ok(GOOD);
        };
        let place = broker_of(given)?;
        let store = reader(&self.project)?;
        let all = wait_for(place.look(&topology_of(&project), &store, self.delete))?;
        match self.format {
            Format::Json => {
                for told in &all {
                    written(writeln!(terminal.out, "{}", as_json(told)))?;
                }
            }
            Format::Text => self.print(terminal, &place.shown(), &all)?,
        }
        let wrong = |(found, deleted): &Told| {
            matches!(found.state, State::Drifted(_)) || matches!(deleted, Some(Err(_)))
        };
        Ok(if all.iter().any(wrong) {
            FINDINGS
        } else {
            GOOD
        })
    }

    fn print(&self, terminal: &mut Terminal, shown: &str, all: &[Told]) -> Result<(), Failure> {
        written(writeln!(terminal.out, "broker {shown}"))?;
        let rows: Vec<_> = all.iter().map(row).collect();
        written(table::columns(&mut terminal.out, &COLUMNS, &rows))?;
        for (found, _) in all {
            if let State::Drifted(how) = &found.state {
                written(writeln!(terminal.out, "{}: {how}", found.name))?;
            }
        }
        Ok(())
    }
}

fn name_of(state: &State) -> &'static str {
    match state {
        State::There => "exists",
        State::Missing => "missing",
        State::Drifted(_) => "drifted",
        State::LeftOver => "left over",
    }
}

fn row((found, deleted): &Told) -> Vec<String> {
    let state = match deleted {
        None => name_of(&found.state).to_owned(),
        Some(Ok(())) => "deleted".to_owned(),
        Some(Err(why)) => format!("kept: {why}"),
    };
    let counted = |many: u32| match (found.kind, &found.state) {
        ("exchange", _) | (_, State::Missing) => "-".to_owned(),
        _ => many.to_string(),
    };
    vec![
        found.kind.to_owned(),
        found.name.clone(),
        state,
        counted(found.ready),
        counted(found.consumers),
    ]
}

fn as_json((found, deleted): &Told) -> serde_json::Value {
    let how = match &found.state {
        State::Drifted(how) => Some(how),
        _ => None,
    };
    json!({
        "kind": found.kind,
        "name": found.name,
        "state": name_of(&found.state),
        "messages": found.ready,
        "consumers": found.consumers,
        "difference": how,
        "deleted": deleted.as_ref().map(|deleted| deleted.is_ok()),
        "kept": deleted.as_ref().and_then(|deleted| deleted.as_ref().err()),
    })
}
