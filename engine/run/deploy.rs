//! What people do about revisions, at the desk: reload, roll back, lift. Beside an engine it is done at once, without one at the next start.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::changes::Changes;
use super::desk::{Desk, reason_of};
use super::reload::written::withdraw;
use super::reload::{Reloaded, Will, short};
use crate::diagnostic::{Findings, render};
use crate::failure::{Class, Failure};
use crate::store::audit::{Acting, Entry};
use crate::store::commit::Commit;
use crate::store::revisions::{Deployment, RevisionChange, Withdrawn};

/// What a reload or a rollback was about, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deployed {
    /// `switched`, `same`, `withdrawn` or `refused`.
    pub outcome: Outcome,
    /// What is otherwise, or would be.
    pub changes: Option<Changes>,
    /// What is wrong with the project, and the warnings, as text.
    pub findings: String,
    /// How many of them are errors and warnings.
    pub summary: String,
    /// If the project was withdrawn: by whom, why, and what runs instead.
    pub withdrawn: Option<Withdrawn>,
    /// The revision that runs now.
    pub running: String,
    /// Nothing was changed: it was only asked.
    pub dry_run: bool,
}

/// What became of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Another revision runs, or would.
    Switched,
    /// The project is as it runs.
    Same,
    /// The project was withdrawn; another revision runs in its place.
    Withdrawn,
    /// The project cannot be loaded; what ran runs on.
    Refused,
}

/// What runs, what ran, and what is not to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revisions {
    /// The revision that runs; `None` if no engine runs here.
    pub running: Option<String>,
    /// Since when the files on the disk cannot be loaded, in milliseconds since 1970, and how much is wrong with them.
    pub refused: Option<(i64, String)>,
    /// What ran when, the newest first.
    pub deployments: Vec<Deployment>,
    /// What is not to run.
    pub withdrawn: Vec<Withdrawn>,
}

impl Desk {
    /// Loads the project from the disk and lets it run; with `dry_run` only says what that would change.
    pub async fn reload(
        &self,
        who: &str,
        why: Option<&str>,
        dry_run: bool,
    ) -> Result<Deployed, Failure> {
        let works = self.works.as_ref().ok_or_else(no_engine)?;
        let will = Will {
            how: "reload",
            who: who.to_owned(),
            why: why.map(str::to_owned),
            by: self.by(),
        };
        let reloaded = match dry_run {
            true => works.would().await?,
            false => works.reload(will).await?,
        };
        let running = works.revision().to_string();
        let deployed = Deployed::of(reloaded, running, dry_run);
        if !dry_run && deployed.outcome != Outcome::Switched {
            self.tell(not_switched(&deployed, self.by(), (who, why)))
                .await?;
        }
        Ok(deployed)
    }

    /// Withdraws what runs: in its place runs this revision, or the one before it. Without an engine it counts from the next start on.
    ///
    /// Fails with class `validation` without a reason, `not_found` if the revision is not kept.
    pub async fn roll_back(
        &self,
        to: Option<&str>,
        who: &str,
        why: &str,
        dry_run: bool,
    ) -> Result<Deployed, Failure> {
        let why = reason_of(why)?;
        let ran = self.store.deployments(1_000).await?;
        let running = match &self.works {
            Some(works) => works.revision(),
            None => ran
                .first()
                .map(|last| last.revision.clone())
                .ok_or_else(|| {
                    Failure::new(Class::NotFound, "nothing has run on this store yet")
                })?,
        };
        let to = match to {
            Some(to) => {
                let to = self.store.revision_named(to).await?;
                if !ran.iter().any(|one| one.revision == to) {
                    return Err(Failure::new(
                        Class::Conflict,
                        "this revision was tried and never ran for all; `crossdock canary promote` is the way",
                    ));
                }
                to
            }
            None => {
                let last = ran.iter().find(|one| one.revision == running);
                let before = last.and_then(|last| last.before.clone());
                before.ok_or_else(|| {
                    Failure::new(
                        Class::NotFound,
                        "no revision ran before this one; name one, `crossdock revisions` lists them",
                    )
                })?
            }
        };
        let will = Will {
            how: "rollback",
            who: who.to_owned(),
            why: Some(why.to_owned()),
            by: self.by(),
        };
        let Some(works) = &self.works else {
            return self.roll_back_alone(&running, &to, &will, dry_run).await;
        };
        let changes = match dry_run {
            true => works.would_roll_back(&to).await?,
            false => works.roll_back(&to, will).await?,
        };
        let running = works.revision().to_string();
        let switched = Reloaded::Switched(changes, Findings::new());
        Ok(Deployed::of(switched, running, dry_run))
    }

