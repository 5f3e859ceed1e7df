//! What the parts of one commit ask alike, asked together before each is looked at: on a server every question is a trip there and back.
//!
//! - Nothing is decided here. Each answer is what the part would get if it asked by itself, in its turn.
//! - What a part does not find here it asks by itself; an answer that changes something is taken out once.

use rustc_hash::{FxHashMap, FxHashSet};

use super::commit::{Commit, DOOR, End, HopId, Leaf, NewRun, RunId, Turn};
use super::database::Sql;
use super::writer::Writing;
use super::{claims, hops, reruns, runs, sagas, waits};

/// The answers to what the parts of a commit have asked.
#[derive(Default)]
pub(super) struct Together {
    /// Of new messages: whether each of their claims was free, and is theirs now.
    claimed: FxHashMap<RunId, Vec<bool>>,
    /// Whether these hops were there with their fence, and are over now.
    ended: FxHashMap<HopId, bool>,
    /// Whether these runs are over now, with the leaf that the end of their hop brings.
    over: FxHashMap<RunId, bool>,
    /// The values of keys for which somebody waits, among those of new messages.
    awaited: Option<FxHashSet<String>>,
    /// Runs that repeat others, among those that hand messages over.
    repeating: Option<FxHashSet<RunId>>,
}

impl Together {
    /// Whether each of the claims of a new message was free.
    pub(super) fn claimed(&mut self, run: RunId) -> Option<Vec<bool>> {
        self.claimed.remove(&run)
    }

    /// Whether a run was over with the only leaf that it had.
    pub(super) fn over(&mut self, run: RunId) -> Option<bool> {
        self.over.remove(&run)
    }

    /// Whether somebody may wait for a key with this value.
    pub(super) fn may_be_awaited(&self, value: &str) -> bool {
        self.awaited
            .as_ref()
            .is_none_or(|awaited| awaited.contains(value))
    }

    /// Whether a run may repeat another.
    pub(super) fn may_repeat(&self, run: RunId) -> bool {
        self.repeating
            .as_ref()
            .is_none_or(|repeating| repeating.contains(&run))
    }
}

/// For the new messages of a commit, in the order in which they are accepted. Before anything else is written.
pub(super) fn accepts(writing: &mut Writing<'_>, commit: &Commit) -> Sql<()> {
    writing.together = Together::default();
    let handed: Vec<_> = commit
        .ends
        .iter()
        .filter(|end| !end.accepts.is_empty())
        .collect();
    let new = || {
        commit
            .accepts
            .iter()
            .chain(handed.iter().flat_map(|end| &end.accepts))
    };
    if new().nth(1).is_none() {
        return Ok(());
    }
    let values = new().flat_map(|run| run.keys.values());
    writing.together.awaited = Some(waits::awaited(writing.connection, values)?);
    let senders = handed.iter().map(|end| end.run);
    writing.together.repeating = Some(reruns::repeating(writing.connection, senders)?);
    claim(writing, &commit.accepts.iter().collect::<Vec<_>>())
}

/// Claims for these messages what is free. All of them are accepted, in this order, before anything else claims.
fn claim(writing: &mut Writing<'_>, new: &[&NewRun]) -> Sql<()> {
    let all: Vec<_> = new
        .iter()
        .flat_map(|new| new.claims.iter().map(|claim| (new.run, claim)))
        .collect();
    let mut free = claims::insert(writing, &all)?.into_iter();
    for new in new {
        let free = free.by_ref().take(new.claims.len()).collect();
        writing.together.claimed.insert(new.run, free);
    }
    Ok(())
}

