//! The same thing more than once: webhooks that come five times, and hops that a hand-off gives out twice.

use crossdock::demo::erp::Mode;

use super::rig::{Options, Rig, play};
use super::{Line, Setting};

/// How often each webhook comes at the same time.
const AT_ONCE: u32 = 5;

/// Each webhook five times at once, some with the same delivery id and some with another; and five times more after a restart.
pub fn five_at_once(setting: &Setting) -> Result<Line, String> {
    play(async {
        let mut rig = Rig::start(Options {
            concurrency: 8,
            ..Options::orders(setting.scale.of(100, 2_000, 20_000), setting)
        })
        .await?;
        rig.send();
        for copy in 1..AT_ONCE {
            // Copies 0 and 4, 1 and 3 share their delivery ids.
            rig.send_again(copy.min(AT_ONCE - 1 - copy));
        }
        rig.rest().await?;
        rig.engine.kill().await?;
        rig.engine.start().await?;
        for copy in 0..AT_ONCE {
            rig.send_again(copy);
        }
        rig.rest().await?;
        let duplicates = rig.recount().await?.duplicates;
        let mut line = rig.line(duplicates).await?;
        line.redelivered += duplicates;
        Ok(line)
    })
}

/// The hand-off gives every third batch to two takers, as a broker does that has lost an acknowledgement.
pub fn stray(setting: &Setting) -> Result<Line, String> {
    play(async {
        let mut rig = Rig::set(Options {
            mode: Mode::Neither,
            ..Options::orders(setting.scale.of(100, 2_000, 20_000), setting)
        })
        .await?;
        rig.engine
            .set("CROSSDOCK_FAILPOINT", "handoff-stray-copy:strike:3");
        rig.engine.start().await?;
        rig.send();
        rig.rest().await?;
        rig.line(0).await
    })
}
