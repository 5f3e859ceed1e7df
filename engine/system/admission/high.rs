//! Calls of high criticality that wait for their place: others leave them a share as long as they do.

use super::Admission;

/// A call of high criticality that waits.
pub(super) struct HighWaits<'a>(&'a Admission);

impl<'a> HighWaits<'a> {
    pub(super) fn new(admission: &'a Admission) -> HighWaits<'a> {
        admission.state().gate.high_waits(true);
        HighWaits(admission)
    }
}

impl Drop for HighWaits<'_> {
    fn drop(&mut self) {
        self.0.state().gate.high_waits(false);
    }
}
