//! What a test expects: sinks, steps and words that there are, values that can be compared, and that something is expected at all.

use std::collections::BTreeMap;

use super::{Checking, Parts, codes, part_codes};
use crate::failure::Class;
use crate::flow::plan::{Action, Plan};
use crate::flow::test::value::{Matcher, matcher_of};
use crate::flow::test::{Call, Calls, Exceptions, Expect, Files, Given, Run};
use crate::store::runs::RunState;
use crate::yaml::Data;

impl Checking<'_> {
    pub(super) fn expected(&mut self, at: Parts<'_>, expect: &Expect) {
        self.something(at, expect);
        for (system, calls) in expect.calls.iter().flatten() {
            let at = [at, &["calls", system]].concat();
            self.system_named(&at, system);
            self.calls(&at, calls);
        }
        for (sink, outputs) in expect.outputs.iter().flatten() {
            let at = [at, &["outputs", sink]].concat();
            self.sink(&at, sink);
            self.outputs(&at, outputs);
        }
        for (path, files) in expect.files.iter().flatten() {
            let at = [at, &["files", path]].concat();
            match files {
                Files::Nothing(_) => {}
                Files::Lines(lines) => self.values(&at, lines.len()),
                Files::Text(text) => {
                    self.fixture(&[&at[..], &["file"]].concat(), text.file.as_deref(), false);
                }
            }
        }
        if let Some(Exceptions::All(all)) = &expect.exceptions {
            for (nth, one) in all.iter().enumerate() {
                let nth = nth.to_string();
                let at = [at, &["exceptions", &nth]].concat();
                if let Some(flow) = &one.flow {
                    self.flow_named(&[&at[..], &["flow"]].concat(), flow);
                }
                let flow = one.flow.as_deref().unwrap_or(self.of.flow());
                if let Some(step) = &one.step {
                    self.step(&[&at[..], &["step"]].concat(), flow, step);
                }
                self.class(&[&at[..], &["class"]].concat(), one.class.as_deref());
            }
        }
        for flow in expect.books.iter().flat_map(BTreeMap::keys) {
            self.flow_named(&[at, &["books", flow]].concat(), flow);
        }
        for (nth, run) in expect.runs.iter().flatten().enumerate() {
            self.run(&[at, &["runs", &nth.to_string()]].concat(), run);
        }
    }

    /// A test that expects nothing passes whatever happens.
    fn something(&mut self, at: Parts<'_>, expect: &Expect) {
        let nothing = self
            .of
            .find(at)
            .entries()
            .iter()
            .all(|(_, node)| match &node.data {
                Data::Null => true,
                Data::List(items) => items.is_empty(),
                Data::Map(entries) => entries.is_empty(),
                Data::Bool(value) => !value,
                _ => false,
            });
        if nothing || (expect.snapshot == Some(false) && self.of.find(at).entries().len() == 1) {
            let message = "the test expects nothing, so it would pass whatever happens";
            let help =
                "say what must come of it: `calls`, `outputs`, `files`, `exceptions`, `runs` ..";
            self.error(codes::BAD_TEST, at, message, help);
        }
    }

    fn calls(&mut self, at: Parts<'_>, calls: &Calls) {
        match calls {
            Calls::Nothing(_) => {}
            Calls::All(all) => self.each_call(at, all),
            Calls::Some(some) => {
                for (key, list) in [("include", &some.include), ("exclude", &some.exclude)] {
                    let at = [at, &[key]].concat();
                    self.each_call(&at, list.as_deref().unwrap_or_default());
                }
            }
        }
    }

    fn each_call(&mut self, at: Parts<'_>, calls: &[Call]) {
        for (nth, call) in calls.iter().enumerate() {
            let nth = nth.to_string();
            let at = [at, &[&nth]].concat();
            self.pattern(&[&at[..], &["on"]].concat(), &call.on);
            for name in call.headers.iter().flat_map(BTreeMap::keys) {
                self.value(&[&at[..], &["headers", name]].concat());
            }
            self.value(&[&at[..], &["body"]].concat());
        }
    }

    fn outputs(&mut self, at: Parts<'_>, outputs: &Given) {
        match outputs {
            Given::Nothing(_) => {}
            Given::All(all) => self.values(at, all.len()),
            Given::Some(some) => {
                for (key, list) in [("include", &some.include), ("exclude", &some.exclude)] {
                    let many = list.as_ref().map_or(0, Vec::len);
                    self.values(&[at, &[key]].concat(), many);
                }
            }
        }
    }

    fn values(&mut self, at: Parts<'_>, many: usize) {
        for nth in 0..many {
            self.value(&[at, &[&nth.to_string()]].concat());
        }
    }

    /// A sink, or a step that emits, whose messages can be seen.
    fn sink(&mut self, at: Parts<'_>, name: &str) {
        let (flow, sink) = name.split_once('/').unwrap_or((self.of.flow(), name));
        let Some(project) = self.project else { return };
        let Some(plan) = project.plans.get(flow) else {
            return self.flow_named(at, flow);
        };
        match plan.node(sink).map(|at| &plan.nodes[at]) {
            None => {
                let known = outputs_of(plan);
                let help = part_codes::names_help("sink", sink, &known, "`sinks`");
                let message = format!("the flow `{flow}` has no sink `{sink}`");
                self.error(codes::UNKNOWN_STEP, at, message, help);
            }
            Some(node) => match &node.action {
                Action::Flow(_) | Action::Append(_) | Action::Stream(_) => {}
                Action::Pure(_) if node.hands_to.is_some() => {}
                Action::Effect(_) if node.system.is_none() => {
                    let message = format!("`{sink}` writes whole files");
                    let help = "expect them under `files`";
                    self.error(codes::BAD_TEST, at, message, help);
                }
                Action::Effect(_) => {
                    let message = format!("`{sink}` calls a system; it gives no message on");
                    let help = "expect its requests under `calls`";
                    self.error(codes::BAD_TEST, at, message, help);
                }
                _ => {
                    let message = format!("`{sink}` gives no message on");
                    let known = outputs_of(plan).join(", ");
                    let help = format!("those that do: {known}");
                    self.error(codes::BAD_TEST, at, message, help);
                }
            },
        }
    }

    fn class(&mut self, at: Parts<'_>, class: Option<&str>) {
        let Some(class) = class else { return };
        if Class::from_name(class).is_none() {
            let message = format!("there is no class `{class}`");
            let known: Vec<&str> = Class::ALL.iter().map(|class| class.name()).collect();
            let help = format!("the classes are {}", known.join(", "));
            self.error(part_codes::BAD_VALUE, at, message, help);
        }
    }

    fn run(&mut self, at: Parts<'_>, run: &Run) {
        if let Some(flow) = &run.flow {
            self.flow_named(&[at, &["flow"]].concat(), flow);
        }
        let flow = run.flow.as_deref().unwrap_or(self.of.flow());
        for (nth, step) in run.through.iter().flatten().enumerate() {
            self.step(&[at, &["through", &nth.to_string()]].concat(), flow, step);
        }
        if let Some(state) = &run.state
            && RunState::from_name(state).is_none()
        {
            let known = RunState::ALL.map(RunState::name);
            let help = format!("the states are {}", known.join(", "));
            let message = format!("there is no state `{state}`");
            self.error(
                part_codes::BAD_VALUE,
                &[at, &["state"]].concat(),
                message,
                help,
            );
        }
    }

    /// A value that is compared: its matchers can be.
    fn value(&mut self, at: Parts<'_>) {
        let Some(node) = self.of.node.find(at) else {
            return;
        };
        match &node.data {
            Data::List(items) => self.values(at, items.len()),
            Data::Map(entries) => {
                for (key, _) in entries {
                    self.entry(&[at, &[&key.text]].concat(), &key.text);
                }
            }
            _ => {}
        }
    }

    fn entry(&mut self, at: Parts<'_>, key: &str) {
        if !key.starts_with('$') {
            return self.value(at);
        }
        let Some(matcher) = matcher_of(key) else {
            let known = Matcher::ALL.map(|(name, _)| name.to_owned());
            let help = part_codes::names_help("matcher", key, &known, "the guide");
            let message = format!("there is no matcher `{key}`");
            return self.error(codes::BAD_MATCHER, at, message, help);
        };
        let text = self.of.find(at).as_text().map(str::to_owned);
        let Some(text) = text else {
            if matches!(
                matcher,
                Matcher::Where | Matcher::Schema | Matcher::Matches | Matcher::File
            ) {
                let message = format!("`{key}` needs a text");
                self.error(codes::BAD_MATCHER, at, message, "see the guide on testing");
            }
            return;
        };
        match matcher {
            Matcher::Where => self.expression(at, &text),
            Matcher::Schema => self.schema(at, &text),
            Matcher::File => self.fixture(at, Some(&text), true),
            Matcher::Matches => {
                if let Err(error) = regex::Regex::new(&text) {
                    let message = "the regular expression cannot be read".to_owned();
                    self.error(codes::BAD_MATCHER, at, message, error.to_string());
                }
            }
            Matcher::Exact | Matcher::Contains | Matcher::Absent | Matcher::Any => {}
        }
    }

    fn schema(&mut self, at: Parts<'_>, name: &str) {
        let Some(project) = self.project else { return };
        let schemas = &project.library.schemas;
        if schemas.get(name).is_none() {
            let known: Vec<String> = schemas.names().map(str::to_owned).collect();
            let help = part_codes::names_help("schema", name, &known, "schemas/");
            let message = format!("there is no schema `{name}`");
            self.error(part_codes::UNKNOWN_SCHEMA, at, message, help);
        }
    }
}

/// The sinks and steps of a flow whose messages can be seen.
fn outputs_of(plan: &Plan) -> Vec<String> {
    let seen = plan.nodes.iter().filter(|node| match node.action {
        Action::Flow(_) | Action::Append(_) | Action::Stream(_) => true,
        _ => node.hands_to.is_some(),
    });
    seen.map(|node| node.id.to_string()).collect()
}
