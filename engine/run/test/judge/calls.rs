//! The requests that a test expects against those that were made.

use std::cell::RefCell;

use super::super::compare::{Comparing, Difference};
use super::super::outside::Called;
use super::{Judging, out_of};
use crate::body::{Body, write_string};
use crate::flow::test::request::Pattern;
use crate::flow::test::{Call, Calls, SomeCalls};
use crate::yaml::Node;

impl Judging<'_> {
    pub(super) fn calls(&mut self, system: &str, calls: &Calls) {
        let outcome = self.outcome;
        let all: Vec<&Called> = outcome
            .calls
            .iter()
            .filter(|call| &*call.system == system)
            .collect();
        match calls {
            Calls::Nothing(_) if all.is_empty() => {}
            Calls::Nothing(_) => {
                let message = format!("{system} must get no request, and got {}", all.len());
                self.miss(&["calls", system], message, shown(&all));
            }
            Calls::All(expected) => self.all_calls(system, expected, &all),
            Calls::Some(some) => self.some_calls(system, some, &all),
        }
    }

    /// All requests, in this order.
    fn all_calls(&mut self, system: &str, expected: &[Call], all: &[&Called]) {
        let spread: Vec<(usize, &Call)> = expected
            .iter()
            .enumerate()
            .flat_map(|(nth, call)| {
                std::iter::repeat_n((nth, call), call.times.unwrap_or(1) as usize)
            })
            .collect();
        if spread.len() != all.len() {
            let message = format!(
                "{system} must get {} requests, and got {}",
                spread.len(),
                all.len()
            );
            self.miss(&["calls", system], message, shown(all));
        }
        for (got, ((nth, call), called)) in spread.iter().zip(all).enumerate() {
            let nth = nth.to_string();
            let path = ["calls", system, &nth];
            let found = self.call(&path, call, called);
            self.differs(&path, &format!("request {} of {system}", got + 1), &found);
        }
    }

    /// Requests that must be there, or must not.
    fn some_calls(&mut self, system: &str, some: &SomeCalls, all: &[&Called]) {
        for (key, list) in [("include", &some.include), ("exclude", &some.exclude)] {
            for (nth, call) in list.iter().flatten().enumerate() {
                let nth = nth.to_string();
                let path = ["calls", system, key, &nth];
                let like: Vec<&Called> = all
                    .iter()
                    .copied()
                    .filter(|called| self.call(&path, call, called).is_empty())
                    .collect();
                let (many, want) = (like.len(), call.times.unwrap_or(1) as usize);
                if key == "exclude" && many > 0 {
                    let message = format!("{system} must get no request like this, and got {many}");
                    self.miss(&path, message, shown(&like));
                }
                let other = many < want || (call.times.is_some() && many != want);
                if key == "include" && other {
                    let message =
                        format!("{system} must get {want} requests like this, and got {many}");
                    self.miss(&path, message, shown(all));
                }
            }
        }
        self.count(&["calls", system, "count"], some.count, all.len());
    }

    /// What of a request is not as expected.
    fn call(&self, path: &[&str], call: &Call, called: &Called) -> Vec<Difference> {
        let Some(node) = self.node(path) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let at = |field: &str| node.get(field).unwrap_or(node);
        let fits = Pattern::parse(&call.on)
            .is_ok_and(|pattern| pattern.fits(&called.method, &called.path));
        if !fits {
            let words = format!("expected {}, is {} {}", call.on, called.method, called.path);
            found.push(self.difference("request", words, at("on")));
        }
        if let Some(step) = &call.step
            && **step != *called.step
        {
            let words = format!("expected {step}, is {}", called.step);
            found.push(self.difference("step", words, at("step")));
        }
        if let Some(takes) = &call.at
            && let Some(words) = out_of(takes, called.at_ms)
        {
            found.push(self.difference("at", words, at("at")));
        }
        for (name, expected) in node.get("headers").map_or(&[][..], Node::entries) {
            self.header(&name.text, expected, called, &mut found);
        }
        if let Some(body) = node.get("body") {
            let inner = self.comparing.body(body, &called.body);
            found.extend(inner.into_iter().map(|one| below("body", one)));
        }
        if let Some(answer) = node.get("answer") {
            let expected = match answer.as_text() {
                Some(text) => text.to_owned(),
                None => answer.to_json().to_string(),
            };
            if expected != called.answer {
                let words = format!("expected {expected}, was {}", called.answer);
                found.push(self.difference("answer", words, answer));
            }
        }
        found
    }

    /// A header is a text: it is no field of a body that was looked at.
    fn header(&self, name: &str, expected: &Node, called: &Called, found: &mut Vec<Difference>) {
        let name = name.to_ascii_lowercase();
        let path = format!("headers.{name}");
        let Some(value) = called.headers.get(&name) else {
            found.push(self.difference(&path, "is not there".to_owned(), expected));
            return;
        };
        let mut text = Vec::new();
        write_string(&mut text, value);
        let aside = RefCell::default();
        let comparing = Comparing {
            file: self.comparing.file,
            schemas: self.comparing.schemas,
            looked_at: &aside,
        };
        let inner = comparing.body(expected, &Body::new(text));
        found.extend(inner.into_iter().map(|one| Difference {
            path: path.clone(),
            ..one
        }));
    }

    fn difference(&self, path: &str, words: String, at: &Node) -> Difference {
        Difference {
            path: path.to_owned(),
            words,
            line: at.place(&self.case.file.file).line_column().0,
        }
    }
}

fn below(path: &str, one: Difference) -> Difference {
    let path = match one.path.as_str() {
        "" => path.to_owned(),
        inner if inner.starts_with('[') => format!("{path}{inner}"),
        inner => format!("{path}.{inner}"),
    };
    Difference { path, ..one }
}

fn shown(calls: &[&Called]) -> Vec<String> {
    let line = |call: &&Called| {
        format!(
            "{} {} by {} / {}: {}",
            call.method, call.path, call.flow, call.step, call.answer
        )
    };
    calls.iter().map(line).collect()
}
