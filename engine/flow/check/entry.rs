//! One entry of `steps` or `sinks`, or the `source`: its kind, the keys beside it, and their shape.

use std::cell::RefCell;

use serde::Deserialize;
use serde_json::Value;

use super::Cx;
use super::words::Words;
use crate::component::codes as part_codes;
use crate::component::common::Common;
use crate::diagnostic::{Findings, Severity, Span, closest};
use crate::flow::codes;
use crate::flow::shapes::{self, Role};
use crate::yaml::shape;
use crate::yaml::{Data, Key, Node};

/// An entry whose kind is known.
pub(crate) struct Entry<'n> {
    /// The kind.
    pub(crate) kind: &'static str,
    /// The key that is the kind.
    pub(crate) key: &'n Key,
    /// What stands behind it.
    pub(crate) config: &'n Node,
    /// The whole entry.
    pub(crate) node: &'n Node,
    /// The keys beside the kind, without those that are broken.
    pub(crate) common: Common,
    /// Whether the config has the right shape, so that it can be built.
    pub(crate) sound: bool,
}

impl Entry<'_> {
    /// The key and the value of a key beside the kind.
    pub(crate) fn beside(&self, name: &str) -> Option<(&Key, &Node)> {
        self.node.entry(name)
    }
}

/// Finds out what an entry is and checks its shape. `None` if it has no kind that exists, with findings.
pub(crate) fn read<'n>(
    cx: &mut Cx<'_>,
    role: Role,
    node: &'n Node,
    owner: Span,
) -> Option<Entry<'n>> {
    let Data::Map(entries) = &node.data else {
        not_an_entry(cx, role, node, owner);
        return None;
    };
    let sorted = Sorted::of(role, entries);
    let kind = sorted.kind(cx, role, node, owner)?;
    sorted.strangers(cx, role, &kind);
    let (name, key, config) = kind;
    let misplaced = misplaced(cx, role, name, config);
    let broken = shape_of(cx, role, name, &sorted, (key, config), node);
    let common = common(cx, &sorted, &broken);
    Some(Entry {
        kind: name,
        key,
        config,
        node,
        common,
        sound: !misplaced && !broken.contains(&key.span) && !cx.holds_missing(config.span),
    })
}

/// The keys of an entry, by what they are.
struct Sorted<'n> {
    kinds: Vec<(&'static str, &'n Key, &'n Node)>,
    common: Vec<&'n (Key, Node)>,
    later: Vec<&'n Key>,
    strange: Vec<&'n (Key, Node)>,
}

