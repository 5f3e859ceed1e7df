//! `crossdock replay`: runs are done again, single ones at once, many as a list that the engine works on.

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};

use super::approvals::say_waits;
use super::office::{Actor, Office};
use super::{FINDINGS, GOOD, ProjectArguments, Terminal, wait_for, written};
use crate::admin::api::{MakeList, RunsAgain};
use crate::component::words::Duration;
use crate::failure::Failure;
use crate::run::again::{Again, From, Receipt};
use crate::run::replay::{Listed, NewList};

#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  crossdock replay resume 42                       the same run, from the failed step
  crossdock replay rerun 42                        a new run, from the accepted body
  crossdock replay rerun-from erp 42               a new run, from this step; what came before it is taken from the record
  crossdock replay --flow orders --state in-exception --since 2h --verb rerun --dry-run
  crossdock replay --flow orders --state in-exception --since 2h --verb rerun --rate 20
  crossdock simulate orders --last 100             what would be sent, without sending it

Effects that were done are not done again, unless you say --as-new. A new run takes the place of the one that it repeats: the
message is counted once.
Exit codes: 0 all begun, 1 some were refused"
)]
pub(super) struct Replay {
    #[command(subcommand)]
    verb: Option<One>,
    #[command(flatten)]
    many: Many,
}

