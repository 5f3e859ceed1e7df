//! The tests once more with small mistakes in flows and mappings, one at a time: a mistake that no test notices survives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Case, Edit, Setting, run};
use crate::flow::plan::Project;
use crate::flow::test::mutants::{Mutant, mutants};
use crate::flow::{self, Variant};
use crate::world::World;

/// What became of the mistakes.
#[derive(Clone, Debug, Default)]
pub struct Mutated {
    /// How many were made.
    pub mutants: usize,
    /// How many a test has noticed.
    pub killed: usize,
    /// How many of them `crossdock check` has noticed before.
    pub by_check: usize,
    /// How many are in nothing that a test runs.
    pub untested: Vec<Mutant>,
    /// Those that nobody has noticed.
    pub survived: Vec<Mutant>,
}

/// What became of one.
enum Fate {
    Killed,
    ByCheck,
    Untested,
    Survived,
}

/// Makes each mistake, and runs the tests of the flows that it changes.
pub fn mutate(
    cases: &[Case<'_>],
    setting: &Setting,
    project: &Project,
    world: &World,
    threads: usize,
) -> Mutated {
    let all = mutants(&setting.root);
    let next = AtomicUsize::new(0);
    let fates: Mutex<Vec<(usize, Fate)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, all.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = all.get(at) else { break };
                    let fate = fate(mutant, cases, setting, project, world);
                    let mut fates = fates.lock().unwrap_or_else(PoisonError::into_inner);
                    fates.push((at, fate));
                }
            });
        }
    });
    let mut fates = fates.into_inner().unwrap_or_else(PoisonError::into_inner);
    fates.sort_by_key(|(at, _)| *at);
    let mut mutated = Mutated {
        mutants: all.len(),
        ..Mutated::default()
    };
    for (at, fate) in fates {
        match fate {
            Fate::Killed => mutated.killed += 1,
            Fate::ByCheck => {
                mutated.killed += 1;
                mutated.by_check += 1;
            }
            Fate::Untested => mutated.untested.push(all[at].clone()),
            Fate::Survived => mutated.survived.push(all[at].clone()),
        }
    }
    mutated
}

fn fate(
    mutant: &Mutant,
    cases: &[Case<'_>],
    setting: &Setting,
    project: &Project,
    world: &World,
) -> Fate {
    let made = mutant.clone();
    let edit: Edit = Arc::new(move |file, node| made.apply(file, node));
    let variant = Variant {
        edit: Some(&*edit as _),
        schemas: Some(setting.library.schemas.clone()),
        ..Variant::default()
    };
    let loaded = flow::load_variant(&setting.root, world, &variant);
    let Some(changed) = loaded.project else {
        return Fate::ByCheck;
    };
    let touched: BTreeSet<&str> = project
        .plans
        .iter()
        .filter(|(name, plan)| {
            changed
                .plans
                .get(*name)
                .is_none_or(|other| other.prints.whole != plan.prints.whole)
        })
        .map(|(name, _)| &**name)
        .collect();
    let setting = Setting {
        edit: Some(edit),
        update: false,
        ..setting.clone()
    };
    let mut tried = false;
    for case in cases.iter().filter(|case| case.runs_any(&touched)) {
        tried = true;
        if !run(*case, &setting).passed() {
            return Fate::Killed;
        }
    }
    match tried {
        true => Fate::Survived,
        false => Fate::Untested,
    }
}
