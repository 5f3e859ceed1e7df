//! A flow's file -> its plan: the head, the source, then steps, sinks and routes in the order in which they can be understood.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;

use super::entry;
use super::fragments::{self, Fragment};
use super::order;
use super::parts;
use super::personal;
use super::sinks;
use super::steps::{self, Draft};
use super::types::asked::Asked;
use super::types::{self, Track};
use super::{Cx, Known, Source, names};
use crate::component::codes as part_codes;
use crate::component::common::Common;
use crate::component::words::Duration;
use crate::diagnostic::{Findings, Place, Severity, Span, closest};
use crate::flow::codes;
use crate::flow::file::{Accepts, Flow, OnBreach, OnChanged};
use crate::flow::plan::{self, Plan, Prints};
use crate::flow::shapes::{self, Role};
use crate::source::{Ready, SourceKind, codes as source_codes};
use crate::store::commit::Changed;
use crate::yaml::{Data, Key, Node};

/// How long a key is remembered where a flow says nothing.
pub(crate) const KEEP: Duration = Duration {
    ms: 30 * 24 * 3_600_000,
};

/// How long senders of webhooks repeat a delivery that was not answered, and operators send one again by hand.
const REPEATED: Duration = Duration {
    ms: 7 * 24 * 3_600_000,
};

/// What a flow's check gives.
pub(crate) struct Checked {
    /// The plan, if nothing is wrong.
    pub(crate) plan: Option<Arc<Plan>>,
    /// The flow's name, if it has one.
    pub(crate) name: Option<(String, Place)>,
    /// The kind of its source, also if the source is broken.
    pub(crate) source_kind: Option<&'static str>,
    /// What only one flow may have, with its place.
    pub(crate) binding: Option<(String, Place)>,
    /// Where the source stands.
    pub(crate) source_place: Place,
    /// The flows that it hands over to, each with the place that says so.
    pub(crate) hands_over: Vec<(String, Place)>,
    /// The keys by which it awaits messages of other flows.
    pub(crate) awaits: Vec<steps::AwaitedKey>,
    /// Its own keys, if they could be read.
    pub(crate) keys: Option<BTreeSet<String>>,
    /// The fragments that it shows.
    pub(crate) fragments: BTreeSet<String>,
    /// The mappings whose expressions were looked at where it uses them.
    pub(crate) mappings: BTreeSet<String>,
    /// Whether a part of it could not be read, so that it may hand over to more flows.
    pub(crate) partial: bool,
    /// The places of secrets.
    pub(crate) secrets: Vec<Span>,
    /// The type that somebody asked for, in words, and of what.
    pub(crate) asked: Option<(Span, String)>,
    /// What is wrong.
    pub(crate) findings: Findings,
}

/// Checks a fragment that no flow shows: its parameters could be anything.
pub(crate) fn check_fragment(known: &Known, name: &str, fragment: &Fragment) -> Findings {
    let mut cx = context(known, fragment.source());
    cx.variables_uncertain = true;
    cx.keys_uncertain = true;
    cx.lost.insert("sinks".to_owned());
    cx.fragments.push(name.to_owned());
    let node = &fragment.source().node;
    let mut draft = Draft::new(BTreeSet::new());
    cx.missing.extend(fragments::open_places(node));
    if let Some(steps) = node.get("steps") {
        steps::sequence(&mut cx, &mut draft, steps);
    }
    if let Some((key, sink)) = node.entry("sink") {
        sinks::sink(&mut cx, &mut draft, sink, key);
    }
    sinks::failures(&mut cx, &mut draft, &sinks::Sinks::default());
    cx.findings
}

/// What the passes over one file share, at the beginning.
fn context<'k>(known: &'k Known, source: &Source) -> Cx<'k> {
    let node = &source.node;
    Cx {
        known,
        file: source.file.clone(),
        missing: source.missing.clone(),
        flow: Arc::from(node.get("flow").and_then(Node::as_text).unwrap_or_default()),
        high: matches!(
            node.get("criticality").and_then(Node::as_text),
            Some("high" | "critical")
        ),
        accepts: None,
        contract: None,
        typed: Track::default(),
        variables: BTreeSet::new(),
        variables_uncertain: false,
        keys: BTreeSet::new(),
        keys_uncertain: false,
        used_at: None,
        fragments: Vec::new(),
        lost: source.lost_keys(),
        secrets: Vec::new(),
        asked: None,
        findings: Findings::new(),
        shown: BTreeSet::new(),
    }
}

/// Checks one flow.
pub(crate) fn check(known: &Known, source: &Source) -> Checked {
    checked(context(known, source), source)
}

