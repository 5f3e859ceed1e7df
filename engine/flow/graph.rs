//! Plans as pictures: Mermaid and DOT, of one flow or of all of them, with the systems that they act on. It draws; it decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use super::plan::{Action, Node, OnFailure, Plan, Project, Route};

/// A picture: boxes and arrows.
struct Picture {
    /// Title of each group, and its boxes.
    groups: Vec<(String, Vec<Shape>)>,
    arrows: Vec<Arrow>,
    systems: BTreeSet<Arc<str>>,
}

struct Shape {
    id: String,
    label: String,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Source,
    Step,
    Choice,
    Sink,
}

struct Arrow {
    from: String,
    to: String,
    label: String,
    /// A failure, or what is not the main way.
    dashed: bool,
}

/// All flows of a project, as Mermaid.
pub fn mermaid(project: &Project) -> String {
    as_mermaid(&Picture::of(project.plans.values()))
}

/// One flow, as Mermaid.
pub fn mermaid_of(plan: &Arc<Plan>) -> String {
    as_mermaid(&Picture::of([plan]))
}

/// All flows of a project, as DOT.
pub fn dot(project: &Project) -> String {
    as_dot(&Picture::of(project.plans.values()))
}

/// One flow, as DOT.
pub fn dot_of(plan: &Arc<Plan>) -> String {
    as_dot(&Picture::of([plan]))
}

impl Picture {
    fn of<'p>(plans: impl IntoIterator<Item = &'p Arc<Plan>>) -> Picture {
        let mut picture = Picture {
            groups: Vec::new(),
            arrows: Vec::new(),
            systems: BTreeSet::new(),
        };
        let plans: Vec<&Arc<Plan>> = plans.into_iter().collect();
        let numbers: BTreeMap<&str, usize> = plans
            .iter()
            .enumerate()
            .map(|(number, plan)| (&*plan.flow, number))
            .collect();
        for (number, plan) in plans.iter().enumerate() {
            picture.flow(number, plan, &numbers);
        }
        picture
    }

    fn flow(&mut self, number: usize, plan: &Plan, numbers: &BTreeMap<&str, usize>) {
        let mut shapes = vec![Shape {
            id: source_id(number),
            label: plan.source_kind.to_owned(),
            form: Form::Source,
        }];
        if !plan.nodes.is_empty() {
            let accepts = plan.accepts.as_ref().map(|accepts| &accepts.name);
            self.carries(source_id(number), node_id(number, 0), "", accepts);
        }
        for (at, node) in plan.nodes.iter().enumerate() {
            shapes.push(Shape {
                id: node_id(number, at),
                label: label(node),
                form: form(node),
            });
            self.node(number, at, node, plan, numbers);
        }
        self.groups.push((plan.flow.to_string(), shapes));
    }

    fn node(
        &mut self,
        number: usize,
        at: usize,
        node: &Node,
        plan: &Plan,
        numbers: &BTreeMap<&str, usize>,
    ) {
        let from = node_id(number, at);
        match &node.action {
            Action::Route(route) => self.route(number, at, route, plan),
            _ => {
                if let Some(next) = node.next {
                    let to = node_id(number, next);
                    self.carries(from.clone(), to, "", node.keeps.as_ref());
                }
            }
        }
        for (class, choice) in &node.on_failure {
            if let OnFailure::To(to) = choice {
                self.arrow(
                    from.clone(),
                    node_id(number, *to),
                    class.name().to_owned(),
                    true,
                );
            }
        }
        if let Some(undo) = plan.saga(at).and_then(|saga| saga.step(at)?.undo) {
            self.arrow(from.clone(), node_id(number, undo), "undo".to_owned(), true);
        }
        if let Some(system) = &node.system {
            self.systems.insert(system.clone());
            self.arrow(from.clone(), system_id(system), String::new(), true);
        }
        let handed = match &node.action {
            Action::Flow(flow) => Some(flow),
            _ => node.hands_to.as_ref(),
        };
        if let Some(to) = handed.and_then(|flow| numbers.get(&**flow)) {
            let itself = numbers.get(&*plan.flow) == Some(to);
            let words = if itself { "again" } else { "" };
            self.arrow(from, source_id(*to), words.to_owned(), false);
        }
    }

    fn route(&mut self, number: usize, at: usize, route: &Route, plan: &Plan) {
        let from = node_id(number, at);
        let keeps = arrives(plan, at);
        for (when, targets) in &route.arms {
            for target in targets {
                let to = node_id(number, *target);
                self.carries(from.clone(), to, &shortened(when.text()), keeps.as_ref());
            }
        }
        let otherwise = match &route.otherwise {
            Some(targets) if !targets.is_empty() => targets.clone(),
            Some(_) => plan.nodes[at].next.into_iter().collect(),
            None => Vec::new(),
        };
        for target in otherwise {
            let to = node_id(number, target);
            self.carries(from.clone(), to, "otherwise", keeps.as_ref());
        }
    }

    /// An arrow that messages take, with the schema that their bodies keep to.
    fn carries(&mut self, from: String, to: String, words: &str, keeps: Option<&Arc<str>>) {
        let label = match (words, keeps) {
            (words, None) => words.to_owned(),
            ("", Some(keeps)) => keeps.to_string(),
            (words, Some(keeps)) => format!("{words}: {keeps}"),
        };
        self.arrow(from, to, label, false);
    }

    fn arrow(&mut self, from: String, to: String, label: String, dashed: bool) {
        self.arrows.push(Arrow {
            from,
            to,
            label,
            dashed,
        });
    }
}

