//! Runs that are done again, on a running engine: the message keeps its identity, what was done for it is not done again, and it is counted
//! once.

use crossdock::run::again::{Again, From, Receipt};
use crossdock::run::replay::NewList;
use crossdock::store::replays::{ReplayId, ReplayRow, ReplayState};
use crossdock::store::runs::{RunFilter, RunState};

use super::*;

fn how(from: From) -> Again {
    Again {
        from,
        as_new: false,
        original: false,
    }
}

async fn again(rig: &Rig, run: i64, how: &Again) -> Receipt {
    let desk = rig.engine.desk();
    let receipts = desk.again(&[run], how, "anna", None, false).await.unwrap();
    receipts[0].clone()
}

/// One order, done again in this way. Gives the receipt, the target, and the books.
async fn replay(target: Target, how: Again) -> (Receipt, Arc<Target>, Counts) {
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(target);
    let rig = rig(folder.path(), target.clone(), Vec::new()).await;
    rig.offer(&[ORDER]).await;
    rig.rest().await;
    let receipt = again(&rig, 1, &how).await;
    let counts = rig.rest().await;
    rig.stop().await;
    (receipt, target, counts)
}

#[tokio::test]
async fn what_was_delivered_is_not_sent_again_and_is_counted_once() {
    for from in [From::Start, From::Step("erp".to_owned())] {
        let (receipt, target, counts) = replay(Target::new(&[]), how(from)).await;
        assert_eq!(receipt.became, Some(2));
        assert_eq!((target.sent(), target.applied().len()), (1, 1));
        assert_eq!((counts.accepted, counts.delivered), (1, 1));
        assert_eq!(counts.superseded, 1);
    }
}

#[tokio::test]
async fn as_new_it_is_sent_again_with_a_key_of_its_own() {
    let as_new = Again {
        as_new: true,
        ..how(From::Start)
    };
    let (receipt, target, counts) = replay(Target::new(&[]).keeps_keys(), as_new).await;
    assert_eq!((receipt.became, counts.delivered), (Some(2), 1));
    let sent = target.sent.lock().unwrap();
    assert_eq!(sent.len(), 2);
    assert_ne!(sent[0].idempotency_key, sent[1].idempotency_key);
}

#[tokio::test]
async fn a_rerun_takes_the_place_of_what_waits_for_a_person() {
    let target = Target::new(&[Play::Refuse(Class::Validation)]);
    let (receipt, target, counts) = replay(target, how(From::Start)).await;
    assert_eq!(receipt.became, Some(2));
    assert_eq!((counts.delivered, counts.in_exceptions), (1, 0));
    assert_eq!(target.applied().len(), 1);
}

#[tokio::test]
async fn a_resume_is_the_same_run_and_needs_something_that_waits() {
    let target = Target::new(&[Play::Refuse(Class::Validation)]);
    let (receipt, _, counts) = replay(target, how(From::Resume)).await;
    assert_eq!((receipt.became, counts.delivered), (Some(1), 1));
    assert_eq!(counts.superseded, 0);
    let (receipt, ..) = replay(Target::new(&[]), how(From::Resume)).await;
    assert!(receipt.refused.unwrap().contains("it is delivered"));
}