impl<'n> Sorted<'n> {
    fn of(role: Role, entries: &'n [(Key, Node)]) -> Sorted<'n> {
        let common_keys = shapes::common_keys();
        let mut sorted = Sorted {
            kinds: Vec::new(),
            common: Vec::new(),
            later: Vec::new(),
            strange: Vec::new(),
        };
        for entry in entries {
            let (key, node) = entry;
            let name = key.text.as_str();
            let kind = role.kinds().iter().find(|kind| kind.name == name);
            if let Some(kind) = kind {
                sorted.kinds.push((kind.name, key, node));
            } else if role != Role::Source && common_keys.contains(&name) {
                sorted.common.push(entry);
            } else if role.later().contains(&name)
                || (role != Role::Source && shapes::COMMON_LATER.contains(&name))
            {
                sorted.later.push(key);
            } else {
                sorted.strange.push(entry);
            }
        }
        sorted
    }

    /// The one kind of the entry, with findings if there is none or more than one.
    fn kind(
        &self,
        cx: &mut Cx<'_>,
        role: Role,
        node: &'n Node,
        owner: Span,
    ) -> Option<(&'static str, &'n Key, &'n Node)> {
        for key in &self.later {
            let message = format!("`{}` does not exist in this version", key.text);
            let help = if role.later().contains(&key.text.as_str()) {
                kinds_help(role)
            } else {
                "leave it out".to_owned()
            };
            cx.error(codes::NOT_YET, key.span, message, help);
        }
        match self.kinds.as_slice() {
            [only] => Some(*only),
            [first, second, ..] => {
                let message = format!(
                    "`{}` and `{}` are both kinds of {}s; an entry has one",
                    first.0,
                    second.0,
                    role.noun()
                );
                let help = match role {
                    Role::Step => "make it two steps: begin the second one with `- `".to_owned(),
                    Role::Sink => "make it two sinks, each with a name".to_owned(),
                    Role::Source => "keep one; a flow has one source".to_owned(),
                };
                cx.error(codes::TWO_KINDS, second.1.span, message, help);
                None
            }
            [] if self
                .later
                .iter()
                .any(|key| role.later().contains(&key.text.as_str())) =>
            {
                None
            }
            [] => {
                self.no_kind(cx, role, node, owner);
                None
            }
        }
    }

    fn no_kind(&self, cx: &mut Cx<'_>, role: Role, node: &Node, owner: Span) {
        let noun = role.noun();
        if let Some((key, value)) = self
            .strange
            .iter()
            .find(|(key, _)| key.text == "type" || key.text == "kind")
        {
            let kind = value.as_text().unwrap_or("map");
            let message = format!("a {noun} is keyed by its kind, it has no `{}`", key.text);
            let help = format!("write `{kind}: ..`, with the settings under it");
            return cx.error(codes::NO_KIND, key.span, message, help);
        }
        let names = || role.kinds().iter().map(|kind| kind.name);
        let meant = self
            .strange
            .iter()
            .find_map(|(key, _)| Some((key, closest(&key.text, names())?)))
            .map(|(key, near)| (key, format!("did you mean `{near}`?")))
            .or_else(|| {
                let (key, _) = self
                    .strange
                    .iter()
                    .find(|(key, _)| !self.is_field_of_all(role, &key.text))?;
                Some((
                    key,
                    elsewhere(role, &key.text).unwrap_or_else(|| kinds_help(role)),
                ))
            });
        match meant {
            Some((key, help)) => {
                let message = format!("there is no {noun} `{}`", key.text);
                cx.error(codes::UNKNOWN_KIND, key.span, message, help);
            }
            None => {
                let span = node.entries().first().map_or(owner, |(key, _)| key.span);
                let message = format!("this {noun} does not say what it is");
                cx.error(codes::NO_KIND, span, message, kinds_help(role));
            }
        }
    }

    /// Whether a key is a misspelt common key rather than a kind.
    fn is_field_of_all(&self, role: Role, name: &str) -> bool {
        role != Role::Source && closest(name, shapes::common_keys()).is_some()
    }

    /// Keys that are neither the kind nor one of those beside it.
    fn strangers(
        &self,
        cx: &mut Cx<'_>,
        role: Role,
        (kind, _, _): &(&'static str, &'n Key, &'n Node),
    ) {
        let free: Vec<&str> = match role {
            Role::Source => Vec::new(),
            _ => shapes::common_keys()
                .into_iter()
                .filter(|name| self.common.iter().all(|(key, _)| key.text != *name))
                .collect(),
        };
        let fields = shapes::fields_of(role, kind);
        for (key, _) in &self.strange {
            let name = key.text.as_str();
            if fields.contains(&name) {
                let message = format!("`{name}` belongs inside `{kind}`");
                let help = format!("indent it below `{kind}:`");
                cx.error(codes::MISPLACED_KEY, key.span, message, help);
                continue;
            }
            let help = if let Some(near) = closest(name, free.iter().copied()) {
                format!("did you mean `{near}`?")
            } else if name == "with" {
                "`with` stands beside `use`".to_owned()
            } else if role == Role::Source {
                format!("beside `{kind}` nothing may stand; its settings stand below it")
            } else {
                format!(
                    "beside `{kind}` there may be: {}",
                    shapes::common_keys().join(", ")
                )
            };
            let message = format!("unknown key `{name}` beside `{kind}`");
            cx.error(shape::codes::UNKNOWN_FIELD, key.span, message, help);
        }
    }
}

/// Reports keys inside the config that belong beside the kind; says whether there are any.
fn misplaced(cx: &mut Cx<'_>, role: Role, kind: &str, config: &Node) -> bool {
    let fields = shapes::fields_of(role, kind);
    if role == Role::Source || fields.is_empty() {
        return false;
    }
    let known = shapes::common_keys();
    let mut any = false;
    for (key, _) in config.entries() {
        let name = key.text.as_str();
        if known.contains(&name) && !fields.contains(&name) {
            let message = format!("`{name}` stands inside `{kind}` and belongs beside it");
            let help = format!("move it out, to the column of `{kind}`");
            cx.error(codes::MISPLACED_KEY, key.span, message, help);
            any = true;
        }
    }
    any
}

/// Checks the shape of the kind's config and of the keys beside it; gives the keys whose values are broken.
fn shape_of(
    cx: &mut Cx<'_>,
    role: Role,
    kind: &str,
    sorted: &Sorted<'_>,
    (key, config): (&Key, &Node),
    node: &Node,
) -> Vec<Span> {
    let Some(shape) = role.shape(kind) else {
        return vec![key.span];
    };
    let mut entries: Vec<(Key, Node)> =
        sorted.common.iter().map(|entry| (*entry).clone()).collect();
    entries.push((key.clone(), without_misplaced(role, kind, config)));
    let whole = Node {
        span: node.span,
        data: Data::Map(entries),
    };
    let findings = check(cx, shape, &whole);
    let mut broken = Vec::new();
    for (key, value) in whole.entries() {
        let wrong = findings.iter().any(|finding| {
            let span = finding.place.span;
            finding.severity == Severity::Error
                // A secret in the open can be used; it must not.
                && finding.code != codes::LITERAL_SECRET
                && (span == key.span
                    || (value.span.start <= span.start && span.end <= value.span.end))
        });
        if wrong {
            broken.push(key.span);
        }
    }
    for finding in findings.iter() {
        cx.report(finding.clone());
    }
    broken
}

/// The config without the keys that belong beside it: they are told already.
fn without_misplaced(role: Role, kind: &str, config: &Node) -> Node {
    let fields = shapes::fields_of(role, kind);
    let known = shapes::common_keys();
    match &config.data {
        Data::Map(entries) if role != Role::Source && !fields.is_empty() => Node {
            span: config.span,
            data: Data::Map(
                entries
                    .iter()
                    .filter(|(key, _)| {
                        let name = key.text.as_str();
                        fields.contains(&name) || !known.contains(&name)
                    })
                    .cloned()
                    .collect(),
            ),
        },
        _ => config.clone(),
    }
}

/// Checks a tree against a shape, with the words that stand in it; what is found is not yet reported.
pub(crate) fn check(cx: &mut Cx<'_>, shape: &Value, node: &Node) -> Findings {
    let secrets = RefCell::new(std::mem::take(&mut cx.secrets));
    let mut findings = Findings::new();
    let words = Words {
        variables: (!cx.variables_uncertain).then_some(&cx.variables),
        keys: &cx.keys,
        tables: &cx.known.library.tables,
        missing: &cx.missing,
        secrets: &secrets,
    };
    shape::check_with(shape, node, &cx.file, &words, &mut findings);
    cx.secrets = secrets.into_inner();
    findings
}

/// The keys beside the kind, without the broken ones.
fn common(cx: &mut Cx<'_>, sorted: &Sorted<'_>, broken: &[Span]) -> Common {
    let mut object = serde_json::Map::new();
    for (key, value) in &sorted.common {
        if broken.contains(&key.span) || cx.holds_missing(value.span) {
            continue;
        }
        let mut value = value.clone();
        if key.text == "on_failure" {
            keep_known_classes(cx, &mut value);
        }
        let one = serde_json::json!({ key.text.as_str(): value.to_json() });
        // A word that the schema cannot tell is told here, one key at a time.
        match Common::deserialize(one) {
            Ok(_) => {
                object.insert(key.text.clone(), value.to_json());
            }
            Err(error) => cx.error(part_codes::BAD_VALUE, value.span, error.to_string(), ""),
        }
    }
    Common::deserialize(Value::Object(object)).unwrap_or_default()
}

/// Reports failure classes that do not exist, and leaves them out.
fn keep_known_classes(cx: &mut Cx<'_>, node: &mut Node) {
    let Data::Map(entries) = &mut node.data else {
        return;
    };
    entries.retain(|(key, _)| {
        if crate::failure::Class::from_name(&key.text).is_some() {
            return true;
        }
        let names = crate::failure::Class::ALL.map(crate::failure::Class::name);
        let help = match closest(&key.text, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the classes are: {}", names.join(", ")),
        };
        let message = format!("there is no failure class `{}`", key.text);
        cx.error(codes::UNKNOWN_CLASS, key.span, message, help);
        false
    });
}

/// An entry that is no mapping: a bare word, a list, nothing.
fn not_an_entry(cx: &mut Cx<'_>, role: Role, node: &Node, owner: Span) {
    let noun = role.noun();
    let known = node
        .as_text()
        .and_then(|text| role.kinds().iter().find(|kind| kind.name == text));
    let help = match known {
        Some(kind) => format!("write it as a mapping: {{ {}: .. }}", kind.name),
        None => kinds_help(role),
    };
    let nothing = matches!(node.data, Data::Null);
    let span = if nothing { owner } else { first_line(cx, node) };
    let found = match &node.data {
        Data::Null => "nothing",
        Data::List(_) => "a list",
        Data::Text(_) => "a text",
        _ => "a value",
    };
    let message = format!("a {noun} is a mapping with its kind as a key, found {found}");
    cx.error(shape::codes::WRONG_TYPE, span, message, help);
}

/// The first line of a value, where the whole would be too much to show.
pub(crate) fn first_line(cx: &Cx<'_>, node: &Node) -> Span {
    let text = cx
        .file
        .text
        .get(node.span.start..node.span.end)
        .unwrap_or_default();
    let length = text.lines().next().map_or(0, str::len);
    Span::new(node.span.start, node.span.start + length)
}

/// Where a kind exists, if not here.
fn elsewhere(role: Role, name: &str) -> Option<String> {
    [Role::Source, Role::Step, Role::Sink]
        .into_iter()
        .filter(|other| *other != role)
        .find(|other| other.kinds().iter().any(|kind| kind.name == name))
        .map(|other| {
            let kinds: Vec<_> = role.kinds().iter().map(|kind| kind.name).collect();
            format!(
                "`{name}` is a {}; the {}s are: {}",
                other.noun(),
                role.noun(),
                kinds.join(", ")
            )
        })
}

/// What kinds there are.
pub(crate) fn kinds_help(role: Role) -> String {
    let mut names: Vec<_> = role.kinds().iter().map(|kind| kind.name).collect();
    if role == Role::Step {
        names.push("branch");
        names.push("saga");
        names.push("use");
    }
    format!("the {}s are: {}", role.noun(), names.join(", "))
}
