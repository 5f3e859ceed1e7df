//! `flow::load` over whole projects: every mistake found, at its place, and nothing else. Not the command line around it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossdock::flow;
use crossdock::flow::plan::Project;
use crossdock::flow::workspace::{Texts, View, Workspace};
use crossdock::world::World;
use crossdock::world::env::FixedEnvironment;
use serde_json::{Value, json};

use crate::storage::dice::Dice;

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
    let mut loaded = flow::load(root, &world(variables));
    let errors = loaded.findings.has_errors();
    assert_eq!(
        loaded.project.is_none(),
        errors,
        "a project is there if and only if nothing is wrong"
    );
    let (_, tests) = flow::test::load(root, loaded.project.as_ref());
    loaded.findings.extend(tests);
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

#[test]
fn a_project_of_other_mistakes_shows_them_all_at_their_places() {
    check("more");
}

#[test]
fn habits_of_other_languages_are_told_at_their_places() {
    check("slips");
}

#[test]
fn settings_that_are_misused_are_told_at_their_places() {
    check("misuse");
}

#[test]
fn waits_that_cannot_be_are_told_at_their_places() {
    check("waits");
}

#[test]
fn sagas_that_could_leave_something_standing_are_told_at_their_places() {
    check("sagas");
}

#[test]
fn addresses_that_cannot_be_told_are_told_at_their_places() {
    check("notify");
}

#[test]
fn apis_that_nobody_can_call_well_are_told_at_their_places() {
    check("apis");
}

#[test]
fn databases_that_cannot_be_written_to_are_told_at_their_places() {
    check("databases");
}

#[test]
fn tests_that_cannot_be_meant_are_told_at_their_places() {
    check("tests");
}

#[test]
fn policies_and_authority_are_held_at_their_places() {
    check("policies");
}

#[test]
fn correct_projects_have_no_findings() {
    for folder in [
        golden().join("correct"),
        Path::new(env!("CARGO_MANIFEST_DIR")).to_owned(),
    ] {
        let variables = ["SET", "ERP_TOKEN", "STOREFRONT_SECRET"].map(|name| (name, "value"));
        let variables: Vec<_> = variables
            .into_iter()
            .chain([("ERP_URL", "http://127.0.0.1:1")])
            .collect();
        let found: Vec<String> = findings(&folder, &variables).iter().map(shown).collect();
        assert_eq!(found, [""; 0], "{}", folder.display());
    }
}

/// A project of these files.
fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// The findings of a folder as `code file:line:column`, sorted by place.
fn places(folder: &Path) -> Vec<String> {
    findings(folder, &[])
        .iter()
        .map(|finding| {
            let word = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
            format!(
                "{} {}:{}:{}",
                word("code"),
                word("file"),
                finding["line"],
                finding["column"]
            )
        })
        .collect()
}

const FLOW: &str =
    "flow: a\nsource: { generate: { count: 1, body: {} } }\nsinks:\n  out: { discard: {} }\n";

#[test]
fn a_folder_without_flows_says_so() {
    let folder = project(&[("README.md", "nothing")]);
    assert_eq!(places(folder.path()), ["no-flows flows:1:1"]);
    assert_eq!(places(&folder.path().join("nowhere")), ["unreadable .:1:1"]);
}

#[test]
fn files_that_cannot_be_read_are_one_finding_each() {
    let folder = project(&[
        ("flows/a.yaml", FLOW),
        ("flows/big.yaml", &"#".repeat((1 << 20) + 1)),
    ]);
    std::os::unix::fs::symlink("nowhere", folder.path().join("flows/gone.yaml")).unwrap();
    assert_eq!(
        places(folder.path()),
        [
            "file-too-large flows/big.yaml:1:1",
            "unreadable flows/gone.yaml:1:1"
        ]
    );
}

#[test]
fn a_project_has_a_limit_of_files() {
    let folder = project(&[("flows/a.yaml", FLOW)]);
    fs::create_dir(folder.path().join("mappings")).unwrap();
    for number in 0..10_000 {
        fs::write(
            folder
                .path()
                .join(format!("mappings/m{number:05}.jmespath")),
            "a",
        )
        .unwrap();
    }
    assert_eq!(
        places(folder.path()),
        ["too-many-files mappings/m09999.jmespath:1:1"]
    );
}

#[test]
fn a_flow_that_nobody_feeds_is_told_when_all_flows_are_known() {
    let unfed = "flow: b\nsource: { flow: {} }\nsinks: { out: { discard: {} } }\n";
    let folder = project(&[("flows/a.yaml", FLOW), ("flows/b.yaml", unfed)]);
    assert_eq!(places(folder.path()), ["unfed-flow flows/b.yaml:2:1"]);
    fs::write(folder.path().join("flows/c.yaml"), "flow: c\nsinks: ]\n").unwrap();
    let told = places(folder.path());
    assert!(
        told.iter().all(|place| !place.starts_with("unfed")),
        "{told:?}"
    );
}

