//! Named points at which a test can bring the process down, or make something odd happen. They exist only in builds with debug assertions:
//! a release build has neither the points nor their names.
//!
//! `CROSSDOCK_FAILPOINT=NAME:abort:3` ends the process as `kill -9` does when it comes to the point for the third time;
//! `NAME:strike:3` lets what the point describes happen every third time.

/// Every point, in the order in which a message meets them. A test holds this list against the calls and against the scenarios.
#[cfg(debug_assertions)]
pub const ALL: &[&str] = &[
    "start-store-open",
    "start-recovered",
    "start-ready",
    "reload-loaded",
    "reload-recorded",
    "reload-live",
    "reload-done",
    "webhook-received",
    "accept-before-commit",
    "accept-committed",
    "accept-announced",
    "webhook-before-answer",
    "file-claim-committed",
    "file-renamed",
    "file-batch-committed",
    "file-before-archive",
    "file-archived",
    "poll-before-commit",
    "poll-committed",
    "schedule-committed",
    "stage-taken",
    "stage-before-commit",
    "stage-committed",
    "stage-announced",
    "claims-committed",
    "door-taken",
    "effect-taken",
    "intent-before-commit",
    "intent-committed",
    "effect-before-send",
    "effect-sent",
    "result-before-commit",
    "result-committed",
    "wait-before-commit",
    "wait-committed",
    "exception-before-commit",
    "exception-committed",
    "take-over-before-commit",
    "take-over-committed",
    "probe-before",
    "probe-answered",
    "release-before-commit",
    "release-before-announce",
    "release-announced",
    "append-cursor-committed",
    "append-before-write",
    "append-written",
    "append-committed",
    "handoff-before-publish",
    "handoff-stray-copy",
    "sweep-before",
    "sweep-committed",
    "sweep-in-transaction",
    "transaction-open",
    "transaction-written",
    "log-synced",
    "checkpoint-before",
    "checkpoint-passed",
    "stop-asked",
    "stop-drained",
    "stop-store-closed",
];

/// The process ends here, without another word, if a test has asked for it.
#[inline(always)]
pub fn hit(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::hit(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// Whether what this point describes happens now. Never, unless a test has asked for it.
#[inline(always)]
pub fn strikes(name: &'static str) -> bool {
    #[cfg(debug_assertions)]
    return armed::strikes(name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        false
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The variable that arms a point.
    const VARIABLE: &str = "CROSSDOCK_FAILPOINT";

    /// What happens at an armed point.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Action {
        Abort,
        Strike,
    }

    /// A point that a test has chosen.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct Armed {
        pub(super) name: String,
        pub(super) action: Action,
        pub(super) nth: u64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);

    pub(super) fn hit(name: &str) {
        if nth(name, Action::Abort).is_some_and(|(count, nth)| count == nth) {
            std::process::abort();
        }
    }

    pub(super) fn strikes(name: &str) -> bool {
        nth(name, Action::Strike).is_some_and(|(count, nth)| count % nth == 0)
    }

    /// How often an armed point was met, this time included, and the number that it waits for.
    fn nth(name: &str, action: Action) -> Option<(u64, u64)> {
        let armed = ARMED
            .get_or_init(|| parse(&std::env::var(VARIABLE).ok()?))
            .as_ref()?;
        (armed.name == name && armed.action == action)
            .then(|| (HITS.fetch_add(1, Ordering::SeqCst) + 1, armed.nth))
    }

    /// What the variable says; `None` for a point that there is not, which then never happens, so that its test fails.
    pub(super) fn parse(text: &str) -> Option<Armed> {
        let mut parts = text.split(':');
        let name = parts.next().filter(|name| super::ALL.contains(name))?;
        let action = match parts.next()? {
            "abort" => Action::Abort,
            "strike" => Action::Strike,
            _ => return None,
        };
        let nth = parts.next().unwrap_or("1").parse().ok()?;
        (nth > 0 && parts.next().is_none()).then(|| Armed {
            name: name.to_owned(),
            action,
            nth,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::armed::{Action, Armed, parse};
    use super::*;

    #[test]
    fn a_point_is_armed_by_name_action_and_number() {
        let expect = |action, nth| {
            Some(Armed {
                name: "effect-sent".to_owned(),
                action,
                nth,
            })
        };
        assert_eq!(parse("effect-sent:abort:3"), expect(Action::Abort, 3));
        assert_eq!(parse("effect-sent:strike"), expect(Action::Strike, 1));
        for wrong in [
            "",
            "effect-sent",
            "effect-sent:abort:0",
            "effect-sent:explode:1",
            "nowhere:abort:1",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_point_that_nobody_has_armed_does_nothing() {
        hit("effect-sent");
        assert!(!strikes("handoff-stray-copy"));
    }
}
