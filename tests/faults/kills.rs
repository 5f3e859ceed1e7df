//! `kill -9` of the engine at random points of the work.

use std::time::Duration;

use crossdock::demo::erp::Mode;

use super::rig::{Options, Rig, play, points};
use super::{Line, Setting};

/// The ERP honours idempotency keys.
pub fn keys(setting: &Setting) -> Result<Line, String> {
    kills(
        setting,
        Mode::Keys,
        setting.scale.of(600, 10_000, 50_000),
        setting.scale.of(6, 200, 1_000),
    )
}

/// The ERP honours none, and answers probes.
pub fn probe(setting: &Setting) -> Result<Line, String> {
    kills(
        setting,
        Mode::Probe,
        setting.scale.of(300, 3_000, 20_000),
        setting.scale.of(3, 60, 400),
    )
}

/// The ERP does neither: what was on its way at a kill waits for a person, and nothing is sent twice.
pub fn neither(setting: &Setting) -> Result<Line, String> {
    kills(
        setting,
        Mode::Neither,
        setting.scale.of(300, 3_000, 20_000),
        setting.scale.of(3, 60, 400),
    )
}

fn kills(setting: &Setting, mode: Mode, orders: u64, times: u64) -> Result<Line, String> {
    play(async {
        let mut rig = Rig::start(Options {
            mode,
            // Faults of the ERP on top, as the demo has them.
            fault: "slow=0.02:50ms,fail=0.01,throttle=0.005,error-after-apply=0.005,drop-after-apply=0.005".to_owned(),
            ..Options::orders(orders, setting)
        })
        .await?;
        rig.send();
        let (mut done, mut with_work) = (0, 0);
        for point in points(times, setting.seed) {
            while rig.part_sent() < point {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            with_work += u64::from(rig.has_work().await);
            rig.engine.kill().await?;
            done += 1;
            rig.engine.start().await?;
        }
        rig.rest().await?;
        let mut line = rig.line(done).await?;
        line.notes.push(format!(
            "{done} kills, {with_work} of them with work in flight"
        ));
        if with_work * 2 < done {
            line.wrong.push("most kills met no work".to_owned());
        }
        Ok(line)
    })
}
