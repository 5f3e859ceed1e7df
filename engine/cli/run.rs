//! `crossdock run`: loads the project, opens the store, starts the engine, and waits for the word to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::dry::Dry;
use super::log::Log;
use super::{
    BROKEN, FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, UNREACHABLE, absolute, wait_for,
};
use crate::admin::people::People;
use crate::admin::{Admin, Network};
use crate::component::words::Rate;
use crate::diagnostic::render;
use crate::failure::{Class, Failure};
use crate::flow::plan::Project;
use crate::flow::settings::{LISTEN_DEFAULT, Settings};
use crate::flow::stamp::Stamp;
use crate::flow::{self, Loader};
use crate::net::listener::Listener;
use crate::run::doctor::Places;
use crate::run::reload::short;
use crate::run::supervisor::{Engine, Start};
use crate::run::telemetry::serve::Watchers;
use crate::store::postgres::begin::Use;
use crate::store::postgres::witness::folder_beside;
use crate::store::reader::Place;
use crate::store::{Options, Store};
use crate::world::env::machine;
use crate::world::{World, disk, failpoint};

const STORE_DEFAULT: &str = ".crossdock/store.db";
/// How often each token may ask.
const ADMIN_RATE_DEFAULT: Rate = Rate {
    count: 50,
    per_ms: 1_000,
};
const DRAIN_DEFAULT: Duration = Duration::from_secs(20);
/// How long an engine whose store is broken may take to end.
const BROKEN_DRAIN: Duration = Duration::from_secs(2);

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock run
  crossdock run --project flows/live --env-file secrets.env
  crossdock run --flow orders --dry samples/orders.jsonl      what would be sent for these; nothing is

The project is loaded anew when its files change, on SIGHUP and by `crossdock reload`: what is in flight ends under the revision that it
has, what comes runs under the new one, and a project with a mistake is refused while the last good one runs on.
Stops on SIGTERM or Ctrl-C: sources first, then every stage finishes what it has taken, at most `limits.drain`.
A project whose sources all end (stdin, generate) stops by itself when everything is done.
Exit codes: 0 stopped, 1 a sample of --dry failed, 69 what it needs cannot be reached now (the store's server), 74 the disk of the store failed, 78 the project, its store or its broker must be changed first")]
pub(super) struct Run {
    #[command(flatten)]
    project: ProjectArguments,
    /// Do not load the project anew when its files change: only on SIGHUP and `crossdock reload`
    #[arg(long)]
    no_watch: bool,
    #[command(flatten)]
    dry: Dry,
}

impl Run {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let world = self.project.world()?;
        let _log = Log::to_stderr(&world);
        let root = absolute(&self.project.project);
        let watch = (!self.no_watch).then(|| Stamp::of(&root));
        let mut loader = Loader::new(&root, &world);
        let loaded = loader.load();
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
        wait_for(serve(project, root, world, (loader, watch), terminal))
    }
}

async fn serve(
    project: Project,
    root: PathBuf,
    world: World,
    (loader, watch): (Loader, Option<Stamp>),
    terminal: &mut Terminal,
) -> Result<u8, Failure> {
    // From the first moment on: without them the signals end the process.
    let (mut stops, hangups) = (Stops::heard()?, heard(SignalKind::hangup())?);
    let (settings, flows) = (project.settings.clone(), project.plans.len());
    let (place, door) = placed(&root, &settings)?;
    let network = network(&root, &settings)?;
    let shown = place.shown();
    let options = options(&settings, &door, place);
    let starting = async {
        let watchers = watchers(&settings).await?;
        let store = Store::open(options, world.clone())?;
        failpoint::hit("start-store-open");
        let listener = listener(&root, &settings).await?;
        let address = listener.local_addr();
        let start = Start {
            project,
            root,
            world,
            store,
            listener,
            loader: Some(loader),
            watch,
        };
        let engine = Engine::start(start).await?;
        if let Some(watchers) = &watchers {
            watchers.started(engine.telemetry());
        }
        match Admin::open(&door, engine.desk(), network).await {
            Ok(admin) => Ok((engine, admin, address, watchers)),
            Err(failure) => {
                engine.stop(BROKEN_DRAIN).await;
                Err(failure)
            }
        }
    };
    let begun = tokio::select! {
        begun = starting => begun,
        () = stops.asked() => {
            // What it had begun is as after a kill: the next start takes it up.
            writeln!(terminal.err, "crossdock: stopped before it had started").ok();
            return Ok(GOOD);
        }
    };
    let (engine, admin, address, watchers) = match begun {
        Ok(begun) => begun,
        Err(failure) => {
            terminal.fail(&failure);
            return Ok(code_of(failure.class));
        }
    };
    say_started(terminal, &engine, (flows, &settings), address, &shown);
    say_doors(terminal, &admin, watchers.as_ref());
    let drain = settings.limits.drain;
    let drain = drain.map_or(DRAIN_DEFAULT, |drain| drain.std());
    let ended = until_stopped(engine, admin, (stops, hangups), drain, terminal).await;
    if let Some(watchers) = watchers {
        watchers.close().await;
    }
    ended
}