/// The schema that bodies keep to when they come to a route: it leaves them as they are.
fn arrives(plan: &Plan, mut at: usize) -> Option<Arc<str>> {
    // Routes lead to nodes behind them only, so that this ends.
    for _ in 0..plan.nodes.len() {
        if at == 0 {
            return plan.accepts.as_ref().map(|accepts| accepts.name.clone());
        }
        let leads_here = |node: &Node| match &node.action {
            Action::Route(route) => {
                let all = route.arms.iter().flat_map(|(_, targets)| targets);
                all.chain(route.otherwise.iter().flatten())
                    .any(|to| *to == at)
            }
            _ => node.next == Some(at),
        };
        let before: Vec<usize> = (0..plan.nodes.len())
            .filter(|before| leads_here(&plan.nodes[*before]))
            .collect();
        match before.as_slice() {
            [one] if matches!(plan.nodes[*one].action, Action::Route(_)) => at = *one,
            [] => return None,
            all => {
                let keeps = plan.nodes[all[0]].keeps.clone();
                let same = all.iter().all(|one| plan.nodes[*one].keeps == keeps);
                return keeps.filter(|_| same);
            }
        }
    }
    None
}

fn source_id(flow: usize) -> String {
    format!("f{flow}")
}

fn node_id(flow: usize, at: usize) -> String {
    format!("f{flow}n{at}")
}

fn system_id(system: &str) -> String {
    let plain: String = system
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    format!("s_{plain}")
}

fn form(node: &Node) -> Form {
    match &node.action {
        Action::Route(_) => Form::Choice,
        _ if node.sink => Form::Sink,
        _ => Form::Step,
    }
}

/// The id, and the kind where it says more; the condition of a step that has one.
fn label(node: &Node) -> String {
    let mut label = node.id.to_string();
    if node.id.as_ref() != node.kind && !matches!(node.action, Action::Route(_)) {
        label = format!("{label}: {}", node.kind);
    }
    if let Some(when) = &node.when {
        label = format!("{label}, when {}", shortened(when.text()));
    }
    label
}

fn shortened(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(60) {
        Some((at, _)) => format!("{}..", &one_line[..at]),
        None => one_line,
    }
}

fn as_mermaid(picture: &Picture) -> String {
    let quoted = |text: &str| {
        let text = text
            .replace('&', "#amp;")
            .replace('"', "#quot;")
            .replace('<', "#lt;")
            .replace('>', "#gt;");
        format!("\"{text}\"")
    };
    let mut out = String::from("flowchart LR\n");
    for (number, (title, shapes)) in picture.groups.iter().enumerate() {
        line(
            &mut out,
            format_args!("  subgraph g{number} [{}]", quoted(title)),
        );
        for shape in shapes {
            let (open, close) = match shape.form {
                Form::Source => ("([", "])"),
                Form::Step => ("[", "]"),
                Form::Choice => ("{", "}"),
                Form::Sink => ("[/", "/]"),
            };
            line(
                &mut out,
                format_args!("    {}{open}{}{close}", shape.id, quoted(&shape.label)),
            );
        }
        line(&mut out, format_args!("  end"));
    }
    for system in &picture.systems {
        line(
            &mut out,
            format_args!("  {}[({})]", system_id(system), quoted(system)),
        );
    }
    for arrow in &picture.arrows {
        let head = if arrow.dashed { "-.->" } else { "-->" };
        let words = if arrow.label.is_empty() {
            String::new()
        } else {
            format!("|{}|", quoted(&arrow.label))
        };
        line(
            &mut out,
            format_args!("  {} {head}{words} {}", arrow.from, arrow.to),
        );
    }
    out
}

