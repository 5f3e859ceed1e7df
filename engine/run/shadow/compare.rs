//! One accepted message through two revisions of its flow, in memory: what each would send, write and hand on, and how it would end. Calls are
//! answered with what was recorded when it ran; where nothing was, it is said so. Nothing is sent and nothing is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use crate::expression::number::{Decimal, compare_text, is_json_number};
use crate::failure::Class;
use crate::flow::plan::{Plan, Project};
use crate::message::{Message, Names};
use crate::run::admission;
use crate::run::differences;
use crate::run::recompute::{Machine, Recomputed, Recorded};
use crate::store::commit::DOOR;

/// So many differences of one message are looked at.
const FOUND_MAX: usize = 200;
/// How much of a text is shown, in characters.
const SHOWN_MAX: usize = 200;

/// Both sides of a flow.
pub(super) struct Sides {
    /// What runs.
    pub(super) base: (Arc<Project>, Arc<Plan>),
    /// What is tried.
    pub(super) candidate: (Arc<Project>, Arc<Plan>),
}

/// What came of a comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// What the candidate does otherwise, each kind of it once.
    pub(super) found: Vec<Found>,
    /// Whether it fails where what runs does not.
    pub(super) fails: bool,
    /// Whether one of the sides could not be followed to its end.
    pub(super) cut_short: bool,
}

/// Something that a candidate does otherwise.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) step: Arc<str>,
    /// See `Finding::what`.
    pub(super) what: &'static str,
    /// The field.
    pub(super) path: String,
    pub(super) was: Option<String>,
    pub(super) becomes: Option<String>,
}

