//! `crossdock canary`: tries another revision of the project on a share of the messages, and makes it run for all, or stops it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::office::Actor;
use super::{
    FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, reader, run, table, wait_for,
    written,
};
use crate::admin::api::{CanaryEnd, CanaryShare};
use crate::admin::client::Client;
use crate::diagnostic::render;
use crate::failure::{Class, Failure};
use crate::flow;
use crate::run::canary::{Shown, Trying, WHOLE, share_told};
use crate::run::reload::short;
use crate::store::canaries::CanaryState;
use crate::world::World;

/// How many canaries are listed.
const LISTED: usize = 20;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock canary start ../next --percent 10 --reason 'new tax codes'     10 % of the keys run under the project in ../next
  crossdock canary start ../next --when \"customer.code == 'C1'\" --reason 'one customer first'
  crossdock canary                                                         how it does, against what runs
  crossdock canary share 50                                                more of it; the keys that it has stay with it
  crossdock canary promote --reason 'no differences in two days'           it runs for all
  crossdock canary stop --reason 'wrong totals'                            it takes nothing any more

One key is always on one side, on every engine of the store. What the canary has accepted ends under it, whatever becomes of it. It is
stopped by itself when more of its messages end in exceptions than of the others, and when another revision runs.")]
pub(super) struct Canary {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    project: ProjectArguments,
    /// Print JSON, one canary a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Let the project in another folder take a share of the messages
    Start(Box<Start>),
    /// Let it take another share of the keys
    Share {
        /// Per cent of the keys, such as 25 or 0.5
        #[arg(value_name = "PERCENT", value_parser = percent)]
        percent: u32,
        #[command(flatten)]
        actor: Actor,
    },
    /// Let it run for all, in the place of what runs
    Promote(End),
    /// Let it take nothing any more
    Stop(End),
}

#[derive(Args)]
struct Start {
    /// The folder of the project that is tried
    #[arg(value_name = "FOLDER")]
    candidate: PathBuf,
    /// It takes so many per cent of the keys
    #[arg(long, value_parser = percent, required_unless_present = "when", conflicts_with = "when")]
    percent: Option<u32>,
    /// The key by whose values messages are shared out; default: the first key of each flow
    #[arg(long, value_name = "KEY", conflicts_with = "when")]
    by: Option<String>,
    /// It takes the messages for which this is true
    #[arg(long, value_name = "EXPRESSION")]
    when: Option<String>,
    /// It is stopped when the share of its messages that end in exceptions is so many per cent larger than that of the others
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = percent)]
    stop_above: u32,
    /// That counts from so many of its messages on
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    least: u64,
    /// Somebody else must promote it
    #[arg(long)]
    other_promotes: bool,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    actor: Actor,
}

#[derive(Args)]
struct End {
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    actor: Actor,
}

/// The files of the project that is to be tried; `None` if it cannot be loaded, which was said.
pub(super) fn files_of(
    folder: &Path,
    world: &World,
    terminal: &mut Terminal,
) -> Option<BTreeMap<String, String>> {
    let root = absolute(folder);
    let loaded = flow::load(&root, world);
    render::text(&loaded.findings, &mut terminal.err, terminal.color).ok();
    let Some(project) = loaded.project else {
        let told = format!("the project in {} cannot be loaded", root.display());
        writeln!(terminal.err, "crossdock: {told}; nothing was begun").ok();
        return None;
    };
    let files = project.files.iter();
    Some(
        files
            .map(|file| (file.path.clone(), file.text.to_string()))
            .collect(),
    )
}

