//! What the embedded hand-off promises: nothing lost, nothing taken twice, whatever its takers do.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::body::Body;
use crate::message::Message;
use crate::store::commit::{Commit, FENCE_FIRST, Leaf, NewRun};
use crate::store::sample::*;

/// Where the hops of these tests stand.
const ERP: Station<'_> = Station {
    flow: "orders",
    revision: "r1",
    step: "erp",
};

fn hop(run: &NewRun) -> Hop {
    Hop {
        hop: first_hop(run),
        fence: FENCE_FIRST,
        run: run.run,
        flow: run.flow.clone(),
        step: Arc::from("erp"),
        attempt: 1,
        revision: run.revision.clone(),
        moved: false,
        runs_body: true,
        message: Message::new(run.message, START_MS, Body::new(run.body.clone())),
    }
}

const SMALL: Limits = Limits {
    queued_max: 3,
    bytes_max: 1 << 20,
    fetched_max: 2,
};

/// A hand-off to which so many messages were announced.
async fn announced(sample: &Sample, limits: Limits, many: usize) -> (Embedded, Vec<NewRun>) {
    let embedded = Embedded::new(sample.store.clone(), limits);
    let runs: Vec<_> = (0..many)
        .map(|n| sample.order(&format!("k{n}"), &format!("body {n}")))
        .collect();
    sample.accept(runs.clone()).await;
    for run in &runs {
        embedded.announce(hop(run));
    }
    (embedded, runs)
}

async fn bodies(embedded: &Embedded, max: usize) -> Vec<String> {
    let taken = embedded.take(ERP, max).await;
    taken
        .iter()
        .map(|hop| format!("{:?}", hop.message.body))
        .collect()
}

