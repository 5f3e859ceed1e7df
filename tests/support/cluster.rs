//! What a broker and a database of a test's own have in common: their ports, their processes, and the guard that ends them with the test.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a broker or a database may take to start, also on a machine that is busy.
const SERVES_WITHIN: Duration = Duration::from_secs(120);
/// How long a process may take to end.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// How often one looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A process that runs until it is ended, and does not outlive the test, whatever ends that.
pub struct Process {
    child: Child,
    guard: Child,
}

impl Process {
    /// Starts it, in a process group of its own. When the test's process is gone, this one is killed and `folder` deleted.
    pub fn start(command: &mut Command, folder: &Path) -> Result<Process, String> {
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(child.id().to_string())
            .arg(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("sh: {error}"))?;
        Ok(Process { child, guard })
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `serves`; an error with the last lines of `log` if the process ends before, or it takes too long.
    pub fn wait_until(
        &mut self,
        log: &Path,
        mut serves: impl FnMut() -> bool,
    ) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_none() && serves() {
                return Ok(());
            }
            if ended.is_some() || began.elapsed() > SERVES_WITHIN {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = said.lines().collect();
                return Err(format!(
                    "not serving after {:?}, ended: {ended:?}\n{}",
                    began.elapsed(),
                    lines[lines.len().saturating_sub(30)..].join("\n")
                ));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// `kill -9` of it and of all that it has started, and waits until they are gone.
    pub fn kill(self) {
        let all = family(self.child.id());
        for process in &all {
            signal("-KILL", *process);
        }
        self.wait(&all);
    }

    /// Asks it to stop by this signal, waits, and kills what is left.
    pub fn stop(self, by: &str) {
        let all = family(self.child.id());
        signal(by, self.child.id());
        self.wait(&all);
    }

    fn wait(mut self, all: &[u32]) {
        let began = Instant::now();
        let gone = |process: &u32| !Path::new(&format!("/proc/{process}")).exists();
        loop {
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            // What it had started is the child of another process now, and may stay in the list of processes as a dead one for a while.
            let rest = all[1..]
                .iter()
                .filter(|process| !gone(process) && !is_dead(**process));
            let rest: Vec<u32> = rest.copied().collect();
            if ended && rest.is_empty() {
                break;
            }
            if began.elapsed() > GONE_WITHIN {
                signal("-KILL", self.child.id());
                rest.iter().for_each(|process| signal("-KILL", *process));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.guard.kill().ok();
        self.guard.wait().ok();
    }
}

/// Waits until the test's process is gone, then kills the process with the number `$1` and deletes the folder `$2`.
const GUARD: &str = r#"cat > /dev/null
children=$(cat "/proc/$1/task/$1/children" 2> /dev/null)
kill -9 "$1" $children
while kill -0 "$1" 2> /dev/null; do sleep 0.1; done
sleep 0.5
rm -rf "$2""#;

/// A process and all that descend from it, the process first.
fn family(process: u32) -> Vec<u32> {
    let mut all = vec![process];
    let mut at = 0;
    while let Some(process) = all.get(at).copied() {
        let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        let children = children.unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|each| each.parse::<u32>().ok()),
        );
        at += 1;
    }
    all
}

/// Whether a process has ended, and only its place in the list is left.
fn is_dead(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    state.is_empty() || state.starts_with('Z') || state.starts_with('X')
}

fn signal(by: &str, process: u32) {
    Command::new("kill")
        .args([by, &process.to_string()])
        .stderr(Stdio::null())
        .status()
        .expect("`kill` is a program of every system");
}

/// What a command prints; an error with all that it said if it fails.
pub fn said(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_owned();
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", name.display()))?;
    let out = super::text(&stdout);
    if status.success() {
        return Ok(out.trim_end().to_owned());
    }
    Err(format!(
        "{}: {status}\n{out}{}",
        name.display(),
        super::text(&stderr)
    ))
}

/// The folder with this program that was installed last: `around` is a folder of versions, `within` the way from a version to the programs.
pub fn newest(around: &str, within: &str, program: &str) -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(around)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (version(&entry.file_name()), entry.path().join(within)))
        .filter(|(_, folder)| folder.join(program).exists())
        .collect();
    found.sort();
    found.pop().map(|(_, folder)| folder)
}

/// A version that can be compared: `15` or `rabbitmq_server-3.10.8`.
fn version(name: &OsStr) -> u32 {
    let name = name.to_string_lossy();
    let digits = name.rsplit('-').next().unwrap_or_default();
    digits
        .split('.')
        .chain(std::iter::repeat("0"))
        .take(3)
        .fold(0, |sum, part| {
            sum * 1_000 + part.parse::<u32>().unwrap_or(0)
        })
}

#[test]
fn versions_are_compared_as_numbers() {
    let of = |name: &str| version(OsStr::new(name));
    assert!(of("15") > of("9"));
    assert!(of("rabbitmq_server-3.10.8") > of("rabbitmq_server-3.9.29"));
    assert!(of("rabbitmq_server-4.0.1") > of("rabbitmq_server-3.13.0"));
}
