//! The demo: the engine on the reference project between stand-ins for a storefront and an ERP, and a recount from their journals. It is the engine's customer, not a part of it.
#![allow(
    clippy::disallowed_methods,
    reason = "the demo is a customer of the engine: it keeps its own journals and clock"
)]

mod answer;
pub mod books;
pub mod client;
pub mod cluster;
pub mod dice;
pub mod engine;
pub mod erp;
pub mod faults;
pub mod journal;
pub mod orders;
pub mod project;
pub mod recount;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod rehearsal;
mod report;
mod sales;
pub mod stand_in;
pub mod storefront;

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use books::Tally;
use client::Client;
use cluster::{Cluster, ClusterArgs};
use dice::Dice;
use engine::{Engine, Kills, Load, booked, free_address, kill_under_load};
use erp::{ErpArgs, Mode};
use faults::Faults;
use orders::{Kind, Plan};
use recount::{Explained, recount};
use report::{Bars, Findings};
use stand_in::StandIn;
use storefront::{Progress, Settings};

use crate::store::reader::Reader;

/// What the storefront signs with and the engine checks by, in the demo and in tests only.
pub const SECRET: &str = "demo-storefront-secret";
/// What the engine shows to the ERP, in the demo and in tests only.
pub const TOKEN: &str = "demo-erp-token";
/// A delivery that nobody accepts for so long is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);
/// The engine is at rest when two looks this far apart agree.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The engine is stuck when nothing has changed in its books for so long.
const STUCK_AFTER: Duration = Duration::from_secs(180);
/// How often progress is shown on a terminal, and printed elsewhere.
const SHOW_EVERY: Duration = Duration::from_millis(100);
const PRINT_EVERY: Duration = Duration::from_secs(2);

/// Runs the reference project between a stand-in storefront and a stand-in ERP, and recounts from their journals.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  crossdock demo
  crossdock demo --kills 20 --erp probe        kill -9 under load, an ERP that ignores idempotency keys
  crossdock demo --keep --journals journals    look around afterwards, and recount by hand
  crossdock demo --engines 3 --rabbitmq amqp://guest:guest@127.0.0.1 --postgres postgres://postgres@127.0.0.1/postgres
                                               three engines share the work; with --kills, one of them dies now and then

Exit codes: 0 nothing lost, nothing doubled, the books balance; 1 otherwise")]
pub struct DemoArgs {
    /// How many orders the storefront sends; 5 % of them come twice.
    #[arg(long, default_value_t = 10_000)]
    pub orders: u64,
    /// Where chance starts: the same seed gives the same orders.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many webhooks are sent at the same time.
    #[arg(long, default_value_t = 64)]
    pub concurrency: usize,
    /// At most this many webhooks a second; 0 is as fast as it goes.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// How often an engine is killed (`kill -9`) and restarted while it works.
    #[arg(long, default_value_t = 0)]
    pub kills: u64,
    /// What the ERP offers against booking twice.
    #[arg(long, value_enum, default_value_t)]
    pub erp: Mode,
    /// Faults of the ERP and their shares.
    #[arg(
        long,
        default_value = "slow=0.02:50ms,fail=0.01,throttle=0.005,error-after-apply=0.005,drop-after-apply=0.005"
    )]
    pub fault: Faults,
    /// Leaves everything running at the end, until Ctrl-C, and keeps the project's folder.
    #[arg(long)]
    pub keep: bool,
    /// Keeps `sent.jsonl` and `erp.jsonl` in this folder, for a recount.
    #[arg(long)]
    pub journals: Option<PathBuf>,
    /// Runs a copy of this project instead of the built-in one.
    #[arg(long)]
    pub project: Option<PathBuf>,
    /// What several engines share.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Runs the demo. True if nothing was lost, doubled or changed, and the books balance.
