//! Fragments: their files, and `use` with its parameters. What is wrong inside names both places.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::steps::{self, Draft};
use super::{Cx, Source, condition, entry, names, sinks, types};
use crate::component::codes as part_codes;
use crate::component::words::Duration;
use crate::diagnostic::{Diagnostic, File, Findings, Place, Severity, Span, closest};
use crate::expression::Expression;
use crate::flow::codes;
use crate::flow::file::ParameterKind;
use crate::flow::shapes::{self, Role};
use crate::flow::substitute;
use crate::yaml::shape;
use crate::yaml::{Data, Key, Node};

/// A fragment that flows can use.
pub(crate) struct Fragment {
    source: Source,
    parameters: BTreeMap<String, Parameter>,
}

impl Fragment {
    /// Its file.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}

/// The places of values that hold a parameter: nothing is known of them.
pub(crate) fn open_places(node: &Node) -> Vec<Span> {
    match &node.data {
        Data::List(items) => items.iter().flat_map(open_places).collect(),
        Data::Map(entries) => entries
            .iter()
            .flat_map(|(_, value)| open_places(value))
            .collect(),
        Data::Text(text) if text.value.contains("${param:") => vec![node.span],
        _ => Vec::new(),
    }
}

struct Parameter {
    kind: ParameterKind,
    default: Option<Node>,
}

/// Reads a fragment's file. The name is there if it has one, even if the rest is broken.
pub(crate) fn read(
    source: Source,
    findings: &mut Findings,
) -> (Option<(String, Place)>, Option<Fragment>) {
    let file = source.file.clone();
    let mut found = Findings::new();
    shape::check(shapes::fragment(), &source.node, &file, &mut found);
    let node = &source.node;
    let name = node
        .get("fragment")
        .and_then(|at| Some((at.as_text()?.to_owned(), at.place(&file))));
    if let Some((name, place)) = &name
        && let Some(fault) = names::fault(name)
    {
        let message = format!("`{name}` cannot be the name of a fragment");
        found.push(Diagnostic::error(codes::BAD_NAME, place.clone(), message).help(fault));
    }
    let whole = node.get("fragment").map_or(node.span, |at| at.span);
    match (node.entry("steps"), node.entry("sink")) {
        (Some(_), Some((key, _))) => {
            let place = Place {
                file: file.clone(),
                span: key.span,
            };
            let message = "a fragment has `steps` or a `sink`, not both";
            found.push(
                Diagnostic::error(part_codes::CONFLICTING_SETTINGS, place, message)
                    .help("make it two fragments"),
            );
        }
        (None, None) if matches!(node.data, Data::Map(_)) && !found.has_errors() => {
            let place = Place {
                file: file.clone(),
                span: whole,
            };
            let message = "the fragment has neither `steps` nor a `sink`";
            found.push(
                Diagnostic::error(shape::codes::MISSING_FIELD, place, message)
                    .help("add one of them"),
            );
        }
        _ => {}
    }
    let parameters = parameters(node);
    used_parameters(&file, node, &parameters, &mut found);
    let broken = found.iter().any(|finding| {
        finding.severity == Severity::Error && finding.code != codes::UNKNOWN_PARAMETER
    });
    findings.extend(found);
    let fragment = (!broken).then_some(Fragment { source, parameters });
    (name, fragment)
}

fn parameters(node: &Node) -> BTreeMap<String, Parameter> {
    let mut all = BTreeMap::new();
    for (key, value) in node.get("parameters").map_or(&[][..], Node::entries) {
        let Some(kind) = value.get("type") else {
            continue;
        };
        if let Ok(kind) = ParameterKind::deserialize(kind.to_json()) {
            let default = value.get("default").cloned();
            all.insert(key.text.clone(), Parameter { kind, default });
        }
    }
    all
}

/// Parameters that are used and not declared, and the other way round.
fn used_parameters(
    file: &Arc<File>,
    node: &Node,
    parameters: &BTreeMap<String, Parameter>,
    findings: &mut Findings,
) {
    let declared: Vec<&(Key, Node)> = node
        .get("parameters")
        .map_or(&[][..], Node::entries)
        .iter()
        .collect();
    let mut used = BTreeSet::new();
    for part in ["steps", "sink"] {
        let Some(part) = node.get(part) else { continue };
        let mut unknown = |_: &Node, name: &str, span: Span| {
            used.insert(name.to_owned());
            if declared.iter().any(|(key, _)| key.text == name) {
                return;
            }
            let help = match closest(name, declared.iter().map(|(key, _)| key.text.as_str())) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("declare it: `parameters: {{ {name}: {{ type: text }} }}`"),
            };
            let place = Place {
                file: file.clone(),
                span,
            };
            let message = format!("the fragment declares no parameter `{name}`");
            findings.push(Diagnostic::error(codes::UNKNOWN_PARAMETER, place, message).help(help));
        };
        substitute::parameters(&mut part.clone(), &BTreeMap::new(), &mut unknown, file);
    }
    let any = node.get("steps").is_some() || node.get("sink").is_some();
    for (key, _) in declared {
        if any && parameters.contains_key(&key.text) && !used.contains(&key.text) {
            let place = Place {
                file: file.clone(),
                span: key.span,
            };
            let message = format!("the parameter `{}` is not used", key.text);
            let help = format!("use it as `${{param:{}}}`, or remove it", key.text);
            findings.push(Diagnostic::warning(codes::UNUSED_PARAMETER, place, message).help(help));
        }
    }
}

