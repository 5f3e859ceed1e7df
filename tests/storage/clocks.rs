//! The machine's clock is set by a day under a working engine, which runs in this process so that nobody else's clock moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossdock::demo::engine::free_address;
use crossdock::flow;
use crossdock::net::listener::Listener;
use crossdock::run::supervisor::{Engine, Start};
use crossdock::store::{Options, Store};
use crossdock::world::World;
use crossdock::world::clock::SetClock;
use crossdock::world::env::FixedEnvironment;

use super::Line;
use super::broken::until;
use super::power::judge;
use super::site::{Erp, Site, lines};
use crate::faults::Setting;

/// A day.
const DAY_MS: i64 = 86_400_000;
/// How long everything may take after the clock was set: far less than a day, and more than the longest wait of the flow.
const DONE_WITHIN: Duration = Duration::from_secs(40);

/// Set forward, set back, and set back while the engine is down.
pub fn set_by_a_day(setting: &Setting) -> Result<Line, String> {
    let many = setting.scale.of(20, 300, 3_000) as usize;
    let mut line = Line::default();
    for (by_ms, down) in [(DAY_MS, false), (-DAY_MS, false), (-DAY_MS, true)] {
        let found = one(by_ms, down, many)
            .map_err(|error| format!("set by {by_ms} ms, engine down {down}: {error}"))?;
        line.add(found);
    }
    Ok(line)
}

struct Machine {
    site: Site,
    clock: Arc<SetClock>,
    runtime: tokio::runtime::Runtime,
    erp: String,
}

impl Machine {
    fn start(&self) -> Result<Engine, String> {
        self.runtime.block_on(async {
            let world = World {
                clock: self.clock.clone(),
                env: Arc::new(FixedEnvironment(BTreeMap::from([(
                    "ERP_URL".to_owned(),
                    self.erp.clone(),
                )]))),
                ..World::real()
            };
            let root = self.site.root();
            let loaded = flow::load(&root, &world);
            let project = loaded.project.ok_or("the project does not load")?;
            let wrong = |failure: crossdock::failure::Failure| failure.to_string();
            let store =
                Store::open(Options::at(self.site.store()), world.clone()).map_err(wrong)?;
            let address = self.site.address().to_string();
            let listener = Listener::bind(&address).await.map_err(wrong)?;
            let start = Start {
                project,
                root,
                world,
                store,
                listener,
                loader: None,
                watch: None,
            };
            Engine::start(start).await.map_err(wrong)
        })
    }

    fn stop(&self, engine: Engine) -> Result<(), String> {
        let clean = self.runtime.block_on(engine.stop(Duration::from_secs(10)));
        clean
            .then_some(())
            .ok_or_else(|| "the engine did not stop".to_owned())
    }
}

fn one(by_ms: i64, down: bool, many: usize) -> Result<Line, String> {
    let site = Site::new(Erp::Keys);
    // Waits of seconds, and keys that are kept for an hour: both would not survive a day that never was.
    let orders = std::fs::read_to_string(site.root().join("flows/orders.yaml"))
        .map_err(|error| error.to_string())?
        .replace("keep: 30d", "keep: 1h")
        .replace(
            "first: 20ms, factor: 2, most: 500ms",
            "first: 4s, factor: 1, most: 4s",
        );
    site.file("flows/orders.yaml", &orders);
    let place = free_address()?;
    let machine = Machine {
        site,
        clock: Arc::new(SetClock::default()),
        runtime: tokio::runtime::Runtime::new().map_err(|error| error.to_string())?,
        erp: format!("http://{place}"),
    };
    let site = &machine.site;
    let mut engine = machine.start()?;
    let (erp, _) = site.start_erp_at(place);
    let first: BTreeSet<usize> = (0..many).collect();
    site.send(&first)?;
    site.at_rest(many as i64)?;
    drop(erp);
    let second: BTreeSet<usize> = (many..2 * many).collect();
    site.send(&second)?;
    until("attempts have failed and wait", || site.waiting_hops() > 0)?;
    if down {
        machine.stop(engine)?;
        machine.clock.set_by(by_ms);
        engine = machine.start()?;
    } else {
        machine.clock.set_by(by_ms);
    }
    let set = Instant::now();
    let (_erp, _) = site.start_erp_at(place);
    let rows: Vec<String> = (0..20).map(|row| format!("S-{row},{row}")).collect();
    site.drop_file("stock-0.csv", &rows);
    // All come once more, as senders do after a day: none may take effect again.
    let all: BTreeSet<usize> = (0..2 * many).collect();
    site.send(&all)?;
    site.at_rest(4 * many as i64)?;
    let took = set.elapsed();
    let mut line = judge(site, all.iter(), rows.iter())?;
    if took > DONE_WITHIN {
        line.wrong
            .push(format!("it took {took:?} after the clock was set"));
    }
    let requests = lines(&site.erp_journal())
        .iter()
        .filter(|line| line["request"].is_object())
        .count();
    if requests > 3 * many {
        line.wrong.push(format!(
            "a storm of retries: {requests} requests for {} orders",
            2 * many
        ));
    }
    machine.stop(engine)?;
    Ok(Line {
        redelivered: all.len() as u64,
        faults: 1,
        ..line
    })
}