pub async fn demo(args: &DemoArgs, out: &mut (dyn Write + Send)) -> Result<bool, String> {
    if args.orders == 0 {
        return Err(
            "no orders were asked for, so nothing can be shown; `--orders` takes at least 1"
                .to_owned(),
        );
    }
    let stage = Stage::set(args)?;
    let plan = Plan::new(args.orders, args.seed);
    say(out, &format!("project    {}\n", stage.project.display()))?;
    let erp_process = start_erp(args, &stage).await?;
    let erp = erp_process.address();
    let mut engines = engines(args, &stage, erp)?;
    let shown = show_findings(args, &plan, &stage, &mut engines, erp, out).await;
    for engine in &mut engines {
        engine.kill().await?;
    }
    drop(erp_process);
    if !args.keep {
        let known = known(&stage, erp);
        stage
            .cluster
            .remove(&stage.program, &stage.project, known)
            .await?;
    }
    shown
}

/// Starts the engines, plays, and says what was found. True if it is good.
async fn show_findings(
    args: &DemoArgs,
    plan: &Plan,
    stage: &Stage,
    engines: &mut [Engine],
    erp: SocketAddr,
    out: &mut (dyn Write + Send),
) -> Result<bool, String> {
    for engine in &mut *engines {
        engine.launch()?;
    }
    for engine in &mut *engines {
        engine.wait_until_ready().await?;
        say(out, &format!("engine     http://{}\n", engine.address()))?;
    }
    say(out, &format!("erp        http://{erp}, {:?}\n\n", args.erp))?;
    let books = stage.books()?;
    let findings = play(args, plan, stage, engines, erp, &books, out)
        .await
        .map_err(|error| format!("{error}\n{}", last_words(engines)))?;
    let faults = findings.faults();
    say(out, &findings.text())?;
    for fault in &faults {
        say(out, &format!("\nnot good: {fault}"))?;
    }
    if !faults.is_empty() {
        say(out, &format!("\n{}\n", last_words(engines)))?;
    }
    say(out, &next(args, stage, &engines[0]))?;
    if args.keep {
        for engine in engines {
            if !engine.is_running() {
                engine.start().await?;
            }
        }
        say(out, "\nrunning until Ctrl-C\n")?;
        tokio::signal::ctrl_c()
            .await
            .map_err(|error| error.to_string())?;
    }
    Ok(faults.is_empty())
}

/// The engines, not started yet. Where there are several, each shows its number to the ERP.
fn engines(args: &DemoArgs, stage: &Stage, erp: SocketAddr) -> Result<Vec<Engine>, String> {
    let first = Engine::new(
        stage.program.clone(),
        &stage.project,
        free_address()?,
        known(stage, erp),
    );
    if args.cluster.engines == 1 {
        return Ok(vec![first]);
    }
    let numbered = (1..=args.cluster.engines).map(|nth| {
        let mut engine = first.another(&nth.to_string(), free_address()?);
        engine.set("ERP_TOKEN", format!("{TOKEN}@{nth}"));
        Ok(engine)
    });
    numbered.collect()
}

fn last_words(engines: &[Engine]) -> String {
    let words = engines.iter().map(|engine| {
        let address = engine.address();
        format!("the last words of http://{address}:\n{}", engine.log_end())
    });
    words.collect::<Vec<_>>().join("\n")
}

/// The folders in which the demo plays.
struct Stage {
    program: PathBuf,
    folder: PathBuf,
    project: PathBuf,
    sent: PathBuf,
    erp: PathBuf,
    keep: bool,
    cluster: Cluster,
}

impl Stage {
    fn set(args: &DemoArgs) -> Result<Stage, String> {
        // What is a name for a schema and for queues alike.
        let name = format!("demo{}x{}", std::process::id(), args.seed);
        let cluster = args.cluster.cluster(name)?;
        let folder = std::env::temp_dir().join(format!(
            "crossdock-demo-{}-{}",
            std::process::id(),
            args.seed
        ));
        let journals = args.journals.clone().unwrap_or_else(|| folder.clone());
        for each in [&folder, &journals] {
            std::fs::create_dir_all(each)
                .map_err(|error| format!("{}: {error}", each.display()))?;
        }
        let stage = Stage {
            program: std::env::current_exe().map_err(|error| error.to_string())?,
            project: folder.join("project"),
            sent: journals.join("sent.jsonl"),
            erp: journals.join("erp.jsonl"),
            keep: args.keep,
            cluster,
            folder,
        };
        for old in [&stage.sent, &stage.erp] {
            if old.exists() {
                return Err(format!(
                    "{} is there already: name a folder without journals",
                    old.display()
                ));
            }
        }
        project::write(args.project.as_deref(), &stage.project, args.erp)?;
        stage.cluster.settle(&stage.project)?;
        Ok(stage)
    }