#[test]
fn a_comma_in_braces_is_one_mistake() {
    let flow = FLOW.replace(
        "sinks:",
        "steps:\n  - set: { body: add(a, b) }\n  - set: { variables: { n: add(a, b) } }\nsinks:",
    );
    let mapping = "mapping: m\nfields: { total: add(a, b), other: c }\n";
    let folder = project(&[("flows/a.yaml", &flow), ("mappings/m.yaml", mapping)]);
    assert_eq!(
        places(folder.path()),
        [
            "expression-syntax flows/a.yaml:4:23",
            "expression-syntax flows/a.yaml:5:33",
            "expression-syntax mappings/m.yaml:2:23"
        ]
    );
}

/// The revision of a flow in a project.
fn loaded(folder: &Path, variables: &[(&str, &str)]) -> Project {
    flow::load(folder, &world(variables)).project.unwrap()
}

fn revision(folder: &Path, flow: &str, variables: &[(&str, &str)]) -> String {
    loaded(folder, variables).plans[flow].revision.to_string()
}

#[test]
fn a_revision_is_the_content_of_a_flow_and_all_that_it_names() {
    let flow = FLOW.replace(
        "sinks:",
        "steps:\n  - map: m\n  - call: { system: erp, get: \"/x\" }\n    into: x\nsinks:",
    );
    let files = [
        ("flows/a.yaml", flow.as_str()),
        (
            "mappings/m.yaml",
            "mapping: m\nto: s\nfields: { a: \"lookup('t', a)\" }\n",
        ),
        (
            "schemas/s.json",
            "{ \"properties\": { \"b\": { \"$ref\": \"other.json\" } } }",
        ),
        ("schemas/other.json", "{}"),
        ("tables/t.csv", "k,v\na,b\n"),
        ("tables/unused.csv", "k,v\na,b\n"),
        (
            "systems/erp.yaml",
            "system: erp\nhttp: { base_url: \"https://${env:HOST}\", auth: { bearer: { token: \"${env:TOKEN}\" } } }\n",
        ),
    ];
    let folder = project(&files);
    let now = |variables: &[(&str, &str)]| revision(folder.path(), "a", variables);
    let variables = [("HOST", "one.example"), ("TOKEN", "1")];
    let first = now(&variables);
    assert_eq!(first.len(), 32);
    assert_eq!(
        first,
        now(&[("HOST", "one.example"), ("TOKEN", "2")]),
        "a secret does not count"
    );
    assert_eq!(
        first,
        now(&[("HOST", "two.example"), ("TOKEN", "1")]),
        "nor does a system: all runs meet it as it is now"
    );
    // What tells whether the flow must be started anew knows both.
    let print = |host: &str, token: &str| {
        let project = loaded(folder.path(), &[("HOST", host), ("TOKEN", token)]);
        (project.plans["a"].prints.whole, project.revision)
    };
    let (was, of) = print("one.example", "1");
    assert!(print("one.example", "2").0 != was && print("one.example", "2").1 == of);
    assert!(print("two.example", "1").0 != was && print("two.example", "1").1 != of);
    for (path, text, counts) in [
        ("flows/a.yaml", format!("# a comment\n{flow}"), false),
        ("tables/unused.csv", "k,v\nx,y\n".to_owned(), false),
        ("tables/t.csv", "k,v\nx,y\n".to_owned(), true),
        (
            "schemas/other.json",
            "{ \"type\": \"string\" }".to_owned(),
            true,
        ),
        (
            "mappings/m.yaml",
            "mapping: m\nto: s\nfields: { b: \"lookup('t', a)\" }\n".to_owned(),
            true,
        ),
        ("flows/a.yaml", flow.replace("/x", "/y"), true),
    ] {
        let before = fs::read_to_string(folder.path().join(path)).unwrap();
        fs::write(folder.path().join(path), text).unwrap();
        assert_eq!(now(&variables) != first, counts, "{path}");
        fs::write(folder.path().join(path), before).unwrap();
    }
}

#[test]
fn mistakes_in_types_are_shown_with_a_body_that_proves_them() {
    let found = check("types");
    let loaded = flow::load(&golden().join("types"), &world(&[]));
    for finding in loaded.findings.iter() {
        let typed = flow::codes::TYPED.contains(&finding.code);
        let error = finding.severity == crossdock::diagnostic::Severity::Error;
        assert!(
            !typed || !error || finding.witness.starts_with('{'),
            "{} {}",
            finding.code,
            finding.message
        );
    }
    assert!(found.len() >= 22, "{} findings", found.len());
}

#[test]
fn every_code_is_shown_by_a_golden_project() {
    let mut shown: BTreeSet<String> = [
        "no-flows",
        "unreadable",
        "file-too-large",
        "too-many-files",
        "unfed-flow",
        // Of two states of a project: shown by `tests/golden/against`.
        "breaking-change",
        "unclear-change",
        "schema-gone",
        "flow-gone",
    ]
    .map(str::to_owned)
    .into();
    for name in [
        "broken", "more", "slips", "misuse", "sagas", "policies", "types", "tests", "apis",
    ] {
        let text = fs::read_to_string(golden().join(format!("{name}.expected.json"))).unwrap();
        let list: Vec<Value> = serde_json::from_str(&text).unwrap();
        shown.extend(
            list.iter()
                .filter_map(|finding| finding[0].as_str().map(str::to_owned)),
        );
    }
    let all: BTreeSet<String> = flow::reference::all_codes()
        .iter()
        .map(|code| code.name.to_owned())
        .collect();
    let missing: Vec<_> = all.difference(&shown).collect();
    let unknown: Vec<_> = shown.difference(&all).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not shown: {missing:?}; not in the reference: {unknown:?}"
    );
}