/// The expression at a byte of a flow's file and its type in words, where that is known.
pub(crate) fn type_at(known: &Known, source: &Source, at: usize) -> Option<(Span, String)> {
    let mut cx = context(known, source);
    cx.asked = Some(Asked::at(at));
    checked(cx, source).asked
}

fn checked(mut cx: Cx<'_>, source: &Source) -> Checked {
    let node = &source.node;
    note_keys(&mut cx, node);
    // The shape of the routes is looked at before the steps have bound anything.
    cx.variables_uncertain = true;
    let head = head(&mut cx, node);
    cx.variables_uncertain = cx.lost.contains("steps");
    let name = node.get("flow").and_then(|at| {
        let name = names::usable(&mut cx, "flow", at)?;
        Some((name.to_owned(), at.place(&cx.file)))
    });
    let accepts = accepts(&mut cx, &head, node);
    cx.accepts = accepts.as_ref().map(|accepts| accepts.schema.clone());
    cx.contract = accepts
        .as_ref()
        .filter(|_| !cx.lost.contains("steps"))
        .map(|accepts| accepts.name.to_string());
    let keys = keys(&mut cx, node);
    types::begin(&mut cx, node);
    process(&mut cx, &head, node);
    let (source_kind, ready) = read_source(&mut cx, node);
    let mut draft = Draft::new(chosen_ids(node));
    body(&mut cx, &mut draft, node);
    let once = once(&mut cx, &head, node, &draft, ready.as_ref());
    let order = order::check(&mut cx, &head, node);
    let personal = personal::check(&mut cx, node);
    overlap(&mut cx, node, ready.as_ref());
    unheard_refusal(&mut cx, node, accepts.as_ref(), ready.as_ref());
    let source_place = source_place(&cx, node);
    let high = cx.high;
    let mut checked = Checked {
        plan: None,
        name,
        source_kind,
        binding: binding(&cx, node, ready.as_ref()),
        source_place,
        hands_over: std::mem::take(&mut draft.hands_over),
        awaits: std::mem::take(&mut draft.awaits),
        keys: (!cx.keys_uncertain).then_some(cx.keys),
        fragments: cx.shown,
        mappings: cx.typed.mappings,
        partial: !source.lost.is_empty(),
        secrets: cx.secrets,
        asked: cx.asked.and_then(Asked::words),
        findings: cx.findings,
    };
    if let (false, Some((name, _)), Some(source)) =
        (checked.findings.has_errors(), &checked.name, ready)
    {
        draft.close_arms();
        checked.plan = Some(Arc::new(Plan {
            flow: Arc::from(name.as_str()),
            revision: Arc::from(""),
            prints: Prints::default(),
            tables: cx.known.library.tables.clone(),
            high,
            description: head.description.unwrap_or_default(),
            source,
            source_kind: source_kind.unwrap_or_default(),
            accepts,
            keys,
            once,
            order,
            personal: Arc::new(personal),
            nodes: draft.nodes,
            sagas: draft.sagas,
        }));
    }
    checked
}

fn source_place(cx: &Cx<'_>, node: &Node) -> Place {
    let source = node.entry("source");
    source.map_or_else(|| node.place(&cx.file), |(key, _)| cx.place(key.span))
}

/// A file or a schedule cannot be told that its body is refused: the body would be gone.
fn unheard_refusal(
    cx: &mut Cx<'_>,
    node: &Node,
    accepts: Option<&plan::Accepts>,
    ready: Option<&Ready>,
) {
    let answers = match ready {
        Some(Ready::Runs(source)) => source.answers(),
        Some(Ready::Flow) => false,
        None => true,
    };
    if answers || !accepts.is_some_and(|accepts| accepts.refuse) {
        return;
    }
    let span = node
        .find(&["accepts", "on_breach"])
        .map_or(Span::default(), |at| at.span);
    let message = "nobody hears this source refuse a body: what breaks the contract would be lost";
    let help = "leave `on_breach` out: a body that breaks the contract becomes an exception";
    cx.error(part_codes::CONFLICTING_SETTINGS, span, message, help);
}

/// Whether messages come in by an API.
fn is_api(node: &Node) -> bool {
    let source = node.get("source");
    source.is_some_and(|source| source.get("api").is_some())
}

/// An API says what it takes.
fn contract_of_api(cx: &mut Cx<'_>, node: &Node) {
    if !is_api(node) || node.get("accepts").is_some() || cx.lost.contains("accepts") {
        return;
    }
    let span = node.entry("source").map_or(node.span, |(key, _)| key.span);
    let message = "this API does not say which bodies it takes";
    let help = "add `accepts: NAME` with a schema of the project: callers find it in the OpenAPI document, and bodies that break it are refused";
    cx.error(source_codes::API_WITHOUT_CONTRACT, span, message, help);
}

