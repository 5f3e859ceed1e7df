//! Fault scenarios: the engine between stand-ins, harm done to it, and an oracle that counts what was lost or doubled.
//!
//! One list, `scenarios!` below. Each line of it is a test at small scale; `make faults` runs the list at full scale and prints one line a
//! scenario, `make soak` at long scale. A scenario that met no fault, or caused no redelivery where it must, has proved nothing and fails.

pub mod backing;
pub mod cluster;
mod copies;
mod erp;
mod failpoints;
mod fair;
mod kills;
mod mutations;
mod network;
mod order;
mod restored;
mod rig;
mod toggled;
mod works;

use std::fmt;
use std::io::Write;

use backing::{Backing, Services};

use crate::support::Sandbox;

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// A share that every run of the tests can afford.
    Small,
    /// What is promised.
    Full,
    /// For a night.
    Long,
}

impl Scale {
    /// One of three numbers.
    pub fn of(self, small: u64, full: u64, long: u64) -> u64 {
        match self {
            Scale::Small => small,
            Scale::Full => full,
            Scale::Long => long,
        }
    }
}

/// What stands behind the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A file of its own.
    Embedded,
    /// A database server and a broker, which are the tests' own.
    Rabbitmq,
}

/// What a scenario starts from.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// How much.
    pub scale: Scale,
    /// Where chance starts.
    pub seed: u64,
    /// The mistake that the engine is to make: then the scenario must fail.
    pub mutation: Option<&'static str>,
    /// What stands behind the engine.
    pub backend: Backend,
}

impl Setting {
    /// A schema and queues for one project, where it is not to keep its store in a file.
    pub fn backing(&self) -> Result<Option<Backing>, String> {
        match self.backend {
            Backend::Embedded => Ok(None),
            Backend::Rabbitmq => Services::shared().map(|services| Some(Backing::on(services))),
        }
    }

    /// An empty project, whose settings say what stands behind it.
    pub fn sandbox(&self) -> Result<Sandbox, String> {
        match self.backing()? {
            Some(backing) => backing.under(Sandbox::new()),
            None => Ok(Sandbox::new()),
        }
    }
}

/// One scenario.
pub struct Scenario {
    /// Its name in the list, on the line and in `ONLY=`.
    pub name: &'static str,
    /// Plays it. An error is something that could not even be played.
    pub run: fn(&Setting) -> Result<Line, String>,
    /// What must have happened for it to prove anything.
    pub demands: Demands,
    /// What it is about.
    pub about: About,
}

/// What a scenario is about, and so what can stand behind its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The engine, whatever stands behind it.
    Engine,
    /// The store in a file, or a clock that is the engine's own: not played on a database server.
    File,
    /// Several engines: they have a broker and a database of their own, whatever is asked for.
    Cluster,
}

/// What must have happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demands {
    /// At least one fault.
    pub faults: bool,
    /// At least one redelivery.
    pub redelivered: bool,
}

/// Nothing beyond a clean oracle.
pub const NOTHING: Demands = Demands {
    faults: false,
    redelivered: false,
};
/// Faults were met.
pub const FAULTS: Demands = Demands {
    faults: true,
    redelivered: false,
};
/// Faults were met, and something was delivered again because of them.
pub const FAULTS_AND_REDELIVERY: Demands = Demands {
    faults: true,
    redelivered: true,
};

/// What a scenario has found.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Messages sent, each counted once.
    pub sent: u64,
    /// Messages that took effect at a target.
    pub delivered: u64,
    /// Deliveries, requests and hops that were done again because of the faults.
    pub redelivered: u64,
    /// Faults that really happened.
    pub faults: u64,
    /// Messages that were accepted and are nowhere.
    pub lost: u64,
    /// Messages that took effect more than once.
    pub doubled: u64,
    /// Everything else that is not as it must be.
    pub wrong: Vec<String>,
    /// Figures worth a line of their own.
    pub notes: Vec<String>,
}

impl Line {
    /// Adds what another run of the same scenario has found.
    pub fn add(&mut self, other: Line) {
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.faults += other.faults;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.wrong.extend(other.wrong);
        self.notes.extend(other.notes);
    }

    /// Why this is no success; empty if it is one.
    fn faults(&self, demands: Demands) -> Vec<String> {
        let mut why = self.wrong.clone();
        let mut unless = |good: bool, what: &str| {
            if !good {
                why.push(what.to_owned());
            }
        };
        unless(self.sent > 0, "nothing was sent");
        unless(self.delivered > 0, "nothing was delivered");
        unless(self.lost == 0, "messages were lost");
        unless(self.doubled == 0, "messages were doubled");
        unless(
            self.faults > 0 || !demands.faults,
            "no fault happened, so this proves nothing",
        );
        unless(
            self.redelivered > 0 || !demands.redelivered,
            "nothing was delivered again, so this proves nothing",
        );
        why
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent {} delivered {} redelivered {} faults {} lost {} doubled {}",
            self.sent, self.delivered, self.redelivered, self.faults, self.lost, self.doubled
        )
    }
}