/// `use` in `steps`.
pub(crate) fn used_step(cx: &mut Cx<'_>, draft: &mut Draft, node: &Node) {
    let sound = beside(cx, node, &["use", "with", "id", "when"]);
    let Some(used) = node.get("use") else { return };
    let condition = node
        .get("when")
        .and_then(|when| condition::condition(cx, when));
    let Some((name, body)) = used_body(cx, node, used, "steps").filter(|_| sound) else {
        cx.variables_uncertain = true;
        cx.contract = None;
        return;
    };
    if cycle(cx, used, &name) {
        return;
    }
    let prefix = node
        .get("id")
        .and_then(Node::as_text)
        .unwrap_or(&name)
        .to_owned();
    let place = cx.place(node.get("id").unwrap_or(used).span);
    let mut findings = Findings::new();
    draft.ids.declare(&prefix, place, &mut findings);
    for finding in findings.iter() {
        let help = format!(
            "`{prefix}` stands before the ids of the fragment's steps: give each `use` an `id` of its own"
        );
        cx.report(finding.clone().help(help));
    }
    let inside = |cx: &mut Cx<'_>, draft: &mut Draft| {
        steps::with_prefix(draft, &prefix, |draft| {
            within(cx, used, &name, |cx| steps::sequence(cx, draft, &body));
        });
    };
    let contract = cx.contract.clone();
    match condition {
        Some(condition) => {
            types::condition(cx, node.get("when"));
            let typed = cx.typed.state.clone();
            steps::guarded(cx, draft, &prefix, condition, inside);
            let end = cx.typed.state.take();
            types::join(cx, typed, &[end]);
            cx.contract = contract.filter(|before| cx.contract.as_ref() == Some(before));
        }
        None => inside(cx, draft),
    }
}

/// `use` in `sinks`.
pub(crate) fn used_sink(
    cx: &mut Cx<'_>,
    draft: &mut Draft,
    node: &Node,
    key: &Key,
) -> Option<usize> {
    let sound = beside(cx, node, &["use", "with"]);
    let used = node.get("use")?;
    let (name, body) = used_body(cx, node, used, "sink").filter(|_| sound)?;
    within(cx, used, &name, |cx| sinks::sink(cx, draft, &body, key)).flatten()
}

