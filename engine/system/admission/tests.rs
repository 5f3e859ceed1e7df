//! What admission promises, by a clock that stands still until a test moves it.

use super::*;
use crate::world::clock::StillClock;

/// For every class: whether it is retried by default, and what it says about the system.
const CLASSES: [(Class, bool, &str); 16] = [
    (Class::Validation, false, "good"),
    (Class::Mapping, false, "nothing"),
    (Class::UnknownReference, false, "good"),
    (Class::Duplicate, false, "good"),
    (Class::Conflict, false, "good"),
    (Class::NotFound, false, "good"),
    (Class::Auth, false, "refused"),
    (Class::Forbidden, false, "good"),
    (Class::Throttled, true, "good"),
    (Class::Timeout, true, "failed"),
    (Class::Unavailable, true, "failed"),
    (Class::TooLarge, false, "good"),
    (Class::Parse, false, "good"),
    (Class::Ambiguous, false, "failed"),
    (Class::Config, false, "nothing"),
    (Class::Internal, false, "nothing"),
];

#[test]
fn every_class_says_whether_it_is_retried_and_what_it_means_for_the_system() {
    assert_eq!(CLASSES.map(|(class, ..)| class), Class::ALL);
    for (class, retried, meaning) in CLASSES {
        assert_eq!(class.retried_by_default(), retried, "{class}");
        let verdict = match Verdict::of(&Failure::new(class, "no")) {
            Verdict::Good => "good",
            Verdict::Failed(_) => "failed",
            Verdict::Refused(_) => "refused",
            Verdict::Nothing => "nothing",
        };
        assert_eq!(verdict, meaning, "{class}");
    }
}

fn admission(rules: Rules) -> (Arc<Admission>, Arc<StillClock>) {
    let clock = Arc::new(StillClock::at(1_000_000));
    let admission = Arc::new(Admission::new("erp", rules));
    let world = World {
        clock: clock.clone(),
        ..World::real()
    };
    admission.starts(&world, None);
    (admission, clock)
}

const SOON: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_place_is_waited_for_and_given_to_the_next() {
    let rules = Rules {
        concurrency: 1,
        ..Rules::default()
    };
    let (admission, clock) = admission(rules);
    let first = admission.enter(false, SOON).await.unwrap();
    let next = {
        let admission = admission.clone();
        tokio::spawn(async move { admission.enter(false, SOON).await.is_ok() })
    };
    tokio::task::yield_now().await;
    first.ends(Verdict::Good);
    assert!(next.await.unwrap());
    let held = admission.enter(false, SOON).await.unwrap();
    let late = {
        let admission = admission.clone();
        tokio::spawn(async move { admission.enter(false, SOON).await.err() })
    };
    while !late.is_finished() {
        clock.advance(50);
        tokio::task::yield_now().await;
    }
    let failure = late.await.unwrap().unwrap();
    assert_eq!(failure.class, Class::Throttled);
    drop(held);
}

#[tokio::test]
async fn a_rate_that_is_not_free_in_time_is_told_at_once() {
    let rules = Rules {
        rate: Some((Rate::parse("1/h").unwrap(), 1)),
        ..Rules::default()
    };
    let (admission, _) = admission(rules);
    assert!(admission.enter(false, SOON).await.is_ok());
    let failure = admission.enter(false, SOON).await.err().unwrap();
    assert_eq!(failure.class, Class::Throttled);
    assert!(failure.retry_after_ms.unwrap() > 3_000_000);
    assert!(admission.is_open(), "a rate is no outage");
}

#[tokio::test]
async fn those_who_wait_for_a_system_go_on_when_it_is_back() {
    let (admission, clock) = admission(Rules::default());
    for _ in 0..10 {
        let pass = admission.enter(false, SOON).await.unwrap();
        pass.ends(Verdict::Failed("away".to_owned()));
    }
    let failure = admission.enter(false, SOON).await.err().unwrap();
    assert_eq!(failure.class, Class::Unavailable);
    assert!(
        failure
            .message
            .starts_with("erp is down since 1970-01-01T00:16:40Z; nothing is sent before"),
        "{failure}"
    );
    let waits = {
        let admission = admission.clone();
        tokio::spawn(async move { admission.opened().await })
    };
    tokio::task::yield_now().await;
    assert!(!waits.is_finished());
    for _ in 0..8 {
        clock.advance(5_000);
        tokio::task::yield_now().await;
    }
    assert_eq!(waits.await.unwrap(), 1, "one tries it");
    for _ in 0..3 {
        assert_eq!(admission.opened().await, 1);
        let pass = admission.enter(false, SOON).await.unwrap();
        assert!(!admission.is_open(), "one at a time");
        pass.ends(Verdict::Good);
    }
    assert_eq!(admission.opened().await, usize::MAX);
}

#[tokio::test]
async fn a_call_that_was_broken_off_gives_its_trial_back() {
    let (admission, clock) = admission(Rules::default());
    let pass = admission.enter(false, SOON).await.unwrap();
    pass.ends(Verdict::Refused("who are you".to_owned()));
    assert_eq!(admission.told().health, Health::Refused);
    clock.advance(60_000);
    drop(admission.enter(false, SOON).await.unwrap());
    let pass = admission.enter(false, SOON).await.unwrap();
    pass.ends(Verdict::Good);
    assert_eq!(admission.told().health, Health::Up);
}
