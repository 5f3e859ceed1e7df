//! `crossdock run`: loads the project, opens the store, starts the engine, and waits for the word to stop.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::dry::Dry;
use super::{
    BROKEN, FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, UNREACHABLE, absolute, wait_for,
};
use crate::admin::Admin;
use crate::diagnostic::render;
use crate::failure::{Class, Failure};
use crate::flow;
use crate::flow::plan::Project;
use crate::flow::settings::Settings;
use crate::net::listener::Listener;
use crate::run::doctor::Places;
use crate::run::supervisor::{Engine, Start};
use crate::store::postgres::begin::Use;
use crate::store::reader::Place;
use crate::store::{Options, Store};
use crate::world::{World, disk, failpoint};

const LISTEN_DEFAULT: &str = "127.0.0.1:8080";
const STORE_DEFAULT: &str = ".crossdock/store.db";
const DRAIN_DEFAULT: Duration = Duration::from_secs(20);
/// How long an engine whose store is broken may take to end.
const BROKEN_DRAIN: Duration = Duration::from_secs(2);

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock run
  crossdock run --project flows/live --env-file secrets.env
  crossdock run --flow orders --dry samples/orders.jsonl      what would be sent for these; nothing is

Stops on SIGTERM or Ctrl-C: sources first, then every stage finishes what it has taken, at most `limits.drain`.
A project whose sources all end (stdin, generate) stops by itself when everything is done.
Exit codes: 0 stopped, 1 a sample of --dry failed, 69 what it needs cannot be reached now (the store's server), 74 the disk of the store failed, 78 the project, its store or its broker must be changed first")]
pub(super) struct Run {
    #[command(flatten)]
    project: ProjectArguments,
    #[command(flatten)]
    dry: Dry,
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
        if self.dry.is_wanted() {
            return self.dry.run(&project, &world, terminal);
        }
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
    let (place, door) = placed(&root, &settings)?;
    let shown = place.shown();
    let brokered = settings.handoff.rabbitmq.is_some();
    let options = Options {
        announces: brokered,
        sharing: if brokered { Use::Shared } else { Use::Alone },
        ..Options::of(place)
    };
    let starting = async {
        let store = Store::open(options, world.clone())?;
        failpoint::hit("start-store-open");
        let listener = Listener::bind(settings.listen.as_deref().unwrap_or(LISTEN_DEFAULT)).await?;
        let address = listener.local_addr();
        let start = Start {
            project,
            root,
            world,
            store,
            listener,
        };
        Ok((Engine::start(start).await?, address))
    };
    let (engine, address) = match starting.await {
        Ok(begun) => begun,
        Err(failure) => {
            terminal.fail(&failure);
            return Ok(code_of(failure.class));
        }
    };
    let admin = Admin::open(&door, engine.desk())?;
    let recovered = engine.recovered().clone();
    writeln!(
        terminal.err,
        "crossdock {}: {flows} {}, revision {}, http://{address}, store {}, recovered {} messages in flight",
        env!("CARGO_PKG_VERSION"),
        if flows == 1 { "flow" } else { "flows" },
        revision.get(..12).unwrap_or(&revision),
        shown,
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
    until_stopped(engine, admin, drain, terminal).await
}

/// Waits for the word to stop, or for the end of all work, and stops. Gives the exit code.
async fn until_stopped(
    engine: Engine,
    admin: Admin,
    drain: Duration,
    terminal: &mut Terminal,
) -> Result<u8, Failure> {
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

/// With which code an engine ends that could not start: whether waiting may help, or somebody must change something.
fn code_of(class: Class) -> u8 {
    match class {
        Class::Unavailable | Class::Timeout => UNREACHABLE,
        Class::Config | Class::Auth | Class::Forbidden | Class::Conflict => UNLOADABLE,
        _ => FINDINGS,
    }
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

/// Where a project's store is in a file, by its settings alone: for commands that work on files.
pub(super) fn store_path(root: &Path, world: &World) -> Result<PathBuf, Failure> {
    match store_place(root, world)? {
        (Place::File(path), _) => Ok(path),
        (Place::Server(server), _) => Err(Failure::config(format!(
            "this is about stores in files, and the store is {}; use what its server offers, see docs/operating/postgres.md",
            server.shown()
        ))),
    }
}

/// Where a project's store is, by its settings alone, and the file beside which an engine on this machine has its door.
pub(super) fn store_place(root: &Path, world: &World) -> Result<(Place, PathBuf), Failure> {
    let root = absolute(root);
    placed(&root, &flow::settings_of(&root, world)?)
}

fn placed(root: &Path, settings: &Settings) -> Result<(Place, PathBuf), Failure> {
    match &settings.store.postgres {
        None => {
            let path = below(root, settings.store.sqlite.path.as_deref());
            Ok((Place::File(path.clone()), path))
        }
        Some(postgres) => {
            let server = postgres
                .server()
                .map_err(|wrong| Failure::config(format!("crossdock.yaml: {wrong}")))?;
            let door = below(root, None);
            if let Some(folder) = door.parent() {
                disk::make_folder(folder)?;
            }
            Ok((Place::Server(Box::new(server)), door))
        }
    }
}

/// The store's place, the door of an engine on this machine and the listener's address, with the settings that say so.
pub(super) fn places(root: &Path, settings: Settings) -> Result<Places, Failure> {
    let (store, door) = placed(root, &settings)?;
    let listen = settings.listen.as_deref().unwrap_or(LISTEN_DEFAULT);
    Ok(Places {
        listen: listen.to_owned(),
        store,
        door,
        settings,
    })
}

fn below(root: &Path, path: Option<&str>) -> PathBuf {
    root.join(path.unwrap_or(STORE_DEFAULT))
}

fn log_to_stderr(world: &World) {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = world
        .env
        .get("CROSSDOCK_LOG")
        .unwrap_or_else(|| "warn,crossdock=info,lapin=off".to_owned());
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
