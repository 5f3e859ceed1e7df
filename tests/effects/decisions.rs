//! What people do about exceptions, on a running engine: what goes on, what is refused, and what the target sees of it.

use crossdock::run::desk::{Report, Retry, Verb, Which};

use super::*;

fn retry(how: Retry) -> Verb {
    Verb::Retry {
        how,
        answer: None,
        reason: None,
    }
}

async fn act(rig: &Rig, id: i64, verb: Verb) -> Report {
    let which = Which::these([id]);
    rig.engine
        .desk()
        .act(&which, &verb, "anna", false)
        .await
        .unwrap()
}

/// One order against a target whose exception is then acted on. Gives the report, what was applied, and the books.
async fn decide(target: Target, verb: Verb) -> (Report, Arc<Target>, Counts) {
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(target);
    let rig = rig(folder.path(), target.clone(), Vec::new()).await;
    rig.offer(&[ORDER]).await;
    assert_eq!(rig.rest().await.in_exceptions, 1);
    let id = rig.exceptions().await[0].id.0;
    let report = act(&rig, id, verb).await;
    let counts = rig.rest().await;
    rig.stop().await;
    (report, target, counts)
}

#[tokio::test]
async fn a_refused_order_is_sent_again_by_a_retry() {
    let target = Target::new(&[Play::Refuse(Class::Validation)]);
    let (report, target, counts) = decide(target, retry(Retry::Plain)).await;
    assert_eq!((report.done, counts.delivered), (1, 1));
    assert_eq!((target.sent(), target.applied().len()), (2, 1));
}

#[tokio::test]
async fn an_edited_body_is_what_is_sent() {
    let verb = Verb::Edit {
        body: r#"{"n":"1001","total":20.00}"#.to_owned(),
        reason: Some("wrong total".to_owned()),
    };
    let target = Target::new(&[Play::Refuse(Class::Validation)]);
    let (report, target, counts) = decide(target, verb).await;
    assert_eq!((report.done, counts.delivered), (1, 1));
    assert_eq!(target.applied(), [r#"{"n":"1001","total":20.00}"#]);
}

#[tokio::test]
async fn an_edited_body_that_is_no_json_is_refused() {
    let verb = Verb::Edit {
        body: "{".to_owned(),
        reason: None,
    };
    let target = Target::new(&[Play::Refuse(Class::Validation)]);
    let (report, target, counts) = decide(target, verb).await;
    assert_eq!((report.refused, counts.in_exceptions), (1, 1));
    assert_eq!(target.sent(), 1);
}

#[tokio::test]
async fn what_nobody_knows_is_not_sent_again_without_a_word() {
    let (report, target, counts) =
        decide(Target::new(&[Play::ApplyAndLose]), retry(Retry::Plain)).await;
    assert_eq!((report.done, report.refused), (0, 1));
    let why = &report.refusals[0].why;
    assert!(
        why.contains("--applied") && why.contains("--as-new"),
        "{why}"
    );
    assert_eq!((target.sent(), counts.in_exceptions), (1, 1));
}

#[tokio::test]
async fn what_took_effect_goes_on_without_being_sent() {
    let (report, target, counts) =
        decide(Target::new(&[Play::ApplyAndLose]), retry(Retry::Applied)).await;
    assert_eq!((report.done, counts.delivered), (1, 1));
    assert_eq!((target.sent(), target.applied().len()), (1, 1));
}

#[tokio::test]
async fn what_is_sent_as_new_has_another_key() {
    let lost = Target::new(&[Play::Lose; 4]).keeps_keys();
    let (report, target, counts) = decide(lost, retry(Retry::AsNew)).await;
    assert_eq!((report.done, counts.delivered), (1, 1));
    let sent = target.sent.lock().unwrap();
    let keys: Vec<_> = sent
        .iter()
        .map(|request| request.idempotency_key.clone().unwrap())
        .collect();
    assert_eq!(keys[4], format!("{}-1", keys[0]));
}

#[tokio::test]
async fn a_target_that_knows_its_keys_needs_no_word() {
    let lost = Target::new(&[Play::ApplyAndLose; 4]).keeps_keys();
    let (report, target, counts) = decide(lost, retry(Retry::Plain)).await;
    assert_eq!((report.done, counts.delivered), (1, 1));
    assert_eq!(target.applied().len(), 1);
}

#[tokio::test]
async fn what_was_done_by_hand_is_delivered_and_what_is_given_up_is_discarded() {
    let by_hand = Verb::ByHand {
        note: "entered by phone".to_owned(),
    };
    let (_, target, counts) = decide(Target::new(&[Play::Refuse(Class::Conflict)]), by_hand).await;
    assert_eq!((counts.delivered, target.sent()), (1, 1));
    let discard = Verb::Discard {
        reason: "cancelled".to_owned(),
    };
    let (_, target, counts) = decide(Target::new(&[Play::Refuse(Class::Conflict)]), discard).await;
    assert_eq!((counts.discarded, target.sent()), (1, 1));
}

#[tokio::test]
async fn a_sink_cannot_be_skipped_and_a_reason_is_needed() {
    let skip = Verb::Skip {
        reason: "no need".to_owned(),
    };
    let (report, _, counts) = decide(Target::new(&[Play::Refuse(Class::Conflict)]), skip).await;
    assert_eq!((report.refused, counts.in_exceptions), (1, 1));
    let folder = tempfile::tempdir().unwrap();
    let rig = rig(folder.path(), Arc::new(Target::new(&[])), Vec::new()).await;
    let silent = Verb::Discard {
        reason: " ".to_owned(),
    };
    let (desk, which) = (rig.engine.desk(), Which::these([1]));
    let asked = desk.act(&which, &silent, "anna", false).await;
    assert_eq!(asked.unwrap_err().class, Class::Validation);
    drop(desk);
    rig.stop().await;
}

/// Twenty people retry the same exceptions at once: each is sent once, and everybody else is told so.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_retry_at_once_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::new(&[Play::Refuse(Class::Validation); 5]));
    let rig = rig(folder.path(), target.clone(), Vec::new()).await;
    let orders: Vec<String> = (0..5).map(|n| format!(r#"{{"n":"{n}"}}"#)).collect();
    let orders: Vec<&str> = orders.iter().map(String::as_str).collect();
    rig.offer(&orders).await;
    assert_eq!(rig.rest().await.in_exceptions, 5);
    let desk = rig.engine.desk();
    let people: Vec<_> = (0..20)
        .map(|n| {
            let desk = desk.clone();
            tokio::spawn(async move {
                let which = Which {
                    all: n % 2 == 0,
                    ids: if n % 2 == 0 {
                        vec![]
                    } else {
                        vec![1, 2, 3, 4, 5]
                    },
                    ..Which::default()
                };
                let who = format!("person {n}");
                desk.act(&which, &retry(Retry::Plain), &who, false).await
            })
        })
        .collect();
    let mut done = 0;
    for person in people {
        let report = person.await.unwrap().unwrap();
        done += report.done;
        for refusal in report.refusals {
            assert!(
                refusal.why.contains("it was resolved before by person"),
                "{refusal:?}"
            );
        }
    }
    assert_eq!((done, rig.rest().await.delivered), (5, 5));
    assert_eq!((target.sent(), target.applied().len()), (10, 5));
    drop(desk);
    rig.stop().await;
}
