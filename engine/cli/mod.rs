//! The command line: one file a command. It reads arguments and prints; it decides nothing.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::failure::Failure;
use crate::run::supervisor;
use crate::world::World;
use crate::world::env::Overlay;

mod against;
mod apis;
mod approvals;
mod audit;
mod backup;
pub mod batch;
mod books;
mod canary;
mod catalog;
mod check;
mod demo;
mod doctor;
mod dry;
mod erase;
mod exceptions;
mod explain;
mod graph;
mod journey;
mod log;
mod lsp;
mod manual;
mod map;
mod new;
mod office;
mod plan;
mod propose;
mod reload;
mod replay;
mod replays;
mod restore;
mod revisions;
mod rollback;
mod run;
mod runs;
mod schema;
mod shadow;
mod simulate;
mod systems;
mod table;
mod tap;
mod test;
mod toggles;
mod token;
mod topology;

/// Good.
pub const GOOD: u8 = 0;
/// Findings, failed tests, books that do not balance.
pub const FINDINGS: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The project cannot be loaded.
pub const UNLOADABLE: u8 = 78;
/// The exit code of an engine that cannot reach what it needs to start (`EX_UNAVAILABLE`): a later try may.
pub const UNREACHABLE: u8 = 69;
/// The exit code of an engine whose store could not be synced to its disk (`EX_IOERR`).
pub const BROKEN: u8 = 74;

/// The arguments of the program.
#[derive(Parser)]
#[command(
    name = "crossdock",
    version,
    about = "Runs integration flows: orders, stock, shipments and invoices between systems, nothing lost, nothing twice",
    after_help = "Examples:
  crossdock demo                       see it work: 10,000 orders, a stand-in ERP, balanced books
  crossdock new my-project             a project that runs
  crossdock check                      every mistake in the project, with its place and what to do
  crossdock run                        run the project in this folder
  crossdock journey 1001               where is order 1001?

