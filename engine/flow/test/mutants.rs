//! Small mistakes, one at a time, put into flows, mappings and systems: a test should fail at each. It finds and makes them; it runs nothing.

use std::path::Path;
use std::sync::Arc;

use crate::diagnostic::{File, Findings, Place};
use crate::flow::folder::Folder;
use crate::flow::workspace::Texts;
use crate::yaml::{self, Data, Node};

/// Operators, and what stands in their place.
const OPERATORS: &[(&str, &str)] = &[
    ("||", "&&"),
    ("&&", "||"),
    ("==", "!="),
    ("!=", "=="),
    (">=", "<"),
    ("<=", ">"),
    (" > ", " <= "),
    (" < ", " >= "),
];
/// The verbs of requests.
const VERBS: &[&str] = &["get", "post", "put", "patch", "delete"];
/// What keeps a flow safe or bounded, and may be left out by mistake.
const SAFETY: &[&str] = &[
    "accepts",
    "once",
    "idempotency_key",
    "on_failure",
    "order_by",
];

/// A mistake.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Where it is made.
    pub place: Place,
    /// What is done, in a few words.
    pub words: String,
    path: Vec<String>,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    /// The entry is left out.
    Drop,
    /// It says something else.
    Say(Data),
    /// Two entries change places.
    Swap(Vec<String>),
}

impl Mutant {
    /// Makes the mistake in the tree of this file, if it is the one.
    pub fn apply(&self, file: &str, node: &mut Node) {
        if *file != *self.place.file.path {
            return;
        }
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        match &self.change {
            Change::Drop => {
                if let Some((last, above)) = path.split_last()
                    && let Some(above) = find_mut(node, above)
                {
                    match &mut above.data {
                        Data::Map(entries) => entries.retain(|(key, _)| key.text != *last),
                        Data::List(items) => {
                            if let Ok(nth) = last.parse::<usize>()
                                && nth < items.len()
                            {
                                items.remove(nth);
                            }
                        }
                        _ => {}
                    }
                }
            }
            Change::Say(data) => {
                if let Some(at) = find_mut(node, &path) {
                    at.data = data.clone();
                }
            }
            Change::Swap(other) => {
                let other: Vec<&str> = other.iter().map(String::as_str).collect();
                let (Some(one), Some(two)) =
                    (node.find(&path).cloned(), node.find(&other).cloned())
                else {
                    return;
                };
                if let Some(at) = find_mut(node, &path) {
                    *at = two;
                }
                if let Some(at) = find_mut(node, &other) {
                    *at = one;
                }
            }
        }
    }
}

fn find_mut<'n>(node: &'n mut Node, path: &[&str]) -> Option<&'n mut Node> {
    let mut at = node;
    for part in path {
        at = match &mut at.data {
            Data::List(items) => items.get_mut(part.parse::<usize>().ok()?)?,
            Data::Map(entries) => &mut entries.iter_mut().find(|(key, _)| key.text == *part)?.1,
            _ => return None,
        };
    }
    Some(at)
}

/// All mistakes that can be made in the project of a folder, in the order of its files.
pub fn mutants(root: &Path) -> Vec<Mutant> {
    let mut aside = Findings::new();
    let folder = Folder::read(root, &Texts::new(), None, &mut aside);
    let mut all = Vec::new();
    for (files, kind) in [
        (&folder.flows, Kind::Flow),
        (&folder.fragments, Kind::Flow),
        (&folder.mappings, Kind::Mapping),
        (&folder.systems, Kind::System),
    ] {
        for file in files {
            let Some(node) = yaml::parse(file, &mut aside) else {
                continue;
            };
            let mut making = Making {
                file,
                all: &mut all,
            };
            match kind {
                Kind::Flow => making.flow(&node),
                Kind::Mapping => making.mapping(&node),
                Kind::System => making.system(&node),
            }
        }
    }
    all
}

#[derive(Clone, Copy)]
enum Kind {
    Flow,
    Mapping,
    System,
}

struct Making<'a> {
    file: &'a Arc<File>,
    all: &'a mut Vec<Mutant>,
}

