//! Files -> plans, one file a pass, all findings at once. A broken entry is told and left out; the passes go on with the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::component::common::RetryRule;
use crate::component::{Build, Library, codes as part_codes, common::Common};
use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span};
use crate::expression::Expression;
use crate::yaml::Node;
use fragments::Fragment;
use judged::Judgements;

pub(crate) mod across;
pub(crate) mod authority;
pub(crate) mod condition;
pub(crate) mod contract;
pub(crate) mod entry;
pub(crate) mod flow;
pub(crate) mod fragments;
pub(crate) mod judged;
pub(crate) mod mapping_target;
pub(crate) mod mappings;
pub(crate) mod names;
mod notify;
pub(crate) mod order;
pub(crate) mod parts;
mod personal;
pub(crate) mod policies;
pub(crate) mod routes;
pub(crate) mod sagas;
pub(crate) mod settings;
pub(crate) mod sinks;
pub(crate) mod steps;
pub(crate) mod systems;
pub(crate) mod tables;
pub(crate) mod types;
pub(crate) mod words;

/// What all flows of a project are checked against.
pub(crate) struct Known {
    /// Schemas, mappings, tables, systems, names of flows.
    pub(crate) library: Library,
    /// The fragments, by name.
    pub(crate) fragments: BTreeMap<String, Fragment>,
    /// Fragments that exist and cannot be read.
    pub(crate) broken_fragments: BTreeSet<String>,
    /// The processes; `None` if the project has none.
    pub(crate) processes: Option<BTreeSet<String>>,
    /// How bad findings are in this project.
    pub(crate) judged: Judgements,
    /// The schemas that flows accept, by flow.
    pub(crate) accepts: BTreeMap<String, String>,
    /// The retry that holds where a step says nothing.
    pub(crate) retry: RetryRule,
    /// Whether types are followed from contract to contract.
    pub(crate) typed: bool,
}

/// A parsed file, its variables put in.
#[derive(Clone)]
pub(crate) struct Source {
    /// The file.
    pub(crate) file: Arc<File>,
    /// Its tree.
    pub(crate) node: Node,
    /// The places of scalars whose variable is missing, or that need quotes: nothing is known of their value.
    pub(crate) missing: Vec<Span>,
    /// Entries that could not be read and are not in the tree.
    pub(crate) lost: Vec<Span>,
}

impl Source {
    /// The top-level keys that are lost, or whose values are lost in part.
    pub(crate) fn lost_keys(&self) -> BTreeSet<String> {
        let text = &self.file.text;
        let key_at = |span: &Span| {
            let mut at = 0;
            let mut key = None;
            for line in text.split_inclusive('\n') {
                if at > span.start {
                    break;
                }
                if line.starts_with(|c: char| c.is_alphabetic() || c == '"') {
                    key = line.split(':').next();
                }
                at += line.len();
            }
            key.map(|key| key.trim().trim_matches('"').to_owned())
        };
        self.lost.iter().filter_map(key_at).collect()
    }
}

/// What the passes over one flow share.
pub(crate) struct Cx<'a> {
    /// What the whole project has.
    pub(crate) known: &'a Known,
    /// The file in which the entry at hand stands.
    pub(crate) file: Arc<File>,
    /// The places of scalars whose variable is missing.
    pub(crate) missing: Vec<Span>,
    /// The flow's name.
    pub(crate) flow: Arc<str>,
    /// Whether it is of high criticality.
    pub(crate) high: bool,
    /// The contract of arriving bodies.
    pub(crate) accepts: Option<Arc<crate::schema::Schema>>,
    /// The schema that the body keeps to at the entry at hand, where that is certain.
    pub(crate) contract: Option<String>,
    /// The types of body and variables at the entry at hand.
    pub(crate) typed: types::Track<'a>,
    /// What `into` and `set` have bound above the entry at hand.
    pub(crate) variables: BTreeSet<String>,
    /// Whether something above that is broken may have bound more.
    pub(crate) variables_uncertain: bool,
    /// The names under `keys`.
    pub(crate) keys: BTreeSet<String>,
    /// Whether `keys` is broken, so that more names may have been meant.
    pub(crate) keys_uncertain: bool,
    /// Where `use` stands, while a fragment's entries are looked at.
    pub(crate) used_at: Option<Place>,
    /// The fragments around the entry at hand, from the outside in.
    pub(crate) fragments: Vec<String>,
    /// Top-level keys that could not be read, or not wholly.
    pub(crate) lost: BTreeSet<String>,
    /// The places of secrets, in the flow's file.
    pub(crate) secrets: Vec<Span>,
    /// The fragments whose entries were looked at.
    pub(crate) shown: BTreeSet<String>,
    /// A place whose type somebody asks for.
    pub(crate) asked: Option<types::asked::Asked<'a>>,
    /// What is wrong.
    pub(crate) findings: Findings,
}

impl Cx<'_> {
    /// Whether the span is a value whose variable is missing, or holds one.
    pub(crate) fn holds_missing(&self, span: Span) -> bool {
        self.missing
            .iter()
            .any(|missing| span.start <= missing.start && missing.end <= span.end)
    }

    /// The place of a span in the file at hand.
    pub(crate) fn place(&self, span: Span) -> Place {
        Place {
            file: self.file.clone(),
            span,
        }
    }

    /// Adds a finding; one in a fragment also names the place that uses it. What follows from something that is told already is dropped.
    pub(crate) fn report(&mut self, finding: Diagnostic) {
        if self.follows(&finding) {
            return;
        }
        let Some(finding) = self.known.judged.apply(finding) else {
            return;
        };
        let finding = match &self.used_at {
            Some(place) => finding.related(place.clone(), "used here"),
            None => finding,
        };
        self.findings.push(finding);
    }

    /// Adds an error.
    pub(crate) fn error(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let place = self.place(span);
        self.report(Diagnostic::error(code, place, message).help(help));
    }

    /// Adds a warning.
    pub(crate) fn warning(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let place = self.place(span);
        self.report(Diagnostic::warning(code, place, message).help(help));
    }

    /// Whether a finding follows from something that is told already: a missing variable, a broken entry above.
    fn follows(&self, finding: &Diagnostic) -> bool {
        let unsure = |code: &Code| {
            (self.variables_uncertain && *code == crate::expression::codes::UNKNOWN_VARIABLE)
                || (self.keys_uncertain && *code == part_codes::UNKNOWN_KEY)
        };
        self.missing.contains(&finding.place.span) || unsure(&finding.code)
    }

    /// Lets a part or an expression be built in this place; its findings go through `report`.
    pub(crate) fn with_build<T>(
        &mut self,
        node: &Node,
        common: &Common,
        work: impl FnOnce(&mut Build<'_>) -> T,
    ) -> T {
        let mut findings = Findings::new();
        let file = self.file.clone();
        let mut build = Build {
            file: &file,
            node,
            common,
            library: &self.known.library,
            flow: &self.flow,
            high: self.high,
            variables: &mut self.variables,
            keys: &self.keys,
            accepts: self.accepts.as_ref(),
            used_at: None,
            findings: &mut findings,
        };
        let result = work(&mut build);
        for finding in findings.iter() {
            self.report(finding.clone());
        }
        result
    }

    /// Compiles the expression that stands in this node; `None` if it is broken, with findings.
    pub(crate) fn expression(&mut self, node: &Node) -> Option<Expression> {
        let text = node.as_text()?;
        if self.missing.contains(&node.span) {
            return None;
        }
        let common = Common::default();
        self.with_build(node, &common, |build| build.expression_at(node, text))
    }
}
