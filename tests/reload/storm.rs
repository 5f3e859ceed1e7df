//! Reloads without end under load: good ones, bad ones, half-written ones, canaries, rollbacks in the middle of them. Nothing is lost, nothing comes twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossdock::demo::dice::Dice;
use serde_json::Value;

use super::{marking, said};
use crate::support::Sandbox;

/// How many reloads: few in every run of the tests, 500 with `CROSSDOCK_FAULTS=full`.
fn rounds() -> usize {
    match std::env::var("CROSSDOCK_FAULTS").as_deref() {
        Ok("full") => 500,
        _ => 40,
    }
}

/// Posts an order; gives the status of the answer.
pub fn post(address: SocketAddr, number: usize) -> std::io::Result<u16> {
    let body = format!("{{\"number\": \"N{number}\"}}");
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "POST /orders HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other("no status"))
}

#[test]
fn reloads_without_end_lose_nothing_and_double_nothing() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", &marking("m0", "300ms"));
    sandbox.file(
        "flows/other.yaml",
        &marking("other", "10ms").replace("orders", "other"),
    );
    let mut engine = sandbox.start();
    let (over, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let address = sandbox.address();
    let senders: Vec<_> = (0..3)
        .map(|_| {
            let (over, sent) = (over.clone(), sent.clone());
            std::thread::spawn(move || {
                let mut refused = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    match post(address, number) {
                        Ok(200) => {}
                        other => refused.push((number, format!("{other:?}"))),
                    }
                    std::thread::sleep(Duration::from_millis(3));
                }
                refused
            })
        })
        .collect();
    let mut dice = Dice::of(20_261_122, 0);
    let (mut good, mut bad, mut canaries) = (0, 0, 0);
    for round in 1..=rounds() {
        let text = marking(
            &format!("m{round}"),
            ["10ms", "300ms", "1s"][usize::try_from(dice.below(3)).unwrap()],
        );
        match dice.below(5) {
            // Half of a file, as somebody writes it who does not rename.
            0 => sandbox.file("flows/orders.yaml", &text[..text.len() / 2]),
            1 => sandbox.file("flows/orders.yaml", &text.replace("delay:", "dealy:")),
            2 => {
                // As editors save.
                let beside = sandbox.root().join("flows/.orders.yaml.new");
                std::fs::write(&beside, &text).unwrap();
                std::fs::rename(&beside, sandbox.root().join("flows/orders.yaml")).unwrap();
            }
            _ => sandbox.file("flows/orders.yaml", &text),
        }
        let output = sandbox.crossdock(&["reload"]);
        match output.status.code() {
            Some(0) => good += 1,
            Some(78) => bad += 1,
            _ => panic!("{}", crate::support::text(&output.stderr)),
        }
        if dice.below(5) == 0 {
            // Each reload and each rollback after this comes in the middle of it.
            sandbox.file(
                "next/flows/orders.yaml",
                &text.replace(&format!("m{round}"), &format!("c{round}")),
            );
            let next = sandbox.root().join("next").display().to_string();
            let begun = [
                "canary",
                "start",
                &next,
                "--percent",
                "50",
                "--reason",
                "chance",
            ];
            canaries += usize::from(sandbox.crossdock(&begun).status.success());
            if dice.below(3) == 0 {
                sandbox.crossdock(&["canary", "promote", "--reason", "chance"]);
            }
        }
        if dice.below(10) == 0 && good > 2 {
            // What was withdrawn runs again only with other text: the next round brings it.
            sandbox.crossdock(&["rollback", "--reason", "chance"]);
        }
    }
    over.store(true, Ordering::Relaxed);
    let refused: Vec<_> = senders
        .into_iter()
        .flat_map(|sender| sender.join().unwrap())
        .collect();
    assert_eq!(refused, [], "no listener was closed");
    assert!(engine.lives());
    assert!(canaries > rounds() / 20, "{canaries} canaries");
    assert!(
        good > rounds() / 4 && bad > rounds() / 8,
        "{good} good, {bad} bad"
    );
    let sent = sent.load(Ordering::Relaxed);
    let books = sandbox.books_at_rest(i64::try_from(sent).unwrap());
    assert_eq!(books["all"]["delivered"], i64::try_from(sent).unwrap());
    let mut seen = BTreeMap::new();
    let out = std::fs::read_to_string(sandbox.root().join("out.jsonl")).unwrap();
    for line in out.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let number = line["number"].as_str().unwrap().to_owned();
        *seen.entry(number).or_insert(0) += 1;
    }
    let twice: BTreeSet<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert_eq!(
        (seen.len(), twice.len()),
        (sent, 0),
        "lost or doubled: {twice:?}"
    );
    said(&engine, "cannot be loaded", 1);
}
