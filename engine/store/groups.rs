//! Groups: messages that are collected into one. Each member has its hop, which is held; the first member's hop, the leader, has the group's
//! timer, and comes back when the group is complete or its time is over. Then one commit ends the hops of all members, gives the message
//! that they have become, and leaves a tombstone by which late members are known.

use std::sync::Arc;

use bytes::Bytes;

use crate::failure::{Class, Failure};
use crate::message::MessageId;

use super::commit::{HopId, RunId, StoredHop, Trail};
use super::database::{Connection, Optional, Row, Sql, params};
use super::reader::Reader;
use super::writer::Writing;
use super::{hops, journeys};

/// - `state`: 0 open, 1 complete, 2 out of time; both to be gathered by the leader's hop; 3 gathered, a tombstone until `keep_until`
/// - `idle_at` is null where silence completes nothing; `reason` says what has completed the group
pub(super) const TABLES: &str = "
CREATE TABLE groups (
  id INTEGER PRIMARY KEY, flow TEXT NOT NULL, step TEXT NOT NULL, key TEXT NOT NULL, state INTEGER NOT NULL,
  leader INTEGER NOT NULL, count INTEGER NOT NULL, bytes INTEGER NOT NULL, deadline INTEGER NOT NULL, idle_at INTEGER,
  reason TEXT, closed_at INTEGER, keep_until INTEGER, sent_as INTEGER
) STRICT;
CREATE UNIQUE INDEX groups_open ON groups (flow, step, key) WHERE state = 0;
CREATE INDEX groups_key ON groups (flow, step, key, id) WHERE state > 0;
CREATE INDEX groups_leader ON groups (leader) WHERE state < 3;
CREATE INDEX groups_keep ON groups (keep_until) WHERE state = 3;
CREATE TABLE members (
  grp INTEGER NOT NULL, n INTEGER NOT NULL, hop INTEGER NOT NULL, message BLOB NOT NULL, PRIMARY KEY (grp, n)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX members_message ON members (grp, message);
CREATE INDEX members_hop ON members (hop);
";

const OPEN: i64 = 0;
const COMPLETE: i64 = 1;
const OUT_OF_TIME: i64 = 2;

/// A message joins its group, or is the leader of one and asks how it stands.
#[derive(Clone, Debug)]
pub struct Join {
    /// The hop.
    pub hop: HopId,
    /// The fence that it was taken with.
    pub fence: i64,
    /// The run.
    pub run: RunId,
    /// The message's id: a message is a member once.
    pub message: MessageId,
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// What the members have in common; empty where there is nothing but the step.
    pub key: String,
    /// How large its body is.
    pub bytes: i64,
    /// When a group is complete, and its limits.
    pub rule: Rule,
    /// Of a step that decides by looking at the members.
    pub decided: Option<Decided>,
}

/// When a group is complete, and its limits.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// With so many members.
    pub size: Option<u32>,
    /// After so many milliseconds without a new member.
    pub idle_ms: Option<i64>,
    /// So many milliseconds after its first member its time is over.
    pub within_ms: i64,
    /// How many members a group may have.
    pub most: u32,
    /// How many bytes its members may have together.
    pub bytes_max: i64,
    /// Whether a member that comes after its group begins a new one.
    pub again: bool,
}

/// What a step has decided by looking at the members.
#[derive(Clone, Copy, Debug)]
pub struct Decided {
    /// The group that it has looked at, and how many members it had; the decision counts only while that is so.
    pub seen: Option<(i64, u32)>,
    /// Whether the group is complete with the new member.
    pub complete: bool,
}

/// What became of a join.
#[derive(Clone, Debug)]
pub enum Joined {
    /// It is a member, and its hop is held; that of a leader until this time at the longest.
    Held(Option<i64>),
    /// The group is to be gathered now, by this hop.
    Gathered(Gathered),
    /// Its group was sent before: then, by this run.
    Late {
        /// When, in milliseconds since 1970.
        at_ms: i64,
        /// The run that has sent it; `None` while it is being sent.
        sent_as: Option<RunId>,
    },
    /// The same message is a member already.
    Member,
    /// The group has as many members or bytes as it may.
    Full,
    /// The group is not as it was when the step looked at it: to be decided anew.
    Moved,
    /// The hop is not there with this fence.
    Gone,
}

/// A group whose time has come.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// The group.
    pub group: i64,
    /// What has completed it: `size`, `complete`, `idle`; `within` if its time is over.
    pub reason: String,
    /// Whether its time is over and it is not complete.
    pub out_of_time: bool,
    /// Its members with their messages, in the order in which they came.
    pub members: Vec<StoredHop>,
}