/// The names under `keys`, before anything is looked at.
fn note_keys(cx: &mut Cx<'_>, node: &Node) {
    if let Some(keys) = node.get("keys") {
        let names = keys.entries().iter().map(|(key, _)| key.text.clone());
        cx.keys = names.collect();
        cx.keys_uncertain = !matches!(keys.data, Data::Map(_));
    }
    cx.keys_uncertain |= cx.lost.contains("keys");
}

/// What only one flow may have, such as a webhook's path, with its place.
fn binding(cx: &Cx<'_>, node: &Node, ready: Option<&Ready>) -> Option<(String, Place)> {
    let Some(Ready::Runs(source)) = ready else {
        return None;
    };
    let binding = source.binding()?;
    let (key, config) = node.get("source")?.entries().first()?;
    let span = config.get("path").map_or(key.span, |path| path.span);
    Some((binding, cx.place(span)))
}

/// A source that brings things again needs `once`.
fn overlap(cx: &mut Cx<'_>, node: &Node, ready: Option<&Ready>) {
    let overlaps = matches!(ready, Some(Ready::Runs(source)) if source.overlaps());
    let Some((key, config)) = node
        .get("source")
        .and_then(|source| source.entries().first())
    else {
        return;
    };
    if overlaps && node.get("once").is_none() && !cx.lost.contains("once") {
        let cursor = config
            .find(&["cursor", "overlap"])
            .or_else(|| config.get("overlap"));
        let span = cursor.map_or(key.span, |overlap| overlap.span);
        let message = "the source reads some things twice by design, and the flow has no `once` that knows them again";
        let help = "add `keys` and `once: { key: .. }`";
        cx.error(codes::OVERLAP_WITHOUT_ONCE, span, message, help);
    }
}

/// Checks the shape of all but the entries, and reads the fields that are sound.
fn head(cx: &mut Cx<'_>, node: &Node) -> Flow {
    let Data::Map(entries) = &node.data else {
        let found = entry::check(cx, shapes::flow(), node);
        for finding in found.iter() {
            cx.report(finding.clone());
        }
        return Flow::default();
    };
    let mut known: Vec<(Key, Node)> = entries.clone();
    // What could not be read is not missing.
    for (name, kind) in [
        ("source", Data::Null),
        ("sinks", Data::Null),
        ("flow", lost_text()),
    ] {
        if cx.lost.contains(name) && node.get(name).is_none() {
            let span = Span::default();
            let text = name.to_owned();
            known.push((Key { text, span }, Node { span, data: kind }));
        }
    }
    let node = Node {
        span: node.span,
        data: Data::Map(known),
    };
    let found = entry::check(cx, shapes::flow(), &node);
    let mut object = serde_json::Map::new();
    for (key, value) in node.entries() {
        let broken = found.iter().any(|finding| {
            let span = finding.place.span;
            finding.severity == Severity::Error
                && (span == key.span
                    || (value.span.start <= span.start && span.end <= value.span.end))
        });
        if !broken && !["steps", "source", "sinks", "routes"].contains(&key.text.as_str()) {
            object.insert(key.text.clone(), value.to_json());
        }
    }
    // A list of arms has a finding of its own, which says more.
    let routes = node
        .get("routes")
        .filter(|routes| matches!(routes.data, Data::List(_)));
    for finding in found.iter() {
        if routes.is_none_or(|routes| finding.place.span.start != routes.span.start) {
            cx.report(finding.clone());
        }
    }
    Flow::deserialize(serde_json::Value::Object(object)).unwrap_or_default()
}

/// Stands for a text that could not be read.
fn lost_text() -> Data {
    Data::Text(crate::yaml::Text {
        value: "lost".to_owned(),
        style: crate::yaml::Style::Variable,
    })
}

/// The contract of arriving bodies.
fn accepts(cx: &mut Cx<'_>, head: &Flow, node: &Node) -> Option<plan::Accepts> {
    contract_of_api(cx, node);
    let at = node.get("accepts")?;
    let at = at.get("schema").unwrap_or(at);
    let name = at.as_text().filter(|_| !cx.holds_missing(at.span))?;
    let on_breach = match &head.accepts {
        Some(Accepts::Contract(contract)) => contract.on_breach,
        _ => None,
    };
    // Who calls an API waits for the answer and mends the body; other senders give up, and the body would be lost.
    let refuse = match on_breach {
        Some(on_breach) => on_breach == OnBreach::Refuse,
        None => is_api(node),
    };
    let common = Common::default();
    let schema = cx.with_build(at, &common, |build| build.schema(&[], name))?;
    Some(plan::Accepts {
        name: Arc::from(name),
        schema,
        refuse,
    })
}

