//! `flow::load` over whole projects: every mistake found, at its place, and nothing else. Not the command line around it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossdock::flow;
use crossdock::world::World;
use crossdock::world::env::FixedEnvironment;
use serde_json::{Value, json};

/// The folder of the golden projects.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/check")
}

/// The real world with these environment variables and no others.
fn world(variables: &[(&str, &str)]) -> World {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    World {
        env: Arc::new(FixedEnvironment(variables.collect::<BTreeMap<_, _>>())),
        ..World::real()
    }
}

/// All findings of a project, one JSON object each, by file and place.
fn findings(root: &Path, variables: &[(&str, &str)]) -> Vec<Value> {
    let loaded = flow::load(root, &world(variables));
    let errors = loaded.findings.has_errors();
    assert_eq!(
        loaded.project.is_none(),
        errors,
        "a project is there if and only if nothing is wrong"
    );
    loaded
        .findings
        .sorted()
        .iter()
        .map(|finding| {
            let (line, column) = finding.place.line_column();
            assert!(!finding.message.is_empty() && !finding.message.ends_with('.'), "{}", finding.message);
            json!({
                "code": finding.code.name, "severity": finding.severity.name(), "file": finding.place.file.path,
                "line": line, "column": column, "message": finding.message, "help": finding.help,
            })
        })
        .collect()
}

fn shown(finding: &Value) -> String {
    let word = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    format!(
        "{}:{}:{} {} {}: {} ({})",
        word("file"),
        finding["line"],
        finding["column"],
        word("severity"),
        word("code"),
        word("message"),
        word("help")
    )
}

/// Compares the findings of a golden project with the file beside it; `UPDATE=1` writes it, to be read by a person.
fn check(name: &str) -> Vec<Value> {
    let found = findings(&golden().join(name), &[("SET", "value"), ("NUMBER", "8")]);
    let list: Vec<String> = found.iter().map(shown).collect();
    let places: Vec<Value> = found
        .iter()
        .map(|finding| {
            json!([
                finding["code"],
                finding["file"],
                finding["line"],
                finding["column"]
            ])
        })
        .collect();
    let expected = golden().join(format!("{name}.expected.json"));
    if std::env::var_os("UPDATE").is_some() {
        let lines: Vec<String> = places.iter().map(Value::to_string).collect();
        fs::write(&expected, format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
    }
    let text = fs::read_to_string(&expected)
        .unwrap_or_else(|_| panic!("{} is missing", expected.display()));
    let wanted: Vec<Value> = serde_json::from_str(&text).unwrap();
    let (got, want): (BTreeSet<String>, BTreeSet<String>) = (
        places.iter().map(Value::to_string).collect(),
        wanted.iter().map(Value::to_string).collect(),
    );
    let missing: Vec<_> = want.difference(&got).collect();
    let more: Vec<_> = got.difference(&want).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "{name}\nnot found: {missing:#?}\nnot expected: {more:#?}\nall:\n{}",
        list.join("\n")
    );
    assert_eq!(
        places.len(),
        wanted.len(),
        "{name}: something is told twice\n{}",
        list.join("\n")
    );
    found
}

#[test]
fn a_project_full_of_mistakes_shows_them_all_at_their_places() {
    let found = check("broken");
    let codes: BTreeSet<&str> = found
        .iter()
        .filter_map(|finding| finding["code"].as_str())
        .collect();
    assert!(codes.len() >= 40, "{} codes", codes.len());
}
