//! Shadows: a revision that is tried on copies of what is accepted, and sends nothing. What it would have done otherwise is counted by field,
//! with a few examples. One at a time runs on a store; the counts of the last ones are kept, the examples of the last one alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::failure::Failure;
use crate::personal::Mask;

use super::canaries::Others;
use super::commit::RunId;
use super::database::{Connection, Row, Sql, params};
use super::personal;
use super::reader::Reader;
use super::writer::Writing;

/// So many shadows are kept.
const KEPT_MAX: i64 = 20;
/// So many differences are told apart; what is beyond them is counted together.
const FINDINGS_MAX: i64 = 300;
/// So many examples are kept of each.
pub const EXAMPLES_MAX: usize = 3;

/// - `terms` is JSON
/// - `shadow_counts.what` is one of `Counts`, or `skipped: WHY`
/// - the step `@accept` stands for what a flow does with a message before its first step
pub(super) const TABLES: &str = "
CREATE TABLE shadows (
  id INTEGER PRIMARY KEY AUTOINCREMENT, revision TEXT NOT NULL, base TEXT NOT NULL, terms TEXT NOT NULL, state TEXT NOT NULL,
  at INTEGER NOT NULL, until INTEGER NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, ended_at INTEGER, ended_by TEXT, ended_why TEXT
) STRICT;
CREATE UNIQUE INDEX shadows_running ON shadows (state) WHERE state = 'running';
CREATE TABLE shadow_counts (
  shadow INTEGER NOT NULL, flow TEXT NOT NULL, what TEXT NOT NULL, many INTEGER NOT NULL, PRIMARY KEY (shadow, flow, what)
) STRICT, WITHOUT ROWID;
CREATE TABLE shadow_findings (
  shadow INTEGER NOT NULL, flow TEXT NOT NULL, step TEXT NOT NULL, what TEXT NOT NULL, path TEXT NOT NULL, many INTEGER NOT NULL,
  PRIMARY KEY (shadow, flow, step, what, path)
) STRICT, WITHOUT ROWID;
CREATE TABLE shadow_examples (
  shadow INTEGER NOT NULL, flow TEXT NOT NULL, step TEXT NOT NULL, what TEXT NOT NULL, path TEXT NOT NULL, run INTEGER NOT NULL,
  at_path TEXT NOT NULL, keys TEXT NOT NULL, was TEXT, becomes TEXT, at INTEGER NOT NULL,
  PRIMARY KEY (shadow, flow, step, what, path, run)
) STRICT, WITHOUT ROWID;
";

/// A shadow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shadow {
    /// Its number.
    pub id: i64,
    /// The revision that is tried.
    #[schema(value_type = String)]
    pub revision: Arc<str>,
    /// The revision that ran when it began: what it is held against.
    #[schema(value_type = String)]
    pub base: Arc<str>,
    /// Which messages it looks at.
    pub terms: ShadowTerms,
    /// Whether it runs.
    pub state: ShadowState,
    /// Since when, in milliseconds since 1970; set by the store.
    pub at_ms: i64,
    /// When it ends by itself, in milliseconds since 1970.
    pub until_ms: i64,
    /// By whom.
    pub who: String,
    /// Why.
    pub why: String,
    /// When it ended.
    pub ended_at_ms: Option<i64>,
    /// By whom.
    pub ended_by: Option<String>,
    /// Why.
    pub ended_why: Option<String>,
}

/// Which messages a shadow looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShadowTerms {
    /// The flows at whose messages it looks, each with its revision before and in it.
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    pub flows: Others,
    /// At how many of 10,000 keys.
    pub share: u32,
    /// The expression that is true for the messages at which it looks, instead of a share.
    #[serde(default)]
    pub when: Option<String>,
}

/// Whether a shadow runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShadowState {
    /// It looks at messages.
    Running,
    /// It is over.
    Ended,
}