/// Makes the list, and a test at small scale of each of its lines: `name: scenario` gives `faults::each::name`.
macro_rules! scenarios {
    ($($about:ident { $($name:ident: $run:path, $demands:ident;)* })*) => {
        const SCENARIOS: &[Scenario] = &[
            $($(Scenario { name: stringify!($name), run: $run, demands: $demands, about: About::$about },)*)*
        ];

        mod each {
            $($(#[test] fn $name() { super::small(stringify!($name)); })*)*
        }
    };
}

scenarios! {
    Engine {
        kills: kills::keys, FAULTS_AND_REDELIVERY;
        kills_probe: kills::probe, FAULTS_AND_REDELIVERY;
        kills_neither: kills::neither, FAULTS_AND_REDELIVERY;
        failpoints: failpoints::every, FAULTS_AND_REDELIVERY;
        failpoints_neither: failpoints::around_a_send, FAULTS_AND_REDELIVERY;
        five_at_once: copies::five_at_once, FAULTS_AND_REDELIVERY;
        stray_copies: copies::stray, NOTHING;
        toggled_kills: toggled::kills, FAULTS;
        network_erp: network::to_the_erp, FAULTS_AND_REDELIVERY;
        network_storefront: network::from_the_storefront, FAULTS_AND_REDELIVERY;
        erp_ok: erp::ok, NOTHING;
        erp_slow: erp::slow, FAULTS;
        erp_throttled: erp::throttled, FAULTS_AND_REDELIVERY;
        erp_unavailable: erp::unavailable, FAULTS_AND_REDELIVERY;
        erp_error_before: erp::error_before, FAULTS_AND_REDELIVERY;
        erp_error_after: erp::error_after, FAULTS_AND_REDELIVERY;
        erp_dropped: erp::dropped, FAULTS;
        erp_hanging: erp::hanging, FAULTS;
        erp_conflict: erp::conflict, FAULTS;
        erp_broken_off: erp::broken_off, FAULTS_AND_REDELIVERY;
        erp_stale: erp::stale, FAULTS;
        erp_everything: erp::everything, FAULTS_AND_REDELIVERY;
        erp_down: erp::down, FAULTS_AND_REDELIVERY;
        order_kept: order::kept, FAULTS_AND_REDELIVERY;
        stock_shuffled: order::shuffled, FAULTS_AND_REDELIVERY;
        slow_neighbour: fair::slow_neighbour, FAULTS;
        waiting_retries: fair::waiting_retries, FAULTS;
        saga_crash_points: crate::sagas::points::crash_points, FAULTS_AND_REDELIVERY;
    }
    Cluster {
        cluster_kills: cluster::kills, FAULTS_AND_REDELIVERY;
        cluster_order: order::kept_by_three, FAULTS_AND_REDELIVERY;
        broker_wiped: cluster::wiped, FAULTS_AND_REDELIVERY;
        broker_network: cluster::network, FAULTS;
    }
    File {
        await_24h: crate::waiting::proof::await_24h, FAULTS_AND_REDELIVERY;
        collect_deaths: crate::waiting::proof::collect_deaths, FAULTS_AND_REDELIVERY;
        restored: restored::sent_again, FAULTS_AND_REDELIVERY;
        restored_in_doubt: restored::in_doubt, FAULTS_AND_REDELIVERY;
        power_loss: crate::storage::power_loss, FAULTS_AND_REDELIVERY;
        power_loss_neither: crate::storage::power_loss_neither, FAULTS_AND_REDELIVERY;
        syncs_fail: crate::storage::syncs_fail, FAULTS_AND_REDELIVERY;
        disk_low: crate::storage::disk_low, FAULTS_AND_REDELIVERY;
        no_handles: crate::storage::no_handles, FAULTS_AND_REDELIVERY;
        clock_set: crate::storage::clock_set, FAULTS_AND_REDELIVERY;
        disk_full: crate::storage::disk_full, FAULTS_AND_REDELIVERY;
        power_loss_store: crate::storage::power_loss_store, FAULTS;
    }
}

/// A seed that nobody has chosen.
const SMALL_SEED: u64 = 20_261_121;

/// The scenario with this name.
fn scenario(name: &str) -> &'static Scenario {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.unwrap_or_else(|| panic!("there is no scenario `{name}`"))
}

/// One scenario at small scale, for `cargo test`.
fn small(name: &str) {
    let scenario = scenario(name);
    let setting = Setting {
        scale: Scale::Small,
        seed: SMALL_SEED,
        mutation: None,
        backend: Backend::Embedded,
    };
    let (good, text) = judge(scenario, &setting);
    if !good {
        // Said at once too, past the harness, which keeps it until all tests are over: a run that is broken off says why.
        let _told = writeln!(std::io::stderr(), "{text}");
    }
    assert!(good, "{text}");
}

/// Plays a scenario; gives whether it is a success, and its line with everything that a person needs to repeat a failure.
fn judge(scenario: &Scenario, setting: &Setting) -> (bool, String) {
    let (line, why) = match (scenario.run)(setting) {
        Ok(line) => {
            let why = line.faults(scenario.demands);
            (line, why)
        }
        Err(error) => (Line::default(), vec![error]),
    };
    let verdict = if why.is_empty() { "ok" } else { "FAILED" };
    let mut text = format!("{} {line} {verdict}", scenario.name);
    for note in &line.notes {
        text.push_str(&format!("\n  {note}"));
    }
    for each in &why {
        text.push_str(&format!("\n  not good: {each}"));
    }
    if !why.is_empty() {
        let backend = match setting.backend {
            Backend::Embedded => "",
            Backend::Rabbitmq => " BACKEND=rabbitmq",
        };
        text.push_str(&format!(
            "\n  repeat: make faults ONLY={} SEED={} SCALE={}{backend}",
            scenario.name,
            setting.seed,
            format!("{:?}", setting.scale).to_lowercase()
        ));
    }
    (why.is_empty(), text)
}

/// What `make faults` asks for: `CROSSDOCK_FAULTS` is the scale, `.._ONLY` a part of a name, `.._SEED` a seed,
/// `.._BACKEND` what stands behind the engine.
fn asked_for() -> Option<(Setting, String)> {
    let variable = |name: &str| {
        std::env::var(name)
            .ok()
            .filter(|value| !value.trim().is_empty())
    };
    let scale = match variable("CROSSDOCK_FAULTS")?.as_str() {
        "small" => Scale::Small,
        "full" => Scale::Full,
        "long" => Scale::Long,
        other => panic!("CROSSDOCK_FAULTS is `{other}`; there are small, full and long"),
    };
    let backend = match variable("CROSSDOCK_FAULTS_BACKEND").as_deref() {
        None | Some("embedded") => Backend::Embedded,
        Some("rabbitmq") => Backend::Rabbitmq,
        Some(other) => panic!("BACKEND is `{other}`; there are embedded and rabbitmq"),
    };
    let seed = match variable("CROSSDOCK_FAULTS_SEED") {
        Some(seed) => seed.parse().expect("CROSSDOCK_FAULTS_SEED is a number"),
        None => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    };
    Some((
        Setting {
            scale,
            seed,
            mutation: None,
            backend,
        },
        variable("CROSSDOCK_FAULTS_ONLY").unwrap_or_default(),
    ))
}

/// The whole list when `make faults` asks for it; otherwise only that the list is sound.
#[test]
fn the_list() {
    let mut names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SCENARIOS.len(), "two scenarios share a name");
    let Some((setting, only)) = asked_for() else {
        return;
    };
    let chosen: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| scenario.name == only)
        .collect();
    let chosen = if chosen.is_empty() {
        SCENARIOS
            .iter()
            .filter(|scenario| scenario.name.contains(&only))
            .collect()
    } else {
        chosen
    };
    assert!(!chosen.is_empty(), "no scenario is named like `{only}`");
    println!(
        "\nseed {}, scale {:?}, backend {:?}",
        setting.seed, setting.scale, setting.backend
    );
    let mut failed = Vec::new();
    for scenario in chosen {
        if setting.backend == Backend::Rabbitmq && scenario.about == About::File {
            println!(
                "{} not played: it is about a store in a file",
                scenario.name
            );
            continue;
        }
        let (good, text) = judge(scenario, &setting);
        println!("{text}");
        if !good {
            failed.push(scenario.name);
        }
    }
    assert!(failed.is_empty(), "FAILED: {}", failed.join(", "));
}