    /// The engines' books.
    fn books(&self) -> Result<Reader, String> {
        match &self.cluster.postgres {
            Some(url) => books::open_server(url, &self.cluster.name),
            None => books::open(&self.project),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.keep {
            // A folder below the system's own temporary folder: left over, it is a nuisance and no harm.
            drop(std::fs::remove_dir_all(&self.folder));
        }
    }
}

/// What the project's variables are.
fn known(stage: &Stage, erp: SocketAddr) -> Vec<(&'static str, String)> {
    let mut known = environment(erp);
    known.extend(stage.cluster.environment());
    known
}

fn environment(erp: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        ("ERP_URL", format!("http://{erp}")),
        ("ERP_TOKEN", TOKEN.to_owned()),
        ("ERP_RATE", "5000/s".to_owned()),
        ("ERP_SETTLE", "1s".to_owned()),
        ("STOREFRONT_SECRET", SECRET.to_owned()),
    ]
}

/// Starts the ERP's process.
async fn start_erp(args: &DemoArgs, stage: &Stage) -> Result<StandIn, String> {
    let erp = ErpArgs {
        listen: free_address()?,
        journal: stage.erp.clone(),
        mode: args.erp,
        fault: args.fault.clone(),
        seed: args.seed,
        token: Some(TOKEN.to_owned()),
        until_stdin_closes: true,
    };
    StandIn::start(&stage.program, &erp).await
}

/// Sends, kills, waits until the engine is at rest, and recounts.
async fn play(
    args: &DemoArgs,
    plan: &Plan,
    stage: &Stage,
    engines: &mut [Engine],
    erp: SocketAddr,
    books: &Reader,
    out: &mut (dyn Write + Send),
) -> Result<Findings, String> {
    let progress = Arc::new(Progress::default());
    let settings = Settings {
        addresses: engines.iter().map(Engine::address).collect(),
        secret: SECRET.to_owned(),
        concurrency: args.concurrency,
        rate: args.rate,
        give_up_after: GIVE_UP_AFTER,
        journal: stage.sent.clone(),
        seed: args.seed,
        copy: 0,
    };
    let load = Load {
        progress: &progress,
        deliveries: plan.deliveries() as u64,
        sales: plan.count(Kind::Good) as u64,
        erp,
    };
    let mut kills = Kills::default();
    let quiet = {
        let work = async {
            storefront::send(plan, &settings, Arc::clone(&progress)).await?;
            wait_until_quiet(books).await
        };
        let upset = async {
            kill_under_load(
                engines,
                args.kills,
                &load,
                Dice::of(args.seed, u64::MAX - 1),
                &mut kills,
            )
            .await?;
            std::future::pending::<Result<(), String>>().await
        };
        tokio::select! {
            quiet = work => quiet?,
            ended = upset => { ended?; false }
            ended = show(&load, out) => { ended?; false }
        }
    };
    for engine in &mut *engines {
        if !engine.is_running() {
            engine.start().await?;
        }
    }
    let tally = books::read(books).await?;
    let explained = Explained {
        waiting: books::read_waiting(books).await?,
        reviewed: read_review_list(&stage.project)?,
    };
    Ok(Findings {
        recount: recount(&stage.sent, &stage.erp, &explained)?,
        tally,
        kills_wanted: args.kills,
        kills,
        recovered: engines.iter().map(Engine::recovered).sum(),
        engines: args.cluster.engines,
        resent: progress.resent.load(Ordering::Relaxed),
        quiet,
    })
}

