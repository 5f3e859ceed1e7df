//! The rig that scenarios play in: the reference project in a temporary folder, the engine and the ERP as processes of their own, the
//! signed storefront, and the oracle. It does no harm by itself; a scenario does.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossdock::demo::books::{self, Tally};
use crossdock::demo::dice::Dice;
use crossdock::demo::engine::{Engine, free_address};
use crossdock::demo::erp::{ErpArgs, Mode};
use crossdock::demo::journal::{now_us, read_lines};
use crossdock::demo::orders::{Kind, Plan};
use crossdock::demo::recount::{Explained, Recount, recount};
use crossdock::demo::stand_in::StandIn;
use crossdock::demo::storefront::{self, Progress, Settings};
use crossdock::demo::{SECRET, TOKEN, project, read_review_list};
use crossdock::store::reader::Reader;
use serde_json::json;
use tokio::task::JoinHandle;

use super::backing::{Backing, Services};
use super::{Backend, Line, Setting};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_crossdock");
/// After the last fault the engine must come to rest within this time.
pub const REST_WITHIN: Duration = Duration::from_secs(60);
/// How long sending may take before a scenario is given up.
const SENT_WITHIN: Duration = Duration::from_secs(1_800);
/// The engine is at rest when two looks this far apart agree.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often books are read again that went on meanwhile.
const LOOKS_MOST: usize = 10;

/// How a rig is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many orders the storefront sends; 5 % of them come twice.
    pub orders: u64,
    /// Where chance starts.
    pub seed: u64,
    /// How many webhooks are sent at the same time.
    pub concurrency: usize,
    /// At most this many webhooks a second; 0 is as fast as it goes.
    pub rate: u64,
    /// What the ERP offers against booking twice.
    pub mode: Mode,
    /// How the ERP misbehaves, such as `fail=0.02`.
    pub fault: String,
    /// The mistake that the engine is to make, when the tests themselves are tested.
    pub mutation: Option<&'static str>,
    /// How many engines share the work; more than one needs `backing`.
    pub engines: usize,
    /// What stands behind the engines, where `backing` does not say it.
    pub backend: Backend,
    /// Where the store is and how messages are handed over, where it is not for `backend` to say.
    pub backing: Option<Backing>,
}

impl Options {
    /// So many orders, and an ERP that honours keys and does nothing wrong.
    pub fn orders(orders: u64, setting: &Setting) -> Options {
        Options {
            orders,
            seed: setting.seed,
            mutation: setting.mutation,
            concurrency: 32,
            rate: 0,
            mode: Mode::Keys,
            fault: String::new(),
            engines: 1,
            backend: setting.backend,
            backing: None,
        }
    }
}

/// An order of one line that reaches the engine in another way than through the storefront.
pub struct Other {
    /// The number that people use.
    pub number: String,
    /// The customer's number in the ERP.
    pub customer: String,
    /// What it comes to, in decimal digits.
    pub total: String,
}

/// Everything that a scenario needs.
pub struct Rig {
    /// How it was set up.
    pub options: Options,
    /// The engine; a scenario kills it, starts it and sets its environment.
    pub engine: Engine,
    /// The engines beside it, where several share the work.
    pub more: Vec<Engine>,
    /// The ERP, while there is one.
    pub erp: Option<StandIn>,
    /// What the storefront has got done.
    pub progress: Arc<Progress>,
    /// Orders that came in other ways than through the storefront, by flow.
    pub others: HashMap<&'static str, u64>,
    plans: Vec<Arc<Plan>>,
    sent: u64,
    sendings: Vec<JoinHandle<Result<(), String>>>,
    /// Where the storefront sends to: the engines, or something in between.
    pub storefront_to: Vec<SocketAddr>,
    erp_address: SocketAddr,
    // Last, so that the processes are gone when their folder goes.
    folder: tempfile::TempDir,
}

