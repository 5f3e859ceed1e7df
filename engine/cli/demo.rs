//! `crossdock demo` and its stand-in ERP.

use super::{FINDINGS, GOOD, Terminal, wait_for};
use crate::demo::erp::{ErpArgs, erp};
use crate::demo::{DemoArgs, demo};
use crate::failure::Failure;

/// Runs the demo; findings if anything was lost, doubled or changed.
pub(super) fn run_demo(arguments: &DemoArgs, terminal: &mut Terminal) -> Result<u8, Failure> {
    let good = wait_for(async {
        demo(arguments, &mut terminal.out)
            .await
            .map_err(Failure::internal)
    })?;
    Ok(if good { GOOD } else { FINDINGS })
}

/// Runs the stand-in ERP until its standard input ends.
pub(super) fn run_erp(arguments: &ErpArgs, terminal: &mut Terminal) -> Result<u8, Failure> {
    wait_for(async {
        erp(arguments, &mut terminal.out)
            .await
            .map_err(Failure::internal)
    })?;
    Ok(GOOD)
}
