//! `collect`: messages join their groups, which the store keeps; the leader of a complete group makes one message of its members and ends them
//! all, in one commit.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{Batch, WaitStage};
use crate::body::{Body, write_string};
use crate::component::waiting::{Gathering, Late, key_of, listed};
use crate::failure::{Class, Failure};
use crate::handoff::Hop;
use crate::message::MessageId;
use crate::run::turn::Finished;
use crate::run::walk::{Ended, Walked};
use crate::store::commit::{Commit, Trail};
use crate::store::groups::{Close, Decided, Gathered, Join, Joined, Rule};

/// How many bytes the members of a group may have together.
const BYTES_MAX: i64 = 16 << 20;

/// A message with the key of its group.
struct Joining {
    hop: Hop,
    join: Join,
}

impl WaitStage {
    pub(super) async fn groups(&self, gathering: &Gathering) {
        // A step that looks at the members decides for one message after another.
        let most = match gathering.complete {
            Some(_) => 1,
            None => self.shared.batch_max,
        };
        while let Some(hops) = self.take(most).await {
            let mut batch = Batch::default();
            let mut joining = Vec::with_capacity(hops.len());
            for hop in hops {
                match self.joining(gathering, hop) {
                    Ok(one) => joining.push(*one),
                    Err(passing) => batch.add(passing.0, passing.1),
                }
            }
            if !joining.is_empty() {
                self.join(gathering, joining, &mut batch).await;
            }
            self.settle(batch).await;
        }
    }

    fn joining(
        &self,
        gathering: &Gathering,
        hop: Hop,
    ) -> Result<Box<Joining>, Box<(Hop, Finished)>> {
        let key = self.ask(&hop, |message, cx| {
            // What is no document cannot stand in a list of documents.
            message.body.document()?;
            match &gathering.by {
                Some(by) => key_of(by, message, cx),
                None => Ok(String::new()),
            }
        });
        let key = match key {
            Ok(key) => key,
            Err(walked) => {
                let finished = self.over(&hop, *walked);
                return Err(Box::new((hop, finished)));
            }
        };
        let join = Join {
            hop: hop.hop,
            fence: hop.fence,
            run: hop.run,
            message: hop.message.id,
            flow: self.plan.flow.clone(),
            step: hop.step.clone(),
            key,
            bytes: i64::try_from(hop.message.body.len()).unwrap_or(i64::MAX),
            rule: Rule {
                size: gathering.size,
                idle_ms: gathering.idle_ms,
                within_ms: gathering.within_ms,
                most: gathering.most,
                bytes_max: BYTES_MAX,
                again: gathering.late == Late::Again,
            },
            decided: None,
        };
        Ok(Box::new(Joining { hop, join }))
    }

    /// Lets messages join; what is over by that goes into the batch, or is settled by itself.
    async fn join(&self, gathering: &Gathering, mut joining: Vec<Joining>, batch: &mut Batch) {
        while !joining.is_empty() {
            if let Some(failure) = self.decide(gathering, &mut joining, batch).await {
                let hops = joining.into_iter().map(|one| one.hop).collect();
                return self.refused(hops, &failure).await;
            }
            for one in &joining {
                // Its group may be complete, and wake it, as soon as it is held.
                self.shared.handoff.waits(one.hop.hop);
            }
            let commit = Commit {
                joins: joining.iter().map(|one| one.join.clone()).collect(),
                ..Commit::default()
            };
            let joined = match self.shared.commit(commit).await {
                Ok(committed) => committed.joins,
                Err(failure) => {
                    let hops = joining.into_iter().map(|one| one.hop).collect();
                    return self.refused(hops, &failure).await;
                }
            };
            let mut again = Vec::new();
            for (one, joined) in joining.into_iter().zip(joined) {
                match joined {
                    Joined::Held(until_ms) => {
                        self.shared.handoff.rests(one.hop.hop);
                        if let Some(until_ms) = until_ms {
                            self.shared.bell.due_at(until_ms);
                        }
                    }
                    Joined::Gathered(gathered) => {
                        self.gathered(gathering, one, gathered).await;
                    }
                    Joined::Moved => again.push(one),
                    Joined::Gone => self.shared.handoff.ended(one.hop.hop),
                    joined @ (Joined::Late { .. } | Joined::Member | Joined::Full) => {
                        let finished = self.turned_away(gathering, &one, &joined);
                        batch.add(one.hop, finished);
                    }
                }
            }
            joining = again;
        }
    }