    async fn roll_back_alone(
        &self,
        running: &std::sync::Arc<str>,
        to: &std::sync::Arc<str>,
        will: &Will,
        dry_run: bool,
    ) -> Result<Deployed, Failure> {
        if running == to {
            return Err(Failure::new(Class::Conflict, "this revision ran last"));
        }
        if self.store.kept(to).await?.is_none() {
            let why = format!("the store does not keep revision {}", short(to));
            return Err(Failure::new(Class::NotFound, why));
        }
        if !dry_run {
            let commit = Commit {
                revisions: withdraw(running, to, will),
                by: self.by(),
                ..Commit::default()
            };
            self.store.commit(commit).await?;
        }
        let changes = Changes {
            before: running.to_string(),
            after: to.to_string(),
            ..Changes::default()
        };
        let switched = Reloaded::Switched(changes, Findings::new());
        Ok(Deployed::of(switched, running.to_string(), dry_run))
    }

    /// A revision that was withdrawn may run again; if it lies on the disk of this engine, it does at once.
    pub async fn lift(
        &self,
        revision: &str,
        who: &str,
        why: Option<&str>,
    ) -> Result<Deployed, Failure> {
        let withdrawn = self.store.withdrawn().await?;
        let mut named = withdrawn
            .iter()
            .filter(|one| one.revision.starts_with(revision));
        let (Some(one), None) = (named.next(), named.next()) else {
            let why = format!(
                "there is not just one revision that begins with `{revision}` and was withdrawn"
            );
            return Err(Failure::new(Class::NotFound, why));
        };
        let commit = Commit {
            revisions: vec![RevisionChange::Lift(one.revision.clone())],
            by: self.by(),
            ..Commit::default()
        };
        self.store.commit(commit).await?;
        match self.works {
            Some(_) => self.reload(who, why, false).await,
            None => Ok(Deployed::of(
                Reloaded::Same(Findings::new()),
                String::new(),
                false,
            )),
        }
    }

    /// What runs, what ran, and what is not to run.
    pub async fn revisions(&self, limit: usize) -> Result<Revisions, Failure> {
        Ok(Revisions {
            running: self
                .works
                .as_ref()
                .map(|works| works.revision().to_string()),
            refused: self.works.as_ref().and_then(|works| works.refused()),
            deployments: self.store.deployments(limit).await?,
            withdrawn: self.store.withdrawn().await?,
        })
    }
}

impl Deployed {
    fn of(reloaded: Reloaded, running: String, dry_run: bool) -> Deployed {
        let (outcome, changes, findings, withdrawn) = match reloaded {
            Reloaded::Switched(changes, findings) => {
                (Outcome::Switched, Some(changes), findings, None)
            }
            Reloaded::Same(findings) => (Outcome::Same, None, findings, None),
            Reloaded::Refused(findings) => (Outcome::Refused, None, findings, None),
            Reloaded::Withdrawn(withdrawn) => {
                (Outcome::Withdrawn, None, Findings::new(), Some(withdrawn))
            }
        };
        let mut text = Vec::new();
        render::text(&findings, &mut text, false).ok();
        Deployed {
            outcome,
            changes,
            findings: String::from_utf8_lossy(&text).into_owned(),
            summary: render::summary(&findings),
            withdrawn,
            running,
            dry_run,
        }
    }
}

/// What the audit log is told of a reload that has switched nothing.
fn not_switched(
    deployed: &Deployed,
    by: Option<Box<Acting>>,
    (who, why): (&str, Option<&str>),
) -> Entry {
    let (outcome, detail) = match deployed.outcome {
        Outcome::Refused => ("refused", deployed.summary.clone()),
        Outcome::Withdrawn => ("refused", "the revision was withdrawn".to_owned()),
        Outcome::Same | Outcome::Switched => ("done", "nothing has changed".to_owned()),
    };
    Entry {
        acting: by.map_or_else(|| Acting::engine(who), |by| *by),
        action: "project.reload".into(),
        target_kind: "revision",
        target: deployed.running.clone(),
        reason: why.map(str::to_owned),
        outcome,
        detail: Some(detail),
    }
}

pub(super) fn no_engine() -> Failure {
    Failure::new(
        Class::Unavailable,
        "no engine runs on this store on this machine; the project is loaded at the next `crossdock run`",
    )
}