/// How many messages of a flow were looked at, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Worked on by both sides.
    pub compared: u64,
    /// Both sides do the same.
    pub same: u64,
    /// They do not.
    pub different: u64,
    /// Of these: the candidate fails where what runs does not.
    pub fails: u64,
    /// As far as they can be followed both sides do the same; then one of them asks what was not asked when it ran.
    pub not_comparable: u64,
    /// Not looked at, by why.
    pub skipped: BTreeMap<String, u64>,
}

/// Something that a candidate does otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// The flow.
    #[schema(value_type = String)]
    pub flow: Arc<str>,
    /// The step or sink; `@accept` before the first one.
    #[schema(value_type = String)]
    pub step: Arc<str>,
    /// What differs: `changed`, `scale` (the same number, written otherwise), `added`, `removed`, `more` (only the candidate sends it), `less`
    /// (only what runs does), `fails`, `outcome`, or `not_comparable`.
    pub what: String,
    /// The field, without the numbers of list items: `body.lines[].quantity`.
    pub path: String,
    /// In how many messages.
    pub many: u64,
    /// A few of them.
    pub examples: Vec<Example>,
}

/// One message with a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Example {
    /// Its run.
    pub run: i64,
    /// Its keys.
    pub keys: BTreeMap<String, String>,
    /// The field: `body.lines[0].quantity`.
    pub path: String,
    /// What runs does.
    pub was: Option<String>,
    /// What the candidate would do.
    pub becomes: Option<String>,
}

/// A change of shadows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShadowChange {
    /// One begins, if none runs.
    Begin(Shadow),
    /// It ends, if it runs: by whom, why.
    End(i64, String, String),
    /// What came of some messages of a flow.
    Told(i64, Arc<str>, Counts, Vec<Finding>),
}

impl ShadowState {
    /// The word in the store and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            ShadowState::Running => "running",
            ShadowState::Ended => "ended",
        }
    }
}

const COLUMNS: &str =
    "id, revision, base, terms, state, at, until, who, why, ended_at, ended_by, ended_why";

impl Reader {
    /// The shadows, the newest first.
    pub async fn shadows(&self, limit: usize) -> Result<Vec<Shadow>, Failure> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM shadows ORDER BY id DESC LIMIT ?1"
            ))?;
            statement.query_map([super::limit(limit)], shadow)
        })
        .await
    }

    /// The shadow that runs.
    pub async fn shadow(&self) -> Result<Option<Shadow>, Failure> {
        let mut last = self.shadows(1).await?;
        Ok(last.pop().filter(|last| last.state == ShadowState::Running))
    }

    /// What came of a shadow: its counts by flow, and what the candidate does otherwise, the most frequent first.
    pub async fn shadow_report(
        &self,
        id: i64,
    ) -> Result<(BTreeMap<Arc<str>, Counts>, Vec<Finding>), Failure> {
        self.read(move |connection| {
            let mut counts: BTreeMap<Arc<str>, Counts> = BTreeMap::new();
            let mut statement = connection.prepare_cached(
                "SELECT flow, what, many FROM shadow_counts WHERE shadow = ?1",
            )?;
            statement.each([id], |row| {
                let (flow, what) = (row.get::<Arc<str>>(0)?, row.get::<String>(1)?);
                counts.entry(flow).or_default().add(&what, unsigned(row, 2)?);
                Ok(())
            })?;
            let mut statement = connection.prepare_cached(
                "SELECT flow, step, what, path, many FROM shadow_findings WHERE shadow = ?1 ORDER BY many DESC, flow, step, path, what",
            )?;
            let mut findings = statement.query_map([id], |row| {
                Ok(Finding {
                    flow: row.get(0)?,
                    step: row.get(1)?,
                    what: row.get(2)?,
                    path: row.get(3)?,
                    many: unsigned(row, 4)?,
                    examples: Vec::new(),
                })
            })?;
            let mut statement = connection.prepare_cached(
                "SELECT run, keys, at_path, was, becomes FROM shadow_examples
                 WHERE shadow = ?1 AND flow = ?2 AND step = ?3 AND what = ?4 AND path = ?5 ORDER BY run",
            )?;
            for finding in &mut findings {
                let Finding { flow, step, what, path, .. } = &*finding;
                finding.examples =
                    statement.query_map(params![id, flow, step, what, path], example)?;
            }
            cover(connection, &mut findings)?;
            Ok((counts, findings))
        })
        .await
    }

    /// Of these runs, those of which nothing is under way any more: they have ended, or wait for a person.
    pub async fn runs_at_rest(&self, runs: Vec<RunId>) -> Result<Vec<RunId>, Failure> {
        self.read(move |connection| {
            let mut statement =
                connection.prepare_cached("SELECT open - excepted FROM runs WHERE id = ?1")?;
            let mut rest = Vec::new();
            for run in runs {
                let moving = statement.query_map([run.0], |row| row.get::<i64>(0))?;
                // One that is gone has ended.
                if moving.first().is_none_or(|moving| *moving <= 0) {
                    rest.push(run);
                }
            }
            Ok(rest)
        })
        .await
    }
}

