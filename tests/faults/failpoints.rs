//! The engine is brought down at each of its named points, and goes on.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use crossdock::demo::dice::Dice;
use crossdock::demo::erp::Mode;
use crossdock::world::failpoint;

use super::rig::{Options, Rig, play};
use super::works::{Works, has_ended};
use super::{Backend, Line, Scale, Setting};

/// How long an engine may live that is to end at a point.
const MET_WITHIN: Duration = Duration::from_secs(60);
/// What `abort` ends a process with.
const SIGABRT: i32 = 6;

/// What makes the engine come to a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Orders, and an ERP that honours keys.
    Keys,
    /// Orders, and an ERP that answers probes.
    Probe,
    /// Orders, and an ERP that does neither.
    Neither,
    /// A start, while orders are under way.
    Start,
    /// A start of a schedule that has never run.
    Clock,
    /// Orders, after the files that are appended to were moved away.
    Rotate,
    /// SIGTERM, while orders are under way.
    Stop,
    /// Files of orders.
    Files,
    /// Orders that are polled.
    Feed,
    /// Orders, while flows are changed.
    Reload,
}

/// Every point that ends the engine, and the work that leads to it.
pub const POINTS: &[(&str, Work)] = &[
    ("start-store-open", Work::Start),
    ("start-recovered", Work::Start),
    ("start-ready", Work::Start),
    ("webhook-received", Work::Keys),
    ("accept-before-commit", Work::Keys),
    ("accept-committed", Work::Keys),
    ("accept-announced", Work::Keys),
    ("webhook-before-answer", Work::Keys),
    ("file-claim-committed", Work::Files),
    ("file-renamed", Work::Files),
    ("file-batch-committed", Work::Files),
    ("file-before-archive", Work::Files),
    ("file-archived", Work::Files),
    ("poll-before-commit", Work::Feed),
    ("poll-committed", Work::Feed),
    ("schedule-committed", Work::Clock),
    ("stage-taken", Work::Keys),
    ("stage-before-commit", Work::Keys),
    ("stage-committed", Work::Keys),
    ("stage-announced", Work::Keys),
    ("handoff-before-publish", Work::Keys),
    ("claims-committed", Work::Feed),
    ("door-taken", Work::Keys),
    ("effect-taken", Work::Keys),
    ("intent-before-commit", Work::Keys),
    ("intent-committed", Work::Keys),
    ("effect-before-send", Work::Keys),
    ("effect-sent", Work::Keys),
    ("result-before-commit", Work::Keys),
    ("result-committed", Work::Keys),
    ("wait-before-commit", Work::Probe),
    ("wait-committed", Work::Probe),
    ("exception-before-commit", Work::Keys),
    ("exception-committed", Work::Keys),
    ("take-over-before-commit", Work::Keys),
    ("take-over-committed", Work::Keys),
    ("probe-before", Work::Probe),
    ("probe-answered", Work::Probe),
    ("release-before-commit", Work::Probe),
    ("release-before-announce", Work::Probe),
    ("release-announced", Work::Probe),
    ("append-cursor-committed", Work::Rotate),
    ("append-before-write", Work::Keys),
    ("append-written", Work::Keys),
    ("append-committed", Work::Keys),
    ("sweep-before", Work::Start),
    ("sweep-committed", Work::Start),
    ("sweep-in-transaction", Work::Start),
    ("transaction-open", Work::Keys),
    ("transaction-written", Work::Keys),
    ("log-synced", Work::Keys),
    ("checkpoint-before", Work::Keys),
    ("checkpoint-passed", Work::Keys),
    ("reload-loaded", Work::Reload),
    ("reload-recorded", Work::Reload),
    ("reload-live", Work::Reload),
    ("reload-done", Work::Reload),
    ("stop-asked", Work::Stop),
    ("stop-drained", Work::Stop),
    ("stop-store-closed", Work::Stop),
];

/// Points of the store in a file; no engine on a database server comes to them.
const OF_FILES: &[&str] = &["log-synced", "checkpoint-before", "checkpoint-passed"];
/// Points of the broker; no engine without one comes to them.
const OF_BROKERS: &[&str] = &["handoff-before-publish"];