fn as_dot(picture: &Picture) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut out = String::from("digraph project {\n  rankdir=LR;\n  node [shape=box];\n");
    for (number, (title, shapes)) in picture.groups.iter().enumerate() {
        line(
            &mut out,
            format_args!(
                "  subgraph cluster_{number} {{\n    label={};",
                quoted(title)
            ),
        );
        for shape in shapes {
            let form = match shape.form {
                Form::Source => "oval",
                Form::Step => "box",
                Form::Choice => "diamond",
                Form::Sink => "parallelogram",
            };
            line(
                &mut out,
                format_args!(
                    "    {} [shape={form}, label={}];",
                    shape.id,
                    quoted(&shape.label)
                ),
            );
        }
        line(&mut out, format_args!("  }}"));
    }
    for system in &picture.systems {
        line(
            &mut out,
            format_args!(
                "  {} [shape=cylinder, label={}];",
                system_id(system),
                quoted(system)
            ),
        );
    }
    for arrow in &picture.arrows {
        let mut words = Vec::new();
        if !arrow.label.is_empty() {
            words.push(format!("label={}", quoted(&arrow.label)));
        }
        if arrow.dashed {
            words.push("style=dashed".to_owned());
        }
        let words = if words.is_empty() {
            String::new()
        } else {
            format!(" [{}]", words.join(", "))
        };
        line(
            &mut out,
            format_args!("  {} -> {}{words};", arrow.from, arrow.to),
        );
    }
    out.push_str("}\n");
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a text takes text");
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test lays out its project")]
mod tests {
    use super::*;

    #[test]
    fn arrows_say_what_bodies_keep_to() {
        let folder = tempfile::tempdir().unwrap();
        let number = |name: &str| {
            format!(
                "{{\"required\": [\"{name}\"], \"properties\": {{\"{name}\": {{\"type\": \"string\"}}}}}}"
            )
        };
        for (path, text) in [
            ("schemas/a.v1.json", number("a")),
            ("schemas/b.v1.json", number("b")),
            (
                "mappings/a-b.yaml",
                "mapping: a-b\nfrom: a.v1\nto: b.v1\nfields: { b: a }\n".to_owned(),
            ),
            (
                "flows/a.yaml",
                "flow: a\nsource: { stdin: {} }\naccepts: a.v1\nsteps:\n  - filter: a != 'x'\n  - map: a-b\nroutes:\n  first:\n    - when: b == 'y'\n      to: [out]\n    - otherwise: [lost]\nsinks:\n  out: { stdout: {} }\n  lost: { discard: {} }\n".to_owned(),
            ),
        ] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let loaded = crate::flow::load(folder.path(), &crate::world::World::real());
        let drawn = mermaid(&loaded.project.unwrap());
        for line in [
            "f0 -->|\"a.v1\"| f0n0",
            "f0n0 -->|\"a.v1\"| f0n1",
            "f0n1 -->|\"b.v1\"| f0n2",
            "f0n2 -->|\"b == 'y': b.v1\"| f0n3",
            "f0n2 -->|\"otherwise: b.v1\"| f0n4",
        ] {
            assert!(drawn.contains(line), "{line}\n{drawn}");
        }
    }

    #[test]
    fn flows_routes_failures_and_systems_are_drawn() {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [
            (
                "flows/a.yaml",
                "flow: a\nsource: { webhook: { path: /a, verify: none } }\nsteps:\n  - call: { system: erp, get: /x }\n    into: x\n    on_failure: { not_found: { to: lost } }\n  - id: live\n    filter: \"a == 'b'\"\nroutes:\n  first:\n    - when: x > `1`\n      to: [b]\n    - otherwise: [lost]\nsinks:\n  b: { flow: b }\n  lost: { discard: {} }\n",
            ),
            (
                "flows/b.yaml",
                "flow: b\nsource: { flow: {} }\nsinks: { out: { discard: {} } }\n",
            ),
            (
                "systems/erp.yaml",
                "system: erp\nhttp: { base_url: \"https://erp.example.com\" }\n",
            ),
        ] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let loaded = crate::flow::load(folder.path(), &crate::world::World::real());
        let project = loaded.project.unwrap();
        let drawn = mermaid(&project);
        let expected = r##"flowchart LR
  subgraph g0 ["a"]
    f0(["webhook"])
    f0n0["call"]
    f0n1["live: filter"]
    f0n2{"routes"}
    f0n3[/"b: flow"/]
    f0n4[/"lost: discard"/]
  end
  subgraph g1 ["b"]
    f1(["flow"])
    f1n0[/"out: discard"/]
  end
  s_erp[("erp")]
  f0 --> f0n0
  f0n0 --> f0n1
  f0n0 -.->|"not_found"| f0n4
  f0n0 -.-> s_erp
  f0n1 --> f0n2
  f0n2 -->|"x #gt; `1`"| f0n3
  f0n2 -->|"otherwise"| f0n4
  f0n3 --> f1
  f1 --> f1n0
"##;
        assert_eq!(drawn, expected);
        let one = dot_of(&project.plans["b"]);
        assert!(
            one.starts_with("digraph project {") && one.ends_with("}\n"),
            "{one}"
        );
        assert!(
            one.contains("f0 -> f0n0;") && !one.contains("s_erp"),
            "{one}"
        );
        assert!(dot(&project).contains("f0n0 -> f0n4 [label=\"not_found\", style=dashed];"));
    }
}
