//! `crossdock run`: loads the project, opens the store, starts the engine, and waits for the word to stop.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{BROKEN, GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, wait_for};
use crate::admin::Admin;
use crate::diagnostic::render;
use crate::failure::Failure;
use crate::flow;
use crate::flow::plan::Project;
use crate::net::listener::Listener;
use crate::run::supervisor::{Engine, Start};
use crate::store::{Options, Store};
use crate::world::{World, failpoint};

const LISTEN_DEFAULT: &str = "127.0.0.1:8080";
const STORE_DEFAULT: &str = ".crossdock/store.db";
const DRAIN_DEFAULT: Duration = Duration::from_secs(20);
/// How long an engine whose store is broken may take to end.
const BROKEN_DRAIN: Duration = Duration::from_secs(2);

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock run
  crossdock run --project flows/live --env-file secrets.env

Stops on SIGTERM or Ctrl-C: sources first, then every stage finishes what it has taken, at most `limits.drain`.
A project whose sources all end (stdin, generate) stops by itself when everything is done.
Exit codes: 0 stopped, 74 the disk of the store failed, 78 the project cannot be loaded")]
pub(super) struct Run {
    #[command(flatten)]
    project: ProjectArguments,
}

impl Run {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let world = self.project.world()?;
        log_to_stderr(&world);
        let root = absolute(&self.project.project);
        let loaded = flow::load(&root, &world);
        if !loaded.findings.is_empty() {
            let color = terminal.color;
            render::text(&loaded.findings, &mut terminal.err, color).ok();
        }
        let Some(project) = loaded.project else {
            writeln!(
                terminal.err,
                "crossdock: the project in {} cannot be loaded; nothing was started",
                root.display()
            )
            .ok();
            return Ok(UNLOADABLE);
        };
        wait_for(serve(project, root, world, terminal))
    }
}

async fn serve(
    project: Project,
    root: PathBuf,
    world: World,
    terminal: &mut Terminal,
) -> Result<u8, Failure> {
    let settings = project.settings.clone();
    let (flows, revision) = (project.plans.len(), project.revision.clone());
    let path = below(&root, settings.store.sqlite.path.as_deref());
    let store = Store::open(Options::at(&path), world.clone())?;
    failpoint::hit("start-store-open");
    let listener = Listener::bind(settings.listen.as_deref().unwrap_or(LISTEN_DEFAULT)).await?;
    let address = listener.local_addr();
    let engine = Engine::start(Start {
        project,
        root,
        world,
        store,
        listener,
    })
    .await?;
    let admin = Admin::open(&path, engine.desk())?;
    let recovered = engine.recovered().clone();
    writeln!(
        terminal.err,
        "crossdock {}: {flows} {}, revision {}, http://{address}, store {}, recovered {} messages in flight",
        env!("CARGO_PKG_VERSION"),
        if flows == 1 { "flow" } else { "flows" },
        revision.get(..12).unwrap_or(&revision),
        path.display(),
        recovered.hops,
    )
    .ok();
    for (flow, step, hops) in &recovered.homeless {
        writeln!(terminal.err, "crossdock: {hops} messages wait for `{flow}` / `{step}`, which the project no longer has; they are kept").ok();
    }
    let drain = settings
        .limits
        .drain
        .map_or(DRAIN_DEFAULT, |drain| drain.std());
    let asked = tokio::select! {
        () = asked_to_stop() => true,
        () = engine.finished() => false,
        failure = engine.breaks() => {
            // Nothing can be finished any more. A new start reads the truth, so whoever watches over this process may start it at once.
            writeln!(terminal.err, "crossdock: ended, because {}", failure.message).ok();
            engine.stop(drain.min(BROKEN_DRAIN)).await;
            return Ok(BROKEN);
        }
    };
    if asked {
        writeln!(
            terminal.err,
            "crossdock: stopping; what has begun is finished first"
        )
        .ok();
    }
    // What people do at this moment is answered first; what the store has is safe either way.
    tokio::time::timeout(drain, admin.close()).await.ok();
    if !engine.stop(drain).await {
        writeln!(
            terminal.err,
            "crossdock: stopped after {} s; what was under way goes on at the next start",
            drain.as_secs()
        )
        .ok();
    }
    Ok(GOOD)
}

/// SIGTERM or Ctrl-C.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        tokio::signal::ctrl_c().await.ok();
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Where a project's store is, by its settings alone: for commands that only look.
pub(super) fn store_path(root: &Path, world: &World) -> Result<PathBuf, Failure> {
    let root = absolute(root);
    let settings = flow::settings_of(&root, world)?;
    Ok(below(&root, settings.store.sqlite.path.as_deref()))
}

fn below(root: &Path, path: Option<&str>) -> PathBuf {
    root.join(path.unwrap_or(STORE_DEFAULT))
}

fn log_to_stderr(world: &World) {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = world
        .env
        .get("CROSSDOCK_LOG")
        .unwrap_or_else(|| "warn,crossdock=info".to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn"));
    let json = world
        .env
        .get("CROSSDOCK_LOG_FORMAT")
        .is_some_and(|format| format == "json");
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = if json {
        builder.json().try_init()
    } else {
        builder.with_target(false).try_init()
    };
    done.ok();
}
