//! Toggles: what people have stopped, and for how long. A row is there as long as it counts; who took it away is in the audit log.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::failure::Failure;

use super::commit::DOOR;
use super::database::{Row, Sql, params};
use super::reader::Reader;
use super::writer::Writing;

/// The table. `target` is written as people write it.
pub(super) const TABLE: &str = "
CREATE TABLE toggles (
  target TEXT PRIMARY KEY, how TEXT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER
) STRICT, WITHOUT ROWID;
";

/// What stands before the name of a system.
const SYSTEM: &str = "system:";

/// What is stopped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Target {
    /// A flow: `orders`.
    Flow(Arc<str>),
    /// A step or a sink of a flow: `orders/erp`.
    Step(Arc<str>, Arc<str>),
    /// A system: `system:erp`.
    System(Arc<str>),
}

/// How it is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// What comes is accepted and waits, and so does what is in flight.
    Paused,
    /// Nothing new is accepted, and what is in flight waits. Flows only.
    Disabled,
    /// Nothing new is accepted, and what is in flight is finished. Flows only.
    Draining,
}

/// That something is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Toggle {
    /// What.
    #[schema(value_type = String)]
    pub target: Target,
    /// How.
    pub how: How,
    /// By whom.
    pub who: String,
    /// Why.
    pub why: String,
    /// Since when, in milliseconds since 1970; set by the store.
    pub since_ms: i64,
    /// Until when, in milliseconds since 1970; `None`: until somebody lets it go on.
    pub until_ms: Option<i64>,
}

/// A change of what is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToggleChange {
    /// It is stopped like this from now on, whatever was before.
    Stop(Toggle),
    /// It goes on; by whom and why.
    Resume(Target, String, Option<String>),
    /// It goes on, if its time is still this one.
    Ends(Target, i64),
}

impl How {
    /// The word in the store and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            How::Paused => "paused",
            How::Disabled => "disabled",
            How::Draining => "draining",
        }
    }

    fn from_name(name: &str) -> Option<How> {
        let all = [How::Paused, How::Disabled, How::Draining];
        all.into_iter().find(|how| how.name() == name)
    }

    /// Whether nothing new is accepted.
    pub fn refuses(self) -> bool {
        matches!(self, How::Disabled | How::Draining)
    }

    /// Whether what is in flight waits.
    pub fn holds(self) -> bool {
        matches!(self, How::Paused | How::Disabled)
    }
}

impl Target {
    /// What people mean by `orders`, `orders/erp` or `system:erp`; `None` if a name is missing.
    pub fn parse(text: &str) -> Option<Target> {
        let whole = |name: &str| (!name.is_empty()).then(|| Arc::from(name));
        if let Some(system) = text.strip_prefix(SYSTEM) {
            return whole(system).map(Target::System);
        }
        match text.split_once('/') {
            Some((flow, step)) => Some(Target::Step(whole(flow)?, whole(step)?)),
            None => whole(text).map(Target::Flow),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Flow(flow) => write!(f, "{flow}"),
            Target::Step(flow, step) => write!(f, "{flow}/{step}"),
            Target::System(system) => write!(f, "{SYSTEM}{system}"),
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        target.to_string()
    }
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Target, String> {
        Target::parse(&text)
            .ok_or_else(|| format!("`{text}` is no target: write FLOW, FLOW/STEP or {SYSTEM}NAME"))
    }
}

impl Toggle {
    /// Whether its time is over.
    pub fn is_over(&self, now_ms: i64) -> bool {
        self.until_ms.is_some_and(|until_ms| until_ms <= now_ms)
    }

