//! A mapping where it is used: its expressions typed over what really gets there, what it makes held against its target.

use std::sync::Arc;

use super::super::entry::Entry;
use super::super::{Cx, Known};
use super::trial::{Around, Focus, Move};
use super::{State, around, mapping_named, told, trial};
use crate::diagnostic::{Diagnostic, Findings};
use crate::expression::FaultKind;
use crate::mapping::Mapping;
use crate::mapping::trial::Trial;
use crate::mapping::typed::{Typed, TypedLeaf, left_out};
use crate::schema::Schema;
use crate::schema::fit::{self, Misfit, Rule, What};
use crate::schema::infer::note::{About, Note};
use crate::schema::infer::shape::{self, Standing};
use crate::schema::infer::{Hop, Kinds, Type, rows, source};
use crate::schema::place::At;
use crate::yaml::Node;

/// The step `map`: behind it the body is what the mapping makes.
pub(super) fn step<'s>(cx: &mut Cx<'s>, config: &Node, state: State<'s>) -> Option<State<'s>> {
    let made = used(cx, config, &state);
    cx.typed.next = None;
    made
}

/// A mapping of what is known; gives what is known of what it makes.
pub(super) fn used<'s>(cx: &mut Cx<'s>, at: &Node, state: &State<'s>) -> Option<State<'s>> {
    let name = at.as_text()?;
    let mapping = mapping_named(cx, name)?;
    cx.typed.mappings.insert(name.to_owned());
    let from = mapping.from().map(|(from, _)| from);
    let made_for_another =
        state.bodies == 0 && from.is_some_and(|from| from != state.trail.body.schema.name());
    if made_for_another {
        // That is told already; the mapping itself is looked at over what it is made for.
        return unknown(cx, &mapping);
    }
    let target = match mapping.to() {
        Some((to, _)) => Some(to.to_owned()),
        None => cx.typed.next.clone(),
    };
    let tables = &cx.known.library.tables;
    let typed = mapping.typed(&state.body, &state.variables, tables);
    let found = Check::new(cx.known, &mapping, target.as_deref(), &typed, state).told(&around(cx));
    for finding in found {
        cx.report(finding);
    }
    Some(behind(&mapping, typed, target, state))
}

/// What is known behind a mapping.
fn behind<'s>(
    mapping: &Arc<Mapping>,
    typed: Typed<'_, 's>,
    target: Option<String>,
    state: &State<'s>,
) -> State<'s> {
    let mut after = state.clone();
    for leaf in &typed.leaves {
        after.trail.reads.extend(leaf.reads.iter().cloned());
        after.trail.hints.extend(leaf.hints.iter().cloned());
    }
    after.trail.reads.dedup();
    after.with_body(typed.body, Move::Map(mapping.clone()));
    after.target = target;
    after
}

/// A mapping where nothing is known of the body: it is looked at over what it is made for.
pub(super) fn unknown_body<'s>(
    cx: &mut Cx<'s>,
    name: &str,
    entry: &Entry<'_>,
) -> Option<State<'s>> {
    let mapping = mapping_named(cx, name)?;
    cx.typed.mappings.insert(name.to_owned());
    let passed_over = entry.common.when.is_some();
    let made = unknown(cx, &mapping);
    made.filter(|_| !passed_over)
}

fn unknown<'s>(cx: &mut Cx<'s>, mapping: &Arc<Mapping>) -> Option<State<'s>> {
    let state = State::of_schema(cx, mapping.from()?.0)?;
    let target = mapping.to().map(|(to, _)| to.to_owned());
    let typed = mapping.typed(&state.body, &state.variables, &cx.known.library.tables);
    let found = Check::new(cx.known, mapping, target.as_deref(), &typed, &state).told(&around(cx));
    for finding in found {
        cx.report(finding);
    }
    // The body is not what the mapping is made for, or nobody knows: behind it nothing is certain.
    None
}

/// Checks a mapping that no flow uses over what it is made for.
pub(crate) fn unused(known: &Known, mapping: &Arc<Mapping>, findings: &mut Findings) {
    let state = mapping
        .from()
        .and_then(|(from, _)| State::of(&known.library.schemas, from));
    let Some(state) = state else { return };
    let target = mapping.to().map(|(to, _)| to);
    let typed = mapping.typed(&state.body, &state.variables, &known.library.tables);
    let around = Around {
        tables: &known.library.tables,
        keys: Vec::new(),
    };
    for finding in Check::new(known, mapping, target, &typed, &state).told(&around) {
        findings.push(finding);
    }
}

