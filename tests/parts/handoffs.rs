//! One list of promises, held against both hand-offs.

use std::collections::BTreeSet;
use std::future::Future;

use crossdock::failure::{Class, Failure};
use crossdock::handoff::Hop;
use crossdock::handoff::embedded::{Full, Share};
use crossdock::store::commit::{Commit, Turn};

use super::site::{Backend, ERP, QUIET, SERVER, Site, bodies, end_of, patiently};

/// Both hand-offs, each with the promise.
async fn each<F: Future<Output = ()>>(promise: impl Fn(Site) -> F) {
    for backend in [Backend::Embedded, Backend::Rabbit(SERVER.to_owned())] {
        promise(Site::new(&backend).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_is_taken_once_also_when_it_is_announced_again() {
    each(|site| async move {
        let hops = site.announced(300).await;
        for hop in &hops {
            site.handoff.announce(hop.clone());
        }
        let mut seen = BTreeSet::new();
        while seen.len() < 300 {
            let taken = site.take(40).await;
            let here: BTreeSet<_> = taken.iter().map(|hop| hop.hop).collect();
            assert_eq!(here.len(), taken.len(), "one is taken twice at a time");
            // Copies that come after the end are found out by the store, at the latest when they are ended.
            let there = site.end(&taken).await;
            for (hop, _) in taken.iter().zip(there).filter(|(_, there)| *there) {
                assert!(seen.insert(hop.hop), "{hop:?} is ended twice");
            }
        }
        let copies = tokio::time::timeout(QUIET, site.handoff.take(ERP, 999)).await;
        let applied = site.end(&copies.unwrap_or_default()).await;
        assert!(applied.iter().all(|applied| !applied));
        assert_eq!(site.delivered().await, 300);
        assert!(site.handoff.at_rest().await.unwrap());
        site.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_has_all_that_was_accepted_however_large() {
    each(|site| async move {
        let large = "x".repeat(100_000);
        let hops = site.accept(vec!["small".to_owned(), large.clone()]).await;
        for hop in &hops {
            site.handoff.announce(hop.clone());
        }
        site.handoff.announce_stored(ERP, hops[0].hop);
        let taken = site.take_all(2).await;
        assert_eq!(bodies(&taken), BTreeSet::from(["small".to_owned(), large]));
        for hop in &taken {
            let was = hops.iter().find(|was| was.hop == hop.hop).unwrap();
            assert_eq!(format!("{hop:?}"), format!("{was:?}"));
        }
        site.end(&taken).await;
        site.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_comes_again() {
    each(|site| async move {
        site.announced(3).await;
        let taken = site.take_all(3).await;
        for hop in taken.into_iter().rev() {
            site.handoff.give_back(hop);
        }
        let taken = site.take_all(3).await;
        assert_eq!(bodies(&taken).len(), 3);
        site.end(&taken).await;
        site.nothing_more().await;
        site.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_when_the_engine_ended_comes_again() {
    for clean in [true, false] {
        each(|mut site| async move {
            site.announced(120).await;
            let taken = site.take_all(20).await;
            site.end(&taken[..5]).await;
            site.restart(clean).await;
            let mut seen = BTreeSet::new();
            while seen.len() < 115 {
                let taken = site.take(40).await;
                let there = site.end(&taken).await;
                let really = taken.iter().zip(there).filter(|(_, there)| *there);
                seen.extend(really.map(|(hop, _)| hop.hop));
            }
            assert_eq!(site.delivered().await, 120);
            site.finish().await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_announced_is_found() {
    each(|mut site| async move {
        let hops = site.accept(vec!["a".to_owned(), "b".to_owned()]).await;
        if matches!(site.backend, Backend::Embedded) {
            site.restart(true).await;
        }
        let taken = site.take_all(2).await;
        assert_eq!(taken.len(), hops.len());
        site.end(&taken).await;
        site.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_waited_comes_again_with_a_new_fence() {
    each(|site| async move {
        site.announced(1).await;
        let hop = site.take(1).await.remove(0);
        site.handoff.waits(hop.hop);
        let wait = Turn::Wait {
            due_at_ms: 1,
            attempt: 2,
            failure: Failure::new(Class::Unavailable, "down"),
        };
        let commit = Commit {
            ends: vec![end_of(&hop, wait)],
            ..Commit::default()
        };
        site.store.commit(commit).await.unwrap();
        site.handoff.rests(hop.hop);
        site.nothing_more().await;
        let release = Commit {
            release: Some((i64::MAX / 2, 9)),
            ..Commit::default()
        };
        for stored in site.store.commit(release).await.unwrap().released {
            site.handoff.announce(Hop::from_store(stored).unwrap());
        }
        let again = site.take(9).await;
        assert_eq!((again.len(), again[0].attempt, again[0].fence), (1, 2, 2));
        assert_eq!(
            site.end(&[hop]).await,
            [false],
            "the old fence ends nothing"
        );
        site.handoff.give_back(again[0].clone());
        assert_eq!(site.end(&again).await, [true]);
        site.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_reached_and_left_again() {
    each(|site| async move {
        let share = Share {
            active_max: 10,
            flow_own: 0,
            flow_active_max: 10,
            flow_all_max: 1000,
        };
        site.announced(12).await;
        assert_eq!(site.handoff.full("orders", &share), Some(Full::FlowActive));
        let taken = site.take_all(12).await;
        site.end(&taken).await;
        patiently(site.handoff.room_for("orders", &share)).await;
        patiently(site.handoff.room(1)).await;
        assert_eq!(site.handoff.full("orders", &share), None);
        site.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_takes_nothing_for_long_loses_nothing() {
    each(|site| async move {
        site.handoff.shut(ERP, true);
        site.announced(5).await;
        tokio::time::sleep(QUIET).await;
        site.handoff.shut(ERP, false);
        let taken = site.take_all(5).await;
        site.end(&taken).await;
        site.finish().await;
    })
    .await;
}