/// A gathered group is over, together with the ends of its members in the same commit.
#[derive(Clone, Debug)]
pub struct Close {
    /// The group. If it is not to be gathered any more, nothing of the commit is applied.
    pub group: i64,
    /// The run that goes on as the group; `None` if it was not sent, so that nothing is late for it.
    pub sent_as: Option<RunId>,
    /// How long late members are known, in milliseconds.
    pub keep_ms: i64,
}

/// A group that takes members, as a step sees it that decides by looking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenGroup {
    /// The group, and how many members it has.
    pub seen: (i64, u32),
    /// Their bodies, in the order in which they came.
    pub bodies: Vec<Bytes>,
}

impl Reader {
    /// The group with this key that takes members, if there is one.
    pub async fn open_group(
        &self,
        flow: &Arc<str>,
        step: &Arc<str>,
        key: &str,
    ) -> Result<Option<OpenGroup>, Failure> {
        let (flow, step, key) = (flow.clone(), step.clone(), key.to_owned());
        self.read(move |connection| {
            let Some(group) = open(connection, &flow, &step, &key)? else {
                return Ok(None);
            };
            let members = members(connection, group.id)?;
            Ok(Some(OpenGroup {
                seen: (group.id, group.count),
                bodies: members.into_iter().map(|member| member.body).collect(),
            }))
        })
        .await
    }
}

/// A group as it stands.
struct Group {
    id: i64,
    state: i64,
    leader: HopId,
    count: u32,
    bytes: i64,
    deadline_ms: i64,
    idle_at_ms: Option<i64>,
    reason: Option<String>,
}

impl Group {
    fn due_ms(&self) -> i64 {
        self.idle_at_ms
            .map_or(self.deadline_ms, |idle| idle.min(self.deadline_ms))
    }
}

/// A message becomes a member, or a leader asks.
pub(super) fn join(writing: &mut Writing<'_>, join: &Join) -> Sql<Joined> {
    if !hops::stands(writing, join.hop, join.fence)? {
        return Ok(Joined::Gone);
    }
    if let Some(group) = led_by(writing.connection, join.hop)? {
        return ask(writing, join, group);
    }
    if is_member(writing, join.hop)? {
        hops::hold_taken(writing, join.hop, join.fence, &why(join))?;
        return Ok(Joined::Held(None));
    }
    let found = open(writing.connection, &join.flow, &join.step, &join.key)?;
    if found.is_none()
        && let Some(late) = late(writing, join)?
    {
        return Ok(late);
    }
    let seen = found.as_ref().map(|group| (group.id, group.count));
    if join.decided.is_some_and(|decided| decided.seen != seen) {
        return Ok(Joined::Moved);
    }
    let (count, bytes) = found
        .as_ref()
        .map_or((0, 0), |group| (group.count, group.bytes));
    if count >= join.rule.most || bytes.saturating_add(join.bytes) > join.rule.bytes_max {
        return Ok(Joined::Full);
    }
    let group = match found {
        Some(group) => group,
        None => begin(writing, join)?,
    };
    let Some(leader) = add(writing, join, &group)? else {
        return Ok(Joined::Member);
    };
    let count = group.count + 1;
    let idle_at_ms = join
        .rule
        .idle_ms
        .map(|idle| writing.now_ms.saturating_add(idle));
    writing.put(
        "UPDATE groups SET count = ?2, bytes = bytes + ?3, idle_at = ?4 WHERE id = ?1",
        params![group.id, count, join.bytes, idle_at_ms],
    )?;
    let reason = if join.decided.is_some_and(|decided| decided.complete) {
        Some("complete")
    } else {
        (join.rule.size == Some(count)).then_some("size")
    };
    let group = Group {
        leader,
        count,
        idle_at_ms,
        ..group
    };
    match reason {
        Some(reason) => completed(writing, join, group, reason),
        None => waits(writing, join, &group),
    }
}

/// Whether these groups are to be gathered; if not, nothing of the commit may be applied.
pub(super) fn closable(connection: &Connection, closes: &[Close]) -> Sql<Result<(), Failure>> {
    for close in closes {
        let there = connection
            .prepare_cached("SELECT 1 FROM groups WHERE id = ?1 AND state IN (1, 2)")?
            .exists([close.group])?;
        if !there {
            let message = format!("the group {} is gathered already", close.group);
            return Ok(Err(Failure::new(Class::Conflict, message)));
        }
    }
    Ok(Ok(()))
}