/// Masks what is personal in examples, for everybody.
fn cover(connection: &Connection, findings: &mut [Finding]) -> Sql<()> {
    let veil = personal::veil(connection)?;
    if veil.is_empty() {
        return Ok(());
    }
    for finding in findings {
        for example in &mut finding.examples {
            let mask = personal::mask_of(connection, &veil, &finding.flow, RunId(example.run))?;
            if let Some(mask) = mask {
                example.cover(&mask);
            }
        }
    }
    Ok(())
}

impl Example {
    fn cover(&mut self, mask: &Mask) {
        for (name, value) in &mut self.keys {
            *value = mask.key(name, value);
        }
        let path = self.path.strip_prefix("body.").unwrap_or(&self.path);
        for value in [&mut self.was, &mut self.becomes].into_iter().flatten() {
            *value = mask.at(path, value);
        }
    }
}

impl Counts {
    /// So many more of this.
    fn add(&mut self, what: &str, many: u64) {
        let count = match what {
            "compared" => &mut self.compared,
            "same" => &mut self.same,
            "different" => &mut self.different,
            "fails" => &mut self.fails,
            "not_comparable" => &mut self.not_comparable,
            other => {
                let why = other.strip_prefix("skipped: ").unwrap_or(other);
                self.skipped.entry(why.to_owned()).or_default()
            }
        };
        *count += many;
    }

    /// As many more as there are in others.
    pub fn add_all(&mut self, others: &Counts) {
        for (what, many) in others.all() {
            self.add(&what, many);
        }
    }

    /// What there is to be written down.
    fn all(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let plain = [
            ("compared", self.compared),
            ("same", self.same),
            ("different", self.different),
            ("fails", self.fails),
            ("not_comparable", self.not_comparable),
        ];
        let plain = plain.into_iter();
        let plain = plain.map(|(what, many)| (what.to_owned(), many));
        let skipped = self.skipped.iter();
        let skipped = skipped.map(|(why, many)| (format!("skipped: {why}"), *many));
        plain.chain(skipped).filter(|(_, many)| *many > 0)
    }
}

fn unsigned(row: &Row<'_>, column: usize) -> Sql<u64> {
    Ok(u64::try_from(row.get::<i64>(column)?).unwrap_or(0))
}

fn shadow(row: &Row<'_>) -> Sql<Shadow> {
    let (terms, state) = (row.get::<String>(3)?, row.get::<String>(4)?);
    Ok(Shadow {
        id: row.get(0)?,
        revision: row.get(1)?,
        base: row.get(2)?,
        terms: serde_json::from_str(&terms).unwrap_or_default(),
        state: match &*state {
            "running" => ShadowState::Running,
            _ => ShadowState::Ended,
        },
        at_ms: row.get(5)?,
        until_ms: row.get(6)?,
        who: row.get(7)?,
        why: row.get(8)?,
        ended_at_ms: row.get(9)?,
        ended_by: row.get(10)?,
        ended_why: row.get(11)?,
    })
}

