//! What the disk does to the engine: power loss, failing syncs, no space. The disk is the real one, watched and broken by a shim.

mod dice;
mod disk;
mod power;
mod site;
mod trace;

use disk::Syncs;
use site::Erp;

/// What a scenario has found.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub sent: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub faults: u64,
    pub lost: u64,
    pub doubled: u64,
    pub wrong: Vec<String>,
    pub notes: Vec<String>,
}

fn cuts() -> usize {
    std::env::var("CUTS")
        .ok()
        .and_then(|cuts| cuts.parse().ok())
        .unwrap_or(10)
}

#[test]
fn power_loss() {
    let line = power::loses_power(Erp::Keys, cuts(), 1, Syncs::Honest).unwrap();
    println!("{line:?}");
    assert!(line.wrong.is_empty(), "{}", line.wrong.join("\n"));
}

#[test]
fn power_loss_neither() {
    let line = power::loses_power(Erp::Neither, cuts(), 2, Syncs::Honest).unwrap();
    println!("{line:?}");
    assert!(line.wrong.is_empty(), "{}", line.wrong.join("\n"));
}

#[test]
fn a_disk_that_lies_is_found_out() {
    let line = power::loses_power(Erp::Keys, cuts(), 3, Syncs::Void("-wal")).unwrap();
    assert!(line.lost > 0, "{line:?}");
}
