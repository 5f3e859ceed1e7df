//! Revisions that ran before: found in the store, loaded once more, and kept compiled as long as messages are in flight under them.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use super::{Works, lock, short};
use crate::diagnostic::Severity;
use crate::failure::{Class, Failure};
use crate::flow;
use crate::flow::plan::{Plan, Project};
use crate::run::systems;
use crate::store::revisions::{Files, Kept};
use crate::world::disk;

/// How many projects of older revisions are kept compiled.
const OLDER_MAX: usize = 4;

impl Works {
    /// The plan under which messages of a revision go on; none if the flow is not known at all.
    pub(super) async fn plan_for(
        &self,
        flow: &Arc<str>,
        revision: &Arc<str>,
    ) -> Result<Option<Arc<Plan>>, Failure> {
        let current = self.shared.live.now().project.plans.get(flow).cloned();
        if current
            .as_ref()
            .is_some_and(|plan| plan.revision == *revision)
        {
            return Ok(current);
        }
        match self.shared.store.project_of(flow, revision).await? {
            Some(_) => {
                let (_, plan) = self.older_plan(flow, revision).await?;
                Ok(Some(plan))
            }
            // From a time when revisions were not kept, or from somebody who did not say: it goes on at the step of the same name.
            None => Ok(current),
        }
    }

    /// The project and the plan of a revision of a flow, if they are kept.
    pub(in crate::run) async fn original(
        &self,
        flow: &Arc<str>,
        revision: &Arc<str>,
    ) -> Result<Option<(Arc<Project>, Arc<Plan>)>, Failure> {
        match self.shared.store.project_of(flow, revision).await? {
            Some(_) => self.older_plan(flow, revision).await.map(Some),
            None => Ok(None),
        }
    }

    /// The plan of a revision of a flow that is kept, and its project.
    pub(in crate::run) async fn older_plan(
        &self,
        flow: &Arc<str>,
        revision: &Arc<str>,
    ) -> Result<(Arc<Project>, Arc<Plan>), Failure> {
        let shared = &self.shared;
        let none = || {
            Failure::config(format!(
                "the store does not keep revision {} of the flow `{flow}`",
                short(revision)
            ))
        };
        let of = shared.store.project_of(flow, revision).await?;
        let of = of.ok_or_else(none)?;
        let known = self.older().get(&of).cloned();
        let project = match known {
            Some(project) => project,
            None => {
                let kept = shared.store.kept(&of).await?.ok_or_else(none)?;
                let project = Arc::new(self.older_project(kept).await?);
                let mut older = self.older();
                while older.len() >= OLDER_MAX {
                    older.pop_first();
                }
                older.insert(of, project.clone());
                project
            }
        };
        let plan = project.plans.get(flow).cloned().ok_or_else(none)?;
        Ok((project, plan))
    }

    /// A project as it was, with the systems of now: a message that is in flight meets them as they are. Where it cannot live with those, with
    /// its own.
    async fn older_project(&self, kept: Kept) -> Result<Project, Failure> {
        let now = self.shared.live.now().project.clone();
        // Those that there are not any more, or not yet, are its own.
        let mut files = kept.files.clone();
        let systems = now.files.iter();
        let systems = systems.filter(|file| file.path.starts_with("systems/"));
        files.extend(systems.map(|file| (file.path.clone(), file.text.clone().into())));
        let project = match self.of_files(files).await {
            Ok(project) => project,
            Err(failure) => {
                tracing::warn!(
                    revision = &*kept.revision,
                    "an older revision does not go with the systems of now; it goes on with its own: {failure}"
                );
                self.of_files(kept.files).await?
            }
        };
        systems::join(&project, &now);
        Ok(project)
    }

    /// The project that these files are.
    pub(in crate::run) async fn of_files(&self, files: Files) -> Result<Project, Failure> {
        let (root, world) = (self.root.clone(), self.shared.world.clone());
        // A key that was revoked does not count again because an older revision runs.
        let clients = self.shared.live.now().project.library.clients.clone();
        let files = files.into_iter();
        let files = files.map(|(path, text)| (path, text.to_vec())).collect();
        let loaded =
            disk::aside(move || Ok(flow::load_files(&root, &world, files, Some(clients)))).await?;
        loaded.project.ok_or_else(|| {
            let mut errors = loaded.findings.iter();
            let first = errors.find(|finding| finding.severity == Severity::Error);
            Failure::config(first.map_or_else(
                || "it cannot be loaded".to_owned(),
                |finding| format!("{}: {}", finding.place.file.path, finding.message),
            ))
        })
    }

    /// A revision that is kept, as it was, with the secrets and the environment of now.
    pub(super) async fn kept_project(&self, revision: &str) -> Result<Project, Failure> {
        let kept = self.shared.store.kept(revision).await?;
        let short = short(revision);
        let kept = kept.ok_or_else(|| {
            Failure::new(
                Class::NotFound,
                format!("the store does not keep revision {short}"),
            )
        })?;
        let project = self.of_files(kept.files).await;
        let mut project = project.map_err(|failure| Failure {
            message: format!("revision {short} cannot be loaded: {}", failure.message),
            ..failure
        })?;
        project.runs_where(&self.shared.live.now().project);
        Ok(project)
    }

    /// Older revisions go on with the systems of now.
    pub(super) async fn replace_older(&self, project: &Project) {
        for ((flow, revision), _) in self.units.older(&self.shared) {
            if project
                .plans
                .get(&flow)
                .is_some_and(|plan| plan.revision == revision)
            {
                continue;
            }
            match self.plan_for(&flow, &revision).await {
                Ok(Some(plan)) => self.units.start(&self.shared, &plan, &revision, false),
                Ok(None) => {}
                Err(failure) => {
                    tracing::warn!(
                        flow = &*flow,
                        revision = &*revision,
                        "an older revision goes on with the systems that it knows: {failure}"
                    );
                }
            }
        }
    }

    pub(super) fn older(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Project>>> {
        lock(&self.older)
    }
}
