//! Flows, a step and a system are stopped and let go on at random while the engine is killed: what was stopped stays stopped, and nothing is
//! lost or doubled.

use std::time::Duration;

use crossdock::demo::dice::Dice;

use super::rig::{Options, Rig, play, points};
use super::{Line, Setting};

/// What is stopped, and how.
const STOPS: [(&str, &str); 5] = [
    ("pause", "order-booking"),
    ("pause", "order-booking/erp"),
    ("pause", "system:erp"),
    ("disable", "storefront-orders"),
    ("drain", "storefront-orders"),
];
/// Long enough for what goes on to be done, and for what is stopped to show that it is not.
const A_WHILE: Duration = Duration::from_millis(300);

/// The ERP honours keys; each kill comes while something is stopped.
pub fn kills(setting: &Setting) -> Result<Line, String> {
    let times = setting.scale.of(5, 60, 400);
    play(async {
        let mut rig = Rig::start(Options {
            fault: "slow=0.02:50ms,fail=0.01,drop-after-apply=0.005".to_owned(),
            ..Options::orders(setting.scale.of(400, 5_000, 40_000), setting)
        })
        .await?;
        rig.send();
        let mut dice = Dice::of(setting.seed, times);
        let (mut stayed, mut nth) = (0, 0);
        for point in points(times, setting.seed) {
            // While nothing is accepted, nothing more is sent.
            while rig.part_sent() < point {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let chance = usize::try_from(dice.below(STOPS.len() as u64)).unwrap_or(0);
            let (verb, target) = STOPS[(nth + chance) % STOPS.len()];
            nth += 1;
            rig.crossdock(&[verb, target, "--reason", "chance"])?;
            rig.engine.kill().await?;
            rig.engine.start().await?;
            let before = rig.tally().await?.hops;
            tokio::time::sleep(A_WHILE).await;
            let shown = rig.crossdock(&["toggles"])?;
            if !shown.contains(target) {
                return Err(format!(
                    "after a kill nothing says that {target} is stopped: {shown}"
                ));
            }
            stayed += u64::from(rig.tally().await?.hops >= before && before > 0);
            rig.crossdock(&["resume", target])?;
        }
        rig.rest().await?;
        let mut line = rig.line(times).await?;
        line.notes.push(format!(
            "{times} kills while something was stopped; {stayed} times no less waited afterwards"
        ));
        if stayed == 0 {
            line.wrong.push("nothing ever waited".to_owned());
        }
        Ok(line)
    })
}
