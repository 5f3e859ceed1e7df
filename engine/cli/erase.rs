//! `crossdock erase KEY=VALUE`: takes what ended messages with a key hold out of the store. Without a reason it only says what that would be.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::office::{Actor, Office};
use super::{FINDINGS, GOOD, ProjectArguments, Terminal, table, wait_for, written};
use crate::failure::Failure;
use crate::run::privacy::Erasing;
use crate::store::erasure::Erased;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock erase order=SO-1001                             what would be erased; nothing is changed
  crossdock erase order=SO-1001 --reason 'request 2026-17'  it is erased
  crossdock erase customer=anna@example.org --reason 'request 2026-18' --json

Bodies, requests, answers and texts of all ended messages with this key go, over all flows, and so do the values of their personal keys. What
happened stays in the journey without them, and a repeat of an erased message is still known as one. A message that is in flight, or that waits
for a person, is named and left: erase again when it has ended.
Exit codes: 0 erased (or would be), 1 something is left")]
pub(super) struct Erase {
    /// NAME=VALUE of a business key
    key: String,
    /// Why, for the audit log, which cannot be erased: name nobody in it. Without it nothing is changed
    #[arg(long)]
    reason: Option<String>,
    /// Only say what would be erased, with a reason too
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    actor: Actor,
    #[command(flatten)]
    project: ProjectArguments,
}

impl Erase {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let dry_run = self.dry_run || self.reason.is_none();
        let wish = Erasing {
            key: self.key.clone(),
            who: self.actor.name(&self.project.world()?),
            why: self.reason.clone().unwrap_or_default(),
            dry_run,
        };
        let erased = wait_for(async {
            let mut office = Office::open(&self.project).await?;
            let erased = office.erase(wish).await;
            office.close().await;
            erased
        })?;
        if self.json {
            let mut whole = json!(erased);
            whole["dry_run"] = json!(dry_run);
            written(writeln!(terminal.out, "{whole}"))?;
        } else {
            show(&erased, dry_run, terminal)?;
        }
        Ok(match erased.left {
            0 => GOOD,
            _ => FINDINGS,
        })
    }
}

fn show(erased: &Erased, dry_run: bool, terminal: &mut Terminal) -> Result<(), Failure> {
    let word = match dry_run {
        true => "would be erased",
        false => "erased",
    };
    let (out, more) = (
        &mut terminal.out,
        if erased.more { " and more" } else { "" },
    );
    written(writeln!(
        out,
        "{} runs{more} {word}: {} bodies, requests and answers, the texts of {} exceptions, {} personal keys",
        erased.runs, erased.bodies, erased.exceptions, erased.keys
    ))?;
    if erased.before > 0 {
        written(writeln!(out, "{} runs were erased before", erased.before))?;
    }
    if erased.left > 0 {
        written(writeln!(
            out,
            "{} runs are left as they are, because these have not ended:",
            erased.left
        ))?;
        let rows: Vec<_> = erased
            .waits_for
            .iter()
            .map(|one| vec![one.run.to_string(), one.flow.clone(), one.why.clone()])
            .collect();
        written(table::columns(out, &["run", "flow", "why"], &rows))?;
    }
    if dry_run && erased.runs > 0 {
        written(writeln!(out, "nothing was changed; `--reason` does it"))?;
    }
    Ok(())
}
