//! Groups in a store: who joins, what brings the leader back, and that the end is one commit.

use std::time::Duration;

use super::super::commit::{Commit, End, Leaf, NewRun, Turn};
use super::super::sample::*;
use super::*;

const RULE: Rule = Rule {
    size: Some(3),
    idle_ms: None,
    within_ms: 1_000,
    most: 10,
    bytes_max: 100,
    again: false,
};

fn joining(run: &NewRun, fence: i64, rule: Rule) -> Join {
    Join {
        hop: first_hop(run),
        fence,
        run: run.run,
        message: run.message,
        flow: run.flow.clone(),
        step: Arc::from("erp"),
        key: run.keys["order"].clone(),
        bytes: run.body.len() as i64,
        rule,
        decided: None,
    }
}

/// Accepts messages of this order.
async fn messages(sample: &Sample, order: &str, many: usize) -> Vec<NewRun> {
    let mut runs = Vec::new();
    for n in 0..many {
        let mut run = sample.order(order, &n.to_string());
        run.claims.clear();
        runs.push(run);
    }
    sample.accept(runs.clone()).await;
    runs
}

/// Joins; gives the verdict and the hops that were woken.
async fn joined(sample: &Sample, join: Join) -> (Joined, Vec<StoredHop>) {
    let commit = Commit {
        joins: vec![join],
        ..Commit::default()
    };
    let mut committed = sample.store.commit(commit).await.unwrap();
    (committed.joins.remove(0), committed.released)
}

fn held(joined: &(Joined, Vec<StoredHop>)) -> Option<i64> {
    match &joined.0 {
        Joined::Held(until_ms) if joined.1.is_empty() => *until_ms,
        other => panic!("{other:?}"),
    }
}

fn gathered(joined: Joined) -> (String, bool, i64, Vec<RunId>) {
    match joined {
        Joined::Gathered(of) => {
            let runs = of.members.iter().map(|member| member.run).collect();
            (of.reason, of.out_of_time, of.group, runs)
        }
        other => panic!("{other:?}"),
    }
}

/// The commit that ends a group.
fn ending(runs: &[NewRun], group: i64, sent: bool) -> Commit {
    let end = |run: &NewRun| End {
        fence: 2,
        ..over(run, first_hop(run), vec![], vec![Leaf::Delivered])
    };
    Commit {
        ends: runs.iter().map(end).collect(),
        closes: vec![Close {
            group,
            sent_as: sent.then_some(runs[0].run),
            keep_ms: 5_000,
        }],
        ..Commit::default()
    }
}

#[tokio::test]
async fn the_last_member_brings_the_leader_back_and_the_end_is_one_commit() {
    let mut sample = Sample::new();
    let runs = messages(&sample, "A", 4).await;
    let deadline = Some(START_MS + 1_000);
    assert_eq!(
        held(&joined(&sample, joining(&runs[0], 1, RULE)).await),
        deadline
    );
    assert_eq!(
        held(&joined(&sample, joining(&runs[1], 1, RULE)).await),
        None
    );
    sample.reopen().await;
    let last = joined(&sample, joining(&runs[2], 1, RULE)).await;
    assert!(matches!(last.0, Joined::Held(None)), "{last:?}");
    assert_eq!(
        (last.1.len(), last.1[0].run, last.1[0].fence),
        (1, runs[0].run, 2)
    );
    let late = joined(&sample, joining(&runs[3], 1, RULE)).await;
    assert!(matches!(late.0, Joined::Late { sent_as: None, .. }));
    sample.reopen().await;
    let standing = sample.store.standing_hops().await.unwrap();
    let ready: Vec<_> = standing
        .iter()
        .filter(|hop| !hop.held && !hop.waits)
        .collect();
    assert_eq!(ready.len(), 2, "the leader, and the one that is late");
    let (reason, out_of_time, group, members) =
        gathered(joined(&sample, joining(&runs[0], 2, RULE)).await.0);
    assert_eq!((&*reason, out_of_time), ("size", false));
    assert_eq!(members, [runs[0].run, runs[1].run, runs[2].run]);
    let commit = ending(&runs[..3], group, true);
    let committed = sample.store.commit(commit.clone()).await.unwrap();
    assert_eq!(committed.ends, [true; 3]);
    let again = sample.store.commit(commit).await.unwrap_err();
    assert_eq!(again.class, Class::Conflict);
    let late = joined(&sample, joining(&runs[3], 1, RULE)).await;
    let expect = Some(runs[0].run);
    assert!(matches!(late.0, Joined::Late { sent_as, .. } if sent_as == expect));
    sample.clock.advance(Duration::from_secs(5));
    let swept = sample.with(|connection| sweep(connection, START_MS + 5_000, 9).unwrap());
    assert_eq!(swept, 1);
    assert!(held(&joined(&sample, joining(&runs[3], 1, RULE)).await).is_some());
}