/// The business keys.
fn keys(cx: &mut Cx<'_>, node: &Node) -> Vec<(Arc<str>, crate::expression::Expression)> {
    let mut keys = Vec::new();
    for (key, value) in node.get("keys").map_or(&[][..], Node::entries) {
        if let Some(fault) = names::fault(&key.text) {
            let message = format!("`{}` cannot be the name of a key", key.text);
            cx.error(codes::BAD_NAME, key.span, message, fault);
        }
        if let Some(expression) = cx.expression(value) {
            keys.push((Arc::from(key.text.as_str()), expression));
        }
    }
    keys
}

/// The process, if the project has any.
fn process(cx: &mut Cx<'_>, head: &Flow, node: &Node) {
    let (Some(name), Some(at), Some(known)) =
        (&head.process, node.get("process"), &cx.known.processes)
    else {
        return;
    };
    if !known.contains(name) {
        let known: Vec<String> = known.iter().cloned().collect();
        let help = part_codes::names_help("process", name, &known, "processes/");
        let message = format!("there is no process `{name}`");
        cx.error(codes::UNKNOWN_PROCESS, at.span, message, help);
    }
}

/// How repeats are known.
fn once(
    cx: &mut Cx<'_>,
    head: &Flow,
    node: &Node,
    draft: &Draft,
    ready: Option<&Ready>,
) -> Option<plan::Once> {
    let at = node.get("once")?;
    key_of(cx, node, at.get("key"), "once");
    let once = head.once.as_ref()?;
    let keep = once.keep.unwrap_or(KEEP);
    if let Some((window, place)) = draft
        .window
        .as_ref()
        .filter(|(window, _)| *window > keep.ms)
    {
        let unit = match *window {
            ms if ms < 7_200_000 => 60_000,
            ms if ms < 259_200_000 => 3_600_000,
            _ => 86_400_000,
        };
        let hours = Duration {
            ms: window.div_ceil(unit) * unit,
        };
        let span = at.get("keep").unwrap_or(at).span;
        let message = format!(
            "`keep` ({keep}) is shorter than the retries of a step may take ({hours}): a repeat that comes later would not be known"
        );
        let place = place.clone();
        let finding =
            crate::diagnostic::Diagnostic::error(codes::KEEP_TOO_SHORT, cx.place(span), message)
                .help(format!(
                    "keep at least {hours}, or retry for a shorter time"
                ))
                .related(place, "retried for so long");
        cx.report(finding);
    } else if keep.ms < REPEATED.ms
        && matches!(ready, Some(Ready::Runs(source)) if source.answers())
    {
        let span = at.get("keep").unwrap_or(at).span;
        let message = format!(
            "`keep` ({keep}) is shorter than senders repeat what they got no answer to ({REPEATED}): a late repeat would not be known"
        );
        let help = format!("keep at least {REPEATED}");
        cx.warning(codes::KEEP_TOO_SHORT, span, message, help);
    }
    let version = once_version(cx, once.changed, at);
    let scope = once.scope.as_deref().unwrap_or(&cx.flow);
    Some(plan::Once {
        key: Arc::from(once.key.as_str()),
        scope: Arc::from(scope),
        keep_ms: i64::try_from(keep.ms).unwrap_or(i64::MAX),
        changed: match once.changed {
            Some(OnChanged::Ignore) => Changed::Ignore,
            Some(OnChanged::Newest) => Changed::Newest,
            Some(OnChanged::Exception) | None => Changed::Exception,
        },
        version,
    })
}

/// The version by which a changed repeat is judged: given with `changed: newest`, and only then.
fn once_version(
    cx: &mut Cx<'_>,
    changed: Option<OnChanged>,
    once: &Node,
) -> Option<crate::expression::Expression> {
    let newest = changed == Some(OnChanged::Newest);
    match once.entry("version") {
        Some((_, version)) if newest => cx.expression(version),
        Some((key, _)) => {
            let message = "`version` has no effect without `changed: newest`";
            let help = "add `changed: newest`, or leave `version` out";
            cx.error(codes::MEANINGLESS_KEY, key.span, message, help);
            None
        }
        None if newest => {
            let span = once.get("changed").unwrap_or(once).span;
            let message = "`changed: newest` needs to know what is newer";
            let help =
                "add `version:` with the expression that gives the version, such as `updated_at`";
            cx.error(codes::VERSION_MISSING, span, message, help);
            None
        }
        None => None,
    }
}