/// The points that an engine with this behind it comes to.
fn points_on(backend: Backend) -> Vec<(&'static str, Work)> {
    let elsewhere = match backend {
        Backend::Embedded => OF_BROKERS,
        Backend::Rabbitmq => OF_FILES,
    };
    let there = POINTS.iter().filter(|(name, _)| !elsewhere.contains(name));
    there.copied().collect()
}

/// Points at which something odd happens instead; other scenarios are about these.
pub const STRIKES: &[&str] = &["handoff-stray-copy"];

/// Every point: once, one after the other in one run, at small scale; five times, each in a run of its own, at full scale.
pub fn every(setting: &Setting) -> Result<Line, String> {
    let points = points_on(setting.backend);
    let (probe, keys): (Vec<_>, Vec<_>) = points
        .iter()
        .copied()
        .partition(|(_, work)| *work == Work::Probe);
    let runs: Vec<&[(&str, Work)]> = match setting.scale {
        Scale::Small => vec![&keys, &probe],
        Scale::Full | Scale::Long => points.chunks(1).collect(),
    };
    let mut all = Line::default();
    let mut unmet = 0;
    for points in runs {
        let (line, missed) = campaign(setting, points, setting.scale.of(1, 5, 25))?;
        unmet += missed.len();
        all.add(line);
    }
    let elsewhere = POINTS.len() - points.len();
    let (met, known) = (
        points.len() + STRIKES.len() - unmet,
        failpoint::ALL.len() - elsewhere,
    );
    all.notes.push(format!(
        "coverage {} %: {met} of {known} points",
        100 * met / known
    ));
    if met < known {
        all.wrong.push("not every point was met".to_owned());
    }
    Ok(all)
}

/// The points around a send, with an ERP that recognises nothing and can be asked nothing: what was on its way waits for a person.
pub fn around_a_send(setting: &Setting) -> Result<Line, String> {
    let points = [
        "intent-before-commit",
        "intent-committed",
        "effect-before-send",
        "effect-sent",
        "result-before-commit",
        "result-committed",
    ];
    let points = points.map(|name| (name, Work::Neither));
    let (line, _) = campaign(setting, &points, setting.scale.of(1, 5, 25))?;
    Ok(line)
}

/// Brings the engine down `times` times at each of these points, in one run. Gives the points that it did not always come to, too.
pub fn campaign(
    setting: &Setting,
    points: &[(&str, Work)],
    times: u64,
) -> Result<(Line, BTreeSet<String>), String> {
    play(async {
        let mode = match points {
            [(_, Work::Probe), ..] => Mode::Probe,
            [(_, Work::Neither), ..] => Mode::Neither,
            _ => Mode::Keys,
        };
        let mut works = Works::set(Options {
            mode,
            fault: "slow=0.05:20ms,fail=0.05,error-after-apply=0.05,drop-after-apply=0.05"
                .to_owned(),
            ..Options::orders(0, setting)
        })
        .await?;
        let mut dice = Dice::of(setting.seed, points.len() as u64);
        let mut faults = 0;
        let mut missed = BTreeSet::new();
        for (name, work) in points {
            for _ in 0..times {
                let nth = match (work, setting.scale) {
                    (Work::Start | Work::Stop | Work::Clock | Work::Rotate | Work::Reload, _)
                    | (_, Scale::Small) => 1,
                    _ => 1 + dice.below(3),
                };
                match bring_down(&mut works, name, *work, nth).await? {
                    Ok(()) => faults += 1,
                    Err(why) => {
                        missed.insert(format!("{name} ({why})"));
                    }
                }
            }
        }
        works.rig.revive().await?;
        works.rig.rest().await?;
        let mut line = works.rig.line(faults).await?;
        line.wrong
            .extend(missed.iter().map(|name| format!("`{name}` was not met")));
        if !line.wrong.is_empty() {
            let names: Vec<_> = points.iter().map(|(name, _)| *name).collect();
            line.wrong
                .push(format!("in the run with {}", names.join(", ")));
        }
        Ok((line, missed))
    })
}