#[test]
fn a_line_that_proves_nothing_is_a_failure() {
    let line = Line {
        sent: 9,
        delivered: 9,
        redelivered: 1,
        faults: 1,
        ..Line::default()
    };
    assert_eq!(
        line.to_string(),
        "sent 9 delivered 9 redelivered 1 faults 1 lost 0 doubled 0"
    );
    let check = |line: Line, demands: Demands, expect: &str| {
        assert_eq!(line.faults(demands).join("; "), expect);
    };
    check(line.clone(), FAULTS_AND_REDELIVERY, "");
    check(
        Line {
            faults: 0,
            ..line.clone()
        },
        FAULTS,
        "no fault happened, so this proves nothing",
    );
    check(
        Line {
            redelivered: 0,
            ..line.clone()
        },
        FAULTS_AND_REDELIVERY,
        "nothing was delivered again, so this proves nothing",
    );
    check(
        Line {
            faults: 0,
            redelivered: 0,
            ..line.clone()
        },
        NOTHING,
        "",
    );
    check(
        Line {
            lost: 1,
            ..line.clone()
        },
        NOTHING,
        "messages were lost",
    );
    check(
        Line {
            doubled: 1,
            ..line.clone()
        },
        NOTHING,
        "messages were doubled",
    );
    check(
        Line {
            sent: 0,
            delivered: 0,
            ..line
        },
        NOTHING,
        "nothing was sent; nothing was delivered",
    );
}