/// A gathered group is over.
pub(super) fn close(writing: &Writing<'_>, close: &Close) -> Sql<()> {
    writing.put("DELETE FROM members WHERE grp = ?1", [close.group])?;
    match close.sent_as {
        Some(run) => writing.run(
            "UPDATE groups SET state = 3, closed_at = ?2, keep_until = ?3, sent_as = ?4 WHERE id = ?1",
            params![
                close.group,
                writing.now_ms,
                writing.now_ms.saturating_add(close.keep_ms),
                run.0
            ],
        )?,
        None => writing.run("DELETE FROM groups WHERE id = ?1", [close.group])?,
    };
    Ok(())
}

/// Tombstones whose time is over go, at most so many.
pub(super) fn sweep(connection: &Connection, now_ms: i64, limit: i64) -> Sql<usize> {
    connection
        .prepare_cached(
            "DELETE FROM groups WHERE id IN (SELECT id FROM groups WHERE state = 3 AND keep_until <= ?1 LIMIT ?2)",
        )?
        .execute(params![now_ms, limit])
}

/// The leader's hop has come back, or was found after a crash.
fn ask(writing: &Writing<'_>, join: &Join, mut group: Group) -> Sql<Joined> {
    if group.state == OPEN {
        if writing.now_ms < group.due_ms() {
            let due_ms = group.due_ms();
            hops::rest(writing, join.hop, join.fence, due_ms, &why(join))?;
            return Ok(Joined::Held(Some(due_ms)));
        }
        let idle = group
            .idle_at_ms
            .is_some_and(|idle| idle <= group.deadline_ms);
        let (state, reason) = if idle {
            (COMPLETE, "idle")
        } else {
            (OUT_OF_TIME, "within")
        };
        settle(writing, group.id, state, reason)?;
        (group.state, group.reason) = (state, Some(reason.to_owned()));
    }
    gathered(writing, group)
}

/// The group is complete: its leader comes back. If that is the new member, it is there already.
fn completed(writing: &mut Writing<'_>, join: &Join, group: Group, reason: &str) -> Sql<Joined> {
    settle(writing, group.id, COMPLETE, reason)?;
    if group.leader == join.hop {
        let reason = Some(reason.to_owned());
        return gathered(
            writing,
            Group {
                state: COMPLETE,
                reason,
                ..group
            },
        );
    }
    tell(writing, join, group.count)?;
    hops::hold_taken(writing, join.hop, join.fence, &why(join))?;
    if hops::asleep(writing, group.leader)? == Some(true) {
        hops::wake(writing, group.leader)?;
    }
    Ok(Joined::Held(None))
}

/// The group waits for more: its leader until the group's time is over, all others until the leader has come back.
fn waits(writing: &Writing<'_>, join: &Join, group: &Group) -> Sql<Joined> {
    let due_ms = group.due_ms();
    tell(writing, join, group.count)?;
    if group.leader == join.hop {
        hops::rest(writing, join.hop, join.fence, due_ms, &why(join))?;
        return Ok(Joined::Held(Some(due_ms)));
    }
    hops::hold_taken(writing, join.hop, join.fence, &why(join))?;
    hops::put_off(writing, group.leader, due_ms)?;
    Ok(Joined::Held(None))
}

fn why(join: &Join) -> String {
    if join.key.is_empty() {
        "for the rest of its group".to_owned()
    } else {
        format!("for the rest of the group `{}`", join.key)
    }
}

fn tell(writing: &Writing<'_>, join: &Join, count: u32) -> Sql<()> {
    let line = Trail {
        at_ms: writing.now_ms,
        step: join.step.clone(),
        what: "waits",
        detail: Some(format!("{}, as member {count}", why(join))),
        hash: None,
    };
    journeys::insert_lines(writing, join.run, join.hop, join.fence, &[line])
}

fn settle(writing: &Writing<'_>, group: i64, state: i64, reason: &str) -> Sql<()> {
    let sql = "UPDATE groups SET state = ?2, reason = ?3 WHERE id = ?1";
    writing.put(sql, params![group, state, reason])?;
    Ok(())
}

fn gathered(writing: &Writing<'_>, group: Group) -> Sql<Joined> {
    Ok(Joined::Gathered(Gathered {
        group: group.id,
        out_of_time: group.state == OUT_OF_TIME,
        reason: group.reason.unwrap_or_default(),
        members: members(writing.connection, group.id)?,
    }))
}

/// Whether a hop is a member that something has made ready before its group is.
fn is_member(writing: &Writing<'_>, hop: HopId) -> Sql<bool> {
    writing
        .connection
        .prepare_cached("SELECT 1 FROM members WHERE hop = ?1")?
        .exists([hop.0])
}