impl Rig {
    /// Sets everything up and starts the ERP; the engine is not started yet.
    pub async fn set(mut options: Options) -> Result<Rig, String> {
        if options.backing.is_none() && options.backend == Backend::Rabbitmq {
            options.backing = Some(Backing::on(Services::shared()?));
        }
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let root = folder.path().join("project");
        project::write(None, &root, options.mode)?;
        let mut rig = Rig {
            engine: Engine::new(PathBuf::from(PROGRAM), &root, free_address()?, Vec::new()),
            more: Vec::new(),
            erp: None,
            progress: Arc::new(Progress::default()),
            others: HashMap::new(),
            plans: Vec::new(),
            sent: 0,
            sendings: Vec::new(),
            storefront_to: Vec::new(),
            erp_address: free_address()?,
            folder,
            options,
        };
        // Short waits, so that a run shows in seconds what takes minutes in life.
        rig.edit(
            "flows/order-booking.yaml",
            "attempts: 10, first: 1s, factor: 2, most: 5m",
            "attempts: 30, first: 100ms, factor: 2, most: 2s",
        )?;
        rig.edit(
            "crossdock.yaml",
            "attempts: 8, first: 1s, factor: 2, most: 5m",
            "attempts: 30, first: 100ms, factor: 2, most: 2s",
        )?;
        rig.edit("systems/erp.yaml", "timeout: 10s", "timeout: 2s")?;
        rig.edit(
            "systems/erp.yaml",
            "open: 30s, most: 10m",
            "open: 300ms, most: 2s",
        )?;
        rig.start_erp().await?;
        let erp = format!("http://{}", rig.erp_address);
        for (name, value) in [
            ("ERP_URL", erp.as_str()),
            ("ERP_TOKEN", TOKEN),
            ("ERP_RATE", "5000/s"),
            ("ERP_SETTLE", "500ms"),
            ("STOREFRONT_SECRET", SECRET),
        ] {
            rig.engine.set(name, value);
        }
        if let Some(mutation) = rig.options.mutation {
            rig.engine.set("CROSSDOCK_MUTATION", mutation);
        }
        if let Some(backing) = &rig.options.backing {
            backing.settle(&rig.root())?;
            for (name, value) in backing.environment() {
                rig.engine.set(name, value);
            }
        }
        rig.set_engines()?;
        Ok(rig)
    }

    /// Puts the other engines beside the first. Each shows its own name to the ERP.
    fn set_engines(&mut self) -> Result<(), String> {
        for nth in 2..=self.options.engines {
            let mut engine = self.engine.another(&nth.to_string(), free_address()?);
            engine.set("ERP_TOKEN", format!("{TOKEN}@{nth}"));
            self.more.push(engine);
        }
        if self.options.engines > 1 {
            self.engine.set("ERP_TOKEN", format!("{TOKEN}@1"));
        }
        self.storefront_to = self.engines().map(|engine| engine.address()).collect();
        Ok(())
    }

    /// All engines, the first one first.
    pub fn engines(&mut self) -> impl Iterator<Item = &mut Engine> {
        std::iter::once(&mut self.engine).chain(&mut self.more)
    }

    /// Starts every engine and waits until all of them take orders.
    pub async fn start_engines(&mut self) -> Result<(), String> {
        for engine in self.engines() {
            engine.launch()?;
        }
        for engine in self.engines() {
            engine.wait_until_ready().await?;
        }
        Ok(())
    }

    /// Sets everything up and starts the engine too.
    pub async fn start(options: Options) -> Result<Rig, String> {
        let mut rig = Rig::set(options).await?;
        rig.start_engines().await?;
        Ok(rig)
    }

    /// The project's folder.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    /// Adds a file to the project.
    pub fn add(&self, path: &str, text: &str) -> Result<(), String> {
        std::fs::write(self.root().join(path), text).map_err(|error| error.to_string())
    }

    /// Where the ERP listens, also while it is down.
    pub fn erp_address(&self) -> SocketAddr {
        self.erp_address
    }

