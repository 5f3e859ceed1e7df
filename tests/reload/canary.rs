//! Another revision takes a share of the messages: one key is always on one side, it is stopped when it does worse, and whatever becomes of it
//! nothing is lost.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{marking, marks, post, revision_of, said, wait_for_marks};
use crate::faults::backing::{Backing, Services};
use crate::support::{Sandbox, eventually};

/// A project beside that of the sandbox, with this flow.
fn candidate(sandbox: &Sandbox, flow: &str) -> String {
    sandbox.file("next/flows/orders.yaml", flow);
    sandbox.root().join("next").display().to_string()
}

/// Orders may come twice here.
fn repeating(mark: &str) -> String {
    marking(mark, "10ms").replace("once: { key: order }\n", "")
}

fn start(sandbox: &Sandbox, folder: &str, percent: &str) -> String {
    sandbox.prints(&[
        "canary",
        "start",
        folder,
        "--percent",
        percent,
        "--reason",
        "a try",
    ])
}

fn canary(sandbox: &Sandbox) -> Value {
    let output = sandbox.crossdock(&["canary", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

/// The marks that each number got.
fn sides(marks: &[(String, String)]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut sides: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (number, mark) in marks {
        sides.entry(number).or_default().insert(mark);
    }
    sides
}

#[test]
fn one_key_is_on_one_side_over_a_kill_and_when_promoted_it_runs_for_all() {
    let sandbox = Sandbox::new().variable("CROSSDOCK_AS", "ann");
    sandbox.file("flows/orders.yaml", &repeating("one"));
    let engine = sandbox.start();
    let base = revision_of(&sandbox);
    let next = candidate(&sandbox, &repeating("two"));
    let told = start(&sandbox, &next, "40");
    assert!(told.contains("running, 40 %"), "{told}");
    for n in 0..60 {
        post(&sandbox, &format!("N{n}"));
    }
    wait_for_marks(&sandbox, 60);
    drop(engine);
    let engine = sandbox.start();
    for n in 0..60 {
        post(&sandbox, &format!("N{n}"));
    }
    let all = wait_for_marks(&sandbox, 120);
    let by_number = sides(&all);
    assert!(
        by_number.values().all(|marks| marks.len() == 1),
        "{by_number:?}"
    );
    let two = by_number
        .values()
        .filter(|marks| marks.contains("two"))
        .count();
    assert!(
        (12..=36).contains(&two),
        "{two} of 60 keys are the canary's"
    );
    let counts = eventually("all are counted", || {
        let counts = canary(&sandbox)["sides"]["orders"].clone();
        let taken = |side: &str| counts[side]["taken"].as_u64();
        // A kill loses what was counted in the two seconds before it, and no message.
        (taken("candidate")? + taken("base")? >= 60).then_some(counts.clone())
    });
    assert_eq!(counts["candidate"]["excepted"], 0);
    // A larger share keeps what it has.
    sandbox.prints(&["canary", "share", "80"]);
    for n in 0..60 {
        post(&sandbox, &format!("N{n}"));
    }
    let all = wait_for_marks(&sandbox, 180);
    let later = &sides(&all[..]);
    let were_two = by_number.iter().filter(|(_, marks)| marks.contains("two"));
    for (number, _) in were_two {
        assert_eq!(later[number], BTreeSet::from(["two"]), "{number}");
    }
    sandbox.prints(&["canary", "promote", "--reason", "no differences"]);
    drop(engine);
    let _engine = sandbox.start();
    assert_ne!(revision_of(&sandbox), base);
    for n in 0..10 {
        post(&sandbox, &format!("P{n}"));
    }
    let all = wait_for_marks(&sandbox, 190);
    let promoted = all.iter().filter(|(number, _)| number.starts_with('P'));
    assert!(promoted.clone().all(|(_, mark)| mark == "two"), "{all:?}");
    assert_eq!(canary(&sandbox)["canary"]["state"], "promoted");
    let history = sandbox.prints(&["revisions"]);
    assert!(
        history.contains("promote") && history.contains("no differences"),
        "{history}"
    );
}

#[test]
fn a_canary_that_does_worse_is_stopped_by_itself() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", &repeating("one"));
    let engine = sandbox.start();
    let fails = repeating("two").replace("mark: 'two'", "mark: fixed(decimal(number), `2`)");
    start(&sandbox, &candidate(&sandbox, &fails), "50");
    let mut sent = 0;
    eventually("it is stopped", || {
        for _ in 0..20 {
            post(&sandbox, &format!("N{sent}"));
            sent += 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        (canary(&sandbox)["canary"]["state"] == "stopped").then_some(())
    });
    said(
        &engine,
        "of its messages of orders ended in exceptions or were refused",
        1,
    );
    let shown = sandbox.crossdock(&["canary"]);
    assert_eq!(
        shown.status.code(),
        Some(1),
        "a script sees that it was stopped"
    );
    let books = sandbox.books_at_rest(sent);
    let failed = books["all"]["in_exceptions"].as_i64().unwrap();
    post(&sandbox, "last");
    let books = sandbox.books_at_rest(sent + 1);
    assert_eq!(books["all"]["in_exceptions"], failed, "nothing more fails");
    assert_eq!(
        books["all"]["delivered"].as_i64().unwrap() + failed,
        sent + 1
    );
    // What failed is retried under the revision that runs.
    sandbox.prints(&["exceptions", "retry", "--all"]);
    let books = eventually("all are delivered", || {
        let books = sandbox.books_at_rest(sent + 1);
        (books["all"]["in_exceptions"] == 0).then_some(books)
    });
    assert_eq!(books["all"]["delivered"], sent + 1);
}

#[test]
fn a_canary_whose_contract_refuses_what_was_good_is_stopped() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", &repeating("one"));
    let engine = sandbox.start();
    sandbox.file(
        "next/schemas/strict.v1.json",
        r#"{"type": "object", "required": ["number", "customer"]}"#,
    );
    let strict = repeating("two").replace(
        "keys:",
        "accepts: { schema: strict.v1, on_breach: refuse }\nkeys:",
    );
    start(&sandbox, &candidate(&sandbox, &strict), "50");
    let send = |sent: usize| {
        let reply = sandbox.post("/orders", format!("{{\"number\": \"N{sent}\"}}").as_bytes());
        reply.status
    };
    let (mut sent, mut refused) = (0, 0_u64);
    eventually("it is stopped", || {
        for _ in 0..20 {
            refused += u64::from(send(sent) == 422);
            sent += 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        (canary(&sandbox)["canary"]["state"] == "stopped").then_some(())
    });
    said(&engine, "or were refused", 1);
    let told = canary(&sandbox);
    let counted = &told["sides"]["orders"];
    // What came after the last look is in no count.
    let by_candidate = counted["candidate"]["refused"].as_u64().unwrap();
    assert!((1..=refused).contains(&by_candidate), "{told}");
    assert_eq!(counted["base"]["refused"], 0, "{told}");
    assert_eq!(send(sent), 200, "what runs takes all");
}

#[test]
fn a_reload_or_a_rollback_in_the_middle_ends_the_canary_and_loses_nothing() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", &marking("zero", "10ms"));
    let engine = sandbox.start();
    sandbox.file("flows/orders.yaml", &marking("one", "400ms"));
    said(&engine, "reloaded: revision", 1);
    let next = candidate(&sandbox, &marking("two", "400ms"));
    start(&sandbox, &next, "50");
    for n in 0..20 {
        post(&sandbox, &format!("A{n}"));
    }
    sandbox.prints(&["rollback", "--reason", "one is wrong"]);
    for n in 0..20 {
        post(&sandbox, &format!("B{n}"));
    }
    let shown = canary(&sandbox);
    assert_eq!(shown["canary"]["state"], "stopped");
    assert!(
        shown["canary"]["ended_why"]
            .as_str()
            .unwrap()
            .contains("in the place of"),
        "{shown}"
    );
    start(&sandbox, &next, "50");
    for n in 0..20 {
        post(&sandbox, &format!("C{n}"));
    }
    sandbox.file("flows/orders.yaml", &marking("three", "10ms"));
    said(&engine, "reloaded: revision", 2);
    for n in 0..20 {
        post(&sandbox, &format!("D{n}"));
    }
    assert_eq!(canary(&sandbox)["canary"]["state"], "stopped");
    let all = wait_for_marks(&sandbox, 80);
    let by_number = sides(&all);
    assert_eq!((all.len(), by_number.len()), (80, 80), "each once");
    let marks_of = |first: char| -> BTreeSet<&str> {
        let its = by_number
            .iter()
            .filter(|(number, _)| number.starts_with(first));
        its.flat_map(|(_, marks)| marks.iter().copied()).collect()
    };
    assert_eq!(marks_of('A'), BTreeSet::from(["one", "two"]));
    assert_eq!(
        marks_of('B'),
        BTreeSet::from(["zero"]),
        "the canary has ended with what it was beside"
    );
    assert_eq!(marks_of('C'), BTreeSet::from(["two", "zero"]));
    assert_eq!(marks_of('D'), BTreeSet::from(["three"]));
}

#[test]
fn an_expression_can_say_which_messages_are_tried_and_another_person_may_have_to_promote() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", &repeating("one"));
    let _engine = sandbox.start();
    let next = candidate(&sandbox, &repeating("two"));
    sandbox.prints(&[
        "canary",
        "start",
        &next,
        "--when",
        "starts_with(number, 'A')",
        "--other-promotes",
        "--reason",
        "x",
        "--as",
        "ann",
    ]);
    for number in ["A1", "B1", "A2", "B2"] {
        post(&sandbox, number);
    }
    let all = wait_for_marks(&sandbox, 4);
    assert_eq!(
        all,
        super::marked(&[("A1", "two"), ("A2", "two"), ("B1", "one"), ("B2", "one")])
    );
    let next_of_all = candidate(&sandbox, "flow: orders\n");
    for (arguments, code, part) in [
        (
            vec!["canary", "start", &*next, "--percent", "5", "--reason", "x"],
            78,
            "cannot be loaded",
        ),
        (
            vec!["canary", "promote", "--reason", "x", "--as", "ann"],
            1,
            "somebody else must promote it",
        ),
        (vec!["canary", "share", "20"], 1, "an expression says"),
        (vec!["canary", "share", "200"], 2, "is not between"),
        (vec!["canary", "stop"], 2, "--reason"),
    ] {
        let output = sandbox.crossdock(&arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(part), "{arguments:?}: {told}");
    }
    assert_eq!(next_of_all, next);
    candidate(&sandbox, &repeating("three"));
    let second = sandbox.crossdock(&["canary", "start", &next, "--percent", "5", "--reason", "x"]);
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(told.contains("a canary runs already"), "{told}");
    sandbox.prints(&["canary", "promote", "--reason", "x", "--as", "bob"]);
    post(&sandbox, "B3");
    eventually("B3 is out", || {
        marks(&sandbox)
            .contains(&("B3".to_owned(), "two".to_owned()))
            .then_some(())
    });
    let same = candidate(&sandbox, &repeating("two"));
    let nothing = sandbox.crossdock(&["canary", "start", &same, "--percent", "5", "--reason", "x"]);
    let told = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(told.contains("there is nothing to try"), "{told}");
}

#[test]
fn a_key_is_on_one_side_on_all_engines() {
    let services = Services::shared().unwrap_or_else(|error| panic!("{error}"));
    let backing = Backing::on(services);
    let engines = [(); 2].map(|()| backing.under(Sandbox::new()).unwrap());
    for sandbox in &engines {
        sandbox.file("flows/orders.yaml", &repeating("one"));
    }
    let [first, second] = &engines;
    let (_one, two) = (first.start(), second.start());
    let next = candidate(first, &repeating("two"));
    start(first, &next, "50");
    said(&two, "a canary runs", 1);
    for n in 0..20 {
        post(first, &format!("N{n}"));
        post(second, &format!("N{n}"));
    }
    let all = eventually("all come out", || {
        let all = [marks(first), marks(second)].concat();
        (all.len() == 40).then_some(all)
    });
    let by_number = sides(&all);
    assert!(
        by_number.values().all(|marks| marks.len() == 1),
        "{by_number:?}"
    );
    assert_eq!(
        by_number
            .values()
            .flatten()
            .copied()
            .collect::<BTreeSet<_>>(),
        BTreeSet::from(["one", "two"])
    );
}