/// Keys beside `use` that mean nothing there.
fn beside(cx: &mut Cx<'_>, node: &Node, known: &[&str]) -> bool {
    let mut sound = true;
    for (key, value) in node.entries() {
        let name = key.text.as_str();
        if known.contains(&name) {
            continue;
        }
        sound = false;
        let kinds = [Role::Step, Role::Sink];
        if kinds
            .iter()
            .any(|role| role.kinds().iter().any(|kind| kind.name == name))
        {
            let message =
                format!("`use` and `{name}` stand in one entry; an entry has one of them");
            cx.error(codes::TWO_KINDS, key.span, message, "make it two entries");
        } else if shapes::common_keys().contains(&name) {
            let message =
                format!("`{name}` has no effect on `use`: the fragment's entries have their own");
            cx.error(
                codes::MEANINGLESS_KEY,
                key.span,
                message,
                "make it a parameter of the fragment",
            );
        } else {
            let help = match closest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!(
                    "beside `use` there may be: {}; parameters stand below `with`",
                    known.join(", ")
                ),
            };
            let message = format!("unknown key `{name}` beside `use`");
            cx.error(shape::codes::UNKNOWN_FIELD, key.span, message, help);
        }
        let _: &Node = value;
    }
    let found = {
        let entries = node
            .entries()
            .iter()
            .filter(|(key, _)| known.contains(&key.text.as_str()));
        let node = Node {
            span: node.span,
            data: Data::Map(entries.cloned().collect()),
        };
        entry::check(cx, shapes::use_entry(), &node)
    };
    for finding in found.iter() {
        cx.report(finding.clone());
    }
    sound && !found.has_errors()
}

/// The fragment's name, and its steps or its sink with the parameters put in.
fn used_body(cx: &mut Cx<'_>, node: &Node, used: &Node, part: &str) -> Option<(String, Node)> {
    let name = used.as_text()?;
    let known = cx.known;
    let Some(fragment) = known.fragments.get(name) else {
        if !known.broken_fragments.contains(name) {
            let names: Vec<String> = known.fragments.keys().cloned().collect();
            let help = part_codes::names_help("fragment", name, &names, "flows/fragments/");
            let message = format!("there is no fragment `{name}`");
            cx.error(codes::UNKNOWN_FRAGMENT, used.span, message, help);
        }
        return None;
    };
    let given = given(cx, node, used, name, fragment)?;
    let Some(body) = fragment.source.node.get(part) else {
        let (is, there) = if part == "sink" {
            ("steps", "steps")
        } else {
            ("a sink", "sinks")
        };
        let message = format!("the fragment `{name}` is {is}");
        let help = format!("use it in `{there}`");
        cx.error(codes::UNKNOWN_FRAGMENT, used.span, message, help);
        return None;
    };
    let mut body = body.clone();
    substitute::parameters(&mut body, &given, &mut |_, _, _| {}, &fragment.source.file);
    Some((name.to_owned(), body))
}

/// The values of the fragment's parameters; `None` if one is wrong, with findings.
fn given(
    cx: &mut Cx<'_>,
    node: &Node,
    used: &Node,
    name: &str,
    fragment: &Fragment,
) -> Option<BTreeMap<String, Node>> {
    let mut values = BTreeMap::new();
    let mut sound = true;
    let with = node.get("with").map_or(&[][..], Node::entries);
    let mut meant: Vec<&str> = Vec::new();
    for (key, value) in with {
        let Some(parameter) = fragment.parameters.get(&key.text) else {
            let free = fragment.parameters.keys().map(String::as_str);
            let near = closest(
                &key.text,
                free.filter(|name| with.iter().all(|(key, _)| key.text != *name)),
            );
            meant.extend(near);
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None if fragment.parameters.is_empty() => "it has no parameters".to_owned(),
                None => {
                    let names: Vec<&str> = fragment.parameters.keys().map(String::as_str).collect();
                    format!("its parameters are: {}", names.join(", "))
                }
            };
            let message = format!("the fragment `{name}` has no parameter `{}`", key.text);
            cx.error(codes::UNKNOWN_PARAMETER, key.span, message, help);
            sound = false;
            continue;
        };
        if fits(cx, parameter.kind, &key.text, value) {
            values.insert(key.text.clone(), value.clone());
        } else {
            sound = false;
        }
    }
    for (parameter, declared) in &fragment.parameters {
        if with.iter().any(|(key, _)| key.text == *parameter) || meant.contains(&parameter.as_str())
        {
            continue;
        }
        match &declared.default {
            Some(default) => {
                values.insert(parameter.clone(), default.clone());
            }
            None => {
                let message = format!("the fragment `{name}` needs the parameter `{parameter}`");
                let help = format!("add `with: {{ {parameter}: .. }}`");
                let span = node.entry("with").map_or(used.span, |(key, _)| key.span);
                cx.error(codes::MISSING_PARAMETER, span, message, help);
                sound = false;
            }
        }
    }
    sound.then_some(values)
}