/// A group without members, whose leader this hop is.
fn begin(writing: &Writing<'_>, join: &Join) -> Sql<Group> {
    let deadline_ms = writing.now_ms.saturating_add(join.rule.within_ms);
    let id = writing.connection.query_row(
        "INSERT INTO groups (flow, step, key, state, leader, count, bytes, deadline) VALUES (?1, ?2, ?3, 0, ?4, 0, 0, ?5) RETURNING id",
        params![join.flow, join.step, join.key, join.hop.0, deadline_ms],
        |row| row.get(0),
    )?;
    Ok(Group {
        id,
        state: OPEN,
        leader: join.hop,
        count: 0,
        bytes: 0,
        deadline_ms,
        idle_at_ms: None,
        reason: None,
    })
}

/// Adds a member and gives the group's leader; `None` if the same message is a member already. A hop that is gone makes room for its
/// successor, and does not lead.
fn add(writing: &Writing<'_>, join: &Join, group: &Group) -> Sql<Option<HopId>> {
    let known: Option<i64> = writing
        .connection
        .prepare_cached("SELECT hop FROM members WHERE grp = ?1 AND message = ?2")?
        .query_row(params![group.id, join.message.to_bytes()], |row| row.get(0))
        .optional()?;
    if let Some(hop) = known {
        if hops::asleep(writing, HopId(hop))?.is_some() {
            return Ok(None);
        }
        let sql = "DELETE FROM members WHERE grp = ?1 AND message = ?2";
        writing.put(sql, params![group.id, join.message.to_bytes()])?;
    }
    writing.put(
        "INSERT INTO members (grp, n, hop, message) VALUES (?1, (SELECT coalesce(max(n), 0) + 1 FROM members WHERE grp = ?1), ?2, ?3)",
        params![group.id, join.hop.0, join.message.to_bytes()],
    )?;
    if group.leader != join.hop && hops::asleep(writing, group.leader)?.is_none() {
        let sql = "UPDATE groups SET leader = ?2 WHERE id = ?1";
        writing.put(sql, params![group.id, join.hop.0])?;
        return Ok(Some(join.hop));
    }
    Ok(Some(group.leader))
}

/// What a member is told whose group was sent before.
fn late(writing: &Writing<'_>, join: &Join) -> Sql<Option<Joined>> {
    if join.rule.again {
        return Ok(None);
    }
    writing
        .connection
        .prepare_cached(
            "SELECT coalesce(closed_at, ?4), sent_as FROM groups WHERE flow = ?1 AND step = ?2 AND key = ?3 AND state > 0
             AND (state = 1 OR keep_until > ?4) ORDER BY id DESC LIMIT 1",
        )?
        .query_row(params![join.flow, join.step, join.key, writing.now_ms], |row| {
            Ok(Joined::Late {
                at_ms: row.get(0)?,
                sent_as: row.get::<Option<i64>>(1)?.map(RunId),
            })
        })
        .optional()
}

const COLUMNS: &str = "id, state, leader, count, bytes, deadline, idle_at, reason";

fn open(connection: &Connection, flow: &str, step: &str, key: &str) -> Sql<Option<Group>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM groups WHERE flow = ?1 AND step = ?2 AND key = ?3 AND state = 0"
        ))?
        .query_row([flow, step, key], group)
        .optional()
}

fn led_by(connection: &Connection, hop: HopId) -> Sql<Option<Group>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM groups WHERE leader = ?1 AND state < 3"
        ))?
        .query_row([hop.0], group)
        .optional()
}

fn group(row: &Row<'_>) -> Sql<Group> {
    Ok(Group {
        id: row.get(0)?,
        state: row.get(1)?,
        leader: HopId(row.get(2)?),
        count: row.get(3)?,
        bytes: row.get(4)?,
        deadline_ms: row.get(5)?,
        idle_at_ms: row.get(6)?,
        reason: row.get(7)?,
    })
}

/// The members that are still there, in the order in which they came.
fn members(connection: &Connection, group: i64) -> Sql<Vec<StoredHop>> {
    let hops: Vec<i64> = {
        let mut statement =
            connection.prepare_cached("SELECT hop FROM members WHERE grp = ?1 ORDER BY n")?;
        statement.query_map([group], |row| row.get(0))?
    };
    let mut members = Vec::with_capacity(hops.len());
    for hop in hops {
        members.extend(hops::any(connection, HopId(hop))?);
    }
    Ok(members)
}

#[cfg(test)]
mod tests;