Exit codes: 0 good, 1 findings or failed tests, 2 usage, 74 the disk of the store failed, 78 the project cannot be loaded",
    max_term_width = 110
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the project until it is told to stop (SIGTERM or Ctrl-C)
    Run(run::Run),
    /// What would a reload change? Flows added, changed, removed; systems; what waits for the next start
    Plan(plan::Plan),
    /// Let the running engine load the project from its files, if it is sound
    Reload(reload::Reload),
    /// Which revisions ran when, by whose will, and what is different between two of them
    Revisions(revisions::Revisions),
    /// Withdraw the revision that runs: the one before it runs in its place, also after a restart
    Rollback(rollback::Rollback),
    /// Try another revision on a share of the messages; then let it run for all, or stop it
    Canary(canary::Canary),
    /// Try another revision on copies of what is accepted, without any effect: what would it do otherwise?
    Shadow(shadow::Shadow),
    /// Accept messages and let them wait: at a flow, at a step of it, or for a system
    Pause(toggles::Pause),
    /// Accept nothing new at a flow, and let what is in flight wait
    Disable(toggles::Disable),
    /// Accept nothing new at a flow, and finish what is in flight
    Drain(toggles::Drain),
    /// Let go on what was paused, disabled or drained
    Resume(toggles::Resume),
    /// What is stopped, by whom, why and until when
    Toggles(toggles::Toggles),
    /// Find every mistake in the project, without running it
    Check(check::Check),
    /// What does a finding mean, and what is right?
    Explain(explain::Explain),
    /// Run the project's flow tests, in this process and without any system
    Test(Box<test::Test>),
    /// Try a mapping or an expression on a sample
    Map(map::Map),
    /// Draw the project's flows
    Graph(graph::Graph),
    /// Every API with its version, what is on its way out, and who still calls it; the OpenAPI document
    Apis(apis::Apis),
    /// Who owns what, who depends on whom, what is deprecated and still used
    Catalog(catalog::Catalog),
    /// Make a new project that runs
    New(new::New),
    /// Serve an editor: findings as you type, completion, hover, definitions
    Lsp(lsp::Lsp),
    /// Print or write the JSON Schemas of project files, for editors and CI
    Schema(schema::Schema),
    /// List runs, or show one with its timeline
    Runs(runs::Runs),
    /// List what waits for a person, or show one exception with its full context
    Exceptions(Box<exceptions::Exceptions>),
    /// Do runs again: from the failed step, from any step, or from the start; one, or many at a rate of their own
    Replay(Box<replay::Replay>),
    /// List replays of many runs, show their receipts, pause or end them
    Replays(replays::Replays),
    /// What waits for a second person, and what became of it
    Approvals(approvals::Approvals),
    /// Let the engine do what somebody else has asked for
    Approve(approvals::Approve),
    /// Refuse what somebody has asked for, or take back your own
    Refuse(approvals::Refuse),
    /// What would the project's mappings send for the last messages, against what was sent?
    Simulate(simulate::Simulate),
    /// Where is order 1001? All runs that share a key, over all flows
    Journey(journey::Journey),
    /// Do the books balance? Received, delivered, waiting, per flow
    Books(books::Books),
    /// Is the ERP up? How every outside system is, and what waits for it
    Systems(systems::Systems),
    /// Which queues of the broker are there, missing, left over or not as they must be?
    Topology(topology::Topology),
    /// Is everything there that the engine needs? Store, disk, systems, certificates, credentials; and what to do
    Doctor(doctor::Doctor),
    /// Make, list and revoke tokens for the admin API
    Token(token::Token),
    /// Who did what, when and why; and whether that log is as it was written
    Audit(audit::Audit),
    /// Take what ended messages with a key hold out of the store: bodies, texts, personal keys
    Erase(erase::Erase),
    /// Watch messages of a flow as they pass, masked and sampled; it ends by itself
    Tap(tap::Tap),
    /// Copy the store into a file, beside the engine that runs on it
    Backup(backup::BackUp),
    /// Put a backup in the place of the store; what may have been done since is asked for, not repeated
    Restore(restore::Restore),
    /// See it work: orders through the reference project into a stand-in ERP
    Demo(crate::demo::DemoArgs),
    /// The demo's stand-in ERP, as a process of its own
    #[command(hide = true)]
    DemoErp(crate::demo::erp::ErpArgs),
    /// Print shell completions
    Completions(manual::Completions),
    /// Print the manual page
    Man(manual::Man),
}

/// Which project a command is about.
#[derive(Args, Clone)]
struct ProjectArguments {
    /// The project's folder
    #[arg(
        short,
        long,
        value_name = "DIR",
        env = "CROSSDOCK_PROJECT",
        default_value = ".",
        global = false
    )]
    project: PathBuf,
    /// Take environment variables from this file too (NAME=value lines); the process's own win
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
}

impl ProjectArguments {
    /// The real world, with the variables of `--env-file` behind its own.
    fn world(&self) -> Result<World, Failure> {
        let mut world = World::real();
        if let Some(path) = &self.env_file {
            let text = crate::world::disk::read_text(path, 1 << 20)?;
            world.env = Arc::new(Overlay::parse(world.env, &text));
        }
        Ok(world)
    }
}

/// Where a command prints.
pub struct Terminal {
    /// What was asked for.
    pub out: Box<dyn Write + Send>,
    /// What is said besides.
    pub err: Box<dyn Write + Send>,
    /// Whether colours are welcome on `out`.
    pub color: bool,
}

impl Terminal {
    /// The process's own streams.
    pub fn real() -> Terminal {
        let color = std::io::stdout().is_terminal() && World::real().env.get("NO_COLOR").is_none();
        Terminal {
            out: Box::new(std::io::stdout()),
            err: Box::new(std::io::stderr()),
            color,
        }
    }

