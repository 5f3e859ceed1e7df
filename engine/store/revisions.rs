//! Revisions: the files of a project as they ran, which of them ran when and by whose will, and which are not to run any more. Contents are
//! kept once, whatever their paths.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::failure::{Class, Failure};
use crate::personal::Rules;

use super::database::{Connection, Optional, Sql, params};
use super::personal;
use super::reader::Reader;
use super::writer::Writing;

/// So many revisions are kept, and beside them those under which messages are in flight.
const KEPT_MAX: usize = 200;
/// So many lines of the history are shown at most.
const SHOWN_MAX: usize = 1_000;

/// - `revisions.files` is a JSON object of paths and the hashes of their contents, `flows` one of flows and their revisions
/// - `flow_revisions.project` is the newest revision of the project that has this one of the flow; it may be forgotten by now
/// - `deployments` says which revision ran from when on; `before` is the one that ran until then
/// - a revision that is `withdrawn` runs nowhere; where it lies on a disk, `instead` runs
/// - `hops.revision` is null where it is that of the run
pub(super) const TABLES: &str = "
ALTER TABLE hops ADD COLUMN revision TEXT;
CREATE TABLE contents (
  hash BLOB PRIMARY KEY, content BLOB NOT NULL
) STRICT;
CREATE TABLE revisions (
  revision TEXT PRIMARY KEY, at INTEGER NOT NULL, files TEXT NOT NULL, flows TEXT NOT NULL
) STRICT;
CREATE TABLE flow_revisions (
  flow TEXT NOT NULL, revision TEXT NOT NULL, project TEXT NOT NULL, PRIMARY KEY (flow, revision)
) STRICT, WITHOUT ROWID;
CREATE TABLE deployments (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, revision TEXT NOT NULL, before TEXT, how TEXT NOT NULL, who TEXT NOT NULL,
  why TEXT, changes TEXT NOT NULL
) STRICT;
CREATE TABLE withdrawn (
  revision TEXT PRIMARY KEY, instead TEXT NOT NULL, at INTEGER NOT NULL, who TEXT NOT NULL, why TEXT
) STRICT, WITHOUT ROWID;
";

/// The files of a project, by their paths below its folder.
pub type Files = BTreeMap<String, Bytes>;

/// A change of what is known of revisions.
#[derive(Clone, Debug)]
pub enum RevisionChange {
    /// A revision is kept that runs.
    Keep(Arc<Kept>),
    /// A revision is kept that is tried on a share of the messages: what others are kept for stays as it is.
    Try(Arc<Kept>),
    /// A revision runs from now on.
    Deploy(Deployment),
    /// A revision is not to run any more.
    Withdraw(Withdrawn),
    /// A revision that was withdrawn may run again.
    Lift(Arc<str>),
}

/// A revision of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The revision.
    pub revision: Arc<str>,
    /// What it is made of.
    pub files: Files,
    /// The revision of each flow.
    pub flows: BTreeMap<String, String>,
    /// What is personal in the messages of each flow; what was once said stays, so a revision that is read has none of its own.
    pub personal: BTreeMap<Arc<str>, Rules>,
}

/// That a revision ran, from when on and by whose will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// When, in milliseconds since 1970; set by the store.
    pub at_ms: i64,
    /// The revision.
    #[schema(value_type = String)]
    pub revision: Arc<str>,
    /// The one that ran until then.
    #[schema(value_type = Option<String>)]
    pub before: Option<Arc<str>>,
    /// By a `start`, a `reload` or a `rollback`.
    pub how: String,
    /// By whom: a person, or where the files were found.
    pub who: String,
    /// Why, if a person said so.
    pub why: Option<String>,
    /// What is otherwise than before, in a line.
    pub changes: String,
}

/// That a revision is not to run, and what runs in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Withdrawn {
    /// The revision.
    #[schema(value_type = String)]
    pub revision: Arc<str>,
    /// What runs where it lies on a disk.
    #[schema(value_type = String)]
    pub instead: Arc<str>,
    /// Since when, in milliseconds since 1970; set by the store.
    pub at_ms: i64,
    /// By whom.
    pub who: String,
    /// Why.
    pub why: Option<String>,
}

