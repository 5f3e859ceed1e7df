//! `crossdock approvals`, `approve`, `refuse`: what waits for a second person.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::office::{Actor, Office};
use super::{FINDINGS, GOOD, ProjectArguments, Terminal, reader, table, wait_for, written};
use crate::failure::Failure;
use crate::store::approvals::{Approval, ApprovalState};

/// How many requests are listed.
const LISTED: usize = 200;
/// How many letters of a verb are shown.
const VERB_SHOWN: usize = 400;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock approvals                what waits for a second person
  crossdock approvals --all          what became of the others, too
  crossdock approvals --json

With `admin: { approval: { above: 100 } }` in crossdock.yaml, acts on more than 100 exceptions or runs wait here until somebody else
approves them, at most a day. Which ones they are about is settled when they are asked for.")]
pub(super) struct Approvals {
    /// Those too that are decided, or over
    #[arg(long)]
    all: bool,
    /// Print JSON, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock approve 7
  crossdock approve 7 --reason 'checked with the warehouse'

Who has asked cannot approve it. The engine does it from then on; `crossdock approvals --all` shows how far it is.")]
pub(super) struct Approve {
    /// Its number
    approval: i64,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    at: At,
}

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock refuse 7 --reason 'these orders are real'

What is approved and not done yet ends where it is; what was done stays done.")]
pub(super) struct Refuse {
    /// Its number
    approval: i64,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    at: At,
}

#[derive(Args)]
struct At {
    #[command(flatten)]
    actor: Actor,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

impl Approvals {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let mut all = wait_for(reader(&self.project)?.approvals(LISTED))?;
        all.retain(|one| {
            self.all || matches!(one.state, ApprovalState::Asked | ApprovalState::Approved)
        });
        if self.json {
            for one in &all {
                written(writeln!(terminal.out, "{}", json!(one)))?;
            }
            return Ok(GOOD);
        }
        if all.is_empty() {
            written(writeln!(terminal.out, "nothing waits for a second person"))?;
            return Ok(GOOD);
        }
        let columns = [
            "request",
            "asked (UTC)",
            "by",
            "state",
            "until (UTC)",
            "what",
            "done",
            "refused",
            "decided by",
            "reason",
        ];
        let rows: Vec<_> = all.iter().map(row).collect();
        written(table::columns(&mut terminal.out, &columns, &rows))?;
        for one in all.iter().filter(|one| one.state == ApprovalState::Asked) {
            written(write!(terminal.out, "{}", about(one)))?;
        }
        Ok(GOOD)
    }
}

/// What somebody looks at before they approve: the verb in full, and the numbers.
fn about(one: &Approval) -> String {
    let numbers: Vec<String> = one.first.iter().map(i64::to_string).collect();
    let more = usize::try_from(one.items).unwrap_or(0);
    let more = match more.saturating_sub(numbers.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let verb = one.verb.to_string();
    let mut shown: String = verb.chars().take(VERB_SHOWN).collect();
    if shown.len() < verb.len() {
        shown.push_str(".. (--json shows all)");
    }
    format!(
        "\nrequest {}\n  about {}{more}\n  does  {shown}\n",
        one.id,
        numbers.join(" ")
    )
}

fn row(one: &Approval) -> Vec<String> {
    vec![
        one.id.to_string(),
        table::time(one.at_ms),
        one.who.clone(),
        one.state.name().to_owned(),
        table::time(one.ends_at_ms),
        one.said.clone(),
        one.done.to_string(),
        one.refused.to_string(),
        one.decided_by.clone().unwrap_or_else(|| "-".to_owned()),
        one.why.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

impl Approve {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let why = self.reason.clone();
        self.at.decide(self.approval, true, why, terminal)
    }
}

impl Refuse {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let why = Some(self.reason.clone());
        self.at.decide(self.approval, false, why, terminal)
    }
}

impl At {
    fn decide(
        &self,
        id: i64,
        approves: bool,
        why: Option<String>,
        terminal: &mut Terminal,
    ) -> Result<u8, Failure> {
        let (done, engine) = wait_for(async {
            let who = self.actor.name(&self.project.world()?);
            let mut office = Office::open(&self.project).await?;
            let engine = office.engine_runs();
            let done = office.decide_approval(id, approves, why, &who).await;
            office.close().await;
            Ok((done?, engine))
        })?;
        if self.json {
            written(writeln!(terminal.out, "{}", json!(done)))?;
            return Ok(GOOD);
        }
        let line = match (done.state, done.replay) {
            (ApprovalState::Refused, _) if done.done > 0 => format!(
                "request {id} is ended; {} of {} were done before",
                done.done, done.items
            ),
            (ApprovalState::Refused, _) => format!("request {id} is refused; nothing comes of it"),
            (_, Some(list)) => format!(
                "request {id} is approved; replay {list} has begun: {}",
                done.said
            ),
            _ if engine => format!(
                "request {id} is approved; the engine does it: {}",
                done.said
            ),
            _ => format!(
                "request {id} is approved; no engine runs, it is done at the next start: {}",
                done.said
            ),
        };
        written(writeln!(terminal.out, "{line}"))?;
        Ok(GOOD)
    }
}

/// Says that something waits for a second person; the exit code of a command that has done nothing yet.
pub(super) fn say_waits(id: i64, terminal: &mut Terminal) -> Result<u8, Failure> {
    written(writeln!(
        terminal.out,
        "nothing is done yet: request {id} waits for a second person, at most a day; `crossdock approve {id}` by somebody else lets it go on"
    ))?;
    Ok(FINDINGS)
}