    /// Says what went wrong.
    fn fail(&mut self, failure: &Failure) {
        let detail = failure
            .detail
            .as_ref()
            .map(|detail| format!("\n{detail}"))
            .unwrap_or_default();
        writeln!(self.err, "crossdock: {}{detail}", failure.message).ok();
    }
}

/// Reads the arguments, does what they say, and gives the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut terminal = Terminal::real();
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            error.print().ok();
            return if error.use_stderr() { USAGE } else { GOOD };
        }
    };
    let code = dispatch(parsed.command, &mut terminal);
    terminal.out.flush().ok();
    code.unwrap_or_else(|failure| {
        terminal.fail(&failure);
        FINDINGS
    })
}

fn dispatch(command: Command, terminal: &mut Terminal) -> Result<u8, Failure> {
    match command {
        Command::Run(run) => run.run(terminal),
        Command::Plan(plan) => plan.run(terminal),
        Command::Reload(reload) => reload.run(terminal),
        Command::Revisions(revisions) => revisions.run(terminal),
        Command::Rollback(rollback) => rollback.run(terminal),
        Command::Canary(canary) => canary.run(terminal),
        Command::Shadow(shadow) => shadow.run(terminal),
        Command::Pause(pause) => pause.run(terminal),
        Command::Disable(disable) => disable.run(terminal),
        Command::Drain(drain) => drain.run(terminal),
        Command::Resume(resume) => resume.run(terminal),
        Command::Toggles(toggles) => toggles.run(terminal),
        Command::Check(check) => check.run(terminal),
        Command::Test(test) => test.run(terminal),
        Command::Map(map) => map.run(terminal),
        Command::Graph(graph) => graph.run(terminal),
        Command::Apis(apis) => apis.run(terminal),
        Command::Catalog(catalog) => catalog.run(terminal),
        Command::New(new) => new.run(terminal),
        Command::Lsp(lsp) => lsp.run(terminal),
        Command::Schema(schema) => schema.run(terminal),
        Command::Explain(explain) => explain.run(terminal),
        Command::Runs(runs) => runs.run(terminal),
        Command::Tap(tap) => tap.run(terminal),
        Command::Exceptions(exceptions) => exceptions.run(terminal),
        Command::Replay(replay) => replay.run(terminal),
        Command::Replays(replays) => replays.run(terminal),
        Command::Approvals(approvals) => approvals.run(terminal),
        Command::Approve(approve) => approve.run(terminal),
        Command::Refuse(refuse) => refuse.run(terminal),
        Command::Simulate(simulate) => simulate.run(terminal),
        Command::Journey(journey) => journey.run(terminal),
        Command::Books(books) => books.run(terminal),
        Command::Systems(systems) => systems.run(terminal),
        Command::Topology(topology) => topology.run(terminal),
        Command::Doctor(doctor) => doctor.run(terminal),
        Command::Token(token) => token.run(terminal),
        Command::Audit(audit) => audit.run(terminal),
        Command::Erase(erase) => erase.run(terminal),
        Command::Backup(backup) => backup.run(terminal),
        Command::Restore(restore) => restore.run(terminal),
        Command::Demo(arguments) => demo::run_demo(&arguments, terminal),
        Command::DemoErp(arguments) => demo::run_erp(&arguments, terminal),
        Command::Completions(completions) => completions.run(terminal),
        Command::Man(man) => man.run(terminal),
    }
}

/// Runs a future to its end on a runtime of its own.
fn wait_for<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(supervisor::threads())
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("no threads to run on: {error}")))?
        .block_on(future)
}

/// A line that could not be written: the reader has gone, which is no failure of ours.
fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::internal(format!("cannot write: {error}")))
        }
        _ => Ok(()),
    }
}

/// The store of a project, for reading beside a running engine.
fn reader(project: &ProjectArguments) -> Result<crate::store::reader::Reader, Failure> {
    let world = project.world()?;
    let (place, _) = run::store_place(&project.project, &world)?;
    crate::store::reader::Reader::at(&place)
}

/// The whole command line, for completions and the manual.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The absolute form of a path that a user gave.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
