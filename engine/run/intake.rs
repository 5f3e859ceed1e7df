//! How many messages flows may have in flight: in all, each for itself, with a share that is kept for flows of high criticality, and a small
//! one that each flow has for its own: others that fill everything must not silence a schedule.

use crate::flow::plan::{Plan, Project};
use crate::handoff::embedded::{Full, Share};

/// How many messages may be worked on at once where nobody says so.
const IN_FLIGHT: u32 = 20_000;
/// How many messages of one flow may wait where nobody says so.
const BACKLOG: u32 = 200_000;
/// The share that is kept for flows of high criticality: one of so many.
const HIGH_SHARE: usize = 5;
/// The share that flows have for their own, each as much as the other: one of so many.
const OWN_SHARE: usize = 20;

/// The limits of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    in_flight: usize,
    flow_in_flight: usize,
    backlog: usize,
    /// Kept for flows of high criticality.
    kept: usize,
    /// What each flow has for its own, and all of them together.
    own: usize,
    owned: usize,
}

impl Limits {
    /// What the settings say, and what follows from the flows.
    pub(super) fn of(project: &Project) -> Limits {
        let given = &project.settings.limits;
        let in_flight = given.in_flight.unwrap_or(IN_FLIGHT).max(1) as usize;
        let flows = project.plans.len();
        let (half, own) = match flows {
            0 | 1 => (in_flight, 0),
            _ => (in_flight.div_ceil(2), in_flight / OWN_SHARE / flows),
        };
        let high = project.plans.values().any(|plan| plan.high);
        let others = project.plans.values().any(|plan| !plan.high);
        Limits {
            in_flight,
            flow_in_flight: given.flow_in_flight.map_or(half, |given| given as usize),
            backlog: given.backlog.unwrap_or(BACKLOG).max(1) as usize,
            kept: if high && others {
                (in_flight / HIGH_SHARE).min(in_flight - 1)
            } else {
                0
            },
            own,
            owned: own * flows,
        }
    }

    /// How many messages may be worked on, over all flows.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What a flow may have.
    pub(super) fn share(&self, plan: &Plan) -> Share {
        let kept = if plan.high { 0 } else { self.kept };
        Share {
            active_max: self.in_flight - kept - self.owned,
            flow_own: self.own,
            flow_active_max: self.flow_in_flight.min(self.in_flight).max(1),
            flow_all_max: self.backlog,
        }
    }
}

/// What a sender is told.
pub(super) fn told(full: Full) -> &'static str {
    match full {
        Full::Active => "the engine works on as many messages as it may (`limits.in_flight`)",
        Full::FlowActive => {
            "the engine works on as many messages of this flow as it may (`limits.flow_in_flight`)"
        }
        Full::FlowAll => "as many messages of this flow wait as may (`limits.backlog`)",
    }
}