/// What may be wrong with one expression.
enum Doubt<'s> {
    Note(Note<'s>),
    Misfit(Misfit),
    /// What `each` goes over may be no list.
    NotList(Kinds),
}

struct Suspicion<'s> {
    leaf: usize,
    doubt: Doubt<'s>,
    /// A body that shows it.
    shown: Option<String>,
}

struct Check<'c, 's> {
    mapping: &'c Mapping,
    target: Option<(Arc<Schema>, Type<'s>)>,
    typed: &'c Typed<'c, 's>,
    state: &'c State<'s>,
    suspicions: Vec<Suspicion<'s>>,
}

impl<'c, 's> Check<'c, 's> {
    fn new(
        known: &'s Known,
        mapping: &'c Mapping,
        target: Option<&str>,
        typed: &'c Typed<'c, 's>,
        state: &'c State<'s>,
    ) -> Check<'c, 's> {
        let schemas = &known.library.schemas;
        let target = target.and_then(|name| {
            let is = source::of_schema(At::named(schemas, name)?);
            Some((schemas.get(name)?, is))
        });
        let mut check = Check {
            mapping,
            target,
            typed,
            state,
            suspicions: Vec::new(),
        };
        if !state.body.is_never() {
            for at in 0..typed.leaves.len() {
                check.suspect(at);
            }
        }
        check
    }

    fn suspect(&mut self, at: usize) {
        let leaf = &self.typed.leaves[at];
        let mut doubts: Vec<Doubt<'s>> = leaf.notes.iter().cloned().map(Doubt::Note).collect();
        if leaf.each {
            let wrong = leaf.is.kinds.without(Kinds::LIST.or(Kinds::NOTHING));
            if wrong != Kinds::NONE && !leaf.is.open {
                doubts.push(Doubt::NotList(wrong));
            }
        }
        if let Some((_, target)) = self.target.as_ref().filter(|_| leaf.made) {
            let (wants, declared) = wanted(target, &leaf.way);
            if declared {
                let is = left_out(leaf.is.clone());
                let slip = leaf
                    .notes
                    .iter()
                    .any(|note| matches!(note.about, About::NoField { .. }));
                let found = fit::misfits(&is, &wants).into_iter();
                let found = found.filter(|found| slip || told::is_worth(found));
                doubts.extend(
                    found
                        .filter(|found| !told_elsewhere(leaf, found))
                        .map(Doubt::Misfit),
                );
            }
        }
        self.suspicions
            .extend(doubts.into_iter().map(|doubt| Suspicion {
                leaf: at,
                doubt,
                shown: None,
            }));
    }

    /// Tries what is suspected, and tells what is to be told.
    fn told(mut self, around: &Around<'_>) -> Vec<Diagnostic> {
        if self.suspicions.is_empty() {
            return Vec::new();
        }
        let mut focus = Focus::default();
        let mut hints = Focus::default();
        for (at, leaf) in self.typed.leaves.iter().enumerate() {
            if self.suspicions.iter().any(|suspicion| suspicion.leaf == at) {
                focus.add(&leaf.reads, &leaf.hints, leaf.expression());
            } else {
                hints.add(&[], &leaf.hints, leaf.expression());
            }
        }
        focus.hints.extend(hints.hints);
        focus.pairs = self
            .suspicions
            .iter()
            .any(|suspicion| match &suspicion.doubt {
                Doubt::Misfit(misfit) => misfit.declared,
                Doubt::Note(note) => matches!(note.about, About::Argument { .. }),
                Doubt::NotList(_) => true,
            });
        let mut suspicions = std::mem::take(&mut self.suspicions);
        let (mapping, leaves, target) = (self.mapping, &self.typed.leaves, &self.target);
        let reached = self.state.trail.search(around, &focus, &mut |tried| {
            let scope = trial::scope(tried.message, around.tables);
            let Some(trial) = scope.and_then(|scope| mapping.trial(scope).ok()) else {
                return false;
            };
            let broken = broken(&trial, target.as_ref().map(|(schema, _)| &**schema));
            for suspicion in &mut suspicions {
                if suspicion.shown.is_none()
                    && shows(&leaves[suspicion.leaf], &suspicion.doubt, &trial, &broken)
                {
                    suspicion.shown = Some(tried.arrived.to_owned());
                }
            }
            suspicions.iter().all(|suspicion| suspicion.shown.is_some())
        });
        let mut all = Vec::new();
        for (at, leaf) in leaves.iter().enumerate() {
            let of_leaf: Vec<&Suspicion<'s>> = suspicions
                .iter()
                .filter(|suspicion| suspicion.leaf == at)
                .collect();
            all.extend(self.leaf_told(leaf, &of_leaf, reached));
        }
        all
    }