/// Arms a point, starts the engine, gives it work, and starts it again unarmed when it has ended there. The inner error says how it did not
/// come there.
async fn bring_down(
    works: &mut Works,
    name: &str,
    work: Work,
    nth: u64,
) -> Result<Result<(), String>, String> {
    if matches!(work, Work::Start) {
        // A start with something to find.
        works.rig.revive().await?;
        works.rig.send_more(10);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    if matches!(work, Work::Rotate | Work::Clock) {
        // A store, and nothing under way.
        works.rig.revive().await?;
        works.rig.rest().await?;
    }
    let rig: &mut Rig = &mut works.rig;
    rig.engine.kill().await?;
    match work {
        Work::Clock => rig.change("DELETE FROM cursors WHERE flow = 'clock'")?,
        Work::Rotate => works.rotate()?,
        _ => {}
    }
    let rig: &mut Rig = &mut works.rig;
    rig.engine
        .set("CROSSDOCK_FAILPOINT", format!("{name}:abort:{nth}"));
    rig.engine.launch()?;
    rig.engine.unset("CROSSDOCK_FAILPOINT");
    if matches!(work, Work::Reload) {
        // It must not find files at its start that are just being written.
        rig.engine.wait_until_ready().await?;
    }
    if matches!(work, Work::Stop) {
        rig.engine.wait_until_ready().await?;
        rig.send_more(10);
        tokio::time::sleep(Duration::from_millis(60)).await;
        rig.engine.terminate()?;
    }
    works.hungry();
    let began = Instant::now();
    while began.elapsed() < MET_WITHIN {
        if let Some(status) = has_ended(&mut works.rig) {
            works.rig.revive().await?;
            return Ok(match status.signal() {
                Some(SIGABRT) => Ok(()),
                _ => Err(format!("the engine ended with {status}")),
            });
        }
        works.feed(work).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(Err(format!("not within {MET_WITHIN:?}")))
}

/// What the code calls, what the list in the code has and what is played are the same.
#[test]
fn every_point_is_called_once_listed_once_and_played() {
    let mut called = super::works::calls_in_source("failpoint::", &["hit", "strikes"]);
    called.sort();
    // Each store calls those of its transactions.
    called.dedup();
    let mut listed: Vec<String> = failpoint::ALL
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    listed.sort();
    assert_eq!(called, listed, "the calls in engine/ and `failpoint::ALL`");
    let mut played: Vec<String> = POINTS
        .iter()
        .map(|(name, _)| *name)
        .chain(STRIKES.iter().copied())
        .map(str::to_owned)
        .collect();
    played.sort();
    assert_eq!(
        played, listed,
        "the list of tests/faults/failpoints.rs and `failpoint::ALL`"
    );
    assert!(listed.len() >= 25);
}

/// A release build has neither points nor mistakes, nor their names: compiled as it is compiled, two calls leave no trace.
#[test]
fn a_release_build_has_no_points_and_no_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let world = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/world");
    let caller = folder.path().join("caller.rs");
    let source = format!(
        "#![allow(dead_code)]\n#[path = {:?}] mod failpoint;\n#[path = {:?}] mod mutation;\nfn main() {{\n    failpoint::hit(\"effect-sent\");\n    if failpoint::strikes(\"handoff-stray-copy\") || mutation::is(\"early-ack\") {{\n        println!(\"never\");\n    }}\n}}\n",
        world.join("failpoint.rs"),
        world.join("mutation.rs")
    );
    std::fs::write(&caller, source).unwrap();
    let names = [
        "effect-sent",
        "handoff-stray-copy",
        "early-ack",
        "CROSSDOCK_FAILPOINT",
        "CROSSDOCK_MUTATION",
    ];
    let found = |assertions: &str, level: &str| {
        let program = folder.path().join(assertions);
        let built = std::process::Command::new("rustc")
            .args(["--edition", "2024", "-C"])
            .arg(format!("opt-level={level}"))
            .arg("-C")
            .arg(format!("debug-assertions={assertions}"))
            .arg("-o")
            .arg(&program)
            .arg(&caller)
            .output()
            .unwrap();
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        let bytes = std::fs::read(&program).unwrap();
        let has = |name: &str| {
            bytes
                .windows(name.len())
                .any(|window| window == name.as_bytes())
        };
        names.iter().filter(|name| has(name)).count()
    };
    assert_eq!(found("on", "0"), names.len(), "a build for tests has them");
    assert_eq!(found("off", "3"), 0, "a release build has none");
}
