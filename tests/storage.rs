//! What the disk does to the engine: power loss, failing syncs, no space. The disk is the real one, watched and broken by a shim; the
//! scenarios stand in the list of `faults`.

mod broken;
mod clocks;
mod commits;
pub mod dice;
mod disk;
mod power;
mod site;
mod trace;

use crate::faults::{Line, Setting};
use disk::Syncs;
use site::Erp;

/// The engine loses its power; the ERP honours keys.
pub fn power_loss(setting: &Setting) -> Result<Line, String> {
    let cuts = setting.scale.of(12, 300, 3_000) as usize;
    power::loses_power(Erp::Keys, cuts, setting.seed, Syncs::Honest)
}

/// The engine loses its power; the ERP books whatever comes and cannot be asked.
pub fn power_loss_neither(setting: &Setting) -> Result<Line, String> {
    let cuts = setting.scale.of(8, 200, 2_000) as usize;
    power::loses_power(Erp::Neither, cuts, setting.seed, Syncs::Honest)
}

/// The store alone loses its power, under commits and checkpoints as fast as they go.
pub fn power_loss_store(setting: &Setting) -> Result<Line, String> {
    let cuts = setting.scale.of(60, 1_000, 20_000) as usize;
    commits::loses_power(cuts, setting.seed, Syncs::Honest, setting.mutation)
}

/// The disk is full under load, and then it is not.
pub fn disk_full(setting: &Setting) -> Result<Line, String> {
    broken::full(setting)
}

/// Syncs fail, once or for good.
pub fn syncs_fail(setting: &Setting) -> Result<Line, String> {
    broken::syncs_fail(setting)
}

/// There is less space than `limits.disk_free`, and then there is more.
pub fn disk_low(setting: &Setting) -> Result<Line, String> {
    broken::low(setting)
}

/// Somebody holds so many connections that the engine has no file handles left.
pub fn no_handles(setting: &Setting) -> Result<Line, String> {
    broken::no_handles(setting)
}

/// The clock is set by a day, both ways.
pub fn clock_set(setting: &Setting) -> Result<Line, String> {
    clocks::set_by_a_day(setting)
}

/// A log that is never synced is found out: if not, the scenarios above prove nothing.
#[test]
fn a_disk_that_lies_is_found_out() {
    let line = commits::loses_power(40, 3, Syncs::Void("-wal"), None).unwrap();
    assert!(line.lost > 0, "{line:?}");
}
