//! `crossdock reload`: the running engine loads the project from its files.

use std::io::Write;

use clap::Args;

use super::office::Actor;
use super::plan::{code, show};
use super::{ProjectArguments, Terminal, run, wait_for, written};
use crate::admin::api::Deploy;
use crate::admin::client::Client;
use crate::failure::{Class, Failure};
use crate::run::deploy::{Deployed, Outcome};
use crate::run::reload::short;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock reload
  crossdock reload --reason 'new tax codes, ticket 4711'

The engine does this by itself when files change, unless it was started with --no-watch. Secrets that stand in files of their own
(`${file:..}`) are read again only by this, by SIGHUP and when a file of the project changes.
Exit codes: 0 it runs, 1 it was withdrawn and does not run, 78 it cannot be loaded and the last good one runs on")]
pub(super) struct Reload {
    #[command(flatten)]
    project: ProjectArguments,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    actor: Actor,
}

impl Reload {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let world = self.project.world()?;
        let (_, door) = run::store_place(&self.project.project, &world)?;
        let deployed: Deployed = wait_for(async {
            let client = Client::reach(&door).await?;
            let mut client = client.ok_or_else(|| {
                Failure::new(
                    Class::Unavailable,
                    "no engine runs here; `crossdock run` loads the project when it starts",
                )
            })?;
            let wish = Deploy {
                revision: None,
                who: self.actor.name(&world),
                why: self.reason.clone(),
                dry_run: false,
            };
            client.post("/project:reload", &wish.who, &wish).await
        })?;
        if self.json {
            let text = serde_json::to_string_pretty(&deployed).unwrap_or_default();
            written(writeln!(terminal.out, "{text}"))?;
            return Ok(code(&deployed));
        }
        terminal.err.write_all(deployed.findings.as_bytes()).ok();
        if deployed.outcome == Outcome::Refused {
            written(writeln!(
                terminal.err,
                "crossdock: refused ({}); revision {} runs on",
                deployed.summary,
                short(&deployed.running)
            ))?;
        } else {
            written(show(&deployed, terminal))?;
        }
        Ok(code(&deployed))
    }
}
