//! Several engines on one broker and one database, whose projects are of different revisions for a while.

use serde_json::Value;

use super::{marked, marking, post, said};
use crate::faults::backing::{Backing, Services};
use crate::support::{Sandbox, eventually};

/// An engine's folder, with the flow in this state.
fn engine(backing: &Backing, flow: &str) -> Sandbox {
    let sandbox = backing.under(Sandbox::new()).unwrap();
    sandbox.file("flows/orders.yaml", flow);
    sandbox
}

/// What came out on any of the disks, once it is so much.
fn marks(disks: &[&Sandbox], many: usize) -> Vec<(String, String)> {
    eventually("the orders come out", || {
        let mut all: Vec<_> = disks.iter().flat_map(|disk| super::marks(disk)).collect();
        all.sort();
        (all.len() >= many).then_some(all)
    })
}

#[test]
fn an_engine_ends_what_another_one_has_accepted_under_a_revision_that_it_does_not_have() {
    let services = Services::shared().unwrap_or_else(|error| panic!("{error}"));
    let backing = Backing::on(services);
    let first = engine(&backing, &marking("one", "1s"));
    let second = engine(&backing, &marking("one", "1s"));
    let (running, other) = (first.start(), second.start());
    post(&first, "A");
    // Another revision, with a step for which there is no queue yet.
    let two = marking("two", "1s").replace("- id: mark", "- id: hold\n    delay: 1s\n  - id: mark");
    first.file("flows/orders.yaml", &two);
    said(&running, "reloaded: revision", 1);
    post(&first, "B");
    post(&second, "C");
    drop(running);
    let all = marked(&[("A", "one"), ("B", "two"), ("C", "one")]);
    assert_eq!(marks(&[&first, &second], 3), all);
    assert!(!other.log().contains("cannot be loaded"), "{}", other.log());
}

#[test]
fn a_rollback_reaches_the_other_engines_and_a_lift_does_too() {
    let services = Services::shared().unwrap_or_else(|error| panic!("{error}"));
    let backing = Backing::on(services);
    let first = engine(&backing, &marking("one", "10ms"));
    let second = engine(&backing, &marking("one", "10ms"));
    let (_running, other) = (first.start(), second.start());
    for sandbox in [&first, &second] {
        sandbox.file("flows/orders.yaml", &marking("two", "10ms"));
        sandbox.prints(&["reload"]);
    }
    let told = first.prints(&["rollback", "--reason", "two is wrong"]);
    assert!(told.contains("changed   flow orders"), "{told}");
    said(&other, "runs instead", 1);
    post(&second, "A");
    let shown = first.prints(&["revisions", "--json"]);
    let out = shown
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| !line["withdrawn"].is_null())
        .unwrap();
    let revision = out["revision"].as_str().unwrap().to_owned();
    first.prints(&["rollback", "--lift", &revision]);
    let lifted = "reloaded: revision";
    said(&other, lifted, 1);
    post(&second, "B");
    let all = marked(&[("A", "one"), ("B", "two")]);
    assert_eq!(marks(&[&first, &second], 2), all);
}