/// The store at this place, as the settings have it.
fn options(settings: &Settings, door: &Path, place: Place) -> Options {
    let brokered = settings.handoff.rabbitmq.is_some();
    Options {
        sharing: if brokered { Use::Shared } else { Use::Alone },
        witness: Some(folder_beside(door)),
        who: who(settings.listen.as_deref().unwrap_or(LISTEN_DEFAULT)),
        ..Options::of(place)
    }
}

/// Where else it can be reached.
fn say_doors(terminal: &mut Terminal, admin: &Admin, watchers: Option<&Watchers>) {
    if let Some(address) = admin.address() {
        writeln!(terminal.err, "crossdock: admin API at {address}").ok();
    }
    if let Some(watchers) = watchers {
        let address = watchers.address();
        let said = format!("crossdock: metrics and health at http://{address}");
        writeln!(terminal.err, "{said}").ok();
    }
}

/// The listener of those who watch, where there is to be one: before the engine starts, so that they see it start.
async fn watchers(settings: &Settings) -> Result<Option<Watchers>, Failure> {
    match &settings.telemetry.metrics {
        Some(metrics) => Watchers::listen(&metrics.listen).await.map(Some),
        None => Ok(None),
    }
}

/// The first line: what runs, where, and what was found.
fn say_started(
    terminal: &mut Terminal,
    engine: &Engine,
    (flows, settings): (usize, &Settings),
    address: SocketAddr,
    shown: &str,
) {
    let scheme = settings.tls.as_ref().map_or("http", |_| "https");
    let (recovered, revision) = (engine.recovered(), engine.revision());
    writeln!(
        terminal.err,
        "crossdock {}: {flows} {}, revision {}, {scheme}://{address}, store {}, recovered {} messages in flight",
        env!("CARGO_PKG_VERSION"),
        if flows == 1 { "flow" } else { "flows" },
        short(&revision),
        shown,
        recovered.hops,
    )
    .ok();
    for (flow, step, hops) in &recovered.homeless {
        writeln!(terminal.err, "crossdock: {hops} messages wait for `{flow}` / `{step}`, which the project no longer has; they are kept").ok();
    }
}

/// Waits for the word to stop, or for the end of all work, and stops. Gives the exit code.
async fn until_stopped(
    engine: Engine,
    admin: Admin,
    (mut stops, hangups): (Stops, Signal),
    drain: Duration,
    terminal: &mut Terminal,
) -> Result<u8, Failure> {
    let asked = tokio::select! {
        () = stops.asked() => true,
        () = engine.finished() => false,
        () = reloads(&engine, hangups) => false,
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

/// Loads the project anew at each SIGHUP, for ever.
async fn reloads(engine: &Engine, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        engine.reload("SIGHUP").await;
    }
    std::future::pending().await
}

/// The listener of senders, as the settings have it.
async fn listener(root: &Path, settings: &Settings) -> Result<Listener, Failure> {
    let files = settings.tls.as_ref();
    let files = files.map(|tls| (root.join(&tls.certificate), root.join(&tls.key)));
    let files = files.as_ref();
    let files = files.map(|(certificate, key)| (&**certificate, &**key));
    Listener::bind_secure(settings.listen.as_deref().unwrap_or(LISTEN_DEFAULT), files).await
}

/// The admin API on the network, as the settings have it.
fn network(root: &Path, settings: &Settings) -> Result<Option<Network>, Failure> {
    let Some(admin) = &settings.admin else {
        return Ok(None);
    };
    let tls = admin.tls.as_ref();
    Ok(Some(Network {
        address: admin.address().to_owned(),
        tls: tls.map(|tls| (root.join(&tls.certificate), root.join(&tls.key))),
        plain_http: admin.plain_http,
        rate: admin.rate.unwrap_or(ADMIN_RATE_DEFAULT),
        people: People::of(admin)?,
    }))
}

/// How people call this engine among others: its machine, and the port that it listens on.
fn who(listen: &str) -> String {
    let port = listen.rsplit(':').next().unwrap_or(listen);
    format!("{}:{port}", machine())
}

/// The signals that ask it to stop.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    /// Heard from now on.
    fn heard() -> Result<Stops, Failure> {
        Ok(Stops {
            terminate: heard(SignalKind::terminate())?,
            interrupt: heard(SignalKind::interrupt())?,
        })
    }

    /// SIGTERM or Ctrl-C.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// From now on this signal is told instead of ending the process.
fn heard(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::internal(format!("signals cannot be heard: {error}")))
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