/// What one output is known by: the step, the part of the message, what is done, and the how manieth of these it is.
type Place = (Arc<str>, Arc<str>, &'static str, usize);

/// What one side does.
#[derive(Default)]
struct Course {
    outputs: BTreeMap<Place, BTreeMap<String, String>>,
    /// Where it fails: the step, the class, and the words.
    failed: BTreeMap<(Arc<str>, Class), String>,
    /// Where it cannot be followed, and why.
    unknown: BTreeMap<Arc<str>, String>,
    /// How it ends, where that is known.
    end: Option<String>,
}

/// Compares what both sides make of a message.
pub(super) fn compare(sides: &Sides, message: &Message, recorded: &Recorded) -> Compared {
    let mut message = message.clone();
    if message.id == message.root {
        // Its keys are those that what runs has found: the candidate looks for its own.
        message.keys = Arc::new(Names::default());
    }
    let course = |(project, plan): &(Arc<Project>, Arc<Plan>)| {
        let machine = Machine {
            project,
            recorded,
            until: None,
            follow: false,
            exact: true,
        };
        Course::of(plan, &message, machine.run(plan, message.clone()))
    };
    between(&course(&sides.base), &course(&sides.candidate))
}

/// The name of a field without the numbers of list items: `lines[].quantity`.
pub(super) fn general(path: &str) -> String {
    let mut general = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('[') {
        let (before, after) = rest.split_at(at + 1);
        general.push_str(before);
        rest = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
    }
    general.push_str(rest);
    general
}

fn between(base: &Course, candidate: &Course) -> Compared {
    let mut compared = Compared {
        cut_short: !(base.unknown.is_empty() && candidate.unknown.is_empty()),
        ..Compared::default()
    };
    let mut seen = BTreeSet::new();
    let mut find = |found: Found| {
        let known = (found.step.clone(), found.what, general(&found.path));
        if compared.found.len() < FOUND_MAX && seen.insert(known) {
            compared.found.push(found);
        }
    };
    ends(base, candidate, &mut find);
    for (place, was) in &base.outputs {
        match candidate.outputs.get(place) {
            Some(is) => fields(place, was, is, &mut find),
            // What comes after the point to which it was followed is not missing.
            None if !candidate.is_cut_off() => find(whole(place, "less", was)),
            None => {}
        }
    }
    for (place, is) in &candidate.outputs {
        if !base.outputs.contains_key(place) && !base.is_cut_off() {
            find(whole(place, "more", is));
        }
    }
    let failed = candidate.failed.keys();
    compared.fails = failed.into_iter().any(|at| !base.failed.contains_key(at));
    let unknown = base.unknown.iter().chain(&candidate.unknown);
    for (step, why) in unknown {
        if seen.insert((step.clone(), "not_comparable", String::new())) {
            compared.found.push(Found {
                step: step.clone(),
                what: "not_comparable",
                path: String::new(),
                was: base.unknown.get(step).map(|_| why.clone()),
                becomes: candidate.unknown.get(step).cloned(),
            });
        }
    }
    compared
}

/// Where it fails, and how it ends.
fn ends(base: &Course, candidate: &Course, find: &mut impl FnMut(Found)) {
    let news = |of: &Course, than: &Course| {
        let failed = of.failed.iter();
        let failed = failed.filter(|(at, _)| !than.failed.contains_key(*at));
        let failed = failed.map(|((step, class), words)| (step.clone(), *class, words.clone()));
        failed.collect::<Vec<_>>()
    };
    let (more, less) = (news(candidate, base), news(base, candidate));
    for (step, class, words) in &more {
        find(Found {
            step: step.clone(),
            what: "fails",
            path: class.name().to_owned(),
            was: base.end.clone(),
            becomes: Some(words.clone()),
        });
    }
    for (step, class, words) in &less {
        find(Found {
            step: step.clone(),
            what: "outcome",
            path: class.name().to_owned(),
            was: Some(format!("fails: {words}")),
            becomes: candidate.end.clone(),
        });
    }
    let differs = base.end != candidate.end && base.end.is_some() && candidate.end.is_some();
    if differs && more.is_empty() && less.is_empty() {
        find(Found {
            step: Arc::from(""),
            what: "outcome",
            path: String::new(),
            was: base.end.clone(),
            becomes: candidate.end.clone(),
        });
    }
}

fn fields(
    place: &Place,
    was: &BTreeMap<String, String>,
    is: &BTreeMap<String, String>,
    find: &mut impl FnMut(Found),
) {
    for difference in differences::of_fields(was, is) {
        let (old, new) = (was.get(&difference.path), is.get(&difference.path));
        let what = match (old, new) {
            (Some(old), Some(new)) if same_number(old, new) => "scale",
            (Some(_), Some(_)) => "changed",
            (None, _) => "added",
            (_, None) => "removed",
        };
        find(Found {
            step: place.0.clone(),
            what,
            path: difference.path,
            was: difference.was,
            becomes: difference.is,
        });
    }
}

/// Whether two values are the same number in another writing, as numbers or as texts.
fn same_number(a: &str, b: &str) -> bool {
    if is_json_number(a) && is_json_number(b) {
        return compare_text(a, b).is_eq();
    }
    let text = |value: &str| {
        let inner = value.strip_prefix('"')?.strip_suffix('"')?;
        Decimal::parse(inner)
    };
    match (text(a), text(b)) {
        (Some(a), Some(b)) => a.compare(b).is_eq(),
        _ => false,
    }
}

/// An output that only one side has.
fn whole(place: &Place, what: &'static str, fields: &BTreeMap<String, String>) -> Found {
    let named = ["method", "path", "to"];
    let named = named.iter().filter_map(|name| fields.get(*name));
    let named: Vec<&str> = named.map(|value| value.trim_matches('"')).collect();
    let words = Some(short(&format!("{} {}", place.2, named.join(" "))));
    let (was, becomes) = match what {
        "less" => (words, None),
        _ => (None, words),
    };
    Found {
        step: place.0.clone(),
        what,
        path: String::new(),
        was,
        becomes,
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text.to_owned(),
    }
}

impl Course {
    fn of(plan: &Plan, message: &Message, done: Recomputed) -> Course {
        let mut course = Course::default();
        course.lets_in(plan, message);
        let mut delivered = false;
        for sent in done.sent {
            let node = plan.node(&sent.step).map(|at| &plan.nodes[at]);
            delivered |= node.is_some_and(|node| node.sink);
            let mut fields = differences::fields(&sent.request);
            let system = node.and_then(|node| node.system.as_deref());
            fields.extend(system.map(|system| ("system".to_owned(), json!(system).to_string())));
            let key = sent.idempotency_key.as_ref();
            fields.extend(key.map(|key| ("idempotency_key".to_owned(), json!(key).to_string())));
            course.puts((sent.step, sent.item, "sends"), fields);
        }
        for one in done.acts {
            delivered |= one.what == "writes";
            let mut fields: BTreeMap<String, String> = differences::fields(&one.body)
                .into_iter()
                .map(|(path, value)| match &*path {
                    "" => ("body".to_owned(), value),
                    path if path.starts_with('[') => (format!("body{path}"), value),
                    path => (format!("body.{path}"), value),
                })
                .collect();
            if !one.to.is_empty() {
                fields.insert("to".to_owned(), json!(one.to).to_string());
            }
            course.puts((one.step, one.item, one.what), fields);
        }
        for stopped in done.stopped {
            let words = short(&stopped.why.to_string());
            match stopped.failed {
                true => course
                    .failed
                    .insert((stopped.step, stopped.why.class), words),
                false => {
                    let why = short(&stopped.why.message);
                    course.unknown.insert(stopped.step, why)
                }
            };
        }
        course.end = course.ending(&done.ends, delivered);
        course
    }

    fn ending(&self, ends: &[(Arc<str>, &'static str)], delivered: bool) -> Option<String> {
        if let Some((step, class)) = self.failed.keys().next() {
            return Some(format!("fails at {step}: {}", class.name()));
        }
        if !self.unknown.is_empty() {
            return None;
        }
        let at = |what: &str| ends.iter().find(|(_, how)| *how == what);
        match (at("dropped"), delivered || at("delivered").is_some()) {
            (Some((step, _)), _) => Some(format!("dropped at {step}")),
            (None, true) => Some("delivered".to_owned()),
            (None, false) => Some(at("filtered").map_or_else(
                || "ends without an effect".to_owned(),
                |(step, _)| format!("filtered at {step}"),
            )),
        }
    }

    /// What the flow does with the message before its first step: its keys, its claim, its place in an order.
    fn lets_in(&mut self, plan: &Plan, message: &Message) {
        let mut message = message.clone();
        // What is wrong with it is found on the way.
        if admission::find_keys(plan, &mut message).is_err() {
            return;
        }
        let once = admission::once(plan, &message);
        let chains = admission::chains(plan, &message).into_iter();
        let chains: Vec<String> = chains
            .map(|chain| format!("{} {}", chain.scope, chain.key))
            .collect();
        let document = json!({
            "keys": *message.keys,
            "once": once.map(|claim| json!({ "scope": claim.scope, "key": claim.key })),
            "order": chains,
        });
        let fields = differences::fields(&Bytes::from(document.to_string()));
        self.puts((Arc::from(DOOR), Arc::from(""), "accepts"), fields);
    }

    fn puts(
        &mut self,
        (step, item, what): (Arc<str>, Arc<str>, &'static str),
        fields: BTreeMap<String, String>,
    ) {
        let mut place = (step, item, what, 0);
        while self.outputs.contains_key(&place) {
            place.3 += 1;
        }
        self.outputs.insert(place, fields);
    }

    /// Whether there may be more of it than was followed.
    fn is_cut_off(&self) -> bool {
        !(self.failed.is_empty() && self.unknown.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_list_items_have_one_name() {
        for (path, name) in [
            ("body.lines[0].sku", "body.lines[].sku"),
            ("[12][3].a", "[][].a"),
            ("body.a", "body.a"),
            ("a[x", "a[x"),
        ] {
            assert_eq!(general(path), name);
        }
    }

    #[test]
    fn a_number_in_another_writing_is_told_from_another_number() {
        for (a, b, same) in [
            ("19.90", "19.9", true),
            (r#""19.90""#, r#""19.9""#, true),
            ("19.90", "19.91", false),
            ("19.9", r#""19.9""#, false),
            (r#""a""#, r#""b""#, false),
            ("9007199254740993", "9007199254740992", false),
            ("1e2", "100", true),
        ] {
            assert_eq!(same_number(a, b), same, "{a} {b}");
        }
    }
}