#[derive(Subcommand)]
enum One {
    /// The same run, from the failed step
    Resume {
        /// Runs, by their numbers
        #[arg(required = true)]
        runs: Vec<i64>,
        #[command(flatten)]
        common: Common,
    },
    /// A new run, from the accepted body
    Rerun {
        /// Runs, by their numbers
        #[arg(required = true)]
        runs: Vec<i64>,
        #[command(flatten)]
        common: Common,
    },
    /// A new run, from a step: what came before it is taken from what was recorded
    RerunFrom {
        /// The step
        step: String,
        /// Runs, by their numbers
        #[arg(required = true)]
        runs: Vec<i64>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct Common {
    /// Do once more what was done, as something new: you answer for it
    #[arg(long)]
    as_new: bool,
    /// Under which revision of the flow
    #[arg(long, value_enum, default_value_t)]
    revision: Revision,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    /// Only say whether it could be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    actor: Actor,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Revision {
    /// The one that is loaded.
    #[default]
    Current,
    /// The one under which the run was accepted.
    Original,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Verb {
    /// From the failed step.
    #[default]
    Resume,
    /// From the accepted body.
    Rerun,
    /// From the step that `--step` names.
    RerunFrom,
}

#[derive(Args)]
struct Many {
    /// Runs of this flow
    #[arg(long)]
    flow: Option<String>,
    /// Runs in this state, such as in-exception
    #[arg(long)]
    state: Option<String>,
    /// Runs accepted in the last 30m, 2h, 3d, or since a time such as 2026-11-21T08:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Runs accepted before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Runs with this key: VALUE or NAME=VALUE
    #[arg(long)]
    key: Option<String>,
    /// Runs with an open exception of this cause
    #[arg(long, value_name = "FINGERPRINT")]
    issue: Option<String>,
    /// Runs with an open exception of this class
    #[arg(long)]
    class: Option<String>,
    /// What is done with each
    #[arg(long, value_enum, default_value_t)]
    verb: Verb,
    /// With --verb rerun-from: the step
    #[arg(long)]
    step: Option<String>,
    /// At most so many a second
    #[arg(long, default_value_t = crate::run::replay::RATE_DEFAULT)]
    rate: f64,
    #[command(flatten)]
    common: Common,
}

impl Replay {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        match &self.verb {
            None => self.many.run(terminal),
            Some(One::Resume { runs, common }) => common.again(runs, From::Resume, terminal),
            Some(One::Rerun { runs, common }) => common.again(runs, From::Start, terminal),
            Some(One::RerunFrom { step, runs, common }) => {
                common.again(runs, From::Step(step.clone()), terminal)
            }
        }
    }
}

impl Common {
    fn how(&self, from: From) -> Again {
        Again {
            from,
            as_new: self.as_new,
            original: matches!(self.revision, Revision::Original),
        }
    }

    fn again(&self, runs: &[i64], from: From, terminal: &mut Terminal) -> Result<u8, Failure> {
        let wish = RunsAgain {
            runs: runs.to_vec(),
            how: self.how(from),
            who: self.actor.name(&self.project.world()?),
            why: self.reason.clone(),
            dry_run: self.dry_run,
        };
        let (receipts, engine) = wait_for(async {
            let mut office = Office::open(&self.project).await?;
            let receipts = office.again(wish).await;
            let engine = office.engine_runs();
            office.close().await;
            Ok((receipts?, engine))
        })?;
        for receipt in &receipts {
            if self.json {
                let line = serde_json::to_string(receipt)
                    .map_err(|error| Failure::internal(error.to_string()))?;
                written(writeln!(terminal.out, "{line}"))?;
            } else {
                self.say(receipt, engine, terminal)?;
            }
        }
        let refused = receipts.iter().any(|receipt| receipt.refused.is_some());
        Ok(if refused { FINDINGS } else { GOOD })
    }

    fn say(&self, receipt: &Receipt, engine: bool, terminal: &mut Terminal) -> Result<(), Failure> {
        let later = if engine {
            ""
        } else {
            "; no engine runs, it is taken up at the next start"
        };
        match (&receipt.refused, receipt.became) {
            (Some(why), _) => {
                writeln!(terminal.err, "run {}: {why}", receipt.run).ok();
                Ok(())
            }
            (None, Some(became)) if became == receipt.run => {
                let line = format!("run {became} goes on{later}");
                written(writeln!(terminal.out, "{line}"))
            }
            (None, Some(became)) => {
                let line = format!("run {became} takes the place of run {}{later}", receipt.run);
                written(writeln!(terminal.out, "{line}"))
            }
            (None, None) => {
                let line = format!("run {} can be done again; nothing was changed", receipt.run);
                written(writeln!(terminal.out, "{line}"))
            }
        }
    }
}

impl Many {
    fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let world = self.common.project.world()?;
        let now_ms = world.clock.now_ms();
        let from = match (self.verb, &self.step) {
            (Verb::Resume, _) => From::Resume,
            (Verb::Rerun, _) => From::Start,
            (Verb::RerunFrom, Some(step)) => From::Step(step.clone()),
            (Verb::RerunFrom, None) => {
                return Err(Failure::validation("`--verb rerun-from` needs `--step`"));
            }
        };
        let time = |text: &Option<String>| text.as_deref().map(|text| time(text, now_ms));
        let list = NewList {
            flow: self.flow.clone(),
            state: self.state.clone(),
            since_ms: time(&self.since).transpose()?,
            until_ms: time(&self.until).transpose()?,
            key: self.key.clone(),
            issue: self.issue.clone(),
            class: self.class.clone(),
            how: self.common.how(from),
            rate: Some(self.rate),
            why: self.common.reason.clone(),
        };
        let wish = MakeList {
            list,
            who: self.common.actor.name(&world),
            dry_run: self.common.dry_run,
        };
        let listed = wait_for(async {
            let mut office = Office::open(&self.common.project).await?;
            let listed = office.list(wish).await;
            office.close().await;
            listed
        })?;
        if self.common.json {
            let line = serde_json::to_string(&listed)
                .map_err(|error| Failure::internal(error.to_string()))?;
            written(writeln!(terminal.out, "{line}"))?;
            return Ok(listed.approval.map_or(GOOD, |_| FINDINGS));
        }
        if let Some(id) = listed.approval {
            return say_waits(id, terminal);
        }
        written(writeln!(terminal.out, "{}", said(&listed)))?;
        Ok(GOOD)
    }
}

fn said(listed: &Listed) -> String {
    let many = listed.runs;
    match listed.replay {
        None if many == 0 => "no run is chosen".to_owned(),
        None => format!("{many} runs would be done again; nothing was changed"),
        Some(id) if listed.engine => {
            format!("replay {id}: {many} runs; `crossdock replays show {id}` has the receipts")
        }
        Some(id) => {
            format!("replay {id}: {many} runs; no engine runs, it begins at the next start")
        }
    }
}

/// A time, or how long ago it was, in milliseconds since 1970.
fn time(text: &str, now_ms: i64) -> Result<i64, Failure> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(at.as_millisecond());
    }
    let ago = Duration::parse(text).map_err(|_| {
        Failure::validation(format!(
            "`{text}` is neither a time with its zone, such as 2026-11-21T08:00:00Z, nor how long ago, such as 2h"
        ))
    })?;
    Ok(now_ms.saturating_sub(i64::try_from(ago.ms).unwrap_or(i64::MAX)))
}
