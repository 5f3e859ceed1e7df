//! Where steps and sinks are tried in unit tests: builds one from its YAML entry in a small project, and gives it messages.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Ready, StepKind};
use crate::body::Body;
use crate::component::common::Common;
use crate::component::{Build, Context, Effect, Library, Outcome, Pure, Registry};
use crate::diagnostic::{File, Findings};
use crate::expression::{Table, Tables};
use crate::failure::Failure;
use crate::message::{Message, MessageId};
use crate::personal::NOTHING_PERSONAL;
use crate::schema::Schemas;
use crate::system::System;
use crate::system::broker::Broker;
use crate::yaml::shape::Formats;
use crate::yaml::{self, Node};

/// A small project.
pub(crate) struct Bench {
    pub(crate) library: Library,
    variables: BTreeSet<String>,
    keys: BTreeSet<String>,
    schemas: Vec<(String, Arc<File>)>,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Goes(String),
    Filtered,
    Split(Vec<String>),
    Emits(Vec<String>),
}

/// Knows no format.
pub(crate) struct NoFormats;

impl Formats for NoFormats {
    fn check(&self, _: &str, _: &Node, _: &Arc<File>, _: &mut Findings) {}
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench {
            library: Library::default(),
            variables: BTreeSet::new(),
            keys: BTreeSet::from(["order".to_owned()]),
            schemas: Vec::new(),
        }
    }

    pub(crate) fn mapping(mut self, name: &str, text: &str) -> Bench {
        let (file, node, mut findings) = parsed(text);
        let mapping = crate::mapping::compile(&file, &node, &mut findings);
        assert!(findings.is_empty(), "{findings:?}");
        self.library
            .mappings
            .insert(name.to_owned(), Arc::new(mapping.unwrap()));
        self
    }

    pub(crate) fn schema(mut self, name: &str, text: &str) -> Bench {
        let file = File::new(format!("schemas/{name}.json"), text);
        self.schemas.push((name.to_owned(), file));
        let mut findings = Findings::new();
        self.library.schemas = Schemas::load(&self.schemas, &mut findings);
        assert!(findings.is_empty(), "{findings:?}");
        self
    }

    pub(crate) fn system(mut self, text: &str) -> Bench {
        let (file, node, mut findings) = parsed(text);
        let system = System::parse(&file, &node, &NoFormats, &mut findings);
        assert!(!findings.has_errors(), "{findings:?}");
        let system = system.unwrap();
        let name = system.name().to_string();
        self.library.systems.insert(name, Arc::new(system));
        self
    }

    pub(crate) fn broker(mut self, text: &str) -> Bench {
        let (file, node, mut findings) = parsed(text);
        let broker = Broker::parse(&file, &node, &NoFormats, &mut findings).unwrap();
        let name = broker.name().to_string();
        self.library.brokers.insert(name, Arc::new(broker));
        self
    }

    pub(crate) fn table(mut self, name: &str, columns: &[&str], rows: &[&[&str]]) -> Bench {
        let cells = |row: &[&str]| row.iter().map(|cell| (*cell).to_owned()).collect();
        let rows = rows.iter().map(|row| cells(row)).collect();
        let table = Table::new(name, cells(columns), rows).unwrap();
        let mut tables = Tables::default();
        tables.insert(table);
        self.library.tables = Arc::new(tables);
        self
    }

    pub(crate) fn variable(mut self, name: &str) -> Bench {
        self.variables.insert(name.to_owned());
        self
    }

    pub(crate) fn flow(mut self, name: &str) -> Bench {
        self.library.flows.insert(name.to_owned());
        self
    }

    /// A message with this body, of a fixed id.
    pub(crate) fn message(&self, body: &str) -> Message {
        let id = MessageId::from_parts(1_700_000_000_000, 7);
        let mut message = Message::new(id, 1_700_000_000_000, Body::new(body.to_owned()));
        Arc::make_mut(&mut message.keys).insert(Arc::from("order"), "SO-1".to_owned());
        message
    }

    pub(crate) fn cx(&self) -> Context<'_> {
        Context {
            tables: &self.library.tables,
            step: "step",
            personal: &NOTHING_PERSONAL,
        }
    }

    /// Builds a part of a registry from an entry; gives the findings as `code:line:column`.
    pub(crate) fn build<R: Registry>(&self, entry: &str) -> (Option<R::Ready>, Vec<String>) {
        let (file, node, mut findings) = parsed(entry);
        let kinds: Vec<&str> = R::KINDS.iter().map(|kind| kind.name).collect();
        let (entries, common) = node
            .entries()
            .iter()
            .partition::<Vec<_>, _>(|(key, _)| kinds.contains(&key.text.as_str()));
        let common: serde_json::Map<_, _> = common
            .into_iter()
            .map(|(key, node)| (key.text.clone(), node.to_json()))
            .collect();
        let common: Common = serde_json::from_value(common.into()).unwrap();
        let (key, config) = &entries[0];
        let part = R::parse(&key.text, config.to_json()).unwrap().unwrap();
        let mut variables = self.variables.clone();
        let ready = part.build(&mut Build {
            file: &file,
            node: config,
            common: &common,
            library: &self.library,
            flow: "orders",
            high: false,
            variables: &mut variables,
            keys: &self.keys,
            accepts: None,
            used_at: None,
            findings: &mut findings,
        });
        let found = findings.iter().map(|finding| {
            let (line, column) = finding.place.line_column();
            format!("{}:{line}:{column}", finding.code)
        });
        (ready, found.collect())
    }

    pub(crate) fn finds(&self, entry: &str, expect: &[&str]) {
        let (_, found) = self.build::<StepKind>(entry);
        assert_eq!(found, expect, "{entry}");
    }

    pub(crate) fn pure(&self, entry: &str) -> Box<dyn Pure> {
        match self.build::<StepKind>(entry) {
            (Some(Ready::Pure(pure)), found) if found.is_empty() => pure,
            (_, found) => panic!("{entry}: {found:?}"),
        }
    }

    pub(crate) fn effect(&self, entry: &str) -> Arc<dyn Effect> {
        match self.build::<StepKind>(entry) {
            (Some(Ready::Effect(effect)), found) if found.is_empty() => effect,
            (_, found) => panic!("{entry}: {found:?}"),
        }
    }

    pub(crate) fn outcome(&self, entry: &str, message: Message) -> Result<Outcome, Failure> {
        self.pure(entry).apply(message, &self.cx())
    }

    pub(crate) fn goes(&self, entry: &str, message: Message) -> Message {
        match self.outcome(entry, message) {
            Ok(Outcome::Goes(message)) => message,
            Ok(_) => panic!("{entry}: it does not just go on"),
            Err(failure) => panic!("{entry}: {failure}"),
        }
    }

    pub(crate) fn apply(&self, entry: &str, message: Message) -> Ended {
        let text = |message: &Message| String::from_utf8_lossy(message.body.bytes()).into_owned();
        match self.outcome(entry, message) {
            Ok(Outcome::Goes(message)) => Ended::Goes(text(&message)),
            Ok(Outcome::Filtered) => Ended::Filtered,
            Ok(Outcome::Split(parts)) => {
                let parts = parts
                    .iter()
                    .map(|part| format!("{} {}", part.item, text(part)));
                Ended::Split(parts.collect())
            }
            Ok(Outcome::Emits(_, copies)) => {
                let copies = copies.iter();
                let copies = copies.map(|(flow, copy)| format!("{flow} {}", text(copy)));
                Ended::Emits(copies.collect())
            }
            Err(failure) => panic!("{entry}: {failure}"),
        }
    }

    pub(crate) fn check(&self, entry: &str, body: &str, expect: &str) {
        let ended = self.apply(entry, self.message(body));
        assert_eq!(ended, Ended::Goes(expect.to_owned()), "{entry}");
    }

    pub(crate) fn fails(&self, entry: &str, body: &str) -> Failure {
        match self.outcome(entry, self.message(body)) {
            Err(failure) => failure,
            Ok(_) => panic!("{entry}: it does not fail"),
        }
    }
}

pub(crate) fn parsed(text: &str) -> (Arc<File>, Node, Findings) {
    let file = File::new("flows/test.yaml", text);
    let mut findings = Findings::new();
    let node = yaml::parse(&file, &mut findings);
    assert!(findings.is_empty(), "{findings:?}");
    (file, node.unwrap(), findings)
}
