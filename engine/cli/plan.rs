//! `crossdock plan`: what a reload would change, asked of the engine that runs, or worked out from what ran last.

use std::io::Write;

use clap::Args;

use super::office::Actor;
use super::{
    FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, run, wait_for, written,
};
use crate::admin::api::Deploy;
use crate::admin::client::Client;
use crate::diagnostic::render;
use crate::failure::Failure;
use crate::flow;
use crate::run::changes::Changes;
use crate::run::deploy::{Deployed, Outcome};
use crate::run::reload::short;
use crate::store::reader::{Place, Reader};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock plan                   in the project's folder, before `git push` or `crossdock reload`
  crossdock plan --json            for a pipeline

added      messages come in from now on
changed    what comes runs under the new revision; what is in flight ends under the one that it has
restarted  the flow is the same; a system, a secret or a value of the environment that it uses is not
removed    nothing comes in any more; what is in flight ends

Beside a running engine the engine is asked. Without one, the project is compared with what ran last.
Exit codes: 0 it can be loaded, 1 it was withdrawn and would not run, 78 it cannot be loaded")]
pub(super) struct Plan {
    #[command(flatten)]
    project: ProjectArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    actor: Actor,
}

impl Plan {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let world = self.project.world()?;
        let (place, door) = run::store_place(&self.project.project, &world)?;
        let asked = wait_for(async {
            let Some(mut client) = Client::reach(&door).await? else {
                return Ok(None);
            };
            let wish = Deploy {
                revision: None,
                who: self.actor.name(&world),
                why: None,
                dry_run: true,
            };
            let planned: Deployed = client.post("/project:reload", &wish.who, &wish).await?;
            Ok(Some(planned))
        })?;
        let planned = match asked {
            Some(planned) => planned,
            None => {
                let root = absolute(&self.project.project);
                let loaded = flow::load(&root, &world);
                let last = match place.file().is_some_and(|path| !path.exists()) {
                    true => None,
                    false => wait_for(last(&place, &root, &world))?,
                };
                without_engine(loaded, last.as_ref())
            }
        };
        if self.json {
            let text = serde_json::to_string_pretty(&planned).unwrap_or_default();
            written(writeln!(terminal.out, "{text}"))?;
            return Ok(code(&planned));
        }
        terminal.err.write_all(planned.findings.as_bytes()).ok();
        written(show(&planned, terminal))?;
        Ok(code(&planned))
    }
}

/// What a deployment says to a pipeline.
pub(super) fn code(deployed: &Deployed) -> u8 {
    match deployed.outcome {
        Outcome::Switched | Outcome::Same => GOOD,
        Outcome::Withdrawn => FINDINGS,
        Outcome::Refused => UNLOADABLE,
    }
}

/// What ran last on this store.
async fn last(
    place: &Place,
    root: &std::path::Path,
    world: &crate::world::World,
) -> Result<Option<flow::plan::Project>, Failure> {
    let reader = Reader::at(place)?;
    let deployments = reader.deployments(1).await?;
    let Some(last) = deployments.first() else {
        return Ok(None);
    };
    let Some(kept) = reader.kept(&last.revision).await? else {
        return Ok(None);
    };
    let files = kept.files.into_iter();
    let files = files.map(|(path, text)| (path, text.to_vec())).collect();
    Ok(flow::load_files(root, world, files, None).project)
}

fn without_engine(loaded: flow::Loaded, last: Option<&flow::plan::Project>) -> Deployed {
    let mut text = Vec::new();
    render::text(&loaded.findings, &mut text, false).ok();
    let changes = loaded
        .project
        .map(|project| Changes::between(last, &project));
    Deployed {
        outcome: match &changes {
            None => Outcome::Refused,
            Some(changes) if changes.is_empty() => Outcome::Same,
            Some(_) => Outcome::Switched,
        },
        changes,
        findings: String::from_utf8_lossy(&text).into_owned(),
        summary: render::summary(&loaded.findings),
        withdrawn: None,
        running: String::new(),
        dry_run: true,
    }
}

/// Says what would change, or has.
pub(super) fn show(deployed: &Deployed, terminal: &mut Terminal) -> std::io::Result<()> {
    let out = &mut terminal.out;
    if let Some(withdrawn) = &deployed.withdrawn {
        let why = withdrawn.why.as_deref().unwrap_or("no reason was given");
        return writeln!(
            out,
            "revision {} was withdrawn by {} ({why}); {} runs in its place. Change the files, or let it run again: crossdock rollback --lift {}",
            short(&withdrawn.revision),
            withdrawn.who,
            short(&withdrawn.instead),
            short(&withdrawn.revision),
        );
    }
    let Some(changes) = &deployed.changes else {
        return match deployed.outcome {
            Outcome::Refused => writeln!(
                out,
                "the project cannot be loaded ({}); what runs would run on",
                deployed.summary
            ),
            _ => writeln!(out, "nothing has changed"),
        };
    };
    if changes.is_empty() {
        return writeln!(out, "nothing has changed");
    }
    match changes.before.is_empty() {
        true => writeln!(
            out,
            "revision {}; nothing ran before it",
            short(&changes.after)
        )?,
        false => writeln!(
            out,
            "revision {} -> {}",
            short(&changes.before),
            short(&changes.after)
        )?,
    }
    for flow in &changes.flows {
        let mut told = Vec::new();
        if flow.source && flow.what.word() != "added" && flow.what.word() != "removed" {
            told.push("its source is started anew".to_owned());
        }
        if !flow.steps_gone.is_empty() && flow.what.word() != "removed" {
            told.push(format!("steps gone: {}", flow.steps_gone.join(", ")));
        }
        let told = match told.is_empty() {
            true => String::new(),
            false => format!("   {}", told.join("; ")),
        };
        writeln!(out, "  {:<9} flow {}{told}", flow.what.word(), flow.flow)?;
    }
    for system in &changes.systems {
        writeln!(out, "  {:<9} system {}", system.what.word(), system.name)?;
    }
    if changes.settings {
        writeln!(out, "  changed   settings")?;
    }
    for setting in &changes.at_next_start {
        writeln!(out, "  waits     {setting}: counts from the next start on")?;
    }
    Ok(())
}
