//! A backup under load, more work, `kill -9`, and the restore: what was done after the backup is not done twice, and what the backup does not have
//! is sent again by its sender.

use std::process::Command;
use std::time::Duration;

use crossdock::demo::erp::Mode;

use super::rig::{Options, PROGRAM, Rig, play};
use super::{Line, Setting};

/// The ERP honours keys, and the storefront sends everything once more after the restore.
pub fn sent_again(setting: &Setting) -> Result<Line, String> {
    play(async {
        let mut rig = Rig::start(Options {
            fault: "slow=0.2:50ms".to_owned(),
            ..Options::orders(setting.scale.of(600, 10_000, 50_000), setting)
        })
        .await?;
        rig.send();
        until(&rig, 0.4).await;
        let backup = back_up(&rig)?;
        // Some webhooks are under way at the kill: their sender tries them again.
        until(&rig, 0.7).await;
        rig.engine.kill().await?;
        put_back(&rig, &backup)?;
        rig.engine.start().await?;
        rig.rest().await?;
        rig.send_again(0);
        rig.rest().await?;
        rig.line(1).await
    })
}

/// The ERP honours no keys and answers no probes: all that was in flight at the backup, and is not known to be done, waits for a person.
pub fn in_doubt(setting: &Setting) -> Result<Line, String> {
    play(async {
        let mut rig = Rig::start(Options {
            mode: Mode::Neither,
            fault: "slow=1:100ms".to_owned(),
            concurrency: 64,
            ..Options::orders(setting.scale.of(400, 3_000, 20_000), setting)
        })
        .await?;
        rig.send();
        until(&rig, 1.0).await;
        let backup = back_up(&rig)?;
        let before = rig.tally().await?.hops;
        let began = std::time::Instant::now();
        while rig.tally().await?.hops * 2 > before && began.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rig.engine.kill().await?;
        put_back(&rig, &backup)?;
        rig.engine.start().await?;
        rig.rest().await?;
        let mut line = rig.line(1).await?;
        let doubts = rig.count(
            "SELECT count(*) FROM exceptions WHERE message LIKE 'the store was restored from a backup%'",
        )?;
        line.redelivered += doubts;
        if doubts == 0 {
            line.wrong.push("nothing was in doubt".to_owned());
        }
        line.notes.push(format!(
            "{before} messages in flight at the backup, {doubts} in doubt after the restore"
        ));
        Ok(line)
    })
}

async fn until(rig: &Rig, part: f64) {
    while rig.part_sent() < part {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Copies the store beside the running engine.
fn back_up(rig: &Rig) -> Result<std::path::PathBuf, String> {
    let file = rig.root().join("copy.db");
    rig.crossdock(&["backup", &file.to_string_lossy()])
        .map(drop)?;
    Ok(file)
}

/// Puts the copy in the store's place; it must be refused while the engine runs, and it is dead here.
fn put_back(rig: &Rig, backup: &std::path::Path) -> Result<(), String> {
    rig.crossdock(&["restore", &backup.to_string_lossy()])
        .map(drop)
}

impl Rig {
    /// Runs a command on the rig's project; gives what it prints.
    pub fn crossdock(&self, arguments: &[&str]) -> Result<String, String> {
        let done = Command::new(PROGRAM)
            .args(arguments)
            .arg("--project")
            .arg(self.root())
            .envs(self.engine.environment().iter().cloned())
            .output()
            .map_err(|error| error.to_string())?;
        let out = String::from_utf8_lossy(&done.stdout).into_owned();
        if done.status.success() {
            return Ok(out);
        }
        let told = String::from_utf8_lossy(&done.stderr);
        Err(format!("{arguments:?}: {out}{told}"))
    }
}
