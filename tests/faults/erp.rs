//! What the ERP can do to an engine. Each fault meets an ERP that honours idempotency keys, one that only answers probes, and one that does
//! neither; at small scale one of the three.

use std::collections::HashMap;
use std::time::Duration;

use crossdock::demo::erp::Mode;
use crossdock::demo::journal::read_lines;
use serde_json::Value;

use super::rig::{Options, Rig, play, points};
use super::{Line, Scale, Setting};

/// How long the stand-in asks those to wait whom it throttles, in microseconds.
const RETRY_AFTER_US: u64 = 1_000_000;

/// The ERP does nothing wrong: what the others are compared with.
pub fn ok(setting: &Setting) -> Result<Line, String> {
    each(setting, Mode::Neither, "")
}

/// Answers take a while.
pub fn slow(setting: &Setting) -> Result<Line, String> {
    each(setting, Mode::Keys, "slow=0.2:300ms")
}

/// 429 with `Retry-After`: nobody comes back earlier than told.
pub fn throttled(setting: &Setting) -> Result<Line, String> {
    each(setting, Mode::Probe, "throttle=0.1")
}

/// 503 before it has done anything; the project says that it means that.
pub fn unavailable(setting: &Setting) -> Result<Line, String> {
    each(setting, Mode::Neither, "fail=0.1")
}

/// 500, and it has done nothing: the engine cannot know that.
pub fn error_before(setting: &Setting) -> Result<Line, String> {
    each(setting, Mode::Probe, "error-before-apply=0.1")
}

/// 500, and it has booked.
pub fn error_after(setting: &Setting) -> Result<Line, String> {
    each(setting, Mode::Keys, "error-after-apply=0.1")
}

/// It books and closes the connection.
pub fn dropped(setting: &Setting) -> Result<Line, String> {
    each(setting, Mode::Neither, "drop-after-apply=0.1")
}

/// It books and never answers.
pub fn hanging(setting: &Setting) -> Result<Line, String> {
    each(setting, Mode::Probe, "hang-after-apply=0.03")
}

/// 409, and it has done nothing: work for a person.
pub fn conflict(setting: &Setting) -> Result<Line, String> {
    each(setting, Mode::Keys, "conflict=0.1")
}

/// It books, and its answer breaks off in the middle.
pub fn broken_off(setting: &Setting) -> Result<Line, String> {
    each(setting, Mode::Keys, "reset-mid-body=0.1")
}

/// It books and says nothing, and half of its searches do not see what is new.
pub fn stale(setting: &Setting) -> Result<Line, String> {
    one(setting, Mode::Probe, "stale=0.5,drop-after-apply=0.1")
}

/// All of it together.
pub fn everything(setting: &Setting) -> Result<Line, String> {
    each(
        setting,
        Mode::Probe,
        "slow=0.05:100ms,throttle=0.02,fail=0.05,error-before-apply=0.03,error-after-apply=0.05,drop-after-apply=0.05,hang-after-apply=0.01,conflict=0.02,reset-mid-body=0.05,stale=0.3",
    )
}

/// The ERP's process is killed under load, stays away for a while, and comes back with what it had booked.
pub fn down(setting: &Setting) -> Result<Line, String> {
    play(async {
        let mut rig = Rig::start(Options::orders(
            setting.scale.of(200, 3_000, 30_000),
            setting,
        ))
        .await?;
        rig.send();
        let mut times = 0;
        for point in points(setting.scale.of(1, 3, 10), setting.seed) {
            while rig.part_sent() < point / 2.0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            rig.kill_erp().await?;
            times += 1;
            let away = Duration::from_millis(setting.scale.of(1_000, 10_000, 60_000));
            tokio::time::sleep(away).await;
            rig.start_erp().await?;
        }
        rig.rest().await?;
        rig.line(times).await
    })
}

/// The fault with each of the ERP's modes; at small scale with this one only.
fn each(setting: &Setting, small: Mode, fault: &str) -> Result<Line, String> {
    if setting.scale == Scale::Small {
        return one(setting, small, fault);
    }
    let mut all = Line::default();
    for mode in [Mode::Keys, Mode::Probe, Mode::Neither] {
        all.add(one(setting, mode, fault)?);
    }
    Ok(all)
}

fn one(setting: &Setting, mode: Mode, fault: &str) -> Result<Line, String> {
    play(async {
        let mut rig = Rig::start(Options {
            mode,
            fault: fault.to_owned(),
            ..Options::orders(setting.scale.of(100, 1_000, 10_000), setting)
        })
        .await?;
        rig.send();
        rig.rest().await?;
        let mut line = rig.line(0).await?;
        let early = came_early(&read_lines(&rig.erp_journal())?);
        if early > 0 {
            line.wrong.push(format!(
                "{early} requests came earlier than `Retry-After` allows"
            ));
        }
        if !line.wrong.is_empty() {
            line.wrong.push(format!("with an ERP in mode {mode:?}"));
        }
        Ok(line)
    })
}

/// How many bookings were asked for again before the time that the ERP had told.
fn came_early(journal: &[Value]) -> usize {
    let mut asked: HashMap<u64, &str> = HashMap::new();
    let mut told: HashMap<&str, u64> = HashMap::new();
    let mut early = 0;
    for line in journal {
        let (seq, at_us) = (
            line["seq"].as_u64().unwrap_or_default(),
            line["at_us"].as_u64().unwrap_or_default(),
        );
        if line["request"]["method"] == "POST" {
            let order = line["request"]["order_number"].as_str().unwrap_or_default();
            let since = told.remove(order);
            early += usize::from(since.is_some_and(|since| at_us < since + RETRY_AFTER_US));
            asked.insert(seq, order);
        } else if line["fault"] == "throttle"
            && let Some(order) = asked.get(&seq)
        {
            told.insert(order, at_us);
        }
    }
    early
}
