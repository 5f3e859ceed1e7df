//! The engine under the demo: a child process that is started, killed without warning, and started again. It looks at the engine from outside only.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::process::{Child, Command};

use super::client::Client;
use super::dice::Dice;
use super::storefront::Progress;

/// How long the engine may take from its start until it takes orders.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often the demo looks whether something has come about.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Ports below those that the system gives to outgoing connections: while a killed process is down, nobody else gets its port, and nobody
/// who tries to reach it is connected to himself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How many of the log's last lines are shown when the engine does not start.
const LOG_LINES_SHOWN: usize = 20;

/// The engine's process and all that is needed to start it again.
pub struct Engine {
    program: PathBuf,
    project: PathBuf,
    address: SocketAddr,
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Engine {
    /// An engine that is not started yet; `program` is this program, `address` where it will listen.
    pub fn new(
        program: PathBuf,
        project: &Path,
        address: SocketAddr,
        environment: Vec<(&'static str, String)>,
    ) -> Engine {
        let log = project.join("engine.log");
        Engine {
            program,
            project: project.to_owned(),
            address,
            environment,
            log,
            child: None,
        }
    }

    /// Another engine on the same project, with an address and a name of its own: its log is `engine-NAME.log`, and it is not started.
    pub fn another(&self, name: &str, address: SocketAddr) -> Engine {
        Engine {
            program: self.program.clone(),
            project: self.project.clone(),
            address,
            environment: self.environment.clone(),
            log: self.project.join(format!("engine-{name}.log")),
            child: None,
        }
    }

    /// Gives its next start this environment variable.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.unset(name);
        self.environment.push((name, value.into()));
    }

    /// The variables of its next start's environment.
    pub fn environment(&self) -> &[(&'static str, String)] {
        &self.environment
    }

    /// Takes a variable from its next start's environment.
    pub fn unset(&mut self, name: &str) {
        self.environment.retain(|(known, _)| *known != name);
    }

    /// Starts the engine and comes back when it takes orders.
    pub async fn start(&mut self) -> Result<(), String> {
        self.launch()?;
        self.wait_until_ready().await
    }

    /// Starts the engine and does not wait for it.
    pub fn launch(&mut self) -> Result<(), String> {
        let wrong = |error: std::io::Error| format!("cannot start the engine: {error}");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(wrong)?;
        let child = Command::new(&self.program)
            .arg("run")
            .arg("--project")
            .arg(&self.project)
            .envs(
                self.environment
                    .iter()
                    .map(|(name, value)| (*name, value.as_str())),
            )
            .env("CROSSDOCK_LISTEN", self.address.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(wrong)?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(wrong)?;
        self.child = Some(child);
        Ok(())
    }

    /// Kills the engine as `kill -9` does, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        child
            .kill()
            .await
            .map_err(|error| format!("cannot kill the engine: {error}"))
    }

    /// The number of its process, while it has one.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Asks it to stop, as SIGTERM does; comes back at once.
    pub fn terminate(&self) -> Result<(), String> {
        let process = self.process().ok_or("the engine does not run")?;
        let sent = std::process::Command::new("kill")
            .args(["-TERM", &process.to_string()])
            .status();
        match sent {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("cannot ask the engine to stop: {other:?}")),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it has been started and has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// How its process has ended, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .as_mut()
            .and_then(|child| child.try_wait().ok().flatten())
    }

    /// The hops that its starts took over from earlier ones, as its log tells.
    pub fn recovered(&self) -> u64 {
        fs::read_to_string(&self.log).map_or(0, |log| log.lines().filter_map(recovered_in).sum())
    }

    /// The last lines of the log.
    pub fn log_end(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// Comes back when it takes orders; an error if it ends by itself first.
    pub async fn wait_until_ready(&mut self) -> Result<(), String> {
        let mut client = Client::new(self.address, Duration::from_secs(2));
        let started = Instant::now();
        while started.elapsed() < READY_WITHIN {
            if !self.is_running() {
                return Err(format!("the engine ended by itself:\n{}", self.log_end()));
            }
            if let Ok((StatusCode::OK, _)) = client.get("/healthz/ready").await {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(format!(
            "the engine is not ready after {READY_WITHIN:?}:\n{}",
            self.log_end()
        ))
    }
}

/// What killing the engine has shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kills {
    /// How often it was killed.
    pub done: u64,
    /// How often there was work in flight.
    pub with_work: u64,
}

/// What the killing goes by.
pub struct Load<'a> {
    /// What the storefront has done.
    pub progress: &'a Progress,
    /// How many deliveries there will be.
    pub deliveries: u64,
    /// How many sales orders there will be.
    pub sales: u64,
    /// Where the ERP is.
    pub erp: SocketAddr,
}

/// Kills and restarts engines `times` times, at points of the work chosen by `dice`; comes back after the last one.
pub async fn kill_under_load(
    engines: &mut [Engine],
    times: u64,
    load: &Load<'_>,
    mut dice: Dice,
    kills: &mut Kills,
) -> Result<(), String> {
    let mut points: Vec<f64> = (0..times).map(|_| 0.02 + 0.9 * dice.fraction()).collect();
    points.sort_unstable_by(f64::total_cmp);
    let mut erp = Client::new(load.erp, Duration::from_secs(5));
    for point in points {
        loop {
            let booked = booked(&mut erp).await.unwrap_or(0);
            let settled = load.progress.settled();
            let work = load.progress.in_flight.load(Ordering::Relaxed) > 0
                || load.progress.acknowledged_good.load(Ordering::Relaxed) > booked;
            let part = (settled + booked) as f64 / (load.deliveries + load.sales).max(1) as f64;
            if part >= point {
                kills.with_work += u64::from(work);
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let engine = &mut engines[dice.below(engines.len() as u64) as usize];
        engine.kill().await?;
        kills.done += 1;
        engine.start().await?;
    }
    Ok(())
}

/// How many sales orders the stand-in ERP has.
pub async fn booked(erp: &mut Client) -> Option<u64> {
    let (_, body) = erp.get("/status").await.ok()?;
    serde_json::from_slice::<serde_json::Value>(&body).ok()?["booked"].as_u64()
}

/// An address on loopback whose port is free, and stays so while nobody listens there: never given twice by one process.
pub fn free_address() -> Result<SocketAddr, String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    for _ in 0..span {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = (std::process::id() as u16)
            .wrapping_mul(61)
            .wrapping_add(nth);
        let address = SocketAddr::from(([127, 0, 0, 1], PORTS.start + place % span));
        if std::net::TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(format!("no port on loopback is free in {PORTS:?}"))
}

/// The number after the word `recovered` in a line of the engine's log.
fn recovered_in(line: &str) -> Option<u64> {
    let (_, after) = line.split_once("recovered")?;
    let digits: String = after
        .chars()
        .skip_while(|each| !each.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_what_was_recovered() {
        let check =
            |line: &str, expect: Option<u64>| assert_eq!(recovered_in(line), expect, "{line}");
        check("2026-11-20T09:00:00Z INFO recovered 17 hops", Some(17));
        check(r#"{"level":"INFO","recovered":3}"#, Some(3));
        check("INFO recovered=0", Some(0));
        check("listening on 127.0.0.1:8080", None);
    }

    #[tokio::test]
    async fn an_engine_that_ends_by_itself_is_an_error_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut engine = Engine::new(
            "/bin/ls".into(),
            folder.path(),
            free_address().unwrap(),
            Vec::new(),
        );
        let error = engine.start().await.unwrap_err();
        assert!(error.contains("ended by itself"), "{error}");
        assert!(!engine.is_running());
    }
}