    fn leaf_told(
        &self,
        leaf: &TypedLeaf<'_, 's>,
        suspicions: &[&Suspicion<'s>],
        reached: usize,
    ) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let mut settled = false;
        // A body that leaves out what the target requires there.
        let missing = suspicions.iter().find_map(|other| match &other.doubt {
            Doubt::Misfit(misfit) if misfit.what == (What::Missing { null: false }) => {
                other.shown.as_deref()
            }
            _ => None,
        });
        for suspicion in suspicions {
            let Doubt::Note(note) = &suspicion.doubt else {
                continue;
            };
            let place = leaf.place(note.start, note.end);
            let told = told::note(note, place, suspicion.shown.as_deref(), missing, reached);
            settled |= told.is_some() && !matches!(note.about, About::NeverEqual { .. });
            found.extend(told);
        }
        if settled {
            return found;
        }
        let target = self.target.as_ref().map_or("", |(schema, _)| schema.name());
        let because = told::because(&leaf.reads, &self.state.trail);
        let mut misfits: Vec<Diagnostic> = suspicions
            .iter()
            .filter_map(|suspicion| {
                let shown = suspicion.shown.as_deref();
                match &suspicion.doubt {
                    Doubt::Misfit(misfit) => {
                        told::misfit(misfit, leaf, target, &because, shown, reached)
                    }
                    Doubt::NotList(kinds) => told::not_list(*kinds, leaf, shown),
                    Doubt::Note(_) => None,
                }
            })
            .collect();
        misfits.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        found.extend(misfits.into_iter().next());
        found
    }
}

/// What a target asks for at a place, and whether it says anything about it.
fn wanted<'s>(target: &Type<'s>, way: &[Hop]) -> (Type<'s>, bool) {
    let mut wants = target.clone();
    for hop in way {
        match hop {
            Hop::Field(name) => {
                let (next, standing) = shape::field(&wants, name);
                if standing == Standing::Shut {
                    return (next, false);
                }
                wants = next;
            }
            Hop::Item => wants = rows::item(&wants),
        }
    }
    let declared = !wants.is_never();
    (wants, declared)
}

/// Whether a literal is told by the check of the mapping's file itself.
fn told_elsewhere(leaf: &TypedLeaf<'_, '_>, misfit: &Misfit) -> bool {
    leaf.is_literal() && matches!(misfit.what, What::Kind { .. } | What::Values { .. })
}

/// Where what was made breaks its target.
fn broken(trial: &Trial, target: Option<&Schema>) -> Vec<(Vec<Hop>, Rule)> {
    let Some((target, item)) = target.zip(trial.body.document().ok()) else {
        return Vec::new();
    };
    let all = target.broken_at(item).into_iter();
    all.map(|broken| (broken.at, broken.rule)).collect()
}

/// Whether a trial shows what was suspected.
fn shows(
    leaf: &TypedLeaf<'_, '_>,
    doubt: &Doubt<'_>,
    trial: &Trial,
    broken: &[(Vec<Hop>, Rule)],
) -> bool {
    let failed = trial
        .failed
        .iter()
        .find(|failed| failed.path == leaf.path());
    match doubt {
        Doubt::Note(note) => match &note.about {
            About::Argument { .. } => failed.is_some_and(|failed| {
                failed.fault.kind == FaultKind::InvalidType && failed.fault.start == note.start
            }),
            _ => failed.is_none(),
        },
        Doubt::NotList(_) => {
            failed.is_some_and(|failed| failed.fault.kind == FaultKind::InvalidType)
        }
        Doubt::Misfit(misfit) => {
            if trial.unsure || failed.is_some() {
                return false;
            }
            let at: Vec<Hop> = leaf.way.iter().chain(&misfit.path).cloned().collect();
            broken.iter().any(|(place, rule)| {
                let here = *place == at || *rule == Rule::Choice && at.starts_with(place);
                here && misfit.what.shows_as(*rule)
            })
        }
    }
}
