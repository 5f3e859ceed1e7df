//! A stage whose step asks the store which messages go on: the first one with a key, or the newest. What they claim is durable before they
//! go on.

use std::sync::Arc;

use super::stage::{Stage, guarded};
use super::turn::{self, Exchange, Finished};
use super::walk::{Ended, Walked, Walker};
use crate::component::Claiming;
use crate::failure::{Class, Failure};
use crate::handoff::Hop;
use crate::message::{Guard, Message};
use crate::store::commit::{Changed, Claim, Commit, Committed, Seen, Sighting};
use crate::world::failpoint;

/// What a message has claimed, and where its verdict stands.
enum Claimed {
    /// Nothing: the step has nothing to do with it.
    No,
    /// To be the first with a key.
    First(usize),
    /// To be the newest with a key.
    Newest(usize, Guard),
}

/// Whether a message goes on.
enum Verdict {
    GoesOn(Message),
    Filtered,
    Stale(String),
    Fails(Failure),
}

impl Stage {
    /// Commits what the messages claim; those with a good verdict go on, the others are filtered.
    pub(super) async fn claim(
        &self,
        step: &dyn Claiming,
        hops: &[Hop],
    ) -> Result<Vec<Finished>, Failure> {
        let mut commit = Commit::default();
        let claimed: Vec<_> = hops
            .iter()
            .map(|hop| self.claim_of(step, hop, &mut commit))
            .collect();
        let committed = if commit.claims.is_empty() && commit.sightings.is_empty() {
            Committed::default()
        } else {
            let committed = self.shared.commit(commit).await?;
            failpoint::hit("claims-committed");
            committed
        };
        let finish = |(hop, claimed): (&Hop, Result<Claimed, Failure>)| {
            let past = matches!(claimed, Ok(Claimed::No));
            let verdict = verdict(&hop.message, claimed, &committed);
            self.finish(hop, verdict, past)
        };
        Ok(hops.iter().zip(claimed).map(finish).collect())
    }

    fn claim_of(
        &self,
        step: &dyn Claiming,
        hop: &Hop,
        commit: &mut Commit,
    ) -> Result<Claimed, Failure> {
        let walker = Walker::new(&self.plan);
        let id = &self.plan.nodes[self.node].id;
        if !walker.takes(self.node, &hop.message)? {
            return Ok(Claimed::No);
        }
        let claimed = step.claim(&hop.message, &walker.context(self.node))?;
        let Some(version) = claimed.version else {
            let claim = Claim {
                scope: format!("dedupe:{}/{id}", self.plan.flow),
                key: claimed.key,
                hash: hop.message.id.to_bytes(),
                keep_ms: claimed.keep_ms,
                changed: Changed::Ignore,
            };
            commit.claims.push((hop.run, claim));
            return Ok(Claimed::First(commit.claims.len() - 1));
        };
        let guard = Guard {
            scope: Arc::from(format!("newest:{}/{id}", self.plan.flow)),
            key: claimed.key,
            version,
            by: hop.message.id,
        };
        commit.sightings.push(Sighting {
            guard: guard.clone(),
            keep_ms: claimed.keep_ms,
        });
        Ok(Claimed::Newest(commit.sightings.len() - 1, guard))
    }

    fn finish(&self, hop: &Hop, verdict: Verdict, past: bool) -> Finished {
        let node = &self.plan.nodes[self.node];
        let ends = |ended| Walked {
            ended: vec![ended],
            ..Walked::default()
        };
        let walk = |walker: &Walker<'_>| match verdict {
            Verdict::Fails(failure) => walker.fail(self.node, hop.message.clone(), failure),
            Verdict::Filtered => ends(Ended::Filtered(self.node)),
            Verdict::Stale(reason) => ends(Ended::Stale(self.node, reason)),
            Verdict::GoesOn(message) => {
                let mut walked = walker.walk(node.next, message);
                if !past {
                    walked.through.insert(0, self.node);
                    walked.milestones.extend(node.milestone.clone());
                }
                walked
            }
        };
        let walked = guarded(&self.plan, self.node, &hop.message, walk);
        let nothing = Exchange::default();
        turn::over(&self.shared, &self.plan, hop, walked, None, &nothing)
    }
}

/// What the store has said to a message's claim. Without a word of the store nothing goes on.
fn verdict(message: &Message, claimed: Result<Claimed, Failure>, committed: &Committed) -> Verdict {
    match claimed {
        Err(failure) => Verdict::Fails(failure),
        Ok(Claimed::No) => Verdict::GoesOn(message.clone()),
        Ok(Claimed::First(at)) => match committed.claims.get(at) {
            Some(true) => Verdict::GoesOn(message.clone()),
            _ => Verdict::Filtered,
        },
        Ok(Claimed::Newest(at, guard)) => match committed.sightings.get(at) {
            Some(Seen::Newest) => {
                let mut message = message.clone();
                message.guard(guard);
                Verdict::GoesOn(message)
            }
            Some(Seen::Stale(newer)) => Verdict::Stale(format!("older than version {newer}")),
            Some(Seen::Repeat(same)) => Verdict::Stale(format!("version {same} was seen before")),
            Some(Seen::Unlike(last)) => Verdict::Fails(Failure::new(
                Class::Conflict,
                format!(
                    "the version `{}` cannot be compared with the last one, `{last}`: one is a number or a time and the other is not",
                    guard.version
                ),
            )),
            None => Verdict::Fails(Failure::internal(
                "the store said nothing about a version; the message is kept",
            )),
        },
    }
}
