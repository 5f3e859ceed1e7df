//! `crossdock rollback`: withdraws the revision that runs, or lets one run again that was withdrawn.

use std::io::Write;

use clap::Args;

use super::office::{Actor, Office};
use super::plan::{code, show};
use super::{ProjectArguments, Terminal, wait_for, written};
use crate::admin::api::Deploy;
use crate::failure::Failure;
use crate::run::reload::short;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock rollback --reason 'orders without tax since 10:12'        to the revision before
  crossdock rollback 3f2a --reason 'the one of last week'             to another one; the beginning of its name is enough
  crossdock rollback --lift 9b1c                                      it may run again

The files on the disk are not touched. The revision that ran is withdrawn: it runs on no engine of this store, not even after a restart,
until its files change or it is lifted. Messages that are in flight end under the revision that they have.")]
pub(super) struct Rollback {
    /// To this revision, or the beginning of one; default: the one that ran before
    #[arg(value_name = "REVISION", conflicts_with = "lift")]
    revision: Option<String>,
    /// Why; the next one who looks must know
    #[arg(long, value_name = "TEXT", required_unless_present = "lift")]
    reason: Option<String>,
    /// Let this revision run again, which was withdrawn
    #[arg(long, value_name = "REVISION")]
    lift: Option<String>,
    /// Only say what would change
    #[arg(long, conflicts_with = "lift")]
    dry_run: bool,
    #[command(flatten)]
    project: ProjectArguments,
    #[command(flatten)]
    actor: Actor,
}

impl Rollback {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let who = self.actor.name(&self.project.world()?);
        let wish = Deploy {
            revision: self.lift.clone().or_else(|| self.revision.clone()),
            who,
            why: self.reason.clone(),
            dry_run: self.dry_run,
        };
        let (deployed, engine) = wait_for(async {
            let mut office = Office::open(&self.project).await?;
            let engine = office.engine_runs();
            let done = match self.lift {
                Some(_) => office.lift(wish).await,
                None => office.roll_back(wish).await,
            };
            office.close().await;
            Ok((done?, engine))
        })?;
        terminal.err.write_all(deployed.findings.as_bytes()).ok();
        written(match (engine, &self.lift, &deployed.changes) {
            (false, Some(_), _) => {
                writeln!(terminal.out, "it may run again from the next start on")
            }
            (false, None, Some(changes)) => writeln!(
                terminal.out,
                "revision {} runs from the next start on, instead of {}",
                short(&changes.after),
                short(&changes.before)
            ),
            _ => show(&deployed, terminal),
        })?;
        Ok(code(&deployed))
    }
}