/// For the ends of a commit. Before the first of them is applied.
pub(super) fn ends(writing: &mut Writing<'_>, ends: &[End]) -> Sql<()> {
    if ends.len() < 2 {
        return Ok(());
    }
    let mut of_hop = FxHashMap::<HopId, usize>::default();
    let mut of_run = FxHashMap::<RunId, usize>::default();
    for end in ends {
        *of_hop.entry(end.hop).or_default() += 1;
        *of_run.entry(end.run).or_default() += 1;
    }
    let over: Vec<_> = ends
        .iter()
        .filter(|end| matches!(end.turn, Turn::Over { .. }) && of_hop[&end.hop] == 1)
        .collect();
    let hops: Vec<_> = over.iter().map(|end| (end.hop, end.fence)).collect();
    let there = hops::end(writing, &hops)?;
    let mut last = Vec::new();
    for (end, there) in over.into_iter().zip(there) {
        writing.together.ended.insert(end.hop, there);
        // Of several ends of one run each finds what the one before it has left.
        if there && of_run[&end.run] == 1 {
            last.extend(only_leaf(end).map(|leaf| (end.run, leaf)));
        }
    }
    // Whether a key is free at a door may hang on whether a run before it is over, and on none behind it.
    if ends.iter().any(|end| !end.accepts.is_empty()) {
        last.clear();
    }
    let over = runs::end_only_leaves(writing, &last)?;
    let runs = last.iter().map(|(run, _)| *run);
    writing.together.over = runs.zip(over).collect();
    Ok(())
}

/// Whether the hop of an end was there with its fence; it is over now.
pub(super) fn end(writing: &mut Writing<'_>, end: &End) -> Sql<bool> {
    match writing.together.ended.remove(&end.hop) {
        Some(there) => Ok(there),
        None => Ok(hops::end(writing, &[(end.hop, end.fence)])? == [true]),
    }
}

/// The leaf with which a run may end, if its hop brings nothing else.
fn only_leaf(end: &End) -> Option<&Leaf> {
    match &end.turn {
        Turn::Over { next, leaves, .. } if next.is_empty() && &*end.step != DOOR => {
            match &leaves[..] {
                [leaf] if !sagas::concerns(leaf) && !runs::is_exception(leaf) => Some(leaf),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::commit::{Leaf, NewHop};
    use super::super::runs::RunState;
    use super::super::sample::*;

    /// Ends of all kinds, each in a commit of its own and then all in one: what comes of them is the same.
    #[tokio::test]
    async fn ends_in_one_commit_do_what_they_do_one_after_another() {
        for together in [false, true] {
            let sample = Sample::new();
            let orders: Vec<_> = (0..5).map(|n| sample.order(&n.to_string(), "1")).collect();
            sample.accept(orders.clone()).await;
            let [plain, split, twice, stale, waiting] = &orders[..] else {
                unreachable!()
            };
            let parts: Vec<NewHop> = (0..2)
                .map(|_| sample.hop(split.run, split.message, "erp"))
                .collect();
            let divide = over(split, first_hop(split), parts.clone(), vec![]);
            sample.end(vec![divide]).await;
            let delivered = |order, hop| over(order, hop, vec![], vec![Leaf::Delivered]);
            let mut late = delivered(stale, first_hop(stale));
            late.fence += 1;
            let ends = vec![
                delivered(plain, first_hop(plain)),
                delivered(split, parts[0].hop),
                over(split, parts[1].hop, vec![], vec![Leaf::Filtered]),
                delivered(twice, first_hop(twice)),
                delivered(twice, first_hop(twice)),
                late,
                waits(waiting, first_hop(waiting), START_MS + 10),
                delivered(waiting, first_hop(waiting)),
            ];
            let ended = if together {
                sample.end(ends).await.ends
            } else {
                let mut ended = Vec::new();
                for end in ends {
                    ended.extend(sample.end(vec![end]).await.ends);
                }
                ended
            };
            let expected = [true, true, true, true, false, false, true, false];
            assert_eq!(ended, expected, "together: {together}");
            let mut states = Vec::new();
            for order in &orders {
                let run = sample.store.run(&order.run.0.to_string()).await.unwrap();
                states.push(run.unwrap().row.state);
            }
            let over = RunState::Delivered;
            let open = RunState::InFlight;
            assert_eq!(states, [over, over, over, open, open]);
            let books = sample.books().await;
            assert_eq!((books.delivered, books.in_flight), (3, 2));
        }
    }
}
