//! Rows of the store as JSON: the same for the API and for `--json` on the command line.

use serde_json::{Value, json};

use crate::store::books::Counts;
use crate::store::exceptions::{ExceptionDetail, ExceptionRow, Issue};
use crate::store::replays::{ReplayItem, ReplayRow};

/// An exception.
pub fn exception(row: &ExceptionRow) -> Value {
    json!({
        "id": row.id.0,
        "run": row.run.0,
        "flow": row.flow,
        "step": row.step,
        "class": row.class.name(),
        "message": row.message,
        "detail": row.detail,
        "fingerprint": row.fingerprint,
        "attempts": row.attempts,
        "state": row.state.name(),
        "owner": row.owner,
        "snoozed_until_ms": row.snoozed_until_ms,
        "how": row.how,
        "opened_at_ms": row.opened_at_ms,
        "settled_at_ms": row.settled_at_ms,
        "message_id": row.at.to_string(),
    })
}

/// An exception with all that is known of it.
pub fn whole_exception(detail: &ExceptionDetail) -> Value {
    let text = |bytes: &Option<bytes::Bytes>| {
        bytes
            .as_ref()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    let mut whole = exception(&detail.row);
    whole["keys"] = json!(detail.keys);
    whole["revision"] = json!(detail.revision);
    whole["accepted"] = json!(text(&detail.accepted));
    whole["body at the step"] = json!(text(&detail.body));
    whole["request"] = json!(text(&detail.request));
    whole["answer"] = json!(text(&detail.answer));
    whole["effects"] = detail
        .effects
        .iter()
        .map(|effect| {
            json!({ "step": effect.step, "item": effect.item, "standing": effect.standing.name(), "attempts": effect.attempts,
                "first_at_ms": effect.first_at_ms, "last_at_ms": effect.last_at_ms })
        })
        .collect();
    whole["history"] = detail
        .history
        .iter()
        .map(|line| {
            json!({ "at_ms": line.at_ms, "who": line.who, "what": line.what, "why": line.why, "body": text(&line.body) })
        })
        .collect();
    whole
}

/// Exceptions with the same cause.
pub fn issue(issue: &Issue) -> Value {
    json!({
        "fingerprint": issue.fingerprint,
        "flow": issue.flow,
        "step": issue.step,
        "class": issue.class.name(),
        "message": issue.message,
        "open": issue.open,
        "total": issue.total,
        "first_at_ms": issue.first_at_ms,
        "last_at_ms": issue.last_at_ms,
        "newest": issue.newest.0,
        "owners": issue.owners,
    })
}

/// A list of replays.
pub fn replay(row: &ReplayRow) -> Value {
    json!({
        "id": row.id.0,
        "at_ms": row.at_ms,
        "who": row.who,
        "why": row.why,
        "verb": serde_json::from_str::<Value>(&row.verb).unwrap_or_default(),
        "filter": row.filter,
        "rate": row.rate,
        "state": row.state.name(),
        "total": row.total,
        "waiting": row.waiting,
        "refused": row.refused,
        "in_flight": row.in_flight,
        "in_exceptions": row.in_exceptions,
        "ended": row.ended,
    })
}

/// The receipt of one item.
pub fn replay_item(item: &ReplayItem) -> Value {
    json!({
        "n": item.n,
        "run": item.run.0,
        "became": item.became.map(|run| run.0),
        "state": item.state.map(|state| state.name()),
        "note": item.note,
    })
}

/// The counts of books.
pub fn counts(counts: &Counts) -> Value {
    json!({
        "received": counts.received,
        "accepted": counts.accepted,
        "duplicates": counts.duplicates,
        "refused": counts.refused,
        "delivered": counts.delivered,
        "filtered": counts.filtered,
        "discarded": counts.discarded,
        "compensated": counts.compensated,
        "in_flight": counts.in_flight,
        "in_exceptions": counts.in_exceptions,
        "superseded": counts.superseded,
        "balanced": counts.balanced(),
    })
}