fn example(row: &Row<'_>) -> Sql<Example> {
    let keys: String = row.get(1)?;
    Ok(Example {
        run: row.get(0)?,
        keys: serde_json::from_str(&keys).unwrap_or_default(),
        path: row.get(2)?,
        was: row.get(3)?,
        becomes: row.get(4)?,
    })
}

/// Applies a change.
pub(super) fn change(writing: &Writing<'_>, change: &ShadowChange) -> Sql<()> {
    match change {
        ShadowChange::Begin(shadow) => begin(writing, shadow),
        ShadowChange::End(id, who, why) => writing.put(
            "UPDATE shadows SET state = 'ended', ended_at = ?2, ended_by = ?3, ended_why = ?4 WHERE id = ?1 AND state = 'running'",
            params![id, writing.now_ms, who, why],
        ),
        ShadowChange::Told(id, flow, counts, findings) => {
            for (what, many) in counts.all() {
                writing.put(
                    "INSERT INTO shadow_counts (shadow, flow, what, many) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (shadow, flow, what) DO UPDATE SET many = shadow_counts.many + excluded.many",
                    params![id, flow, what, signed(many)],
                )?;
            }
            findings.iter().try_for_each(|finding| told(writing, *id, finding))
        }
    }
}

fn begin(writing: &Writing<'_>, shadow: &Shadow) -> Sql<()> {
    let running = "SELECT 1 FROM shadows WHERE state = 'running'";
    // Examples hold values of messages: they are not kept for long.
    writing.put(
        &format!("DELETE FROM shadow_examples WHERE NOT EXISTS ({running})"),
        (),
    )?;
    for (table, column) in [
        ("shadow_findings", "shadow"),
        ("shadow_counts", "shadow"),
        ("shadows", "id"),
    ] {
        writing.put(
            &format!(
                "DELETE FROM {table} WHERE {column} <= (SELECT coalesce(max(id), 0) FROM shadows) - ?1 AND NOT EXISTS ({running})"
            ),
            [KEPT_MAX - 1],
        )?;
    }
    writing.put(
        &format!(
            "INSERT INTO shadows (revision, base, terms, state, at, until, who, why)
             SELECT ?1, ?2, ?3, 'running', ?4, ?5, ?6, ?7 WHERE NOT EXISTS ({running})"
        ),
        params![
            shadow.revision,
            shadow.base,
            serde_json::to_string(&shadow.terms).unwrap_or_default(),
            writing.now_ms,
            writing.at(shadow.until_ms),
            shadow.who,
            shadow.why,
        ],
    )
}

fn told(writing: &Writing<'_>, id: i64, finding: &Finding) -> Sql<()> {
    let Finding {
        flow,
        step,
        what,
        path,
        ..
    } = finding;
    let named = params![id, flow, step, what, path];
    let known = writing
        .connection
        .prepare_cached("SELECT 1 FROM shadow_findings WHERE shadow = ?1 AND flow = ?2 AND step = ?3 AND what = ?4 AND path = ?5")?
        .exists(named)?;
    if !known {
        let many: i64 = writing.connection.query_row(
            "SELECT count(*) FROM shadow_findings WHERE shadow = ?1",
            [id],
            |row| row.get(0),
        )?;
        if many >= FINDINGS_MAX {
            return add(writing, id, ("", "", "other", ""), finding.many);
        }
    }
    add(writing, id, (flow, step, what, path), finding.many)?;
    for example in &finding.examples {
        writing.put(
            "INSERT INTO shadow_examples (shadow, flow, step, what, path, run, at_path, keys, was, becomes, at)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, CAST(?9 AS TEXT), CAST(?10 AS TEXT), CAST(?12 AS BIGINT)
             WHERE (SELECT count(*) FROM shadow_examples WHERE shadow = ?1 AND flow = ?2 AND step = ?3 AND what = ?4 AND path = ?5) < ?11
             ON CONFLICT DO NOTHING",
            params![
                id,
                flow,
                step,
                what,
                path,
                example.run,
                example.path,
                serde_json::to_string(&example.keys).unwrap_or_default(),
                example.was.as_deref(),
                example.becomes.as_deref(),
                super::limit(EXAMPLES_MAX),
                writing.now_ms,
            ],
        )?;
    }
    Ok(())
}

