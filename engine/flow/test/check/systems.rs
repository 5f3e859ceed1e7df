//! What the systems of a test answer: systems that there are, requests that can be, answers that are there.

use std::collections::BTreeMap;

use super::{Checking, Parts, codes, part_codes};
use crate::flow::test::request::Pattern;
use crate::flow::test::{Answer, Reply, Rule};

impl Checking<'_> {
    pub(super) fn systems(&mut self, at: Parts<'_>, systems: Option<&BTreeMap<String, Vec<Rule>>>) {
        for (name, rules) in systems.into_iter().flatten() {
            let at = [at, &[name]].concat();
            self.system_named(&at, name);
            for (nth, rule) in rules.iter().enumerate() {
                self.rule(&[&at[..], &[&nth.to_string()]].concat(), rule);
            }
        }
    }

    pub(super) fn system_named(&mut self, at: Parts<'_>, name: &str) {
        let Some(project) = self.project else { return };
        let library = &project.library;
        let known = library.systems.keys().chain(library.databases.keys());
        let mut known = known.chain(library.brokers.keys());
        if !known.any(|known| known == name) {
            let known = library.systems.keys().chain(library.databases.keys());
            let known = known.chain(library.brokers.keys());
            let known: Vec<String> = known.cloned().collect();
            let help = part_codes::names_help("system", name, &known, "systems/");
            let message = format!("there is no system `{name}`");
            self.error(part_codes::UNKNOWN_SYSTEM, at, message, help);
        }
    }

    pub(super) fn pattern(&mut self, at: Parts<'_>, text: &str) {
        if let Err(fault) = Pattern::parse(text) {
            let (message, help) = fault.split_once("; ").unwrap_or((&fault, ""));
            self.error(part_codes::BAD_VALUE, at, message, help);
        }
    }

    fn rule(&mut self, at: Parts<'_>, rule: &Rule) {
        self.pattern(&[at, &["on"]].concat(), &rule.on);
        for (nth, answer) in rule.answers.iter().enumerate() {
            if let Answer::Full(reply) = answer {
                self.reply(&[at, &["answers", &nth.to_string()]].concat(), reply);
            }
        }
    }

    fn reply(&mut self, at: Parts<'_>, reply: &Reply) {
        let body = self.of.find(at).get("body").is_some();
        let given = usize::from(body)
            + usize::from(reply.text.is_some())
            + usize::from(reply.file.is_some());
        if given > 1 {
            let message = "an answer has one of `body`, `text` and `file`";
            self.error(
                part_codes::CONFLICTING_SETTINGS,
                at,
                message,
                "keep one of them",
            );
        }
        self.fixture(&[at, &["file"]].concat(), reply.file.as_deref(), false);
        if reply.change.is_some() {
            self.change(at, reply.text.as_deref(), reply.file.as_deref());
        }
        if reply.fails == Some(crate::flow::test::Fails::Unreachable)
            && (given > 0 || reply.status.is_some())
        {
            let message = "a system that is not reached answers nothing";
            let help = "leave status and body out, or write `fails: lost`";
            self.error(codes::MEANINGLESS_KEY, at, message, help);
        }
    }
}
