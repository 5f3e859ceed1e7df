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
use crate::run::recompute::{Act, Machine, Recomputed, Recorded};
use crate::store::commit::DOOR;

/// So many differences of one message are looked at.
const FOUND_MAX: usize = 200;
/// How much of a text is shown, in characters.
const SHOWN_MAX: usize = 200;
/// How much room the fields of one side may take, in bytes.
const FIELDS_MAX: usize = 64 << 20;
/// The room of a field beside its texts.
const FIELD_ROOM: usize = 64;

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
    /// Where it fails: the step, the part of the message, the class, and the words.
    failed: BTreeMap<(Arc<str>, Arc<str>, Class), String>,
    /// Where it cannot be followed, and why.
    unknown: BTreeMap<Arc<str>, String>,
    /// How it ends, where that is known.
    end: Option<String>,
    /// How much room its outputs take.
    room: usize,
}

/// Compares what both sides make of a message.
pub(super) fn compare(sides: &Sides, message: &Message, recorded: &Recorded) -> Compared {
    let mut message = message.clone();
    if message.id == message.root {
        // Its keys and its version are those that what runs has found: the candidate looks for its own.
        message.keys = Arc::new(Names::default());
        message.guards = Arc::default();
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
    let (mut quoted, mut escaped, mut number) = (false, false, false);
    for letter in path.chars() {
        number &= letter.is_ascii_digit();
        if number {
            continue;
        }
        general.push(letter);
        quoted ^= letter == '"' && !escaped;
        escaped = quoted && letter == '\\' && !escaped;
        number = letter == '[' && !quoted;
    }
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
            // What comes after the point to which it was followed is not missing. A failure is an end that is known.
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
        let failed = failed.map(|((step, _, class), words)| (step.clone(), *class, words.clone()));
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

/// What another flow gets beside the body.
fn handed(act: &Act) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut put = |kind: &str, name: &str, document: &Bytes| {
        let inner = differences::fields(document);
        fields.extend(inner.into_iter().map(|(path, value)| match &*path {
            "" => (format!("{kind}.{name}"), value),
            path if path.starts_with('[') => (format!("{kind}.{name}{path}"), value),
            path => (format!("{kind}.{name}.{path}"), value),
        }));
    };
    for (name, value) in act.headers.iter() {
        put(
            "headers",
            &differences::named(name),
            &Bytes::from(json!(value).to_string()),
        );
    }
    for (name, value) in act.variables.iter() {
        put("variables", &differences::named(name), value.bytes());
    }
    fields
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
            if one.what == "hands" {
                fields.extend(handed(&one));
            }
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
                    .insert((stopped.step, stopped.item, stopped.why.class), words),
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
        if let Some((step, _, class)) = self.failed.keys().next() {
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
        // The same: without a version that could be found it fails.
        let version = admission::version(plan, &mut message).unwrap_or_default();
        let version = version.map(|sighting| sighting.guard.version);
        let once = admission::once(plan, &message).map(|claim| {
            json!({
                "scope": claim.scope, "key": claim.key, "keep_ms": claim.keep_ms, "changed": format!("{:?}", claim.changed).to_lowercase(),
                "version": version,
            })
        });
        let chains = admission::chains(plan, &message).into_iter();
        let chains: Vec<_> = chains
            .map(|chain| json!({ "of": format!("{} {}", chain.scope, chain.key), "pass": chain.pass }))
            .collect();
        let document = json!({
            "keys": *message.keys,
            "once": once,
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
        let room = fields.iter();
        let room = room.map(|(path, value)| path.len() + value.len() + FIELD_ROOM);
        self.room += room.sum::<usize>();
        if self.room > FIELDS_MAX {
            let why = "it sends too many fields to be compared";
            self.unknown.insert(step, why.to_owned());
            return;
        }
        let mut place = (step, item, what, 0);
        while self.outputs.contains_key(&place) {
            place.3 += 1;
        }
        self.outputs.insert(place, fields);
    }

    /// Whether there may be more of it than was followed.
    fn is_cut_off(&self) -> bool {
        !self.unknown.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::message::MessageId;
    use crate::world::{World, disk};

    /// A side: a flow with these parts beside its name and its source.
    fn side(parts: &str) -> (Arc<Project>, Arc<Plan>) {
        let folder = tempfile::tempdir().unwrap();
        for (flow, parts) in [
            ("orders", parts),
            ("other", "sinks: { lost: { discard: {} } }\n"),
        ] {
            let path = folder.path().join(format!("flows/{flow}.yaml"));
            disk::make_folder(path.parent().unwrap()).unwrap();
            let text = format!("flow: {flow}\nsource: {{ flow: {{}} }}\n{parts}");
            disk::write_atomic(&path, text.as_bytes()).unwrap();
        }
        let loaded = crate::flow::load(folder.path(), &World::real());
        let findings = loaded.findings;
        let project = loaded.project.unwrap_or_else(|| panic!("{findings:?}"));
        let plan = project.plans["orders"].clone();
        (Arc::new(project), plan)
    }

    fn tried(base: &str, candidate: &str, body: &str) -> Compared {
        let sides = Sides {
            base: side(base),
            candidate: side(candidate),
        };
        let body = Body::new(Bytes::copy_from_slice(body.as_bytes()));
        let message = Message::new(MessageId(7), 1, body);
        compare(&sides, &message, &Recorded::default())
    }

    fn found(compared: &Compared) -> Vec<(&str, &str, &str)> {
        let found = compared.found.iter();
        let mut found: Vec<_> = found
            .map(|one| (&*one.step, one.what, &*one.path))
            .collect();
        found.sort();
        found
    }

    /// Lines become rows: `more` are steps behind the split.
    fn lines(more: &str) -> String {
        format!(
            "keys: {{ order: number }}
steps:
  - id: lines
    split: {{ items: lines, key: sku }}
{more}
sinks:
  out: {{ file: {{ path: out.jsonl, format: jsonl }} }}
"
        )
    }

    const LINES: &str = r#"{"number":"A1","lines":[
        {"sku":"a","q":"1","r":"1"},{"sku":"b","q":"x","r":"2"},{"sku":"c","q":"3","r":"x"}]}"#;

    #[test]
    fn a_part_that_fails_hides_nothing_of_the_others() {
        let same = lines("  - id: row\n    set: { body: \"{sku: sku, q: q}\" }");
        let number = lines("  - id: row\n    set: { body: \"{sku: sku, q: decimal(q)}\" }");
        let some = lines(
            "  - id: some\n    filter: sku != 'c'\n  - id: row\n    set: { body: \"{sku: sku, q: decimal(q)}\" }",
        );
        // Line b fails in the candidate alone.
        let compared = tried(&same, &number, LINES);
        assert_eq!(
            found(&compared),
            [
                ("out", "changed", "body.q"),
                ("out", "less", ""),
                ("row", "fails", "mapping")
            ]
        );
        assert!(compared.fails && !compared.cut_short);
        // It fails on both sides, and the candidate drops line c.
        let compared = tried(&number, &some, LINES);
        assert_eq!(found(&compared), [("out", "less", "")]);
        assert!(!compared.fails && !compared.cut_short);
        // Another line fails, at the same step and with the same class.
        let other = number.replace("decimal(q)}", "decimal(r)}");
        let compared = tried(&number, &other, LINES);
        assert_eq!(
            found(&compared),
            [
                ("out", "less", ""),
                ("out", "more", ""),
                ("row", "fails", "mapping"),
                ("row", "outcome", "mapping")
            ]
        );
        assert_eq!(tried(&number, &number, LINES), Compared::default());
    }

    #[test]
    fn what_is_too_much_is_not_comparable() {
        let flow = lines("");
        let many: Vec<_> = (0..10_000).map(|n| json!({ "sku": n })).collect();
        let long = "x".repeat(1 << 20);
        let large: Vec<_> = (0..20).map(|n| json!({ "sku": n, "note": long })).collect();
        for (lines, part) in [(many, "too many stages"), (large, "too much")] {
            let body = json!({ "number": "A1", "lines": lines }).to_string();
            let compared = tried(&flow, &flow, &body);
            assert_eq!(found(&compared), [("@accept", "not_comparable", "")]);
            assert!(compared.cut_short);
            let was = compared.found[0].was.as_deref().unwrap();
            assert!(was.contains(part), "{was}");
        }
    }

    #[test]
    fn what_a_flow_asks_of_repeats_and_order_is_compared() {
        let flow = |once: &str, pass: &str| {
            format!(
                "keys: {{ order: number }}
once: {{ key: order, {once} }}
order_by: {{ key: order, on_exception: {pass} }}
sinks:
  out: {{ file: {{ path: out.jsonl, format: jsonl }} }}
"
            )
        };
        let base = flow("changed: ignore, keep: 5d", "hold");
        let newest = flow("changed: newest, version: changed_at, keep: 6d", "pass");
        let body = r#"{"number":"A1","changed_at":7}"#;
        let compared = tried(&base, &newest, body);
        assert_eq!(
            found(&compared),
            [
                ("@accept", "changed", "once.changed"),
                ("@accept", "changed", "once.keep_ms"),
                ("@accept", "changed", "once.version"),
                ("@accept", "changed", "order[0].pass"),
            ]
        );
        // Without the version it is not let in.
        let compared = tried(&base, &newest, r#"{"number":"A1"}"#);
        assert!(compared.fails, "{compared:?}");
        assert!(found(&compared).contains(&("out", "less", "")));
    }

    #[test]
    fn what_another_flow_gets_is_more_than_the_body() {
        let flow = |value: &str| {
            format!(
                "steps:
  - id: mark
    set: {{ variables: {{ region: \"{value}\" }} }}
sinks:
  booking: {{ flow: other }}
"
            )
        };
        let compared = tried(
            &flow("{code: 'n'}"),
            &flow("{code: 's'}"),
            r#"{"number":"A1"}"#,
        );
        assert_eq!(
            found(&compared),
            [("booking", "changed", "variables.region.code")]
        );
    }

    #[test]
    fn fields_of_list_items_have_one_name() {
        for (path, name) in [
            ("body.lines[0].sku", "body.lines[].sku"),
            ("[12][3].a", "[][].a"),
            ("body.a", "body.a"),
            ("a[x", "a[x"),
            (r#"a[3]."b[1]\"[2]"[4]"#, r#"a[]."b[1]\"[2]"[]"#),
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
