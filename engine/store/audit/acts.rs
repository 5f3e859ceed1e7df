//! What a commit has done, in the words of the audit log. All that people decide is in a commit; so no verb can forget to be written down.

use std::borrow::Cow;

use super::super::approvals::ApprovalChange;
use super::super::canaries::{CanaryChange, CanaryState};
use super::super::commit::{Commit, Committed};
use super::super::decisions::{Decided, Decision, Deed};
use super::super::erasure::{Erased, Erasure};
use super::super::replays::{ReplayChange, ReplayId, ReplayState};
use super::super::reruns::{Rerun, Rerunning};
use super::super::revisions::RevisionChange;
use super::super::sessions::SessionChange;
use super::super::shadows::ShadowChange;
use super::super::toggles::{How, Target, ToggleChange};
use super::super::tokens::{Issued, TokenChange};
use super::{Acting, Entry};

/// What a commit has done, in its order. What a list does with its items is told by the list.
pub(super) fn of(commit: &Commit, committed: &Committed) -> Vec<Entry> {
    let mut entries = commit.audit.clone();
    let asked = commit.approvals.iter().zip(&committed.approvals);
    entries.extend(asked.filter_map(|(change, applied)| of_approval(commit, change, *applied)));
    if !commit.replays.iter().any(of_an_item) {
        let decided = commit.decisions.iter().zip(&committed.decisions);
        entries.extend(decided.map(|(decision, decided)| of_decision(commit, decision, decided)));
        let begun = commit.reruns.iter().zip(&committed.reruns);
        entries.extend(begun.map(|(rerun, begun)| of_rerun(commit, rerun, *begun)));
    }
    let lists = commit.replays.iter().zip(&committed.replays);
    entries.extend(lists.filter_map(|(change, applied)| of_list(commit, change, *applied)));
    let revisions = commit.revisions.iter();
    entries.extend(revisions.filter_map(|change| of_revision(commit, change)));
    let toggles = commit.toggles.iter();
    entries.extend(toggles.map(|change| of_toggle(commit, change)));
    let canaries = commit.canaries.iter();
    entries.extend(canaries.filter_map(|change| of_canary(commit, change)));
    let shadows = commit.shadows.iter();
    entries.extend(shadows.filter_map(|change| of_shadow(commit, change)));
    let erased = commit.erase.as_ref().zip(committed.erased.as_ref());
    entries.extend(erased.map(|(erasure, erased)| of_erasure(commit, erasure, erased)));
    let issued = commit.tokens.iter().zip(&committed.tokens);
    entries.extend(issued.filter_map(|(change, issued)| of_token(commit, change, issued)));
    let sessions = commit.sessions.iter();
    entries.extend(sessions.filter_map(|change| of_session(commit, change)));
    entries
}

fn of_an_item(change: &ReplayChange) -> bool {
    matches!(
        change,
        ReplayChange::Take { .. } | ReplayChange::Refuse { .. }
    )
}

/// Who acts: whom the commit names, or the engine in this one's name.
fn by(commit: &Commit, who: &str) -> Acting {
    match &commit.by {
        Some(by) => (**by).clone(),
        None => Acting::engine(who),
    }
}

fn of_decision(commit: &Commit, decision: &Decision, decided: &Decided) -> Entry {
    let (action, mut detail) = match &decision.deed {
        Deed::Assign { to, .. } => ("exception.assign".into(), Some(format!("to {to}"))),
        Deed::Note => ("exception.note".into(), None),
        Deed::Snooze { until_ms } => ("exception.snooze".into(), Some(format!("until {until_ms}"))),
        Deed::Discard => ("exception.discard".into(), None),
        Deed::ByHand => ("exception.by-hand".into(), None),
        Deed::GoOn(go_on) => {
            let body = go_on.body.as_ref();
            let edited = body.map(|body| format!("a body of {} bytes", body.len()));
            let action = Cow::Owned(format!("exception.{}", go_on.how.name()));
            (action, edited)
        }
    };
    let outcome = match decided {
        Decided::Done => "done",
        other => {
            detail = Some(format!("{other:?}"));
            "refused"
        }
    };
    Entry {
        acting: by(commit, &decision.who),
        action,
        target_kind: "exception",
        target: decision.exception.0.to_string(),
        reason: decision.why.clone(),
        outcome,
        detail,
    }
}

fn of_rerun(commit: &Commit, rerun: &Rerun, begun: Rerunning) -> Entry {
    let (outcome, detail) = match begun {
        Rerunning::Begun => ("done", format!("{} as run {}", rerun.what, rerun.run.0)),
        other => ("refused", format!("{}: {other:?}", rerun.what)),
    };
    Entry {
        acting: by(commit, &rerun.who),
        action: "run.again".into(),
        target_kind: "run",
        target: rerun.of.0.to_string(),
        reason: rerun.why.clone(),
        outcome,
        detail: Some(detail),
    }
}