    /// Changes a file of the project; what is replaced must be there.
    pub fn edit(&self, path: &str, from: &str, to: &str) -> Result<(), String> {
        let path = self.root().join(path);
        let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
        if !text.contains(from) {
            return Err(format!("{}: there is no `{from}`", path.display()));
        }
        std::fs::write(&path, text.replace(from, to)).map_err(|error| error.to_string())
    }

    /// Starts the ERP, at the same address as before, with what its journal says.
    pub async fn start_erp(&mut self) -> Result<(), String> {
        let args = ErpArgs {
            listen: self.erp_address,
            journal: self.erp_journal(),
            mode: self.options.mode,
            fault: self.options.fault.parse()?,
            seed: self.options.seed,
            token: Some(TOKEN.to_owned()),
            until_stdin_closes: true,
        };
        let erp = StandIn::start(Path::new(PROGRAM), &args).await?;
        self.erp_address = erp.address();
        self.erp = Some(erp);
        Ok(())
    }

    /// Ends the ERP without warning.
    pub async fn kill_erp(&mut self) -> Result<(), String> {
        match self.erp.take() {
            Some(erp) => erp.kill().await,
            None => Ok(()),
        }
    }

    /// Starts to send all orders; comes back at once.
    pub fn send(&mut self) {
        self.send_more(self.options.orders);
    }

    /// Starts to send so many more orders, beside those that are being sent; comes back at once.
    pub fn send_more(&mut self, orders: u64) {
        let first = self.plans.iter().map(|plan| plan.len() as u64).sum();
        let plan = Arc::new(Plan::new(orders, self.options.seed ^ first).after(first));
        self.plans.push(plan.clone());
        self.send_plan(plan, 0);
    }

    /// Starts to send all that was sent before once more, as this copy of it.
    pub fn send_again(&mut self, copy: u32) {
        for plan in self.plans.clone() {
            self.send_plan(plan, copy);
        }
    }

    fn send_plan(&mut self, plan: Arc<Plan>, copy: u32) {
        let nth = self.sent;
        self.sent += 1;
        let settings = Settings {
            addresses: self.storefront_to.clone(),
            secret: SECRET.to_owned(),
            concurrency: self.options.concurrency,
            rate: self.options.rate,
            give_up_after: SENT_WITHIN,
            journal: self.sent_journal(nth),
            seed: self.options.seed ^ nth,
            copy,
        };
        let progress = self.progress.clone();
        self.sendings.push(tokio::spawn(async move {
            storefront::send(&plan, &settings, progress).await
        }));
    }