    /// Of a step that looks at the members: decides whether the group is complete with the message. A leader that has come back joins nothing.
    /// Gives why the store could not be asked.
    async fn decide(
        &self,
        gathering: &Gathering,
        joining: &mut Vec<Joining>,
        batch: &mut Batch,
    ) -> Option<Failure> {
        gathering.complete.as_ref()?;
        for mut one in std::mem::take(joining) {
            let join = &mut one.join;
            if one.hop.attempt == 0 {
                joining.push(one);
                continue;
            }
            let group = self
                .shared
                .store
                .open_group(&join.flow, &join.step, &join.key);
            let group = match group.await {
                Ok(group) => group,
                Err(failure) => {
                    joining.push(one);
                    return Some(failure);
                }
            };
            let seen = group.as_ref().map(|group| group.seen);
            let mut bodies = group.map(|group| group.bodies).unwrap_or_default();
            bodies.push(one.hop.message.body.bytes().clone());
            let complete = self.ask(&one.hop, |message, cx| {
                gathering.is_complete(message, &bodies, cx)
            });
            match complete {
                Ok(complete) => {
                    join.decided = Some(Decided { seen, complete });
                    joining.push(one);
                }
                Err(walked) => {
                    let finished = self.over(&one.hop, *walked);
                    batch.add(one.hop, finished);
                }
            }
        }
        None
    }

    /// A message that does not become a member.
    fn turned_away(&self, gathering: &Gathering, joining: &Joining, joined: &Joined) -> Finished {
        let Joining { hop, join } = joining;
        let message = || hop.message.clone();
        let walked = match joined {
            Joined::Late { at_ms, sent_as } => {
                let at = jiff::Timestamp::from_millisecond(*at_ms).unwrap_or_default();
                let by = sent_as.map_or_else(String::new, |run| format!(" by run {}", run.0));
                let what = format!(
                    "it comes too late for the group `{}`, sent at {at}{by}",
                    join.key
                );
                match gathering.late {
                    Late::Dropped => Walked {
                        ended: vec![Ended::Dropped(self.node, what)],
                        ..Walked::default()
                    },
                    Late::Fails | Late::Again => {
                        self.fails(hop, message(), Failure::new(Class::Conflict, what))
                    }
                }
            }
            Joined::Full => {
                let what = format!(
                    "the group `{}` is full: it may have {} members, and {BYTES_MAX} bytes",
                    join.key, join.rule.most
                );
                self.fails(hop, message(), Failure::new(Class::TooLarge, what))
            }
            _ => Walked {
                ended: vec![Ended::Filtered(self.node)],
                ..Walked::default()
            },
        };
        let mut finished = self.over(hop, walked);
        if matches!(joined, Joined::Member) {
            because(
                &mut finished,
                "filtered",
                "the same message is a member already",
            );
        }
        finished
    }

    /// The group goes on as one message, or fails as its members.
    async fn gathered(&self, gathering: &Gathering, leader: Joining, gathered: Gathered) {
        let mut members = Vec::with_capacity(gathered.members.len());
        for stored in gathered.members.iter().cloned() {
            match Hop::from_store(stored) {
                Ok(hop) => members.push(hop),
                Err(failure) => return self.refused(vec![leader.hop], &failure).await,
            }
        }
        let sent = !gathered.out_of_time || gathering.send_late;
        let mut batch = Batch {
            finished: if sent {
                self.sent(gathering, &leader, &gathered, &members)
            } else {
                self.out_of_time(gathering, &leader, &members)
            },
            ..Batch::default()
        };
        batch.closes.push(Close {
            group: gathered.group,
            sent_as: sent.then_some(leader.hop.run),
            keep_ms: match gathering.late {
                Late::Again => 0,
                Late::Fails | Late::Dropped => gathering.keep_ms,
            },
        });
        // The others are with nobody: only the leader can be given back.
        batch.hops.push(leader.hop);
        self.settle(batch).await;
    }