/// Examples hold values of messages: those that were written down before this time go, as the bodies of messages do, also while the shadow runs.
pub(super) fn sweep(connection: &Connection, horizon_ms: i64) -> Sql<()> {
    connection.put("DELETE FROM shadow_examples WHERE at <= ?1", [horizon_ms])
}

fn add(
    writing: &Writing<'_>,
    id: i64,
    (flow, step, what, path): (&str, &str, &str, &str),
    many: u64,
) -> Sql<()> {
    writing.put(
        "INSERT INTO shadow_findings (shadow, flow, step, what, path, many) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (shadow, flow, step, what, path) DO UPDATE SET many = shadow_findings.many + excluded.many",
        params![id, flow, step, what, path, signed(many)],
    )
}

fn signed(many: u64) -> i64 {
    i64::try_from(many).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::commit::Commit;
    use super::super::sample::*;
    use super::*;

    fn beginning(why: &str) -> ShadowChange {
        ShadowChange::Begin(Shadow {
            id: 0,
            revision: Arc::from("next"),
            base: Arc::from("now"),
            terms: ShadowTerms {
                share: 10_000,
                ..ShadowTerms::default()
            },
            state: ShadowState::Running,
            at_ms: 0,
            until_ms: START_MS + 1_000,
            who: "ann".to_owned(),
            why: why.to_owned(),
            ended_at_ms: None,
            ended_by: None,
            ended_why: None,
        })
    }

    fn finding(path: &str, runs: std::ops::Range<i64>) -> Finding {
        Finding {
            flow: Arc::from("orders"),
            step: Arc::from("erp"),
            what: "changed".to_owned(),
            path: path.to_owned(),
            many: u64::try_from(runs.end - runs.start).unwrap(),
            examples: runs
                .map(|run| Example {
                    run,
                    keys: BTreeMap::from([("order".to_owned(), format!("SO-{run}"))]),
                    path: path.to_owned(),
                    was: Some("1".to_owned()),
                    becomes: None,
                })
                .collect(),
        }
    }

    async fn does(sample: &Sample, changes: Vec<ShadowChange>) {
        let commit = Commit {
            shadows: changes,
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap();
    }

    #[tokio::test]
    async fn one_shadow_runs_and_its_report_stays_after_its_end() {
        let sample = Sample::new();
        does(&sample, vec![beginning("first"), beginning("second")]).await;
        let shadow = sample.store.shadow().await.unwrap().unwrap();
        assert_eq!((&*shadow.why, shadow.until_ms), ("first", START_MS + 1_000));
        let counts = Counts {
            compared: 3,
            same: 1,
            different: 2,
            skipped: BTreeMap::from([("too many at once".to_owned(), 4)]),
            ..Counts::default()
        };
        let flow: Arc<str> = Arc::from("orders");
        let told = |findings| ShadowChange::Told(shadow.id, flow.clone(), counts.clone(), findings);
        does(&sample, vec![told(vec![finding("body.a", 1..3)])]).await;
        let end = ShadowChange::End(shadow.id, "bob".to_owned(), "enough".to_owned());
        does(&sample, vec![end.clone(), end]).await;
        does(&sample, vec![told(vec![finding("body.a", 2..6)])]).await;
        assert_eq!(sample.store.shadow().await.unwrap(), None);
        let last = sample.store.shadows(9).await.unwrap();
        assert_eq!(last[0].ended_why.as_deref(), Some("enough"));
        let (counted, findings) = sample.store.shadow_report(shadow.id).await.unwrap();
        assert_eq!(counted["orders"].compared, 6);
        assert_eq!(counted["orders"].skipped["too many at once"], 8);
        assert_eq!((findings.len(), findings[0].many), (1, 6));
        let runs: Vec<i64> = findings[0].examples.iter().map(|one| one.run).collect();
        assert_eq!(runs, [1, 2, 3], "a few examples are enough");
        // The next one takes the examples away, and leaves the counts.
        does(&sample, vec![beginning("third")]).await;
        let (counted, findings) = sample.store.shadow_report(shadow.id).await.unwrap();
        assert_eq!(counted["orders"].compared, 6);
        assert!(findings[0].examples.is_empty());
    }

    #[tokio::test]
    async fn examples_go_as_bodies_do_while_the_shadow_runs() {
        for sample in [Sample::new(), Sample::on_a_server()] {
            let retention = super::super::retention::Retention {
                runs_ms: 100_000,
                bodies_ms: 50_000,
                exceptions_ms: 100_000,
                limit: 10,
            };
            does(&sample, vec![beginning("first")]).await;
            let shadow = sample.store.shadow().await.unwrap().unwrap();
            let flow: Arc<str> = Arc::from("orders");
            let told = |path: &str, runs| {
                let findings = vec![finding(path, runs)];
                ShadowChange::Told(shadow.id, flow.clone(), Counts::default(), findings)
            };
            does(&sample, vec![told("body.a", 1..3)]).await;
            sample.clock.advance(std::time::Duration::from_secs(30));
            does(&sample, vec![told("body.b", 3..4)]).await;
            sample.clock.advance(std::time::Duration::from_secs(30));
            sample.store.sweep(retention).await.unwrap();
            let (_, findings) = sample.store.shadow_report(shadow.id).await.unwrap();
            let many: Vec<_> = findings
                .iter()
                .map(|one| (&*one.path, one.many, one.examples.len()))
                .collect();
            assert_eq!(many, [("body.a", 2, 0), ("body.b", 1, 1)]);
        }
    }

    #[tokio::test]
    async fn what_is_told_apart_and_what_is_kept_has_a_limit() {
        let sample = Sample::new();
        for n in 0..25 {
            does(&sample, vec![beginning(&n.to_string())]).await;
            let shadow = sample.store.shadow().await.unwrap().unwrap();
            let end = ShadowChange::End(shadow.id, "bob".to_owned(), "x".to_owned());
            does(&sample, vec![end]).await;
        }
        let kept = sample.store.shadows(99).await.unwrap();
        assert_eq!(kept.len(), usize::try_from(KEPT_MAX).unwrap());
        let findings: Vec<_> = (0..FINDINGS_MAX + 50)
            .map(|n| finding(&format!("body.f{n}"), n..n + 1))
            .collect();
        let flow: Arc<str> = Arc::from("orders");
        let told = ShadowChange::Told(kept[0].id, flow, Counts::default(), findings);
        does(&sample, vec![told]).await;
        let (_, findings) = sample.store.shadow_report(kept[0].id).await.unwrap();
        assert_eq!(i64::try_from(findings.len()).unwrap(), FINDINGS_MAX + 1);
        assert_eq!((&*findings[0].what, findings[0].many), ("other", 50));
    }

    #[tokio::test]
    async fn a_run_is_at_rest_when_nothing_of_it_is_under_way() {
        let sample = Sample::new();
        let (moving, over) = (sample.order("A", "1"), sample.order("B", "1"));
        sample.accept(vec![moving.clone(), over.clone()]).await;
        let ended = super::super::sample::over(
            &over,
            first_hop(&over),
            vec![],
            vec![super::super::commit::Leaf::Delivered],
        );
        sample.end(vec![ended]).await;
        let asked = vec![moving.run, over.run, RunId(99)];
        let rest = sample.store.runs_at_rest(asked).await.unwrap();
        assert_eq!(rest, [over.run, RunId(99)]);
    }
}
