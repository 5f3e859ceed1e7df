//! `crossdock explain`: each page's bad example gives its code, and its good one does not; and what a project says of findings in `check:`. How
//! findings are told is `check`'s.

use std::collections::BTreeMap;

use crossdock::flow::explain::{self, Page};
use serde_json::Value;

use crate::support::Sandbox;

/// What no file of an example can be: these are shown in words.
const IN_WORDS: [&str; 6] = [
    "file-too-large",
    "no-flows",
    "not-utf8",
    "too-many-files",
    "unreadable",
    "yaml-limit",
];

const ORDER: &str = r#"{
  "type": "object",
  "required": ["number"],
  "properties": { "number": { "type": "string" }, "urgent": { "type": "boolean" } }
}"#;

/// The files of an example: its own, each below its path in a comment (a flow without one), filled up with what a file of its kind must have.
fn files(text: &str, old: bool) -> BTreeMap<String, String> {
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    let mut path = "flows/orders.yaml".to_owned();
    let mut was = false;
    for line in text.lines() {
        let named = line
            .strip_prefix("# ")
            .map(|rest| rest.strip_prefix("was ").ok_or(rest));
        let is_path = |name: &str| !name.contains(' ') && name.contains('.');
        match named {
            Some(Ok(name)) if is_path(name) => (path, was) = (name.to_owned(), true),
            Some(Err(name)) if is_path(name) => (path, was) = (name.to_owned(), false),
            _ if was == old => *own.entry(path.clone()).or_default() += &format!("{line}\n"),
            _ => {}
        }
    }
    let base = [
        ("schemas/order.v1.json", ORDER),
        ("systems/erp.yaml", ""),
        ("flows/orders.yaml", ""),
    ];
    for (path, text) in base {
        let misnamed = path == "flows/orders.yaml" && own.contains_key("flows/orders.yml");
        if !misnamed {
            own.entry(path.to_owned())
                .or_insert_with(|| text.to_owned());
        }
    }
    own.into_iter()
        .map(|(path, text)| (path.clone(), whole(&path, text)))
        .collect()
}

/// A file with what one of its kind must have.
fn whole(path: &str, mut text: String) -> String {
    let stem = path.rsplit('/').next().unwrap().split('.').next().unwrap();
    let has = |text: &str, key: &str| {
        text.lines()
            .any(|line| line.starts_with(&format!("{key}:")))
    };
    let folder = path.rsplit_once('/').map(|(folder, _)| folder);
    let mut fill = |key: &str, value: String| {
        if !has(&text, key) {
            text = format!("{key}: {value}\n{text}");
        }
    };
    match folder {
        Some("flows") if path.ends_with(".test.yaml") => {}
        Some("flows") => {
            fill("sinks", "{ out: { discard: {} } }".to_owned());
            fill("source", "{ stdin: {} }".to_owned());
            fill("flow", stem.to_owned());
        }
        Some("mappings") => fill("mapping", stem.to_owned()),
        Some("systems") => {
            fill(
                "http",
                format!("{{ base_url: \"https://{stem}.example.com\" }}"),
            );
            fill("system", stem.to_owned());
        }
        _ => {}
    }
    text
}

/// What `check` says of an example: severity and code.
fn said(text: &str) -> Vec<(String, String)> {
    let sandbox = Sandbox::new().variable("SET", "value");
    for (path, text) in files(text, false) {
        sandbox.file(&path, &text);
    }
    let mut arguments = vec!["check", "--format", "json"];
    let before = sandbox.below("before");
    if text.contains("# was ") {
        let own = files(text, true);
        // What is not said of before was as it is.
        for (path, text) in files(text, false).into_iter().chain(own) {
            before.file(&path, &text);
        }
        arguments.extend(["--against", "before"]);
    }
    let out = sandbox.crossdock(&arguments);
    let told: Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|_| panic!("{}\n{}", text, String::from_utf8_lossy(&out.stderr)));
    let list = told.get("findings").unwrap_or(&told).as_array().unwrap();
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    list.iter()
        .map(|finding| {
            (
                word(finding, "severity"),
                format!("{} {}", word(finding, "code"), word(finding, "message")),
            )
        })
        .collect()
}

fn wrong(name: &str, page: &Page) -> Vec<String> {
    let mut wrong = Vec::new();
    let gives = |all: &[(String, String)]| {
        all.iter()
            .any(|(_, told)| told.split(' ').next() == Some(name))
    };
    let bad = said(page.bad);
    if !gives(&bad) {
        wrong.push(format!("{name}: bad gives {bad:?}"));
    }
    let good = said(page.good);
    if gives(&good) || good.iter().any(|(severity, _)| severity == "error") {
        wrong.push(format!("{name}: good gives {good:?}"));
    }
    wrong
}

#[test]
fn every_bad_example_gives_its_code_and_no_good_one_does() {
    let pages = explain::pages().iter();
    let shown = pages.filter(|(name, _)| !IN_WORDS.contains(name));
    let wrong: Vec<String> = shown.flat_map(|(name, page)| wrong(name, page)).collect();
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn explain_shows_a_page_names_near_codes_and_lists_all() {
    let sandbox = Sandbox::new();
    let page = sandbox.prints(&["explain", "null-for-required"]);
    for part in [
        "null-for-required\n",
        "Bad:\n",
        "Good:\n",
        "check:\n",
        "reason:",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = sandbox.prints(&["explain", "yaml-tab"]);
    assert!(
        page.contains("Bad:\n") && !page.contains("check:"),
        "{page}"
    );
    let all = sandbox.prints(&["explain"]);
    assert_eq!(all.lines().count(), explain::pages().len(), "{all}");
    let out = sandbox.crossdock(&["explain", "nul-key"]);
    assert_eq!(out.status.code(), Some(2));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("did you mean null-key"), "{said}");
}

/// The severities and codes of what is said of a flow beside a `crossdock.yaml`.
fn judged(flow: &str, settings: &str) -> Vec<String> {
    let all = said(&format!("{flow}# crossdock.yaml\n{settings}"));
    let short = |(severity, told): (String, String)| {
        format!("{severity} {}", told.split(' ').next().unwrap_or_default())
    };
    all.into_iter().map(short).collect()
}

#[test]
fn a_project_raises_and_lowers_findings_with_a_reason() {
    let rule = |code: &str, severity: &str| {
        format!("check:\n  {code}: {{ severity: {severity}, reason: old senders }}\n")
    };
    let may_be_null = "accepts: order.v1\nsteps:\n  - filter: urgent\n";
    let check = |settings: &str, expect: &[&str]| {
        assert_eq!(judged(may_be_null, settings), expect, "{settings}");
    };
    check("", &["error null-condition"]);
    check(
        &rule("null-condition", "warning"),
        &["warning null-condition"],
    );
    check(&rule("null-condition", "off"), &[]);
    let unused = "steps:\n  - call: { system: erp, get: /customers }\n";
    assert_eq!(judged(unused, ""), ["warning unused-answer"]);
    assert_eq!(
        judged(unused, &rule("unused-answer", "error")),
        ["error unused-answer"]
    );
    // Without a reason, with an empty one, of a code that there is not, or of what keeps a project from running: a mistake.
    check(
        "check:\n  null-condition: { severity: off }\n",
        &["error missing-field", "error null-condition"],
    );
    check(
        "check:\n  null-condition: { severity: off, reason: ' ' }\n",
        &["error bad-value"],
    );
    check(
        &rule("nul-condition", "off"),
        &["error bad-value", "error null-condition"],
    );
    check(
        &rule("unknown-system", "warning"),
        &["error bad-value", "error null-condition"],
    );
}