impl Making<'_> {
    fn flow(&mut self, node: &Node) {
        for (key, value) in node.entries() {
            let path = vec![key.text.clone()];
            match key.text.as_str() {
                "steps" => self.steps(value, &path),
                "routes" => self.routes(value, &path),
                "sinks" => {
                    for (name, sink) in value.entries() {
                        let path = joined(&path, &name.text);
                        self.entry(sink, &path);
                    }
                }
                "sink" => self.entry(value, &path),
                "accepts" | "once" | "order_by" => {
                    self.drop(value, &path, format!("`{}` is left out", key.text));
                }
                _ => {}
            }
        }
    }

    fn steps(&mut self, node: &Node, path: &[String]) {
        for (nth, step) in node.items().iter().enumerate() {
            let path = [path, &[nth.to_string()]].concat();
            let named = step.get("id").and_then(Node::as_text);
            let named = named.map_or_else(|| nth.to_string(), |id| format!("`{id}`"));
            self.drop(step, &path, format!("the step {named} is left out"));
            self.entry(step, &path);
        }
    }

    /// A step or a sink, with what stands in it.
    fn entry(&mut self, node: &Node, path: &[String]) {
        for (key, value) in node.entries() {
            let name = key.text.as_str();
            let path = joined(path, &key.text);
            match (name, &value.data) {
                ("when" | "filter" | "applied", Data::Text(_)) => self.condition(value, &path),
                ("branch", Data::List(arms)) => {
                    for (nth, arm) in arms.iter().enumerate() {
                        let path = [&path[..], &[nth.to_string()]].concat();
                        self.entry(arm, &path);
                    }
                }
                ("steps", Data::List(_)) => self.steps(value, &path),
                ("attempts", Data::Number(text)) if text != "1" => {
                    let once = Data::Number("1".to_owned());
                    self.say(value, &path, once, "there is one attempt only".to_owned());
                }
                (verb, Data::Text(text)) if VERBS.contains(&verb) => {
                    let data = said(&text.value, "/elsewhere");
                    let words = format!("the path is `{}/elsewhere`", text.value);
                    self.say(value, &path, data, words);
                }
                (name, data) => {
                    // What says no more than what holds without it cannot be missed.
                    let default = name == "on_failure"
                        && value
                            .entries()
                            .iter()
                            .all(|(_, what)| what.as_text() == Some("exception"));
                    if SAFETY.contains(&name) && !default {
                        self.drop(value, &path, format!("`{name}` is left out"));
                    }
                    if matches!(data, Data::Map(_)) {
                        self.entry(value, &path);
                    }
                }
            }
        }
    }

    fn routes(&mut self, node: &Node, path: &[String]) {
        let Some((kind, arms)) = node
            .entries()
            .iter()
            .find(|(key, _)| ["first", "all"].contains(&key.text.as_str()))
        else {
            return;
        };
        let path = joined(path, &kind.text);
        let target = |arm: &Node| {
            ["to", "otherwise"]
                .into_iter()
                .find(|key| arm.get(key).is_some())
        };
        let mut before: Option<Vec<String>> = None;
        for (nth, arm) in arms.items().iter().enumerate() {
            let at = [&path[..], &[nth.to_string()]].concat();
            self.drop(arm, &at, "the route is left out".to_owned());
            if let Some(when) = arm.get("when") {
                self.condition(when, &[&at[..], &["when".to_owned()]].concat());
            }
            let Some(key) = target(arm) else { continue };
            let to = [&at[..], &[key.to_owned()]].concat();
            if let (Some(before), Some(node)) = (&before, arm.get(key)) {
                self.all.push(Mutant {
                    place: node.place(self.file),
                    words: "the route goes where the one before it goes, and the other way round"
                        .to_owned(),
                    path: to.clone(),
                    change: Change::Swap(before.clone()),
                });
            }
            before = Some(to);
        }
    }

    fn condition(&mut self, node: &Node, path: &[String]) {
        let Some(text) = node.as_text() else { return };
        let data = plain(&format!("!({text})"));
        self.say(node, path, data, format!("`{text}` is negated"));
        self.operators(node, path);
    }

    /// Each operator of an expression once.
    fn operators(&mut self, node: &Node, path: &[String]) {
        let Some(text) = node.as_text() else { return };
        for (from, to) in OPERATORS {
            for (at, _) in text.match_indices(from) {
                // `>=` holds a `>`, and what stands in quotes is no operator.
                let quoted = text[..at].matches('\'').count() % 2 == 1;
                if quoted {
                    continue;
                }
                let other = format!("{}{to}{}", &text[..at], &text[at + from.len()..]);
                let words = format!("`{}` is `{}`", from.trim(), to.trim());
                self.say(node, path, plain(&other), words);
            }
        }
    }

    fn mapping(&mut self, node: &Node) {
        for (key, value) in node.entries() {
            let path = vec![key.text.clone()];
            match key.text.as_str() {
                "fields" => self.fields(value, &path),
                "let" => {
                    for (name, inner) in value.entries() {
                        self.operators(inner, &joined(&path, &name.text));
                    }
                }
                _ => {}
            }
        }
    }

    fn fields(&mut self, node: &Node, path: &[String]) {
        for (key, value) in node.entries() {
            let path = joined(path, &key.text);
            self.drop(
                value,
                &path,
                format!("the field `{}` is left out", key.text),
            );
            self.leaf(value, &path);
        }
    }

    fn leaf(&mut self, value: &Node, path: &[String]) {
        match &value.data {
            Data::Map(_) if value.get("each").is_some() || value.get("fields").is_some() => {
                for (key, inner) in value.entries() {
                    let path = joined(path, &key.text);
                    match key.text.as_str() {
                        "fields" => self.fields(inner, &path),
                        _ => self.operators(inner, &path),
                    }
                }
            }
            Data::Map(_) => self.fields(value, path),
            Data::List(items) => {
                for (nth, item) in items.iter().enumerate() {
                    let path = [path, &[nth.to_string()]].concat();
                    self.leaf(item, &path);
                }
            }
            Data::Text(text) => {
                let inner = text
                    .value
                    .strip_prefix('\'')
                    .and_then(|rest| rest.strip_suffix('\''));
                if let Some(constant) = inner.filter(|inner| !inner.contains('\'')) {
                    let data = plain(&format!("'{constant}~'"));
                    self.say(value, path, data, format!("the constant is `{constant}~`"));
                } else {
                    self.operators(value, path);
                }
            }
            Data::Bool(truth) => {
                let words = format!("the constant is {}", !truth);
                self.say(value, path, Data::Bool(!truth), words);
            }
            Data::Number(text) => {
                let words = format!("the constant is 1{text}");
                self.say(value, path, Data::Number(format!("1{text}")), words);
            }
            Data::Null => {}
        }
    }

    fn system(&mut self, node: &Node) {
        for (key, value) in node.get("failures").map_or(&[][..], Node::entries) {
            let path = ["failures".to_owned(), key.text.clone()];
            let other = match value.as_text() {
                Some("not_found") => "validation",
                _ => "not_found",
            };
            let words = format!("the status {} is `{other}`", key.text);
            self.say(value, &path, plain(other), words);
        }
    }

    fn drop(&mut self, node: &Node, path: &[String], words: String) {
        self.push(node, path, Change::Drop, words);
    }

    fn say(&mut self, node: &Node, path: &[String], data: Data, words: String) {
        self.push(node, path, Change::Say(data), words);
    }

    fn push(&mut self, node: &Node, path: &[String], change: Change, words: String) {
        self.all.push(Mutant {
            place: node.place(self.file),
            words,
            path: path.to_vec(),
            change,
        });
    }
}

fn joined(path: &[String], key: &str) -> Vec<String> {
    let mut path = path.to_vec();
    path.push(key.to_owned());
    path
}

fn plain(text: &str) -> Data {
    Data::Text(yaml::Text {
        value: text.to_owned(),
        style: yaml::Style::Parameter,
    })
}

fn said(text: &str, more: &str) -> Data {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let query = match query {
        "" => String::new(),
        query => format!("?{query}"),
    };
    plain(&format!("{path}{more}{query}"))
}
