//! What the README's figures come from: one line a measure, `NAME value unit ratio R goal G ok|MISSED`. `cargo bench --bench main NAME` runs
//! only the group with that name: mapping, durability, throughput, handoff (if there is a RabbitMQ), cluster (if there is a PostgreSQL, too),
//! absolutes, contracts, reload.
#![allow(
    clippy::disallowed_methods,
    reason = "measures look at the disk and the clock themselves"
)]
#![allow(unreachable_pub, reason = "what measures share says so with `pub`")]

use std::io::Write;

mod absolutes;
mod cluster;
mod contracts;
mod durability;
mod floor;
mod handoff;
mod mapping;
mod measure;
mod reload;
mod throughput;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A group of measures.
type Measure = fn(&mut Vec<measure::Line>);

fn main() -> std::process::ExitCode {
    let groups: [(&str, Measure); 8] = [
        ("mapping", mapping::run),
        ("durability", durability::run),
        ("throughput", throughput::run),
        ("handoff", handoff::run),
        ("cluster", cluster::run),
        ("absolutes", absolutes::run),
        ("contracts", contracts::run),
        ("reload", reload::run),
    ];
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let mut out = std::io::stdout();
    let mut met = true;
    for (name, run) in groups {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut lines = Vec::new();
        run(&mut lines);
        for line in lines {
            met &= line.met();
            writeln!(out, "{line}").expect("standard output is open");
        }
    }
    if met {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}