async fn nothing_more(embedded: &Embedded) {
    let take = embedded.take(ERP, 9);
    let more = tokio::time::timeout(Duration::from_millis(30), take).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn what_does_not_fit_into_memory_comes_from_the_store_in_its_turn() {
    for limits in [
        Limits::default(),
        SMALL,
        Limits {
            bytes_max: 0,
            ..SMALL
        },
    ] {
        let sample = Sample::new();
        let (embedded, runs) = announced(&sample, limits, 8).await;
        let mut found = Vec::new();
        while found.len() < runs.len() {
            found.extend(bodies(&embedded, 5).await);
        }
        let expect: Vec<_> = (0..8).map(|n| format!("body {n}")).collect();
        assert_eq!(found, expect);
        nothing_more(&embedded).await;
        assert_eq!(embedded.in_flight(), 8);
    }
}

#[tokio::test]
async fn what_the_last_process_left_is_found() {
    let mut sample = Sample::new();
    let (before, runs) = announced(&sample, SMALL, 5).await;
    assert_eq!(before.take(ERP, 2).await.len(), 2);
    sample
        .end(vec![waits(&runs[4], first_hop(&runs[4]), START_MS + 9)])
        .await;
    drop(before);
    sample.reopen().await;
    let embedded = Embedded::new(sample.store.clone(), SMALL);
    assert_eq!(embedded.recover().await.unwrap(), 5);
    assert_eq!(embedded.in_flight(), 5);
    let mut found = Vec::new();
    while found.len() < 4 {
        found.extend(bodies(&embedded, 9).await);
    }
    assert_eq!(found, ["body 0", "body 1", "body 2", "body 3"]);
    nothing_more(&embedded).await;
    let commit = Commit {
        release: Some((START_MS + 9, 9)),
        ..Commit::default()
    };
    for stored in sample.store.commit(commit).await.unwrap().released {
        embedded.announce(Hop::from_store(stored).unwrap());
    }
    let retried = embedded.take(ERP, 9).await;
    assert_eq!((retried[0].attempt, retried[0].fence), (2, 2));
    assert_eq!(embedded.in_flight(), 5);
}

#[tokio::test]
async fn a_hop_that_is_announced_again_is_taken_once() {
    let sample = Sample::new();
    let (embedded, runs) = announced(&sample, SMALL, 5).await;
    for run in &runs {
        embedded.announce(hop(run));
    }
    let mut found = 0;
    while found < 5 {
        found += embedded.take(ERP, 1).await.len();
        embedded.announce(hop(&runs[0]));
        embedded.announce(hop(&runs[4]));
    }
    nothing_more(&embedded).await;
}

#[tokio::test]
async fn what_is_given_back_is_next() {
    let sample = Sample::new();
    let (embedded, _) = announced(&sample, SMALL, 5).await;
    let first = embedded.take(ERP, 1).await.remove(0);
    embedded.give_back(first.clone());
    embedded.give_back(first);
    let first = embedded.take(ERP, 1).await.remove(0);
    embedded.waits(first.hop);
    embedded.give_back(first);
    assert_eq!(bodies(&embedded, 1).await, ["body 0"]);
    assert_eq!(bodies(&embedded, 1).await, ["body 1"]);
}

#[tokio::test]
async fn room_comes_when_hops_end_and_not_when_they_wait() {
    let sample = Sample::new();
    let (embedded, _) = announced(&sample, SMALL, 3).await;
    let taken = embedded.take(ERP, 3).await;
    let waiting = {
        let embedded = embedded.clone();
        tokio::spawn(async move { embedded.room(3).await })
    };
    embedded.waits(taken[0].hop);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished());
    embedded.ended(taken[1].hop);
    waiting.await.unwrap();
    assert_eq!(embedded.in_flight(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn takers_that_go_away_lose_nothing_and_no_hop_is_taken_twice() {
    const MANY: usize = 400;
    let sample = Sample::new();
    let limits = Limits {
        queued_max: 7,
        fetched_max: 5,
        ..SMALL
    };
    let embedded = Embedded::new(sample.store.clone(), limits);
    let taken = Arc::new(Mutex::new(Vec::new()));
    let mut takers = tokio::task::JoinSet::new();
    for taker in 0..4u64 {
        let (embedded, taken, store) = (embedded.clone(), taken.clone(), sample.store.clone());
        takers.spawn(async move {
            loop {
                let patience = Duration::from_micros(50 + 100 * taker);
                let take = embedded.take(ERP, 3);
                let Ok(hops) = tokio::time::timeout(patience, take).await else {
                    if taken.lock().unwrap().len() == MANY {
                        return;
                    }
                    continue;
                };
                let mut ends = Vec::new();
                for hop in &hops {
                    taken.lock().unwrap().push(hop.hop);
                    let mut end = end_of(hop);
                    end.fence = hop.fence;
                    ends.push(end);
                }
                let commit = Commit {
                    ends,
                    ..Commit::default()
                };
                let ended = store.commit(commit).await.unwrap().ends;
                assert!(ended.iter().all(|ended| *ended));
                for hop in hops {
                    embedded.ended(hop.hop);
                }
            }
        });
    }
    for n in 0..MANY / 10 {
        let runs: Vec<_> = (0..10)
            .map(|m| sample.order(&format!("{n}-{m}"), "body"))
            .collect();
        sample.accept(runs.clone()).await;
        for run in &runs {
            embedded.announce(hop(run));
        }
    }
    let all = tokio::time::timeout(Duration::from_secs(30), takers.join_all()).await;
    assert!(
        all.is_ok(),
        "{} of {MANY} taken",
        taken.lock().unwrap().len()
    );
    let taken = taken.lock().unwrap().clone();
    let different: BTreeSet<_> = taken.iter().collect();
    assert_eq!((taken.len(), different.len()), (MANY, MANY));
    assert_eq!(embedded.in_flight(), 0);
    assert_eq!(sample.books().await.delivered, MANY as i64);
}

fn end_of(hop: &Hop) -> crate::store::commit::End {
    crate::store::commit::End {
        hop: hop.hop,
        fence: hop.fence,
        run: hop.run,
        flow: hop.flow.clone(),
        step: hop.step.clone(),
        revision: None,
        turn: crate::store::commit::Turn::Over {
            next: Vec::new(),
            doors: Vec::new(),
            leaves: vec![Leaf::Delivered],
        },
        effect: None,
        saga: None,
        trail: Vec::new(),
        accepts: Vec::new(),
    }
}

/// A hop of the sample that is tried for the nth time.
fn tried(run: &NewRun, attempt: u32) -> Hop {
    Hop {
        attempt,
        ..hop(run)
    }
}

#[tokio::test]
async fn repeats_that_have_piled_up_do_not_stand_before_new_messages() {
    let sample = Sample::new();
    let embedded = Embedded::new(sample.store.clone(), Limits::default());
    let runs: Vec<_> = (0..40)
        .map(|n| sample.order(&format!("k{n}"), "body"))
        .collect();
    sample.accept(runs.clone()).await;
    for run in &runs[..30] {
        embedded.announce(tried(run, 3));
    }
    for run in &runs[30..] {
        embedded.announce(hop(run));
    }
    let attempts = |hops: Vec<Hop>| hops.iter().map(|hop| hop.attempt).collect::<Vec<_>>();
    let taken = attempts(embedded.take(ERP, 10).await);
    assert_eq!(taken, [1, 1, 1, 1, 3, 1, 1, 1, 1, 3]);
    let taken = attempts(embedded.take_with(ERP, 10, 0).await);
    assert_eq!(taken, [1, 1], "no repeat is taken that may not be made");
    let none = embedded.take_with(ERP, 10, 0);
    assert!(
        tokio::time::timeout(Duration::from_millis(30), none)
            .await
            .is_err()
    );
    let taken = attempts(embedded.take_with(ERP, 10, 3).await);
    assert_eq!(taken, [3, 3, 3]);
    assert_eq!(embedded.take(ERP, 99).await.len(), 25);
}

#[tokio::test]
async fn what_waits_for_a_time_or_for_a_system_is_not_active() {
    let sample = Sample::new();
    let (embedded, _) = announced(&sample, SMALL, 6).await;
    let load = |embedded: &Embedded| {
        let (its, all) = embedded.load("orders");
        assert_eq!(its, all);
        (its.all, its.active)
    };
    assert_eq!(load(&embedded), (6, 6));
    assert_eq!(embedded.load("other").0, Load::default());
    let taken = embedded.take(ERP, 2).await;
    embedded.waits(taken[0].hop);
    assert_eq!(load(&embedded), (6, 5));
    embedded.shut(ERP, true);
    assert_eq!(load(&embedded), (6, 1), "what is taken is still worked on");
    embedded.ended(taken[1].hop);
    assert_eq!(load(&embedded), (5, 0));
    let share = Share {
        active_max: 1,
        flow_own: 0,
        flow_active_max: 1,
        flow_all_max: 5,
    };
    assert_eq!(embedded.full("orders", &share), Some(Full::FlowAll));
    let share = Share {
        flow_all_max: 6,
        ..share
    };
    assert_eq!(embedded.full("orders", &share), None);
    embedded.shut(ERP, false);
    assert_eq!(embedded.full("orders", &share), Some(Full::FlowActive));
    assert_eq!(embedded.full("other", &share), Some(Full::Active));
    let share = Share {
        flow_own: 1,
        ..share
    };
    assert_eq!(embedded.full("orders", &share), Some(Full::FlowActive));
    assert_eq!(embedded.full("other", &share), None);
}