/// Whether a value fits the type of its parameter; else a finding.
fn fits(cx: &mut Cx<'_>, kind: ParameterKind, name: &str, value: &Node) -> bool {
    if cx.holds_missing(value.span) {
        return false;
    }
    let expected = match (kind, &value.data) {
        (ParameterKind::Number, Data::Number(_)) | (ParameterKind::Boolean, Data::Bool(_)) => {
            return true;
        }
        (ParameterKind::Number, _) => "a number",
        (ParameterKind::Boolean, _) => "true or false",
        (_, Data::Text(text)) => return text_fits(cx, kind, name, value, &text.value),
        (ParameterKind::Text, _) => "a text",
        (ParameterKind::Expression, _) => "an expression",
        (ParameterKind::Duration, _) => "a length of time, such as `30s`",
        (ParameterKind::System, _) => "the name of a system",
        (ParameterKind::Mapping, _) => "the name of a mapping",
        (ParameterKind::Schema, _) => "the name of a schema",
        (ParameterKind::Flow, _) => "the name of a flow",
    };
    let span = entry::first_line(cx, value);
    let message = format!("the parameter `{name}` must be {expected}");
    cx.error(codes::WRONG_PARAMETER, span, message, "");
    false
}

fn text_fits(cx: &mut Cx<'_>, kind: ParameterKind, name: &str, value: &Node, text: &str) -> bool {
    let before = cx.findings.errors();
    let common = crate::component::common::Common::default();
    match kind {
        ParameterKind::Duration => {
            if let Err(wrong) = Duration::parse(text) {
                let (wrong, help) = wrong.split_once("; ").unwrap_or((&wrong, ""));
                let message = format!("the parameter `{name}` must be a length of time: {wrong}");
                cx.error(codes::WRONG_PARAMETER, value.span, message, help);
            }
        }
        ParameterKind::Expression => {
            // Variables may be bound inside of the fragment: only the expression itself is looked at here.
            if let Err(faults) = Expression::compile(text) {
                for fault in faults {
                    let span = value.span_within(&cx.file, fault.start, fault.end);
                    cx.error(
                        crate::expression::codes::of(fault.kind),
                        span,
                        fault.message,
                        fault.help,
                    );
                }
            }
        }
        ParameterKind::System => {
            cx.with_build(value, &common, |build| build.system(&[], text));
        }
        ParameterKind::Mapping => {
            cx.with_build(value, &common, |build| build.mapping(&[], text));
        }
        ParameterKind::Schema => {
            cx.with_build(value, &common, |build| build.schema(&[], text));
        }
        ParameterKind::Flow => {
            cx.with_build(value, &common, |build| build.flow_named(&[], text));
        }
        ParameterKind::Text | ParameterKind::Number | ParameterKind::Boolean => {}
    }
    cx.findings.errors() == before
}

/// Whether a fragment is used within itself; then a finding.
fn cycle(cx: &mut Cx<'_>, used: &Node, name: &str) -> bool {
    let within = cx.fragments.iter().any(|outer| outer == name);
    if within {
        let message = format!("the fragment `{name}` uses itself");
        cx.error(
            codes::FRAGMENT_CYCLE,
            used.span,
            message,
            "write the steps out",
        );
    }
    within
}

/// Lets `work` look at a fragment's entries: places are in its file, and findings name the place of the `use` too.
fn within<T>(
    cx: &mut Cx<'_>,
    used: &Node,
    name: &str,
    work: impl FnOnce(&mut Cx<'_>) -> T,
) -> Option<T> {
    let known = cx.known;
    let fragment = known.fragments.get(name)?;
    cx.fragments.push(name.to_owned());
    cx.shown.insert(name.to_owned());
    let before = cx.used_at.clone();
    if before.is_none() {
        cx.used_at = Some(cx.place(used.span));
    }
    let file = std::mem::replace(&mut cx.file, fragment.source.file.clone());
    let missing = std::mem::replace(&mut cx.missing, fragment.source.missing.clone());
    // Spans of secrets are of the flow's file.
    let secrets = std::mem::take(&mut cx.secrets);
    let result = work(cx);
    cx.secrets = secrets;
    cx.missing = missing;
    cx.file = file;
    cx.used_at = before;
    cx.fragments.pop();
    Some(result)
}
