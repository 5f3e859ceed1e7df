//! What the ERP can do to an engine.

use std::time::Duration;

use super::rig::{Options, Rig, play, points};
use super::{Line, Setting};

/// The ERP does nothing wrong: what the others are compared with.
pub fn ok(setting: &Setting) -> Result<Line, String> {
    play(async {
        let mut rig = Rig::start(Options::orders(
            setting.scale.of(300, 5_000, 50_000),
            setting.seed,
        ))
        .await?;
        let sending = rig.send();
        rig.rest(sending).await?;
        rig.line(0).await
    })
}

/// The ERP's process is killed under load, stays away for a while, and comes back with what it had booked.
pub fn down(setting: &Setting) -> Result<Line, String> {
    play(async {
        let mut rig = Rig::start(Options::orders(
            setting.scale.of(300, 3_000, 30_000),
            setting.seed,
        ))
        .await?;
        let sending = rig.send();
        let mut times = 0;
        for point in points(setting.scale.of(1, 3, 10), setting.seed) {
            while rig.part_sent() < point {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            rig.kill_erp().await?;
            times += 1;
            tokio::time::sleep(Duration::from_millis(
                setting.scale.of(1_500, 10_000, 60_000),
            ))
            .await;
            rig.start_erp().await?;
        }
        rig.rest(sending).await?;
        rig.line(times).await
    })
}