/// The value is not in the log, which nobody can erase: only its hash.
fn of_erasure(commit: &Commit, erasure: &Erasure, erased: &Erased) -> Entry {
    Entry {
        acting: by(commit, &erasure.who),
        action: "personal.erase".into(),
        target_kind: "key",
        target: erasure.hash(),
        reason: Some(erasure.why.clone()),
        outcome: "done",
        detail: Some(format!(
            "{} runs with {} bodies; {} runs are left",
            erased.runs, erased.bodies, erased.left
        )),
    }
}

fn of_list(commit: &Commit, change: &ReplayChange, applied: Option<ReplayId>) -> Option<Entry> {
    let entry = |action: &'static str, who: &str, id: Option<ReplayId>| Entry {
        acting: by(commit, who),
        action: action.into(),
        target_kind: "replay",
        target: id.map_or_else(String::new, |id| id.0.to_string()),
        reason: None,
        outcome: if applied.is_some() { "done" } else { "refused" },
        detail: None,
    };
    match change {
        ReplayChange::Begin {
            who,
            why,
            verb,
            filter,
            runs,
            ..
        } => Some(Entry {
            reason: why.clone(),
            detail: Some(format!("{} runs, {filter}, {verb}", runs.len())),
            ..entry("replay.begin", who, applied)
        }),
        // The engine itself ends a list that is done: nobody acts.
        ReplayChange::Turn { replay, to } if commit.by.is_some() => {
            let action = match to {
                ReplayState::Paused => "replay.pause",
                ReplayState::Running => "replay.resume",
                ReplayState::Aborted | ReplayState::Finished => "replay.abort",
            };
            Some(entry(action, "", Some(*replay)))
        }
        _ => None,
    }
}

fn of_revision(commit: &Commit, change: &RevisionChange) -> Option<Entry> {
    let entry = |action: String, who: &str, revision: &str| Entry {
        acting: by(commit, who),
        action: action.into(),
        target_kind: "revision",
        target: revision.to_owned(),
        reason: None,
        outcome: "done",
        detail: None,
    };
    match change {
        RevisionChange::Keep(_) | RevisionChange::Try(_) => None,
        RevisionChange::Deploy(deployment) => {
            let before = deployment.before.as_deref().unwrap_or("nothing");
            Some(Entry {
                reason: deployment.why.clone(),
                detail: Some(match &*deployment.changes {
                    "" => format!("before: {before}"),
                    changes => format!("before: {before}; {changes}"),
                }),
                ..entry(
                    format!("project.{}", deployment.how),
                    &deployment.who,
                    &deployment.revision,
                )
            })
        }
        RevisionChange::Withdraw(withdrawn) => Some(Entry {
            reason: withdrawn.why.clone(),
            detail: Some(format!("instead: {}", withdrawn.instead)),
            ..entry(
                "project.withdraw".to_owned(),
                &withdrawn.who,
                &withdrawn.revision,
            )
        }),
        // Beside a withdrawal it only clears the way for what runs instead.
        RevisionChange::Lift(revision) => {
            let withdraws = commit.revisions.iter();
            let alone = !withdraws
                .into_iter()
                .any(|change| matches!(change, RevisionChange::Withdraw(_)));
            alone.then(|| entry("project.lift".to_owned(), "crossdock", revision))
        }
    }
}

fn of_toggle(commit: &Commit, change: &ToggleChange) -> Entry {
    let entry = |action: &'static str, who: &str, target: &Target| Entry {
        acting: by(commit, who),
        action: action.into(),
        target_kind: match target {
            Target::Flow(_) => "flow",
            Target::Step(..) => "step",
            Target::System(_) => "system",
        },
        target: match target {
            Target::System(name) => name.to_string(),
            target => target.to_string(),
        },
        reason: None,
        outcome: "done",
        detail: None,
    };
    match change {
        ToggleChange::Stop(toggle) => {
            let action = match toggle.how {
                How::Paused => "toggle.pause",
                How::Disabled => "toggle.disable",
                How::Draining => "toggle.drain",
            };
            Entry {
                reason: Some(toggle.why.clone()),
                detail: toggle.until_ms.map(|until_ms| format!("until {until_ms}")),
                ..entry(action, &toggle.who, &toggle.target)
            }
        }
        ToggleChange::Resume(target, who, why) => Entry {
            reason: why.clone(),
            ..entry("toggle.resume", who, target)
        },
        ToggleChange::Ends(target, _) => Entry {
            reason: Some("its time is over".to_owned()),
            ..entry("toggle.resume", "crossdock", target)
        },
    }
}

