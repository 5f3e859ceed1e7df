//! A reload of one changed flow among 1,000, from the word to do it until the new revision runs.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::contracts;
use crate::measure::Line;

/// How often a flow is changed.
const CHANGES: usize = 21;

/// Prints the measure.
pub fn run(lines: &mut Vec<Line>) {
    let folder = tempfile::tempdir().expect("a folder");
    contracts::write_project(folder.path());
    let engine = Engine::start(folder.path());
    let mut took: Vec<Duration> = (0..CHANGES)
        .map(|nth| change_one(folder.path(), nth))
        .collect();
    let first = took[0];
    took.sort();
    drop(engine);
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    lines.push(
        Line::below("reload-one-of-1000-flows", ms(took[CHANGES / 2]), "ms", 300.0).with(format!(
            "`crossdock reload` after a change of one mapping, from its start to its end, median of {CHANGES}; the first {:.0} ms, the slowest {:.0} ms",
            ms(first),
            ms(took[CHANGES - 1])
        )),
    );
}

/// Changes one mapping, and has it loaded; only its flow may be touched.
fn change_one(folder: &Path, nth: usize) -> Duration {
    let path = folder.join("mappings/map-500.yaml");
    let text = std::fs::read_to_string(&path).expect("a mapping");
    let changed = text
        .lines()
        .map(|line| match line.trim_start().starts_with("remark:") {
            true => format!("  remark: not_null(note, 'none-{nth}')"),
            false => line.to_owned(),
        });
    let changed: Vec<String> = changed.collect();
    std::fs::write(&path, changed.join("\n") + "\n").expect("written");
    let began = Instant::now();
    let output = command(folder)
        .args(["reload", "--json"])
        .output()
        .expect("crossdock reload");
    let took = began.elapsed();
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let flows = told["changes"]["flows"].as_array().map(Vec::len);
    assert_eq!(
        (&told["outcome"], flows),
        (&"switched".into(), Some(1)),
        "{told}"
    );
    took
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossdock"));
    command.env("CROSSDOCK_PROJECT", folder);
    command
}

/// A running engine; killed when it goes out of scope.
struct Engine(Child);

impl Engine {
    fn start(folder: &Path) -> Engine {
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port");
        std::fs::write(
            folder.join("crossdock.yaml"),
            format!("listen: \"{address}\"\n"),
        )
        .expect("written");
        let engine = command(folder)
            .args(["run", "--no-watch"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("crossdock run");
        let engine = Engine(engine);
        let began = Instant::now();
        // Its door opens last.
        while !command(folder)
            .args(["reload", "--json"])
            .output()
            .expect("crossdock reload")
            .status
            .success()
        {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "the engine does not start"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        engine
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
