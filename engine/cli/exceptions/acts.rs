//! The verbs of `crossdock exceptions`: what a person does about them.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::approvals::say_waits;
use crate::cli::office::{Actor, Office};
use crate::cli::{FINDINGS, GOOD, ProjectArguments, Terminal, table, wait_for, written};
use crate::component::words::Duration;
use crate::failure::Failure;
use crate::run::desk::{Report, Retry, Verb, Which};
use crate::world::disk;

/// The largest body that can be put in the place of another.
const EDITED_BYTES_MAX: u64 = 32 << 20;

#[derive(Subcommand)]
pub(super) enum Acts {
    /// Show one with its full context: bodies, request, answer, what was done already, history
    Show {
        /// Its number
        exception: i64,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        project: ProjectArguments,
    },
    /// Try the failed step again: one, or all that a filter finds
    Retry(RetryArguments),
    /// Try the failed step again with another body; the old one is kept
    Edit {
        /// Its number
        exception: i64,
        /// The file with the body
        #[arg(long, value_name = "FILE")]
        body: PathBuf,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Leave the failed step out: the message goes on as it was before it
    Skip {
        /// Their numbers
        #[arg(required = true)]
        exceptions: Vec<i64>,
        /// Why
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        common: Common,
    },
    /// Give messages up: they end as discarded
    Discard {
        #[command(flatten)]
        which: Chosen,
        /// Why
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        common: Common,
    },
    /// Say that it was done by hand, outside: the message ends as delivered
    Resolve {
        /// Their numbers
        #[arg(required = true)]
        exceptions: Vec<i64>,
        /// It was done by hand
        #[arg(long, required = true)]
        by_hand: bool,
        /// What was done
        #[arg(long)]
        note: String,
        #[command(flatten)]
        common: Common,
    },
    /// Give it to somebody
    Assign {
        /// Its number
        exception: i64,
        /// To whom
        who: String,
        /// Also if somebody else has it
        #[arg(long)]
        take_over: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Leave a note
    Note {
        /// Its number
        exception: i64,
        /// The note
        text: String,
        #[command(flatten)]
        common: Common,
    },
    /// Put it off
    Snooze {
        /// Its number
        exception: i64,
        /// How long: 30m, 2h, 3d
        time: String,
        #[command(flatten)]
        common: Common,
    },
}

/// What all verbs take.
#[derive(Args)]
pub(super) struct Common {
    #[command(flatten)]
    actor: Actor,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

/// Single exceptions, or all that a filter finds.
#[derive(Args)]
pub(super) struct Chosen {
    /// Their numbers
    exceptions: Vec<i64>,
    /// All with this cause: the issue's fingerprint, or its beginning
    #[arg(long, value_name = "FINGERPRINT")]
    issue: Option<String>,
    /// All of this flow
    #[arg(long)]
    flow: Option<String>,
    /// All of this failure class
    #[arg(long)]
    class: Option<String>,
    /// All at this step
    #[arg(long)]
    step: Option<String>,
    /// All of runs with this key: VALUE or NAME=VALUE
    #[arg(long)]
    key: Option<String>,
    /// All that wait for a person
    #[arg(long)]
    all: bool,
    /// Only say how many it would be
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock exceptions retry 7
  crossdock exceptions retry --issue 3f2a --dry-run    how many would go on?
  crossdock exceptions retry --issue 3f2a              all with the same cause
  crossdock exceptions retry 9 --applied               the target has it: go on
  crossdock exceptions retry 9 --as-new                the target does not have it: send once more

Effects that were done are not repeated. Where nobody knows whether a request took effect, and the target has neither an
idempotency key nor a probe, a retry needs `--applied` or `--as-new`.
Exit codes: 0 all done, 1 some were refused")]
pub(super) struct RetryArguments {
    #[command(flatten)]
    which: Chosen,
    /// Send it as something new, whatever happened before: you answer for it
    #[arg(long, conflicts_with = "applied")]
    as_new: bool,
    /// It took effect, you have looked: go on after it
    #[arg(long)]
    applied: bool,
    /// With --applied: a file with the JSON body that the target answered
    #[arg(long, value_name = "FILE", requires = "applied")]
    answer: Option<PathBuf>,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl Acts {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        match self {
            Acts::Show {
                exception,
                json,
                project,
            } => super::show(*exception, (*json, false), project, terminal),
            Acts::Retry(retry) => retry.run(terminal),
            Acts::Discard {
                which,
                reason,
                common,
            } => {
                let reason = reason.clone();
                let verb = Verb::Discard { reason };
                common.act(which.which(), verb, "discarded", which.dry_run, terminal)
            }
            Acts::Snooze {
                exception,
                time,
                common,
            } => {
                let until_ms = after(time, &common.project)?;
                let said = format!("put off until {} UTC", table::time(until_ms));
                let verb = Verb::Snooze { until_ms };
                common.act(Which::these([*exception]), verb, &said, false, terminal)
            }
            Acts::Assign {
                exception,
                who,
                take_over,
                common,
            } => {
                let (to, take_over) = (who.clone(), *take_over);
                let verb = Verb::Assign { to, take_over };
                let said = format!("assigned to {who}");
                common.act(Which::these([*exception]), verb, &said, false, terminal)
            }
            Acts::Note {
                exception,
                text,
                common,
            } => {
                let verb = Verb::Note { text: text.clone() };
                common.act(Which::these([*exception]), verb, "noted", false, terminal)
            }
            Acts::Edit { .. } | Acts::Skip { .. } | Acts::Resolve { .. } => self.settle(terminal),
        }
    }

    /// Verbs that let single exceptions go on in another way, or end them.
    fn settle(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let (ids, verb, said, common): (&[i64], _, _, _) = match self {
            Acts::Edit {
                exception,
                body,
                reason,
                common,
            } => {
                let body = disk::read_text(body, EDITED_BYTES_MAX)?;
                let reason = reason.clone();
                let verb = Verb::Edit { body, reason };
                (
                    std::slice::from_ref(exception),
                    verb,
                    "goes on edited".to_owned(),
                    common,
                )
            }
            Acts::Skip {
                exceptions,
                reason,
                common,
            } => {
                let reason = reason.clone();
                (
                    exceptions,
                    Verb::Skip { reason },
                    "go on without the step".to_owned(),
                    common,
                )
            }
            Acts::Resolve {
                exceptions,
                note,
                common,
                ..
            } => {
                let note = note.clone();
                (
                    exceptions,
                    Verb::ByHand { note },
                    "resolved by hand".to_owned(),
                    common,
                )
            }
            _ => return Ok(GOOD),
        };
        let which = Which::these(ids.iter().copied());
        common.act(which, verb, &said, false, terminal)
    }
}

/// The time that lies so far ahead, in milliseconds since 1970.
fn after(time: &str, project: &ProjectArguments) -> Result<i64, Failure> {
    let time = Duration::parse(time).map_err(Failure::validation)?;
    let now_ms = project.world()?.clock.now_ms();
    Ok(now_ms.saturating_add(i64::try_from(time.ms).unwrap_or(i64::MAX)))
}

impl RetryArguments {
    fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let answer = match &self.answer {
            None => None,
            Some(path) => {
                let text = disk::read_text(path, EDITED_BYTES_MAX)?;
                let json = serde_json::from_str(&text).map_err(|error| {
                    Failure::validation(format!("{} is no JSON: {error}", path.display()))
                })?;
                Some(json)
            }
        };
        let how = match (self.as_new, self.applied) {
            (true, _) => Retry::AsNew,
            (_, true) => Retry::Applied,
            _ => Retry::Plain,
        };
        let verb = Verb::Retry {
            how,
            answer,
            reason: self.reason.clone(),
        };
        self.common.act(
            self.which.which(),
            verb,
            "retried",
            self.which.dry_run,
            terminal,
        )
    }
}

impl Chosen {
    fn which(&self) -> Which {
        Which {
            ids: self.exceptions.clone(),
            flow: self.flow.clone(),
            class: self.class.clone(),
            issue: self.issue.clone(),
            step: self.step.clone(),
            key: self.key.clone(),
            all: self.all,
        }
    }
}

impl Common {
    fn act(
        &self,
        which: Which,
        verb: Verb,
        said: &str,
        dry_run: bool,
        terminal: &mut Terminal,
    ) -> Result<u8, Failure> {
        let goes_on = matches!(
            verb,
            Verb::Retry { .. } | Verb::Edit { .. } | Verb::Skip { .. }
        );
        let who = self.actor.name(&self.project.world()?);
        let report = wait_for(async {
            let mut office = Office::open(&self.project).await?;
            let report = office.act(which, verb, who, dry_run).await;
            office.close().await;
            report
        })?;
        if self.json {
            let text = serde_json::to_string(&report)
                .map_err(|error| Failure::internal(error.to_string()))?;
            written(writeln!(terminal.out, "{text}"))?;
        } else if let Some(id) = report.approval {
            return say_waits(id, terminal);
        } else {
            say(&report, said, goes_on, terminal)?;
        }
        let done = report.refused == 0 && report.approval.is_none();
        Ok(if done { GOOD } else { FINDINGS })
    }
}

fn say(report: &Report, said: &str, goes_on: bool, terminal: &mut Terminal) -> Result<(), Failure> {
    let many = report.done;
    let line = if report.dry_run {
        format!("{many} would be {said}; nothing was changed")
    } else if goes_on && many > 0 && !report.engine {
        format!("{many} {said}; no engine runs, they are taken up at its next start")
    } else {
        format!("{many} {said}")
    };
    written(writeln!(terminal.out, "{line}"))?;
    for refusal in &report.refusals {
        written(writeln!(
            terminal.err,
            "exception {}: {}",
            refusal.exception, refusal.why
        ))?;
    }
    let untold = report.refused.saturating_sub(report.refusals.len() as u64);
    if untold > 0 {
        written(writeln!(terminal.err, "and {untold} more were refused"))?;
    }
    Ok(())
}
