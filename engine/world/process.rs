//! This process as the operating system counts it, and what the process counts for all engines in it: defects that were caught, lines of the log.

use std::sync::atomic::{AtomicU64, Ordering};

use super::metrics::text::Readings;
use super::metrics::words;

/// How many clock ticks a second has for `/proc`; the kernel fixes it for programs.
const TICKS: f64 = 100.0;

static PANICS: AtomicU64 = AtomicU64::new(0);
static LINES: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// The levels of the log, the worst first.
pub const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// A defect was caught.
pub fn panicked() {
    PANICS.fetch_add(1, Ordering::Relaxed);
}

/// The log has got a line of this level, counted from the worst.
pub fn logged(level: usize) {
    if let Some(lines) = LINES.get(level) {
        lines.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads what the process uses. What the operating system does not say is left out.
pub fn read(readings: &mut Readings) {
    readings.add(words::PANICS, &[], PANICS.load(Ordering::Relaxed) as f64);
    for (level, lines) in LEVELS.iter().zip(&LINES) {
        let lines = lines.load(Ordering::Relaxed) as f64;
        readings.add(words::LOG_LINES, &[level], lines);
    }
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if let Some(stat) = Stat::parse(&text("/proc/self/stat")) {
        readings.add(words::CPU, &[], stat.ticks / TICKS);
        readings.add(words::THREADS, &[], stat.threads);
        let booted = text("/proc/stat");
        let booted = booted.lines().find_map(|line| line.strip_prefix("btime "));
        if let Some(booted) = booted.and_then(|seconds| seconds.trim().parse::<f64>().ok()) {
            readings.add(words::STARTED, &[], booted + stat.started / TICKS);
        }
    }
    let status = text("/proc/self/status");
    for (word, name) in [(words::RESIDENT, "VmRSS:"), (words::VIRTUAL, "VmSize:")] {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        if let Some(kib) = kib {
            readings.add(word, &[], kib * 1_024.0);
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        readings.add(words::FILES_OPEN, &[], open.count() as f64);
    }
    let limits = text("/proc/self/limits");
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    if let Some(most) = limit.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()) {
        readings.add(words::FILES_MAX, &[], most);
    }
}

/// Of `/proc/self/stat`: what is read here.
struct Stat {
    ticks: f64,
    threads: f64,
    started: f64,
}

impl Stat {
    /// The name of the program, in parentheses, may hold anything.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |nth: usize| fields.get(nth)?.parse::<f64>().ok();
        Some(Stat {
            ticks: number(11)? + number(12)?,
            threads: number(17)?,
            started: number(19)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Metrics;
    use super::super::metrics::text::Form;
    use super::*;

    #[test]
    fn the_process_says_what_it_uses() {
        let mut readings = Readings::default();
        read(&mut readings);
        let text = Metrics::default().text(readings, Form::Plain);
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
            line.trim_start_matches("{}").trim().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= 64.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_start_time_seconds") > 1.5e9);
        assert!(value("process_threads") >= 1.0);
    }

    #[test]
    fn a_name_with_parentheses_is_passed_over() {
        let text = "7 (a ) 1 b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 1234 5 6";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(
            (stat.ticks, stat.threads, stat.started),
            (300.0, 9.0, 1234.0)
        );
    }
}