/// The key that `once` or `order_by` names must be one of the flow's.
pub(super) fn key_of(cx: &mut Cx<'_>, node: &Node, key: Option<&Node>, by: &str) {
    let Some((at, name)) = key.and_then(|at| Some((at, at.as_text()?))) else {
        return;
    };
    if node.get("keys").is_none() && !cx.lost.contains("keys") {
        let message = format!("`{by}` names the key `{name}`, and the flow declares no keys");
        let help = format!("add `keys: {{ {name}: .. }}` with the expression that gives it");
        cx.error(codes::ONCE_WITHOUT_KEYS, at.span, message, help);
    } else if !cx.keys.contains(name) && !cx.keys_uncertain {
        let known: Vec<String> = cx.keys.iter().cloned().collect();
        let help = match closest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys of this flow are: {}", known.join(", ")),
        };
        let message = format!("the flow declares no key `{name}`");
        cx.error(part_codes::UNKNOWN_KEY, at.span, message, help);
    }
}

/// The source: its kind if it has one, and the ready source if it is sound.
fn read_source(cx: &mut Cx<'_>, node: &Node) -> (Option<&'static str>, Option<Ready>) {
    let Some((key, source)) = node.entry("source") else {
        return (None, None);
    };
    if source.get("use").is_some() {
        let message = "fragments are for steps and sinks; a source is written out";
        cx.error(
            codes::UNKNOWN_KIND,
            key.span,
            message,
            entry::kinds_help(Role::Source),
        );
        return (None, None);
    }
    let Some(entry) = entry::read(cx, Role::Source, source, key.span) else {
        return (None, None);
    };
    let ready = parts::ready::<SourceKind>(cx, &entry);
    (Some(entry.kind), ready)
}

/// Steps, routes and sinks.
fn body(cx: &mut Cx<'_>, draft: &mut Draft, node: &Node) {
    if let Some(steps) = node.get("steps") {
        steps::sequence(cx, draft, steps);
    }
    let sinks_entry = node.entry("sinks");
    let routes = node.entry("routes");
    let mut sinks = sinks::declared(cx, sinks_entry.map(|(_, sinks)| sinks));
    // The route stands before the sinks, as in the file; its arms are filled when the sinks are known.
    let route = routes.map(|_| {
        let at = draft.push(steps::route_node(
            "routes",
            "route",
            plan::Route::default(),
            cx.known.retry,
        ));
        draft.open.clear();
        at
    });
    types::routes(cx, routes.map(|(_, routes)| routes));
    if let Some((key, node)) = sinks_entry {
        // What routes and sinks see is the same: what all steps have bound.
        sinks::all(cx, draft, &mut sinks, node, key);
    }
    let mut reached = match (routes, route) {
        (Some((key, routes)), Some(at)) => sinks::lead(cx, draft, &sinks, (key, routes), at),
        _ => {
            let key = sinks_entry.map(|(key, _)| key);
            let target = sinks::only(cx, &sinks, key.filter(|_| !cx.lost.contains("routes")));
            for open in std::mem::take(&mut draft.open) {
                draft.nodes[open].next = target;
            }
            sinks.names.clone()
        }
    };
    reached.extend(sinks::failures(cx, draft, &sinks));
    let unsure = ["steps", "routes", "sinks"]
        .iter()
        .any(|key| cx.lost.contains(*key));
    if let Some((_, routes)) = routes
        && matches!(routes.data, Data::Map(_))
        && !unsure
    {
        sinks::unused(cx, &sinks, &reached);
    }
}

/// The ids that the file itself gives to steps and sinks.
fn chosen_ids(node: &Node) -> BTreeSet<String> {
    let mut ids: BTreeSet<String> = node
        .get("sinks")
        .map_or(&[][..], Node::entries)
        .iter()
        .map(|(key, _)| key.text.clone())
        .collect();
    ids.insert("routes".to_owned());
    if let Some(steps) = node.get("steps") {
        step_ids(steps, &mut ids);
    }
    ids
}

fn step_ids(steps: &Node, ids: &mut BTreeSet<String>) {
    for step in steps.items() {
        if let Some(id) = step.get("id").and_then(Node::as_text) {
            ids.insert(id.to_owned());
        }
        if let Some(steps) = step.find(&["saga", "steps"]) {
            step_ids(steps, ids);
        }
        for arm in step.get("branch").map_or(&[][..], Node::items) {
            if let Some(steps) = arm
                .get("steps")
                .or_else(|| arm.find(&["otherwise", "steps"]))
            {
                step_ids(steps, ids);
            }
        }
    }
}