    /// The leader's run goes on with the list of bodies; the others end where they stand.
    fn sent(
        &self,
        gathering: &Gathering,
        leader: &Joining,
        gathered: &Gathered,
        members: &[Hop],
    ) -> Vec<Finished> {
        let (hop, key) = (&leader.hop, &leader.join.key);
        let bodies: Vec<Bytes> = members
            .iter()
            .map(|member| member.message.body.bytes().clone())
            .collect();
        let mut message = hop.message.clone();
        message.id = id_of(&leader.join, members);
        message.item = "".into();
        message.body = Body::new(listed(&bodies));
        if let Some(into) = &gathering.into {
            message.bind(into.clone(), about(key, bodies.len(), &gathered.reason));
        }
        let mut finished = vec![self.over(hop, self.goes_on_as(hop, message))];
        let runs: Vec<String> = members
            .iter()
            .take(100)
            .map(|member| member.run.0.to_string())
            .collect();
        let detail = format!(
            "{} members ({}), runs {}",
            members.len(),
            gathered.reason,
            runs.join(", ")
        );
        self.note(&mut finished[0], "collected", detail);
        for member in members.iter().filter(|member| member.hop != hop.hop) {
            let walked = Walked {
                ended: vec![Ended::Delivered],
                ..Walked::default()
            };
            let mut one = self.over(member, walked);
            self.note(&mut one, "collected", format!("into run {}", hop.run.0));
            finished.push(one);
        }
        finished
    }

    /// Each member fails; run again, they collect anew.
    fn out_of_time(
        &self,
        gathering: &Gathering,
        leader: &Joining,
        members: &[Hop],
    ) -> Vec<Finished> {
        let within = crate::component::words::Duration {
            ms: u64::try_from(gathering.within_ms).unwrap_or(0),
        };
        let of = match &*leader.join.key {
            "" => "the group".to_owned(),
            key => format!("the group `{key}`"),
        };
        let what = format!(
            "{of} is not complete: {} members came within {within}",
            members.len()
        );
        let lines: Vec<String> = members
            .iter()
            .map(|member| format!("run {}, message {}", member.run.0, member.message.id))
            .collect();
        let failure = Failure::new(Class::Timeout, what).with_detail(lines.join("\n"));
        let fail = |member: &Hop| {
            let walked = self.fails(member, member.message.clone(), failure.clone());
            self.over(member, walked)
        };
        members.iter().map(fail).collect()
    }

    /// A line more on the timeline.
    pub(super) fn note(&self, finished: &mut Finished, what: &'static str, detail: String) {
        let line = Trail {
            at_ms: self.shared.world.clock.now_ms(),
            step: finished.end.step.clone(),
            what,
            detail: Some(detail),
            hash: None,
        };
        finished.end.trail.push(line);
    }
}

/// Says on the timeline why a message has ended.
pub(super) fn because(finished: &mut Finished, what: &str, why: &str) {
    let lines = finished.end.trail.iter_mut();
    for line in lines.filter(|line| line.what == what && line.detail.is_none()) {
        line.detail = Some(why.to_owned());
    }
}

/// The id of the message that a group becomes: another one for other members, so that no target takes one for the other.
fn id_of(join: &Join, members: &[Hop]) -> MessageId {
    let mut ids: Vec<MessageId> = members.iter().map(|member| member.message.id).collect();
    ids.sort();
    let mut hash = Sha256::new();
    hash.update(format!("{}\n{}\n{}", join.flow, join.step, join.key));
    for id in &ids {
        hash.update(id.to_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    let time = u64::try_from(join.message.0 >> 80).unwrap_or(0);
    MessageId::from_parts(time, MessageId::from_bytes(bytes).0)
}

/// What is known of a group: `{key, count, reason}`.
fn about(key: &str, count: usize, reason: &str) -> Body {
    let mut about = b"{\"key\":".to_vec();
    write_string(&mut about, key);
    about.extend_from_slice(format!(",\"count\":{count},\"reason\":").as_bytes());
    write_string(&mut about, reason);
    about.push(b'}');
    Body::new(about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_group_is_a_document() {
        let body = about("SO-\"1\"", 3, "size");
        let text = String::from_utf8(body.bytes().to_vec()).unwrap();
        assert_eq!(text, r#"{"key":"SO-\"1\"","count":3,"reason":"size"}"#);
    }
}