impl Canary {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let Some(verb) = &self.verb else {
            return self.list(terminal);
        };
        let world = self.project.world()?;
        let shown = match verb {
            Verb::Start(start) => {
                let Some(files) = files_of(&start.candidate, &world, terminal) else {
                    return Ok(UNLOADABLE);
                };
                let wish = Trying {
                    files,
                    share: start.percent.unwrap_or(0),
                    by: start.by.as_deref().map(Arc::from),
                    when: start.when.clone(),
                    worse_by: start.stop_above,
                    least: start.least,
                    other_promotes: start.other_promotes,
                    who: start.actor.name(&world),
                    why: start.reason.clone(),
                };
                self.ask("/canaries", &wish.who, &wish)?
            }
            Verb::Share { percent, actor } => self.ask(
                "/canaries:share",
                &actor.name(&world),
                &CanaryShare { share: *percent },
            )?,
            Verb::Promote(end) => {
                self.ask("/canaries:promote", &end.actor.name(&world), &end.wish())?
            }
            Verb::Stop(end) => self.ask("/canaries:stop", &end.actor.name(&world), &end.wish())?,
        };
        self.show(&[shown], terminal)
    }

    fn ask(&self, path: &str, who: &str, wish: &impl serde::Serialize) -> Result<Shown, Failure> {
        let (_, door) = run::store_place(&self.project.project, &self.project.world()?)?;
        wait_for(async {
            let client = Client::reach(&door).await?;
            let mut client = client.ok_or_else(|| {
                Failure::new(
                    Class::Unavailable,
                    "no engine runs here; a canary runs beside what an engine runs",
                )
            })?;
            client.post(path, who, wish).await
        })
    }

    fn list(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        let shown = wait_for(async {
            let mut shown = Vec::new();
            for canary in reader.canaries(LISTED).await? {
                let sides = reader.canary_sides(&canary).await?;
                shown.push(Shown {
                    canary,
                    sides,
                    not_tried: Vec::new(),
                });
            }
            Ok(shown)
        })?;
        if shown.is_empty() && !self.json {
            written(writeln!(terminal.out, "there was no canary yet"))?;
            return Ok(GOOD);
        }
        self.show(&shown, terminal)
    }

    fn show(&self, all: &[Shown], terminal: &mut Terminal) -> Result<u8, Failure> {
        for shown in all {
            if self.json {
                written(writeln!(terminal.out, "{}", json!(shown)))?;
            } else {
                written(one(shown, terminal))?;
            }
        }
        let stopped = |shown: &Shown| {
            shown.canary.state == CanaryState::Stopped
                && shown.canary.ended_by.as_deref() == Some("the engine")
        };
        // For scripts that wait for the outcome.
        Ok(if all.first().is_some_and(stopped) {
            FINDINGS
        } else {
            GOOD
        })
    }
}

impl End {
    fn wish(&self) -> CanaryEnd {
        CanaryEnd {
            why: self.reason.clone(),
        }
    }
}

fn one(shown: &Shown, terminal: &mut Terminal) -> std::io::Result<()> {
    let canary = &shown.canary;
    let out = &mut terminal.out;
    writeln!(
        out,
        "canary {} of revision {} beside {}: {}, {}",
        canary.id,
        short(&canary.revision),
        short(&canary.base),
        canary.state.name(),
        share_told(canary)
    )?;
    writeln!(
        out,
        "  begun {} UTC by {}: {}",
        table::time(canary.at_ms),
        canary.who,
        canary.why
    )?;
    if let (Some(at_ms), Some(by), Some(why)) =
        (canary.ended_at_ms, &canary.ended_by, &canary.ended_why)
    {
        writeln!(
            out,
            "  {} {} UTC by {by}: {why}",
            canary.state.name(),
            table::time(at_ms)
        )?;
    }
    for (flow, sides) in &shown.sides {
        let side = |side: crate::store::canaries::Side| {
            let refused = match side.refused {
                0 => String::new(),
                many => format!(", {many} refused"),
            };
            format!(
                "{} messages{refused}, {} in exceptions",
                side.taken, side.excepted
            )
        };
        writeln!(
            out,
            "  {flow}: canary {}; the others {}",
            side(sides.candidate),
            side(sides.base)
        )?;
    }
    for other in &shown.not_tried {
        writeln!(out, "  not tried: {other}; that comes when it is promoted")?;
    }
    Ok(())
}

/// Per cent, as a number of 10,000.
pub(super) fn percent(text: &str) -> Result<u32, String> {
    let number: f64 = text
        .trim_end_matches('%')
        .parse()
        .map_err(|_| format!("`{text}` is no number"))?;
    let share = (number * f64::from(WHOLE) / 100.0).round();
    if !(0.0..=f64::from(WHOLE)).contains(&share) {
        return Err(format!("{text} % is not between 0 % and 100 %"));
    }
    Ok(share as u32)
}