/// Waits until nothing is in flight, and nothing was at the look before. False if the books stand still before that.
async fn wait_until_quiet(books: &Reader) -> Result<bool, String> {
    let mut last = Tally::default();
    let mut changed = Instant::now();
    loop {
        // Books that cannot be read right now can be read later: the engine may be restarting.
        if let Ok(tally) = books::read(books).await {
            if tally.is_quiet() && tally == last {
                return Ok(true);
            }
            if tally != last {
                changed = Instant::now();
                last = tally;
            }
        }
        if changed.elapsed() > STUCK_AFTER {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Shows progress for ever: bars on a terminal, else a line now and then.
async fn show(load: &Load<'_>, out: &mut (dyn Write + Send)) -> Result<(), String> {
    let bars = Bars::new(load.deliveries, load.sales);
    let mut erp = Client::new(load.erp, Duration::from_secs(5));
    let mut printed = (0, 0);
    loop {
        tokio::time::sleep(if bars.are_shown() {
            SHOW_EVERY
        } else {
            PRINT_EVERY
        })
        .await;
        let Some(sales) = booked(&mut erp).await else {
            continue;
        };
        let settled = load.progress.settled();
        bars.set(settled, sales);
        if !bars.are_shown() && printed != (settled, sales) {
            printed = (settled, sales);
            say(
                out,
                &format!(
                    "answered {settled}/{}, booked {sales}/{}\n",
                    load.deliveries, load.sales
                ),
            )?;
        }
    }
}

/// The orders on the review list of the project in a folder, as often as they are on it.
pub fn read_review_list(project: &Path) -> Result<HashMap<String, u64>, String> {
    let mut reviewed = HashMap::new();
    let Ok(folder) = std::fs::read_dir(project.join("outbox")) else {
        return Ok(reviewed);
    };
    for entry in folder.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("credit-review-") {
            for line in journal::read_lines(&entry.path())? {
                *reviewed
                    .entry(line["order"].as_str().unwrap_or_default().to_owned())
                    .or_default() += 1;
            }
        }
    }
    Ok(reviewed)
}

fn next(args: &DemoArgs, stage: &Stage, engine: &Engine) -> String {
    let project = stage.project.display();
    if !args.keep {
        return "\nnext\n  crossdock demo --keep                        look around while it runs\n  crossdock demo --kills 20                    kill -9 under load\n  crossdock demo --kills 20 --erp neither      an ERP that cannot help\n  crossdock demo --journals DIR                keep the journals, recount them yourself\n".to_owned();
    }
    format!(
        "\nnext\n  crossdock exceptions --project {project}\n  crossdock journey '#1001' --project {project}\n  crossdock runs --project {project}\n  curl http://{}/healthz/ready\n",
        engine.address()
    )
}

fn say(out: &mut (dyn Write + Send), text: &str) -> Result<(), String> {
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    #[test]
    fn the_arguments_have_working_defaults() {
        let command = DemoArgs::augment_args(Command::new("demo"));
        command.clone().debug_assert();
        let matches = command.try_get_matches_from(["demo"]).unwrap();
        let args = DemoArgs::from_arg_matches(&matches).unwrap();
        assert_eq!((args.orders, args.kills, args.erp), (10_000, 0, Mode::Keys));
        let command = erp::ErpArgs::augment_args(Command::new("demo-erp"));
        command.clone().debug_assert();
        let line = [
            "demo-erp",
            "--journal",
            "j",
            "--mode",
            "neither",
            "--fault",
            "fail=0.5",
        ];
        let matches = command.try_get_matches_from(line).unwrap();
        let args = erp::ErpArgs::from_arg_matches(&matches).unwrap();
        assert_eq!(
            (args.mode, args.fault),
            (Mode::Neither, "fail=0.5".parse().unwrap())
        );
    }

    #[test]
    fn the_review_list_is_counted_over_all_its_files() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read_review_list(folder.path()).unwrap().is_empty());
        let outbox = folder.path().join("outbox");
        std::fs::create_dir(&outbox).unwrap();
        for (name, text) in [
            (
                "credit-review-2026-11-20.jsonl",
                "{\"order\":\"#1\"}\n{\"order\":\"#2\"}\n",
            ),
            ("credit-review-2026-11-21.jsonl", "{\"order\":\"#1\"}\n"),
            ("other.jsonl", "{\"order\":\"#3\"}\n"),
        ] {
            std::fs::write(outbox.join(name), text).unwrap();
        }
        let reviewed = read_review_list(folder.path()).unwrap();
        assert_eq!((reviewed.len(), reviewed["#1"], reviewed["#2"]), (2, 2, 1));
    }
}