impl Reader {
    /// What ran when, the newest first.
    pub async fn deployments(&self, limit: usize) -> Result<Vec<Deployment>, Failure> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT at, revision, before, how, who, why, changes FROM deployments ORDER BY id DESC LIMIT ?1",
            )?;
            statement.query_map([super::limit(limit.min(SHOWN_MAX))], |row| {
                Ok(Deployment {
                    at_ms: row.get(0)?,
                    revision: row.get(1)?,
                    before: row.get(2)?,
                    how: row.get(3)?,
                    who: row.get(4)?,
                    why: row.get(5)?,
                    changes: row.get(6)?,
                })
            })
        })
        .await
    }

    /// What is not to run any more.
    pub async fn withdrawn(&self) -> Result<Vec<Withdrawn>, Failure> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT revision, instead, at, who, why FROM withdrawn ORDER BY at DESC, revision",
            )?;
            statement.query_map((), |row| {
                Ok(Withdrawn {
                    revision: row.get(0)?,
                    instead: row.get(1)?,
                    at_ms: row.get(2)?,
                    who: row.get(3)?,
                    why: row.get(4)?,
                })
            })
        })
        .await
    }

    /// The revision that begins so. Fails with class `not-found` if there is none, `conflict` if there are several.
    pub async fn revision_named(&self, beginning: &str) -> Result<Arc<str>, Failure> {
        let wanted = beginning.to_owned();
        let found: Vec<Arc<str>> = self
            .read(move |connection| {
                let length = i64::try_from(wanted.chars().count()).unwrap_or(i64::MAX);
                let mut statement = connection.prepare_cached(
                    "SELECT revision FROM revisions WHERE substr(revision, 1, ?2) = ?1 ORDER BY at DESC LIMIT 2",
                )?;
                statement.query_map(params![wanted, length], |row| row.get(0))
            })
            .await?;
        match &found[..] {
            [one] => Ok(one.clone()),
            [] => Err(Failure::new(
                Class::NotFound,
                format!(
                    "the store keeps no revision `{beginning}`; `crossdock revisions` lists them"
                ),
            )),
            _ => Err(Failure::new(
                Class::Conflict,
                format!("several revisions begin with `{beginning}`; write more of it"),
            )),
        }
    }

    /// A revision that is kept.
    pub async fn kept(&self, revision: &str) -> Result<Option<Kept>, Failure> {
        let revision: Arc<str> = Arc::from(revision);
        self.read(move |connection| kept(connection, &revision))
            .await
    }

    /// The newest revision of the project that has this one of a flow, if it is kept.
    pub async fn project_of(
        &self,
        flow: &str,
        revision: &str,
    ) -> Result<Option<Arc<str>>, Failure> {
        let (flow, revision) = (flow.to_owned(), revision.to_owned());
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT project FROM flow_revisions WHERE flow = ?1 AND revision = ?2",
                )?
                .query_row(params![flow, revision], |row| row.get(0))
                .optional()
        })
        .await
    }
}

impl Reader {
    /// The newest revision of a flow that is kept.
    pub async fn last_of(&self, flow: &str) -> Result<Option<Arc<str>>, Failure> {
        let flow = flow.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT flow_revisions.revision FROM flow_revisions JOIN revisions ON revisions.revision = flow_revisions.project
                     WHERE flow_revisions.flow = ?1
                     ORDER BY EXISTS (SELECT 1 FROM deployments WHERE deployments.revision = revisions.revision) DESC, revisions.at DESC
                     LIMIT 1",
                )?
                .query_row([flow], |row| row.get(0))
                .optional()
        })
        .await
    }
}

fn kept(connection: &Connection, revision: &Arc<str>) -> Sql<Option<Kept>> {
    let row: Option<(String, String)> = connection
        .prepare_cached("SELECT files, flows FROM revisions WHERE revision = ?1")?
        .query_row([revision], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((named, flows)) = row else {
        return Ok(None);
    };
    let named: BTreeMap<String, String> = serde_json::from_str(&named).unwrap_or_default();
    let flows = serde_json::from_str(&flows).unwrap_or_default();
    let mut statement =
        connection.prepare_cached("SELECT content FROM contents WHERE hash = ?1")?;
    let mut files = Files::new();
    for (path, hash) in named {
        let content: Option<Vec<u8>> = statement
            .query_row(params![&bytes_of(&hash)[..]], |row| row.get(0))
            .optional()?;
        let Some(content) = content else {
            return Ok(None);
        };
        files.insert(path, Bytes::from(content));
    }
    Ok(Some(Kept {
        revision: revision.clone(),
        files,
        flows,
        personal: BTreeMap::new(),
    }))
}

/// Changes what is known of revisions.
pub(super) fn change(writing: &Writing<'_>, change: &RevisionChange) -> Sql<()> {
    match change {
        RevisionChange::Keep(kept) => keep(writing, kept, true),
        RevisionChange::Try(kept) => keep(writing, kept, false),
        RevisionChange::Deploy(deployment) => {
            writing.put(
                "INSERT INTO deployments (at, revision, before, how, who, why, changes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    writing.now_ms,
                    deployment.revision,
                    deployment.before.as_deref(),
                    deployment.how,
                    deployment.who,
                    deployment.why.as_deref(),
                    deployment.changes,
                ],
            )?;
            prune(writing)
        }
        RevisionChange::Withdraw(withdrawn) => writing.put(
            "INSERT INTO withdrawn (revision, instead, at, who, why) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (revision) DO UPDATE SET instead = excluded.instead, at = excluded.at, who = excluded.who, why = excluded.why",
            params![
                withdrawn.revision,
                withdrawn.instead,
                writing.now_ms,
                withdrawn.who,
                withdrawn.why.as_deref(),
            ],
        ),
        RevisionChange::Lift(revision) => {
            writing.put("DELETE FROM withdrawn WHERE revision = ?1", [revision])
        }
    }
}

