//! What the program is built from keeps to `deny.toml`: licences, sources, crates that are not to be. It asks `cargo` alone, and no network;
//! `make deny` says the same by cargo-deny, and knows the published holes as well.
#![allow(
    clippy::disallowed_methods,
    reason = "reads the repository's own files"
)]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// The texts in the first list of this name in `deny.toml`.
fn list(name: &str) -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("\n{name} = [\n")).unwrap();
    let (list, _) = rest.split_once("\n]").unwrap();
    let texts = list.lines().filter_map(|line| line.split('"').nth(1));
    texts.map(str::to_owned).collect()
}

/// Every crate that the program and its tests are built from on this kind of machine.
fn packages() -> Vec<Value> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Whether one may use what is under this SPDX expression, if these licences are allowed. Two expressions with a slash between them, as old
/// crates have it, are a choice.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let text = expression.replace('/', " OR ");
    let text = text.replace('(', " ( ").replace(')', " ) ");
    let mut words = text.split_whitespace().peekable();
    let met = any(&mut words, allowed);
    met && words.next().is_none()
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

fn any(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all(words, allowed);
    }
    met
}

fn all(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    match words.next() {
        Some("(") => {
            let met = any(words, allowed);
            met && words.next() == Some(")")
        }
        Some(licence) => {
            let exception = words.next_if_eq(&"WITH").and_then(|_| words.next());
            let named = exception.map_or_else(
                || licence.to_owned(),
                |exception| format!("{licence} WITH {exception}"),
            );
            allowed.contains(&named)
        }
        None => false,
    }
}

#[test]
fn all_crates_have_a_licence_that_is_allowed_and_come_from_the_registry() {
    let (allowed, denied) = (list("allow"), list("deny"));
    let mut wrong = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none");
        if !permits(licence, &allowed) {
            wrong.push(format!("{name}: its licence is {licence}"));
        }
        if denied.contains(name) {
            wrong.push(format!("{name}: deny.toml says no"));
        }
        let source = package["source"].as_str();
        let from = |source: &str| source.ends_with("github.com/rust-lang/crates.io-index");
        if !source.map_or(name == "crossdock", from) {
            wrong.push(format!("{name}: it comes from {source:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(denied.contains("rsa") && packages().len() > 100);
}

#[test]
fn licences_are_read_as_they_are_meant() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    let allowed = allowed.into_iter().map(str::to_owned).collect();
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(GPL-3.0 OR ISC) AND MIT", true),
        ("(GPL-3.0 OR ISC) AND BSD-3-Clause", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("(MIT", false),
        ("", false),
    ] {
        assert_eq!(permits(expression, &allowed), met, "{expression}");
    }
}