fn of_canary(commit: &Commit, change: &CanaryChange) -> Option<Entry> {
    let entry = |action: &'static str, who: &str, target: String| Entry {
        acting: by(commit, who),
        action: action.into(),
        target_kind: "canary",
        target,
        reason: None,
        outcome: "done",
        detail: None,
    };
    match change {
        CanaryChange::Begin(canary) => {
            let terms = &canary.terms;
            let takes = terms.when.as_ref().map_or_else(
                || format!("{} of 10,000 keys", canary.share),
                |when| format!("messages with {when}"),
            );
            let flows: Vec<&str> = terms.flows.keys().map(|flow| &**flow).collect();
            Some(Entry {
                reason: Some(canary.why.clone()),
                detail: Some(format!("{takes} of {}", flows.join(", "))),
                ..entry("canary.begin", &canary.who, canary.revision.to_string())
            })
        }
        CanaryChange::Share(id, share) => Some(Entry {
            detail: Some(format!("{share} of 10,000 keys")),
            ..entry("canary.share", "crossdock", id.to_string())
        }),
        CanaryChange::End(id, state, who, why) => {
            let action = match state {
                CanaryState::Promoted => "canary.promote",
                CanaryState::Running | CanaryState::Stopped => "canary.stop",
            };
            Some(Entry {
                reason: Some(why.clone()),
                ..entry(action, who, id.to_string())
            })
        }
        CanaryChange::Taken(..) => None,
    }
}

fn of_shadow(commit: &Commit, change: &ShadowChange) -> Option<Entry> {
    let entry = |action: &'static str, who: &str, target: String, reason: &str| Entry {
        acting: by(commit, who),
        action: action.into(),
        target_kind: "shadow",
        target,
        reason: Some(reason.to_owned()),
        outcome: "done",
        detail: None,
    };
    match change {
        ShadowChange::Begin(shadow) => {
            let terms = &shadow.terms;
            let looks = terms.when.as_ref().map_or_else(
                || format!("{} of 10,000 keys", terms.share),
                |when| format!("messages with {when}"),
            );
            let flows: Vec<&str> = terms.flows.keys().map(|flow| &**flow).collect();
            let (revision, why) = (shadow.revision.to_string(), &shadow.why);
            Some(Entry {
                detail: Some(format!(
                    "{looks} of {}; until {}",
                    flows.join(", "),
                    shadow.until_ms
                )),
                ..entry("shadow.begin", &shadow.who, revision, why)
            })
        }
        ShadowChange::End(id, who, why) => Some(entry("shadow.stop", who, id.to_string(), why)),
        ShadowChange::Told(..) => None,
    }
}

fn of_token(commit: &Commit, change: &TokenChange, issued: &Issued) -> Option<Entry> {
    let entry = |action: &'static str, target: String, detail: Option<String>| Entry {
        acting: by(commit, "crossdock"),
        action: action.into(),
        target_kind: "token",
        target,
        reason: None,
        outcome: match issued {
            Issued::Done(_) => "done",
            Issued::Refused => "refused",
        },
        detail,
    };
    match change {
        TokenChange::Create(new) => {
            let flows = new.flows.join(", ");
            let detail = format!(
                "roles {}; flows {flows}; ends {}",
                new.roles.join(", "),
                new.expires_at_ms
            );
            Some(entry("token.create", new.name.clone(), Some(detail)))
        }
        TokenChange::Revoke { name } => Some(entry("token.revoke", name.clone(), None)),
        TokenChange::Used { .. } => None,
    }
}

fn of_session(commit: &Commit, change: &SessionChange) -> Option<Entry> {
    let entry = |action: &'static str, name: &str| Entry {
        acting: by(commit, "crossdock"),
        action: action.into(),
        target_kind: "session",
        target: name.to_owned(),
        reason: None,
        outcome: "done",
        detail: None,
    };
    match change {
        SessionChange::Begin(new) => Some(Entry {
            detail: Some(format!(
                "{} at {}; groups {}; ends {}",
                new.subject,
                new.issuer,
                new.groups.join(", "),
                new.ends_at_ms
            )),
            ..entry("session.begin", &new.name)
        }),
        SessionChange::End(_, name) => Some(entry("session.end", name)),
        SessionChange::EndAll(name) => Some(entry("session.end-all", name)),
        SessionChange::Used(_) => None,
    }
}

fn of_approval(commit: &Commit, change: &ApprovalChange, applied: Option<i64>) -> Option<Entry> {
    let entry = |action: &'static str, who: &str, id: Option<i64>| Entry {
        acting: by(commit, who),
        action: action.into(),
        target_kind: "approval",
        target: id.map_or_else(String::new, |id| id.to_string()),
        reason: None,
        outcome: if applied.is_some() { "done" } else { "refused" },
        detail: None,
    };
    match change {
        ApprovalChange::Ask(new) => Some(Entry {
            reason: new.why.clone(),
            detail: Some(format!("{}; {} items", new.said, new.items.len())),
            ..entry("approval.ask", &new.who, applied)
        }),
        ApprovalChange::Approve { id, who, why } => Some(Entry {
            reason: why.clone(),
            ..entry("approval.approve", who, Some(*id))
        }),
        ApprovalChange::Refuse { id, who, why } => Some(Entry {
            reason: Some(why.clone()),
            ..entry("approval.refuse", who, Some(*id))
        }),
        ApprovalChange::End(id) => Some(Entry {
            reason: Some("nobody has decided in time".to_owned()),
            ..entry("approval.end", "crossdock", Some(*id))
        }),
        // The decisions of the commit tell it.
        ApprovalChange::Take { .. } | ApprovalChange::Finish(_) => None,
    }
}