fn keep(writing: &Writing<'_>, kept: &Kept, runs: bool) -> Sql<()> {
    let mut named = BTreeMap::new();
    for (path, content) in &kept.files {
        let hash: [u8; 32] = Sha256::digest(content).into();
        writing.put(
            "INSERT INTO contents (hash, content) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![&hash[..], &content[..]],
        )?;
        named.insert(path, text_of(&hash));
    }
    let text = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
    writing.put(
        "INSERT INTO revisions (revision, at, files, flows) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (revision) DO UPDATE SET at = excluded.at",
        params![
            kept.revision,
            writing.now_ms,
            text(serde_json::to_string(&named)),
            text(serde_json::to_string(&kept.flows)),
        ],
    )?;
    // Another project that has the same flow may be the one that runs.
    let but = match runs {
        true => "",
        false => {
            " WHERE NOT EXISTS (SELECT 1 FROM revisions WHERE revisions.revision = flow_revisions.project)"
        }
    };
    for (flow, revision) in &kept.flows {
        writing.put(
            &format!(
                "INSERT INTO flow_revisions (flow, revision, project) VALUES (?1, ?2, ?3)
                 ON CONFLICT (flow, revision) DO UPDATE SET project = excluded.project{but}"
            ),
            params![flow, revision, kept.revision],
        )?;
    }
    personal::note(writing, &kept.personal)
}

/// Forgets the oldest revisions that nobody is likely to need: too many are kept, and no message is in flight under them. That there was such a
/// revision of a flow stays known: nothing that comes up under it must be taken for something from before revisions were kept.
fn prune(writing: &Writing<'_>) -> Sql<()> {
    let connection = writing.connection;
    let mut statement = connection.prepare_cached(
        "SELECT revision FROM revisions ORDER BY at DESC, revision LIMIT 1000 OFFSET ?1",
    )?;
    let old: Vec<Arc<str>> = statement.query_map([super::limit(KEPT_MAX)], |row| row.get(0))?;
    if old.is_empty() {
        return Ok(());
    }
    let mut gone = false;
    for revision in old {
        let needed: bool = connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM withdrawn WHERE instead = ?1) OR EXISTS (
                   SELECT 1 FROM flow_revisions JOIN hops ON hops.flow = flow_revisions.flow JOIN runs ON runs.id = hops.run
                   WHERE flow_revisions.project = ?1 AND coalesce(hops.revision, runs.revision) = flow_revisions.revision)",
            )?
            .query_row([&revision], |row| row.get(0))?;
        if !needed {
            writing.put("DELETE FROM revisions WHERE revision = ?1", [&revision])?;
            gone = true;
        }
    }
    if gone {
        sweep_contents(writing)?;
    }
    Ok(())
}

/// Forgets contents that no revision has.
fn sweep_contents(writing: &Writing<'_>) -> Sql<()> {
    let connection = writing.connection;
    let all: Vec<String> = connection
        .prepare_cached("SELECT files FROM revisions")?
        .query_map((), |row| row.get(0))?;
    let mut used = std::collections::BTreeSet::new();
    for named in all {
        let named: BTreeMap<String, String> = serde_json::from_str(&named).unwrap_or_default();
        used.extend(named.into_values());
    }
    let hashes: Vec<Vec<u8>> = connection
        .prepare_cached("SELECT hash FROM contents")?
        .query_map((), |row| row.get(0))?;
    for hash in hashes {
        if !used.contains(&text_of(&hash)) {
            writing.put("DELETE FROM contents WHERE hash = ?1", params![&hash[..]])?;
        }
    }
    Ok(())
}