    /// Whether messages wait at this step because of it.
    pub fn holds(&self, flow: &str, step: &str) -> bool {
        match &self.target {
            Target::Flow(of) => {
                let stops = match step == DOOR {
                    true => self.how.refuses(),
                    false => self.how.holds(),
                };
                **of == *flow && stops
            }
            Target::Step(of, at) => **of == *flow && **at == *step,
            Target::System(_) => false,
        }
    }
}

impl Reader {
    /// What is stopped, by its target. The time of some may be over: whoever shows or follows them looks.
    pub async fn toggles(&self) -> Result<Vec<Toggle>, Failure> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT target, how, who, why, since, until FROM toggles ORDER BY target",
            )?;
            let rows = statement.query_map((), toggle)?;
            Ok(rows.into_iter().flatten().collect())
        })
        .await
    }

    /// What keeps messages at this step of a flow: that the flow, the step, or the system on which it acts is stopped.
    pub async fn stopped_at(&self, flow: Arc<str>, step: Arc<str>) -> Result<Vec<Toggle>, Failure> {
        let all = self.toggles().await?;
        if all.is_empty() {
            return Ok(all);
        }
        let systems = self.systems_at(flow.clone(), step.clone()).await?;
        let its = |toggle: &Toggle| match &toggle.target {
            Target::System(name) => systems.contains(name),
            _ => toggle.holds(&flow, &step),
        };
        Ok(all.into_iter().filter(its).collect())
    }

    async fn systems_at(&self, flow: Arc<str>, step: Arc<str>) -> Result<Vec<Arc<str>>, Failure> {
        self.read(move |connection| {
            let mut statement = connection
                .prepare_cached("SELECT system FROM system_steps WHERE flow = ?1 AND step = ?2")?;
            statement.query_map([&*flow, &*step], |row| row.get(0))
        })
        .await
    }

    /// How many messages stand at a flow or at a step of it, whatever they wait for; for a system, at its steps.
    pub async fn standing_at(&self, target: Target) -> Result<u64, Failure> {
        self.read(move |connection| {
            let count = |sql: &str, names: &[&str]| {
                let mut statement = connection.prepare_cached(sql)?;
                let counted = match *names {
                    [one] => statement.query_map([one], |row| row.get::<i64>(0))?,
                    [one, two] => statement.query_map([one, two], |row| row.get::<i64>(0))?,
                    _ => Vec::new(),
                };
                Ok(counted.first().map_or(0, |many| u64::try_from(*many).unwrap_or(0)))
            };
            match &target {
                Target::Flow(flow) => count("SELECT count(*) FROM hops WHERE flow = ?1", &[flow]),
                Target::Step(flow, step) => count(
                    "SELECT count(*) FROM hops WHERE flow = ?1 AND step = ?2",
                    &[flow, step],
                ),
                Target::System(system) => count(
                    "SELECT count(*) FROM hops h JOIN system_steps u ON h.flow = u.flow AND h.step = u.step WHERE u.system = ?1",
                    &[system],
                ),
            }
        })
        .await
    }
}

/// A row; `None` for a word or a target of a newer program.
fn toggle(row: &Row<'_>) -> Sql<Option<Toggle>> {
    let (target, how) = (row.get::<String>(0)?, row.get::<String>(1)?);
    let Some((target, how)) = Target::parse(&target).zip(How::from_name(&how)) else {
        return Ok(None);
    };
    Ok(Some(Toggle {
        target,
        how,
        who: row.get(2)?,
        why: row.get(3)?,
        since_ms: row.get(4)?,
        until_ms: row.get(5)?,
    }))
}

/// Applies a change.
pub(super) fn change(writing: &Writing<'_>, change: &ToggleChange) -> Sql<()> {
    match change {
        ToggleChange::Stop(toggle) => writing.put(
            "INSERT INTO toggles (target, how, who, why, since, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (target) DO UPDATE SET how = excluded.how, who = excluded.who, why = excluded.why, since = excluded.since, until = excluded.until",
            params![
                toggle.target.to_string(),
                toggle.how.name(),
                toggle.who,
                toggle.why,
                writing.now_ms,
                toggle.until_ms,
            ],
        ),
        ToggleChange::Resume(target, ..) => {
            writing.put("DELETE FROM toggles WHERE target = ?1", [target.to_string()])
        }
        ToggleChange::Ends(target, until_ms) => writing.put(
            "DELETE FROM toggles WHERE target = ?1 AND until = ?2",
            params![target.to_string(), until_ms],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_written_as_they_are_read() {
        for text in ["orders", "orders/erp", "system:erp"] {
            let target = Target::parse(text);
            assert_eq!(
                target.map(|target| target.to_string()).as_deref(),
                Some(text)
            );
        }
        for text in ["", "/erp", "orders/", "system:"] {
            assert_eq!(Target::parse(text), None, "{text}");
        }
    }
}
