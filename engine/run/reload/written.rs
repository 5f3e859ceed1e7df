//! What is written down of revisions: that one is kept, that it runs, that another one is not to run.

use std::sync::Arc;

use super::Will;
use crate::flow::personal;
use crate::flow::plan::Project;
use crate::store::revisions::{Deployment, Kept, RevisionChange, Withdrawn};

/// The longest chain of revisions that were withdrawn in favour of each other.
const WITHDRAWN_MAX: usize = 100;

/// What is written down when a project runs.
pub(in crate::run) fn record(
    project: &Project,
    before: Option<Arc<str>>,
    changes: String,
    will: &Will,
) -> Vec<RevisionChange> {
    let deployment = Deployment {
        at_ms: 0,
        revision: project.revision.clone(),
        before,
        how: will.how.to_owned(),
        who: will.who.clone(),
        why: will.why.clone(),
        changes,
    };
    vec![
        RevisionChange::Keep(kept(project)),
        RevisionChange::Deploy(deployment),
    ]
}

/// What is kept of a project.
pub(in crate::run) fn kept(project: &Project) -> Arc<Kept> {
    let files = project.files.iter();
    let flows = project.plans.values();
    Arc::new(Kept {
        revision: project.revision.clone(),
        files: files
            .map(|file| (file.path.clone(), file.text.clone().into()))
            .collect(),
        flows: flows
            .map(|plan| (plan.flow.to_string(), plan.revision.to_string()))
            .collect(),
        personal: personal::of(project),
    })
}

/// That a revision is not to run any more, and another one in its place, which may have been withdrawn itself.
pub(in crate::run) fn withdraw(from: &Arc<str>, to: &Arc<str>, will: &Will) -> Vec<RevisionChange> {
    let withdrawn = Withdrawn {
        revision: from.clone(),
        instead: to.clone(),
        at_ms: 0,
        who: will.who.clone(),
        why: will.why.clone(),
    };
    vec![
        RevisionChange::Lift(to.clone()),
        RevisionChange::Withdraw(withdrawn),
    ]
}

/// What runs where a revision lies on the disk.
pub(in crate::run) fn target(withdrawn: &[Withdrawn], revision: &Arc<str>) -> Arc<str> {
    let mut target = revision.clone();
    for _ in 0..WITHDRAWN_MAX {
        match withdrawn.iter().find(|one| one.revision == target) {
            Some(one) => target = one.instead.clone(),
            None => return target,
        }
    }
    target
}
