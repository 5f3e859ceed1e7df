//! The step `collect`: messages that belong together become one.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::waiting::{Gathering, Late, Waiting};
use crate::component::words::{Duration, ExpressionText};
use crate::component::{Build, Part, codes};

/// How long a group may wait for its members where nobody says so.
const WITHIN: Duration = Duration { ms: 3_600_000 };
/// How long late members are known where nobody says so.
const KEEP: Duration = Duration { ms: 7 * 86_400_000 };
/// How many members a group may have where nobody says so.
const MEMBERS_MOST: u32 = 1_000;
/// How many members a group may have at all.
const MEMBERS_MAX: u32 = 10_000;

/// Collects messages that belong together into one, whose body is the list of their bodies in the order in which they came. A group is
/// complete with `size` members, when `complete` is true, or after `idle` without a new one, whichever is first; members and times are rows
/// of the store. Without `by` all messages of the step make groups one after another. The run of the first member goes on as the group,
/// with its keys and variables; the runs of the others end here as delivered, and say where they went. `into` beside the step binds
/// `{key, count, reason}`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// What the members of a group have in common; a null is a failure.
    pub by: Option<ExpressionText>,
    /// A group is complete with so many members.
    #[schemars(range(min = 1, max = 10_000))]
    pub size: Option<u32>,
    /// A group is complete when this is true of `{count, members, first, last}`: the bodies, the new one being the last.
    pub complete: Option<ExpressionText>,
    /// A group is complete when no member has come for so long.
    pub idle: Option<Duration>,
    /// How long a group waits after its first member. Default 1h.
    pub within: Option<Duration>,
    /// What happens to a group that is not complete by then. Default `exception`.
    pub on_timeout: Option<OnTimeout>,
    /// What happens to a member that comes after its group was sent. Default `exception`.
    pub late: Option<LateMember>,
    /// How long after its group was sent a member counts as late; after that it begins a new group. Default 7d.
    pub keep: Option<Duration>,
    /// How many members a group may have; one more fails with class `too_large`, as does one with which the group has more than 16 MB.
    /// Default 1000.
    #[schemars(range(min = 1, max = 10_000))]
    pub most: Option<u32>,
}

/// What happens to a group that is not complete in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// Each member fails with class `timeout`; run again, they collect anew.
    Exception,
    /// It goes on with the members that it has.
    Send,
}

/// What happens to a member that comes after its group was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LateMember {
    /// It fails with class `conflict`.
    Exception,
    /// It begins a new group.
    New,
    /// It is dropped, with the reason.
    Drop,
}

impl Part for Collect {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: parcels
  collect: { by: orderNumber, complete: count == last.parcels, within: 4h }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        self.contradictions(cx);
        let by = match &self.by {
            Some(text) => Some(cx.expression(&["by"], &text.0)?),
            None => None,
        };
        let complete = match &self.complete {
            Some(text) => Some(cx.expression(&["complete"], &text.0)?),
            None => None,
        };
        if let Some(into) = &cx.common.into {
            cx.variables.insert(into.trim_start_matches('$').to_owned());
        }
        let ms = |given: Duration| i64::try_from(given.ms).unwrap_or(i64::MAX / 4);
        let into = cx.common.into.as_deref();
        Some(Ready::Wait(Waiting::Group(Box::new(Gathering {
            late: match (by.is_some(), self.late) {
                (false, _) | (_, Some(LateMember::New)) => Late::Again,
                (_, Some(LateMember::Drop)) => Late::Dropped,
                (_, Some(LateMember::Exception) | None) => Late::Fails,
            },
            by,
            size: self.size,
            complete,
            idle_ms: self.idle.map(ms),
            within_ms: ms(self.within.unwrap_or(WITHIN)),
            send_late: self.on_timeout == Some(OnTimeout::Send),
            keep_ms: ms(self.keep.unwrap_or(KEEP)),
            most: self
                .most
                .unwrap_or(MEMBERS_MOST.max(self.size.unwrap_or(0))),
            into: into.map(|name| Arc::from(name.trim_start_matches('$'))),
        }))))
    }
}

impl Collect {
    fn contradictions(&self, cx: &mut Build<'_>) {
        let ends = self.size.is_some() || self.complete.is_some() || self.idle.is_some();
        if !ends && self.on_timeout != Some(OnTimeout::Send) {
            let message = "nothing ever completes a group";
            let help = "give `size`, `complete` or `idle`, or `on_timeout: send`";
            cx.error(codes::CONFLICTING_SETTINGS, &[], message, help);
        }
        for (field, given) in [("late", self.late.is_some()), ("keep", self.keep.is_some())] {
            if given && self.by.is_none() {
                let message = format!("without `by` no member is late, so `{field}` has no effect");
                cx.error(
                    codes::CONFLICTING_SETTINGS,
                    &[field],
                    message,
                    "remove it, or give `by`",
                );
            }
        }
        for (field, given) in [("idle", self.idle), ("within", self.within)] {
            if given.is_some_and(|given| given.ms == 0) {
                let message = "a wait of nothing is no wait";
                cx.error(
                    codes::BAD_VALUE,
                    &[field],
                    message,
                    "write `10s`, for example",
                );
            }
        }
        for (field, given) in [("size", self.size), ("most", self.most)] {
            if given.is_some_and(|given| !(1..=MEMBERS_MAX).contains(&given)) {
                let message = format!("a group has 1 to {MEMBERS_MAX} members");
                cx.error(codes::BAD_VALUE, &[field], message, "");
            }
        }
        if let (Some(size), Some(most)) = (self.size, self.most)
            && size > most
        {
            let message = format!("a group of {size} cannot be, with at most {most} members");
            cx.error(
                codes::CONFLICTING_SETTINGS,
                &["most"],
                message,
                "remove it, or raise it",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::StepKind;
    use crate::step::bench::Bench;

    fn gathering(entry: &str) -> Gathering {
        match Bench::new().build::<StepKind>(entry) {
            (Some(Ready::Wait(Waiting::Group(gathering))), found) if found.is_empty() => *gathering,
            (_, found) => panic!("{entry}: {found:?}"),
        }
    }

    #[test]
    fn groups_have_limits_and_late_members_are_told() {
        let parts = gathering("collect: { by: n, size: 3 }\ninto: $group");
        assert_eq!(
            (parts.size, parts.within_ms, parts.most),
            (Some(3), 3_600_000, 1_000)
        );
        assert_eq!((parts.late, parts.keep_ms), (Late::Fails, 604_800_000));
        assert_eq!(parts.into.as_deref(), Some("group"));
        assert_eq!(gathering("collect: { size: 5000 }").most, 5_000);
        assert_eq!(gathering("collect: { idle: 10s }").late, Late::Again);
        let dropped = gathering("collect: { by: n, idle: 10s, late: drop }").late;
        assert_eq!(dropped, Late::Dropped);
    }

    #[test]
    fn mistakes_are_found() {
        let bench = Bench::new();
        bench.finds("collect: { by: n }", &["conflicting-settings:1:10"]);
        bench.finds(
            "collect: { size: 3, late: new }",
            &["conflicting-settings:1:27"],
        );
        bench.finds(
            "collect: { size: 3, keep: 1d }",
            &["conflicting-settings:1:27"],
        );
        bench.finds(
            "collect: { size: 3, most: 2 }",
            &["conflicting-settings:1:27"],
        );
        bench.finds("collect: { size: 3, within: 0s }", &["bad-value:1:29"]);
        bench.finds("collect: { by: $x, size: 3 }", &["unknown-variable:1:16"]);
    }
}