    /// Notes an order that reaches the engine in another way: from here on it must be booked.
    pub fn note_other(&mut self, flow: &'static str, order: &Other) -> Result<(), String> {
        *self.others.entry(flow).or_default() += 1;
        let lines = [
            json!({"at_us": now_us(), "order": {"number": order.number, "kind": Kind::Good.name(), "customer": order.customer, "total": order.total, "lines": 1}}),
            json!({"at_us": now_us(), "answer": {"number": order.number, "status": 200, "first_sent_us": now_us()}}),
        ];
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("sent-otherwise.jsonl"))
            .map_err(|error| error.to_string())?;
        for line in lines {
            writeln!(file, "{line}").map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Which part of the work is done, from 0 to 1, as the storefront sees it.
    pub fn part_sent(&self) -> f64 {
        let deliveries: usize = self.plans.iter().map(|plan| plan.deliveries()).sum();
        self.progress.settled() as f64 / deliveries.max(1) as f64
    }

    /// Whether everything that was to be sent is settled.
    pub fn is_sent(&self) -> bool {
        self.sendings.iter().all(JoinHandle::is_finished)
    }

    /// Whether the engine has work at this moment: webhooks under way, or hops that are not over.
    pub async fn has_work(&self) -> bool {
        if self.progress.in_flight.load(Ordering::Relaxed) > 0 {
            return true;
        }
        match self.tally().await {
            Ok(tally) => tally.hops > 0,
            Err(_) => false,
        }
    }

    /// What the engine's books say now.
    pub async fn tally(&self) -> Result<Tally, String> {
        books::read(&self.books()?).await
    }

    /// The same when nothing is under way: a schedule may tick after the engine came to rest. What never rests is given as it is.
    async fn tally_at_rest(&self) -> Result<Tally, String> {
        for _ in 0..LOOKS_MOST {
            let tally = self.tally().await?;
            if tally.is_quiet() {
                return Ok(tally);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.tally().await
    }

    /// Waits until everything is sent and the engine is at rest; an engine that ends by itself meanwhile is started again. Gives how
    /// often it did.
    pub async fn rest(&mut self) -> Result<u64, String> {
        // Over a broker and a database a message takes its time, and after the last kill there may be thousands.
        let within = match &self.options.backing {
            Some(_) => REST_WITHIN * 10,
            None => REST_WITHIN,
        };
        let mut ended = 0;
        let began = Instant::now();
        while !self.is_sent() {
            if began.elapsed() > SENT_WITHIN {
                return Err(format!("not everything is sent after {SENT_WITHIN:?}"));
            }
            ended += u64::from(self.revive().await?);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for sending in self.sendings.drain(..) {
            sending.await.map_err(|error| error.to_string())??;
        }
        let (began, mut last) = (Instant::now(), None);
        // With a mistake in the engine there may be no rest.
        let within = match self.options.mutation {
            Some(_) => within / 4,
            None => within,
        };
        while began.elapsed() < within {
            ended += u64::from(self.revive().await?);
            let tally = self.tally().await.ok();
            if tally.is_some() && tally == last && tally.as_ref().is_some_and(Tally::is_quiet) {
                return Ok(ended);
            }
            last = tally;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // Not at rest: the findings say so.
        Ok(ended)
    }

    /// Starts engines again that have ended by themselves. True if one had.
    pub async fn revive(&mut self) -> Result<bool, String> {
        let mut ended = false;
        for engine in self.engines() {
            if !engine.is_running() {
                engine.kill().await?;
                engine.start().await?;
                ended = true;
            }
        }
        Ok(ended)
    }

    /// What the journals and the store say.
    pub async fn recount(&self) -> Result<Recount, String> {
        let explained = Explained {
            waiting: books::read_waiting(&self.books()?).await?,
            reviewed: read_review_list(&self.root())?,
        };
        let all = self.folder.path().join("sent.jsonl");
        let mut text = String::new();
        for nth in 0..self.sent {
            text += &std::fs::read_to_string(self.sent_journal(nth)).unwrap_or_default();
        }
        text += &std::fs::read_to_string(self.folder.path().join("sent-otherwise.jsonl"))
            .unwrap_or_default();
        std::fs::write(&all, text).map_err(|error| error.to_string())?;
        recount(&all, &self.erp_journal(), &explained)
    }

    /// The line of a scenario that is over: the oracle's counts, and everything that is wrong. The faults are the ERP's own, and `more`.
    pub async fn line(&mut self, more: u64) -> Result<Line, String> {
        for engine in self.engines() {
            if !engine.is_running() {
                engine.start().await?;
            }
        }
        let recovered: u64 = self.engines().map(|engine| engine.recovered()).sum();
        let tally = self.tally_at_rest().await?;
        let found = self.recount().await?;
        let mut line = Line {
            sent: found.sent,
            delivered: found.booked + found.reviewed,
            redelivered: recovered
                + self.progress.resent.load(Ordering::Relaxed)
                + found.asked_again.max(self.count(RETRIED)?),
            faults: found.faults.values().sum::<u64>() + more,
            lost: found.lost.len() as u64,
            doubled: found.doubled.len() as u64,
            ..Line::default()
        };
        line.wrong.extend(
            found
                .mismatched
                .iter()
                .take(5)
                .map(|each| format!("changed: {each}")),
        );
        line.wrong.extend(
            found
                .lost
                .iter()
                .take(5)
                .map(|each| format!("lost: {each}")),
        );
        line.wrong.extend(
            found
                .doubled
                .iter()
                .take(5)
                .map(|each| format!("doubled: {each}")),
        );
        line.wrong.extend(self.books_differ(&tally, &found));
        line.wrong.extend(self.orphans()?);
        line.wrong.extend(self.audit_differs(&found)?);
        line.wrong.extend(self.runs_differ(tally).await?);
        if !line.wrong.is_empty() {
            for engine in self.engines() {
                let (address, words) = (engine.address(), engine.log_end());
                line.notes
                    .push(format!("the last words of {address}:\n{words}"));
            }
            line.notes
                .push(format!("{found:?}").chars().take(2_000).collect());
        }
        Ok(line)
    }

    /// Where the engine's books are not what its runs say. A schedule may tick while this looks: then it looks again.
    async fn runs_differ(&self, mut books: Tally) -> Result<Option<String>, String> {
        for _ in 0..LOOKS_MOST {
            let runs = self.books()?.recount().await;
            let runs = runs.map_err(|failure| failure.to_string())?;
            if runs == books.flows {
                return Ok(None);
            }
            let before = std::mem::replace(&mut books, self.tally().await?);
            if books == before {
                return Ok(Some(format!(
                    "the books are not what the runs say: {:?}, {runs:?}",
                    books.flows
                )));
            }
        }
        Ok(Some("the books do not stand still".to_owned()))
    }

    /// Where the engine's books are not what the journals say.
    fn books_differ(&self, tally: &Tally, found: &Recount) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut same = |what: &str, books: i64, journals: u64| {
            if u64::try_from(books) != Ok(journals) {
                wrong.push(format!(
                    "{what}: {books} in the books, {journals} in the journals"
                ));
            }
        };
        let of: HashMap<&str, _> = tally
            .flows
            .iter()
            .map(|flow| (&*flow.flow, flow.counts))
            .collect();
        let storefront = of.get("storefront-orders").copied().unwrap_or_default();
        let booking = of.get("order-booking").copied().unwrap_or_default();
        let others: u64 = self.others.values().sum();
        if found.given_up == 0 {
            same("accepted", storefront.accepted, found.acknowledged - others);
        }
        for (flow, orders) in &self.others {
            let counts = of.get(flow).copied().unwrap_or_default();
            same(&format!("accepted by {flow}"), counts.accepted, *orders);
            same(&format!("duplicates of {flow}"), counts.duplicates, 0);
            same(&format!("exceptions of {flow}"), counts.in_exceptions, 0);
        }
        let tests: usize = self.plans.iter().map(|plan| plan.count(Kind::Test)).sum();
        same("tests filtered", storefront.filtered, tests as u64);
        same(
            "delivered by order-booking",
            booking.delivered,
            (found.booked + found.reviewed).saturating_sub(found.waiting_booked),
        );
        if !tally.balances() {
            wrong.push("the engine's books do not balance".to_owned());
        }
        if !tally.is_quiet() {
            wrong.push(format!(
                "the engine did not come to rest in time: {} hops, {} messages in flight",
                tally.hops,
                tally.sum(|counts| counts.in_flight)
            ));
        }
        if found.given_up > 0 || found.refused > 0 {
            wrong.push(format!(
                "{} deliveries given up, {} orders refused",
                found.given_up, found.refused
            ));
        }
        wrong
    }

    /// The audit file has a line for each order that was not put on the review list: no more, and none for others.
    fn audit_differs(&self, found: &Recount) -> Result<Option<String>, String> {
        let mut lines: HashMap<String, u64> = HashMap::new();
        for entry in std::fs::read_dir(self.root().join("audit"))
            .into_iter()
            .flatten()
        {
            let entry = entry.map_err(|error| error.to_string())?;
            for line in read_lines(&entry.path())? {
                let number = line["orderNumber"].as_str().unwrap_or_default();
                *lines.entry(number.to_owned()).or_default() += 1;
            }
        }
        let twice = lines.values().filter(|count| **count > 1).count();
        let expect = found.booked + found.waiting_good;
        let few = (lines.len() as u64) < found.booked || lines.len() as u64 > expect;
        Ok((twice > 0 || few).then(|| {
            format!(
                "the audit file has {} orders, {twice} of them twice; {} are booked, {} good ones wait",
                lines.len(),
                found.booked,
                found.waiting_good
            )
        }))
    }

    /// What hangs in the air in the store: asked in SQL, not through the engine's own reading.
    fn orphans(&self) -> Result<Vec<String>, String> {
        let mut wrong = Vec::new();
        for (what, sql) in ORPHANS {
            let count = self
                .count(sql)
                .map_err(|error| format!("{what}: {error}"))?;
            if count > 0 {
                wrong.push(format!("orphans: {count} {what}"));
            }
        }
        Ok(wrong)
    }

    /// Changes the store's database; the engine must not be running.
    pub fn change(&self, sql: &str) -> Result<(), String> {
        if let Some(backing) = &self.options.backing {
            return backing.sql(sql).map(drop);
        }
        rusqlite::Connection::open(self.store())
            .and_then(|database| database.execute_batch(sql))
            .map_err(|error| error.to_string())
    }

    /// A number out of the store's database.
    pub fn count(&self, sql: &str) -> Result<u64, String> {
        if let Some(backing) = &self.options.backing {
            let found = backing.sql(sql)?;
            return found
                .parse()
                .map_err(|_| format!("`{found}` is no number: {sql}"));
        }
        let database = rusqlite::Connection::open_with_flags(
            self.store(),
            rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
        );
        database
            .and_then(|database| database.query_row(sql, [], |row| row.get::<_, i64>(0)))
            .map(i64::unsigned_abs)
            .map_err(|error| error.to_string())
    }

    /// The store's database, where it is a file.
    pub fn store(&self) -> PathBuf {
        self.root().join(".crossdock/store.db")
    }

    /// What the storefront has sent and been told, of the sending with this number; the first is 0.
    pub fn sent_journal(&self, nth: u64) -> PathBuf {
        self.folder.path().join(format!("sent-{nth}.jsonl"))
    }

    /// What the ERP was asked and has booked.
    pub fn erp_journal(&self) -> PathBuf {
        self.folder.path().join("erp.jsonl")
    }

    fn books(&self) -> Result<Reader, String> {
        match &self.options.backing {
            Some(backing) => backing.books(),
            None => books::open(&self.root()),
        }
    }
}

/// How many sends of effects were not the first, as the ledger has them.
const RETRIED: &str = "SELECT coalesce(sum(attempts - 1), 0) FROM effects WHERE attempts > 1";

/// What must not be there when the engine is at rest: what it is, and how many there are.
const ORPHANS: &[(&str, &str)] = &[
    (
        "runs in flight without a hop",
        "SELECT count(*) FROM runs WHERE open > excepted AND id NOT IN (SELECT run FROM hops)",
    ),
    (
        "hops without a run",
        "SELECT count(*) FROM hops WHERE run NOT IN (SELECT id FROM runs) AND step <> '@accept'",
    ),
    (
        "runs in exception without an exception",
        "SELECT count(*) FROM runs WHERE excepted > 0 AND id NOT IN (SELECT run FROM exceptions)",
    ),
    (
        "effects that were begun, whose run is over, and whose outcome is not known",
        "SELECT count(*) FROM effects JOIN runs ON runs.id = effects.run WHERE effects.state = 0 AND runs.open = 0",
    ),
];

/// Plays on a runtime of its own.
pub fn play<T>(scenario: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?
        .block_on(scenario)
}

/// `times` points of the work in a rising order, chosen by the seed.
pub fn points(times: u64, seed: u64) -> Vec<f64> {
    let mut dice = Dice::of(seed, u64::MAX - 7);
    let mut points: Vec<f64> = (0..times).map(|_| 0.01 + 0.97 * dice.fraction()).collect();
    points.sort_unstable_by(f64::total_cmp);
    points
}