#[tokio::test]
async fn silence_and_the_deadline_bring_the_leader_back() {
    let sample = Sample::new();
    let runs = messages(&sample, "A", 3).await;
    let idle = Rule {
        idle_ms: Some(600),
        ..RULE
    };
    let at = |ms: i64| Some(START_MS + ms);
    assert_eq!(
        held(&joined(&sample, joining(&runs[0], 1, idle)).await),
        at(600)
    );
    sample.clock.advance(Duration::from_millis(300));
    held(&joined(&sample, joining(&runs[1], 1, idle)).await);
    assert_eq!(sample.store.next_due().await.unwrap(), at(900), "put off");
    assert_eq!(
        held(&joined(&sample, joining(&runs[0], 2, idle)).await),
        at(900)
    );
    sample.clock.advance(Duration::from_millis(600));
    let (reason, out_of_time, group, _) =
        gathered(joined(&sample, joining(&runs[0], 3, idle)).await.0);
    assert_eq!((&*reason, out_of_time), ("idle", false));
    let mut commit = ending(&runs[..2], group, true);
    commit.ends[0].fence = 3;
    assert_eq!(sample.store.commit(commit).await.unwrap().ends, [true; 2]);
    let other = messages(&sample, "B", 1).await;
    held(&joined(&sample, joining(&other[0], 1, RULE)).await);
    sample.clock.advance(Duration::from_millis(1_000));
    let (reason, out_of_time, group, _) =
        gathered(joined(&sample, joining(&other[0], 2, RULE)).await.0);
    assert_eq!((&*reason, out_of_time), ("within", true));
    sample
        .store
        .commit(ending(&other, group, false))
        .await
        .unwrap();
    let later = messages(&sample, "B", 1).await;
    held(&joined(&sample, joining(&later[0], 1, RULE)).await);
}

#[tokio::test]
async fn a_group_has_limits_and_each_message_once() {
    let sample = Sample::new();
    let mut runs = messages(&sample, "A", 4).await;
    runs[1].message = runs[0].message;
    let two = Rule {
        size: None,
        most: 2,
        ..RULE
    };
    held(&joined(&sample, joining(&runs[0], 1, two)).await);
    let same = joined(&sample, joining(&runs[1], 1, two)).await.0;
    assert!(matches!(same, Joined::Member), "{same:?}");
    held(&joined(&sample, joining(&runs[2], 1, two)).await);
    held(&joined(&sample, joining(&runs[2], 2, two)).await);
    let full = joined(&sample, joining(&runs[3], 1, two)).await.0;
    assert!(matches!(full, Joined::Full), "{full:?}");
    let mut large = joining(&runs[3], 1, RULE);
    (large.bytes, large.key) = (101, "B".to_owned());
    assert!(matches!(joined(&sample, large).await.0, Joined::Full));
    assert!(matches!(
        joined(&sample, joining(&runs[3], 7, RULE)).await.0,
        Joined::Gone
    ));
}

#[tokio::test]
async fn a_decision_counts_while_the_group_is_as_it_was_seen() {
    let sample = Sample::new();
    let runs = messages(&sample, "A", 2).await;
    let (flow, step) = (runs[0].flow.clone(), Arc::from("erp"));
    let look = async || sample.store.open_group(&flow, &step, "A").await.unwrap();
    assert_eq!(look().await, None);
    let decided = |run: &NewRun, seen, complete| Join {
        decided: Some(Decided { seen, complete }),
        ..joining(run, 1, RULE)
    };
    held(&joined(&sample, decided(&runs[0], None, false)).await);
    let moved = joined(&sample, decided(&runs[1], None, true)).await.0;
    assert!(matches!(moved, Joined::Moved), "{moved:?}");
    let group = look().await.unwrap();
    assert_eq!(
        (group.seen.1, &*group.bodies),
        (1, &[runs[0].body.clone()][..])
    );
    let last = joined(&sample, decided(&runs[1], Some(group.seen), true)).await;
    assert_eq!(last.1[0].run, runs[0].run);
    let back = joined(&sample, joining(&runs[0], 2, RULE)).await.0;
    assert_eq!(gathered(back).0, "complete");
}

#[tokio::test]
async fn a_group_whose_leader_is_gone_gets_another_one() {
    let sample = Sample::new();
    let runs = messages(&sample, "A", 2).await;
    held(&joined(&sample, joining(&runs[0], 1, RULE)).await);
    let mut end = over(&runs[0], first_hop(&runs[0]), vec![], vec![Leaf::Delivered]);
    end.fence = 2;
    assert!(matches!(end.turn, Turn::Over { .. }));
    assert_eq!(sample.end(vec![end]).await.ends, [true]);
    let until = held(&joined(&sample, joining(&runs[1], 1, RULE)).await);
    assert_eq!(until, Some(START_MS + 1_000));
}