fn text_of(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hash: &str) -> Vec<u8> {
    let digits = hash.as_bytes().chunks(2);
    digits
        .filter_map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::commit::Commit;
    use super::super::sample::*;
    use super::*;

    fn revision(name: &str, orders: &str) -> Arc<Kept> {
        Arc::new(Kept {
            personal: BTreeMap::new(),
            revision: Arc::from(name),
            files: Files::from([
                ("crossdock.yaml".to_owned(), Bytes::new()),
                (
                    "flows/orders.yaml".to_owned(),
                    Bytes::from(orders.to_owned()),
                ),
            ]),
            flows: BTreeMap::from([("orders".to_owned(), format!("flow of {name}"))]),
        })
    }

    async fn deploy(sample: &Sample, kept: &Arc<Kept>) {
        let deployment = Deployment {
            at_ms: 0,
            revision: kept.revision.clone(),
            before: None,
            how: "reload".to_owned(),
            who: "ann".to_owned(),
            why: None,
            changes: String::new(),
        };
        let commit = Commit {
            revisions: vec![
                RevisionChange::Keep(kept.clone()),
                RevisionChange::Deploy(deployment),
            ],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap();
    }

    #[tokio::test]
    async fn a_revision_is_found_by_its_beginning_and_by_one_of_its_flows() {
        let mut sample = Sample::new();
        let (first, second) = (revision("abc1", "one"), revision("abd2", "two"));
        deploy(&sample, &first).await;
        deploy(&sample, &second).await;
        sample.reopen().await;
        let store = &sample.store;
        assert_eq!(store.kept("abc1").await.unwrap().as_ref(), Some(&*first));
        assert_eq!(store.kept("nothing").await.unwrap(), None);
        assert_eq!(&*store.revision_named("abd").await.unwrap(), "abd2");
        let several = store.revision_named("ab").await.unwrap_err();
        assert_eq!(several.class, Class::Conflict);
        let none = store.revision_named("x").await.unwrap_err();
        assert_eq!(none.class, Class::NotFound);
        let found = store.project_of("orders", "flow of abc1").await.unwrap();
        assert_eq!(found.as_deref(), Some("abc1"));
        let ran = store.deployments(9).await.unwrap();
        let ran: Vec<&str> = ran.iter().map(|one| &*one.revision).collect();
        assert_eq!(ran, ["abd2", "abc1"]);
    }

    #[tokio::test]
    async fn old_revisions_go_but_those_with_messages_stay() {
        let sample = Sample::new();
        let mut order = sample.order("A", "1");
        order.revision = Arc::from("flow of r0");
        sample.accept(vec![order]).await;
        for n in 0..KEPT_MAX + 3 {
            deploy(&sample, &revision(&format!("r{n}"), &n.to_string())).await;
            sample.clock.advance(std::time::Duration::from_secs(1));
        }
        let kept = |name: &'static str| {
            let store = sample.store.clone();
            async move { store.kept(name).await.unwrap().is_some() }
        };
        assert!(kept("r0").await, "a message is in flight under it");
        assert!(!kept("r1").await && !kept("r2").await);
        assert!(kept("r3").await && kept("r202").await);
        let contents = sample
            .store
            .read(|connection| {
                connection
                    .prepare_cached("SELECT count(*) FROM contents")?
                    .query_row((), |row| row.get::<i64>(0))
            })
            .await
            .unwrap();
        // Each has its own flow, and all have the same settings.
        assert_eq!(contents, 202);
    }

    #[tokio::test]
    async fn what_is_only_tried_takes_no_flow_away_from_what_runs() {
        let sample = Sample::new();
        let base = revision("base", "1");
        deploy(&sample, &base).await;
        let tried = Arc::new(Kept {
            flows: base.flows.clone(),
            ..Kept::clone(&revision("tried", "2"))
        });
        let commit = Commit {
            revisions: vec![RevisionChange::Try(tried.clone())],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap();
        let of = || sample.store.project_of("orders", "flow of base");
        assert_eq!(of().await.unwrap().as_deref(), Some("base"));
        let last = sample.store.last_of("orders").await.unwrap();
        assert_eq!(last.as_deref(), Some("flow of base"));
        deploy(&sample, &tried).await;
        assert_eq!(of().await.unwrap().as_deref(), Some("tried"));
    }
}