/// A plan's nodes as `id -> next`, routes with their arms.
fn drawn(plan: &flow::plan::Plan) -> Vec<String> {
    use crossdock::flow::plan::{Action, OnFailure};
    let name = |at: usize| plan.nodes[at].id.to_string();
    let names = |list: &[usize]| {
        list.iter()
            .map(|at| name(*at))
            .collect::<Vec<_>>()
            .join("+")
    };
    plan.nodes
        .iter()
        .map(|node| {
            let mut line = node.id.to_string();
            if let Action::Route(route) = &node.action {
                for (when, targets) in &route.arms {
                    line += &format!(" [{}: {}]", when.text(), names(targets));
                }
                match &route.otherwise {
                    Some(targets) => line += &format!(" [else: {}]", names(targets)),
                    None => line += " [else fails]",
                }
            }
            for (class, choice) in &node.on_failure {
                if let OnFailure::To(to) = choice {
                    line += &format!(" ({class}: {})", name(*to));
                }
            }
            match node.next {
                Some(next) => line + " -> " + &name(next),
                None => line,
            }
        })
        .collect()
}

#[test]
fn branches_join_fragments_unfold_and_routes_lead_to_sinks() {
    let loaded = flow::load(&golden().join("correct"), &world(&[("SET", "value")]));
    let project = loaded.project.unwrap();
    assert_eq!(
        drawn(&project.plans["orders"]),
        [
            "customer.read -> customer.filter",
            "customer.filter -> customer.set",
            "customer.set -> again",
            "again [kind == 'urgent': again.read] [else: ] -> size",
            "again.read -> again.filter",
            "again.filter -> again.set",
            "again.set -> size",
            "size [length(lines) > `100`: set] [kind == `null`: log-2] [else: lookup] -> log-2",
            "set -> branch",
            "branch [contains(number, 'X'): log] [else: ] -> log-2",
            "log -> log-2",
            "lookup -> log-2",
            "log-2 -> map",
            "map (mapping: broken) -> validate",
            "validate -> emit",
            "emit -> template",
            "template -> routes",
            "routes [$customer.active || starts_with($text, 'Order'): erp+archive] [$code == 'C-1': shown] [else: none]",
            "erp",
            "archive",
            "shown",
            "none",
            "broken",
        ]
    );
    assert_eq!(drawn(&project.plans["pipe"]), ["map -> out", "out"]);
    assert_eq!(drawn(&project.plans["inbox"]), ["out"]);
}

/// What an editor does to a project: lines go, are doubled, get a word of elsewhere, and come back. The findings of one who remembers what he
/// has seen are those of one who looks for the first time.
#[test]
fn a_project_that_is_looked_at_again_and_again_is_as_at_the_first_look() {
    let world = world(&[]);
    let mut dice = Dice::of(17);
    for project in ["correct", "types", "slips"] {
        let root = golden().join(project);
        let shown = |view: &View| -> Vec<String> {
            let all = view.findings.sorted();
            all.iter().map(|finding| format!("{finding:?}")).collect()
        };
        let mut one = Workspace::new(&root, world.clone());
        let before: Vec<_> = one.look(&Texts::new()).files().cloned().collect();
        let words: Vec<&str> = before
            .iter()
            .flat_map(|file| {
                file.text
                    .split(|c: char| c.is_whitespace() || "{}[]:,\"".contains(c))
            })
            .filter(|word| word.len() > 2)
            .collect();
        let mut texts = Texts::new();
        for nth in 0..40 {
            let file = dice.one_of(&before);
            if texts.remove(&file.path).is_none() {
                let mut lines: Vec<String> = file.text.lines().map(str::to_owned).collect();
                let at = dice.below(lines.len().max(1) as u64) as usize;
                let Some(line) = lines.get(at).cloned() else {
                    continue;
                };
                match dice.below(4) {
                    0 => drop(lines.remove(at)),
                    1 => lines.insert(at, line),
                    _ => {
                        let of_line: Vec<&str> = line.split(['{', '}', ':', ',', ' ']).collect();
                        let (gone, new) = (*dice.one_of(&of_line), *dice.one_of(&words));
                        lines[at] = line.replacen(gone, new, 1);
                    }
                }
                texts.insert(file.path.clone(), lines.join("\n"));
            }
            let remembered = shown(&one.look(&texts));
            let fresh = shown(&Workspace::new(&root, world.clone()).look(&texts));
            assert_eq!(
                remembered,
                fresh,
                "{project}, look {nth}, {:?}",
                texts.keys()
            );
        }
    }
}