#[tokio::test]
async fn what_cannot_be_done_again_is_refused_and_nothing_is_changed() {
    let lost = Target::new(&[Play::ApplyAndLose]);
    let (receipt, target, counts) = replay(lost, how(From::Resume)).await;
    assert!(receipt.refused.unwrap().contains("--as-new"));
    assert_eq!((target.sent(), counts.in_exceptions), (1, 1));
    let (receipt, ..) = replay(Target::new(&[]), how(From::Step("nowhere".to_owned()))).await;
    assert!(receipt.refused.unwrap().contains("no step `nowhere`"));
    // What nobody knows stays unknown in a rerun: it is not sent blindly.
    let lost = Target::new(&[Play::ApplyAndLose]);
    let (receipt, target, counts) = replay(lost, how(From::Start)).await;
    assert_eq!((receipt.became, counts.in_exceptions), (Some(2), 1));
    assert_eq!(target.sent(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_reruns_at_once_one_is_begun() {
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::new(&[Play::Refuse(Class::Validation)]));
    let rig = rig(folder.path(), target.clone(), Vec::new()).await;
    rig.offer(&[ORDER]).await;
    rig.rest().await;
    let people: Vec<_> = (0..12)
        .map(|_| {
            let desk = rig.engine.desk();
            let how = how(From::Start);
            tokio::spawn(async move { desk.again(&[1], &how, "anna", None, false).await })
        })
        .collect();
    let mut begun = 0;
    for person in people {
        let receipt = &person.await.unwrap().unwrap()[0];
        begun += u32::from(receipt.became.is_some());
    }
    assert_eq!((begun, rig.rest().await.delivered), (1, 1));
    assert_eq!(target.applied().len(), 1);
    rig.stop().await;
}

fn waiting_ones(rate: f64) -> NewList {
    NewList {
        flow: Some("orders".to_owned()),
        state: Some("in-exception".to_owned()),
        since_ms: None,
        until_ms: None,
        key: None,
        issue: None,
        class: None,
        how: how(From::Start),
        rate: Some(rate),
        why: Some("the ERP is back".to_owned()),
    }
}

async fn list(rig: &Rig, id: i64) -> ReplayRow {
    rig.store.replay(ReplayId(id)).await.unwrap().unwrap()
}

async fn until(rig: &Rig, id: i64, state: ReplayState) -> ReplayRow {
    for _ in 0..2_000 {
        let row = list(rig, id).await;
        if row.state == state {
            return row;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!(
        "the list is not {}: {:?}",
        state.name(),
        list(rig, id).await
    );
}

/// Forty orders that were refused are done again as a list, which is stopped, and whose engine dies in between: each is done once.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_worked_on_item_by_item_over_pauses_and_restarts() {
    const MANY: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::new(&[Play::Refuse(Class::Validation); MANY]));
    let mut one = rig(folder.path(), target.clone(), Vec::new()).await;
    let orders: Vec<String> = (0..MANY).map(|n| format!(r#"{{"n":"{n}"}}"#)).collect();
    one.offer(&orders.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    assert_eq!(one.rest().await.in_exceptions, MANY as i64);
    let asked = one
        .engine
        .desk()
        .list(&waiting_ones(50.0), "anna", true)
        .await;
    assert_eq!(asked.unwrap().runs, MANY as u64);
    let made = one
        .engine
        .desk()
        .list(&waiting_ones(200.0), "anna", false)
        .await;
    let id = made.unwrap().replay.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        one.engine.stop(Duration::ZERO).await;
        one.store.shutdown().await;
        one = rig(folder.path(), target.clone(), Vec::new()).await;
    }
    let desk = one.engine.desk();
    assert!(desk.turn_list(id, ReplayState::Paused).await.unwrap());
    let paused = list(&one, id).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(list(&one, id).await.waiting, paused.waiting);
    assert!(desk.turn_list(id, ReplayState::Running).await.unwrap());
    let done = until(&one, id, ReplayState::Finished).await;
    assert_eq!((done.total, done.refused), (MANY as u64, 0));
    assert!(!desk.turn_list(id, ReplayState::Aborted).await.unwrap());
    drop(desk);
    let counts = one.rest().await;
    assert_eq!(counts.accepted, MANY as i64);
    assert_eq!(counts.delivered + counts.in_exceptions, MANY as i64);
    let applied = target.applied();
    let different: std::collections::BTreeSet<_> = applied.iter().collect();
    assert_eq!(applied.len(), different.len(), "nothing is applied twice");
    // Of what was under way when the engine died nobody knows: it waits for a person.
    let (least, most) = (counts.delivered, counts.delivered + counts.in_exceptions);
    assert!(
        (least..=most).contains(&(applied.len() as i64)),
        "{counts:?}"
    );
    let items = one.store.replay_items(ReplayId(id), 0, 100).await.unwrap();
    let became: std::collections::BTreeSet<_> = items.iter().map(|item| item.became).collect();
    assert_eq!(
        (items.len(), became.len()),
        (MANY, MANY),
        "a receipt for each"
    );
    one.stop().await;
}

#[tokio::test]
async fn a_list_that_is_aborted_leaves_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::new(&[Play::Refuse(Class::Validation); 3]));
    let rig = rig(folder.path(), target.clone(), Vec::new()).await;
    rig.offer(&[r#"{"n":"1"}"#, r#"{"n":"2"}"#, r#"{"n":"3"}"#])
        .await;
    rig.rest().await;
    let desk = rig.engine.desk();
    // One every thousand seconds: the first at once.
    let made = desk
        .list(&waiting_ones(0.001), "anna", false)
        .await
        .unwrap();
    let id = made.replay.unwrap();
    for _ in 0..500 {
        if list(&rig, id).await.waiting == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(desk.turn_list(id, ReplayState::Aborted).await.unwrap());
    let counts = rig.rest().await;
    assert_eq!((counts.delivered, counts.in_exceptions), (1, 2));
    let runs = rig.store.runs(RunFilter::default()).await.unwrap();
    let superseded = runs.iter().filter(|row| row.state == RunState::Superseded);
    assert_eq!((runs.len(), superseded.count()), (4, 1));
    drop(desk);
    rig.stop().await;
}
