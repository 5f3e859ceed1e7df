//! Contracts over time, and who owns what: `check --against` with folders and git, `catalog`, and the recipes for CI as they stand in the
//! guide. Not the comparison of schemas itself: its tests stand with it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use crossdock::flow::against::{self, Against};
use crossdock::flow::governance::{self, Kind, Thing};
use crossdock::world::World;
use crossdock::world::clock::StillClock;
use serde_json::{Value, json};

use crate::support::{Sandbox, text};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The 21st of November 2026.
fn world() -> World {
    World {
        clock: Arc::new(StillClock::at(1_795_219_200_000)),
        ..World::real()
    }
}

fn golden() -> Against {
    let folder = root().join("tests/golden/against");
    let old = governance::survey(&folder.join("old"), &world());
    let new = governance::survey(&folder.join("new"), &world());
    against::compare(&old, &new)
}

#[test]
fn a_change_in_place_is_judged_by_who_reads_and_who_writes() {
    let found: Vec<String> = golden()
        .findings
        .sorted()
        .iter()
        .map(|finding| {
            let (line, column) = finding.place.line_column();
            format!(
                "{} {} {}:{line}:{column} {}",
                finding.severity.name(),
                finding.code.name,
                finding.place.file.path,
                finding.message
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            "error flow-gone flows/refunds.yaml:1:1 nothing listens at `webhook /refunds` any more, where `refunds` did",
            "warning unclear-change schemas/canonical/order.v1.json:4:117 `canonical/order.v1` may break: `note`: `pattern` is \"^(?!zq)\" now, and was not there",
            "error breaking-change schemas/erp.json:4:62 `erp` breaks: `number`: `maxLength` is 20 now, and was 10; receivers get what they were told would not come",
            "error breaking-change schemas/shop/order.v1.json:3:22 `shop/order.v1` breaks: the field `state` became required; senders still write what it refuses now",
            "error breaking-change schemas/shop/order.v1.json:4:65 `shop/order.v1` breaks: `note`: the type `null` is no longer allowed; senders still write what it refuses now",
            "error schema-gone schemas/shop/refund.v1.json:1:1 the schema `shop/refund.v1` is gone, and others still write it",
        ]
    );
}

#[test]
fn a_finding_names_the_next_version_those_concerned_and_a_body_that_shows_it() {
    let found = golden();
    let all = found.findings.sorted();
    let finding = all
        .iter()
        .find(|finding| finding.message.contains("`null`"))
        .unwrap();
    for words in [
        "make `shop/order.v2`",
        "it concerns 1 mapping in 1 flow",
        "tell sales",
        "a body that shows it: {",
        "\"note\":null",
    ] {
        assert!(finding.help.contains(words), "{words}: {}", finding.help);
    }
    let (place, words) = &finding.related[0];
    assert_eq!(
        (
            place.file.path.as_str(),
            place.line_column().0,
            words.as_str()
        ),
        ("mappings/in.yaml", 7, "mapping in reads `note` (in orders)")
    );
}

#[test]
fn a_new_version_says_whom_it_breaks() {
    let found = golden();
    let version = found
        .schemas
        .iter()
        .find(|change| change.name == "canonical/order.v2")
        .unwrap();
    assert_eq!(version.version_of.as_deref(), Some("canonical/order.v1"));
    assert_eq!(version.comparison.as_ref().unwrap().word(), "breaking");
    assert_eq!(version.breaks(), "2 mappings in 1 flow");
    let mut does: Vec<String> = version
        .affected
        .iter()
        .map(|one| {
            let line = one.place.line_column().0;
            format!("{}:{line} {}", one.place.file.path, one.does)
        })
        .collect();
    does.sort();
    assert_eq!(
        does,
        [
            "mappings/in.yaml:3 never sets `currency`",
            "mappings/in.yaml:7 sets `note`",
            "mappings/out.yaml:6 reads `note`",
        ]
    );
    assert_eq!(version.owners, ["sales"]);
}

/// Runs git in a folder; what it prints is of no interest.
fn git(folder: &Path, arguments: &[&str]) {
    let done = Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@shop.example"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "git {arguments:?}: {}",
        text(&done.stderr)
    );
}

const SCHEMA: &str = r#"{ "type": "object", "properties": { "id": { "type": "string" } }, "additionalProperties": false }"#;
const FLOW: &str = "flow: orders\nowner: sales\nsource: { webhook: { path: /orders, verify: none } }\naccepts: shop/order.v1\nsinks: { out: { discard: {} } }\n";

const TESTS: &str = "flow: orders\ntests:\n  - test: an order goes out\n    send: [{ body: {} }]\n    expect: { books: { orders: { delivered: 1 } } }\n";

/// A repository with a project in a folder below, and its first state committed on `main`.
fn repository() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("shop/crossdock.yaml", "listen: \"127.0.0.1:0\"\n");
    sandbox.file("shop/flows/orders.yaml", FLOW);
    sandbox.file("shop/schemas/shop/order.v1.json", SCHEMA);
    sandbox.file("README.md", "a repository");
    git(sandbox.root(), &["init", "-q", "-b", "main"]);
    git(sandbox.root(), &["add", "-A"]);
    git(sandbox.root(), &["commit", "-q", "-m", "first"]);
    sandbox
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn a_revision_is_read_from_git_and_nothing_is_checked_out() {
    let repository = repository();
    let shop = repository.below("shop");
    let same = shop.crossdock(&["check", "--against", "main"]);
    assert_eq!(code(&same), 0, "{}", text(&same.stderr));
    assert!(text(&same.stdout).contains("no schema says anything else"));
    let narrower = SCHEMA.replace("\"string\"", "\"string\", \"maxLength\": 8");
    shop.file("schemas/shop/order.v1.json", &narrower);
    let broken = shop.crossdock(&["check", "--against", "main", "--format", "json"]);
    assert_eq!(code(&broken), 1, "{}", text(&broken.stderr));
    let told: Value = serde_json::from_slice(&broken.stdout).unwrap();
    assert_eq!(told["findings"][0]["code"], "breaking-change");
    assert_eq!(told["findings"][0]["file"], "schemas/shop/order.v1.json");
    let schema = &told["schemas"][0];
    assert_eq!(schema["compatible"], "forward");
    assert_eq!(schema["roles"], json!(["taken"]));
    assert_eq!(schema["backward"]["fit"], "broken");
    assert!(
        schema["backward"]["changes"][0]["witness"]["id"]
            .as_str()
            .unwrap()
            .len()
            > 8
    );
    for (format, words) in [
        ("github", "::error file=schemas/shop/order.v1.json,line=1"),
        ("sarif", "\"ruleId\": \"breaking-change\""),
        ("text", "shop/order.v1 changed, forward compatible; taken"),
    ] {
        let output = shop.crossdock(&["check", "--against", "main", "--format", format]);
        assert_eq!(code(&output), 1);
        assert!(
            text(&output.stdout).contains(words),
            "{}",
            text(&output.stdout)
        );
    }
    git(repository.root(), &["diff", "--cached", "--quiet"]);
    let folder = shop.crossdock(&["check", "--against", "."]);
    assert_eq!(code(&folder), 0, "a folder is compared too");
}

#[test]
fn a_revision_or_a_repository_that_is_not_there_is_said_plainly() {
    let repository = repository();
    let shop = repository.below("shop");
    for (state, words) in [
        ("nowhere", "git knows no revision `nowhere`"),
        ("--output=x", "git knows no revision `--output=x`"),
        ("./flows", "is no project"),
    ] {
        let output = shop.crossdock(&["check", &format!("--against={state}")]);
        assert_eq!(code(&output), 78, "{state}");
        assert!(
            text(&output.stderr).contains(words),
            "{}",
            text(&output.stderr)
        );
    }
    git(repository.root(), &["checkout", "-q", "--orphan", "empty"]);
    git(repository.root(), &["rm", "-rfq", "--cached", "shop"]);
    git(repository.root(), &["commit", "-q", "-m", "no project"]);
    let output = shop.crossdock(&["check", "--against", "empty"]);
    assert_eq!(code(&output), 78);
    assert!(
        text(&output.stderr).contains("the project was not there yet"),
        "{}",
        text(&output.stderr)
    );
    let nowhere = Sandbox::new();
    nowhere.file("flows/orders.yaml", FLOW);
    let output = nowhere.crossdock(&["check", "--against", "main"]);
    assert!(
        text(&output.stderr).contains("is in no git repository"),
        "{}",
        text(&output.stderr)
    );
    let no_git = repository.below("shop").variable("PATH", "/nonexistent");
    let output = no_git.crossdock(&["check", "--against", "main"]);
    assert_eq!(code(&output), 78);
    assert!(
        text(&output.stderr).contains("install git"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_catalog_knows_owners_users_and_what_is_given_up() {
    let folder = root().join("tests/golden/check/policies");
    let survey = governance::survey(&folder, &world());
    let register = &survey.register;
    let users = |kind, name: &str| {
        let users = register.users(&Thing::new(kind, name));
        users
            .iter()
            .map(|(user, used)| format!("{} {}", user.thing, used.by))
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        users(Kind::Schema, "canonical/order.v1"),
        BTreeSet::from(["mapping canonical to", "mapping to-wms from"].map(str::to_owned))
    );
    assert_eq!(
        users(Kind::Mapping, "to-wms"),
        BTreeSet::from(["flow orders sends".to_owned()])
    );
    let order = Thing::new(Kind::Schema, "shop/order.v1");
    assert_eq!(register.flows_of(&order), BTreeSet::from(["orders"]));
    assert_eq!(register.owners_of(&order), BTreeSet::from(["sales"]));
    assert_eq!(register.origins_of("orders"), BTreeSet::from(["shop"]));
    let project = folder.to_str().unwrap();
    let sandbox = Sandbox::new();
    let printed = sandbox.prints(&["catalog", "--project", project, "--deprecated"]);
    assert!(
        printed.contains("used by flow stock (system, flows/stock.yaml:6"),
        "{printed}"
    );
    assert!(printed.contains("use `shop/order.v2` instead"), "{printed}");
    let table = sandbox.prints(&["catalog", "--project", project, "--kind", "system"]);
    assert!(table.contains("wms    warehouse  high"), "{table}");
    let owned = sandbox.prints(&[
        "catalog",
        "--project",
        project,
        "--owner",
        "warehouse",
        "--format",
        "json",
    ]);
    let owned: Value = serde_json::from_str(&owned).unwrap();
    let names: Vec<&str> = owned
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names, ["press", "wms"]);
    assert_eq!(owned[0]["deprecated"]["instead"], "wms");
    let drawing = sandbox.prints(&["catalog", "--project", project, "--format", "mermaid"]);
    assert!(
        drawing.starts_with("flowchart LR") && drawing.contains("-->|sends|"),
        "{drawing}"
    );
    let unknown = sandbox.crossdock(&["catalog", "--project", project, "wsm"]);
    assert_eq!(code(&unknown), 1);
    assert!(text(&unknown.stderr).contains("did you mean `wms`?"));
}

/// The shell commands of a recipe in the guide: the lines below `run: |` and `script:`.
fn commands(recipe: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside: Option<usize> = None;
    for line in recipe.lines() {
        let indent = line.len() - line.trim_start().len();
        if inside.is_some_and(|block| !line.trim().is_empty() && indent <= block) {
            inside = None;
        }
        let word = line.trim().trim_start_matches("- ");
        if let Some(one) = word.strip_prefix("run: ").filter(|one| *one != "|") {
            found.push(one.to_owned());
        } else if word == "run: |" || word == "script:" {
            inside = Some(indent);
        } else if inside.is_some() && !line.trim().is_empty() {
            found.push(line.trim().trim_start_matches("- ").to_owned());
        }
    }
    found
}

#[test]
fn the_recipes_for_ci_do_what_they_say() {
    let page = std::fs::read_to_string(root().join("docs/guide/ci.md")).unwrap();
    let recipes: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .collect();
    assert_eq!(recipes.len(), 2, "one recipe for GitHub, one for GitLab");
    for recipe in recipes {
        let commands = commands(recipe);
        let own: Vec<&String> = commands
            .iter()
            .filter(|one| one.starts_with("crossdock") || one.starts_with("git"))
            .collect();
        assert!(own.len() >= 3, "{commands:?}");
        for breaks in [false, true] {
            let repository = repository();
            git(repository.root(), &["clone", "-q", ".", "work"]);
            let shop = repository.below("work/shop");
            git(shop.root(), &["checkout", "-q", "-b", "change"]);
            if breaks {
                shop.file(
                    "schemas/shop/order.v1.json",
                    &SCHEMA.replace("\"id\"", "\"number\""),
                );
            }
            shop.file("flows/orders.yaml", &format!("# changed\n{FLOW}"));
            shop.file("flows/orders.test.yaml", TESTS);
            git(shop.root(), &["commit", "-q", "-a", "-m", "change"]);
            let binary = Path::new(env!("CARGO_BIN_EXE_crossdock")).parent().unwrap();
            let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
            let script = own
                .iter()
                .map(|one| one.as_str())
                .collect::<Vec<_>>()
                .join("\n");
            let done = Command::new("sh")
                .args(["-e", "-c", &script])
                .current_dir(shop.root())
                .env("PATH", path)
                .env("GITHUB_BASE_REF", "main")
                .env("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main")
                .env("GITHUB_STEP_SUMMARY", shop.root().join("summary.md"))
                .output()
                .unwrap();
            let said = format!("{}{}", text(&done.stdout), text(&done.stderr));
            assert_eq!(done.status.success(), !breaks, "{script}\n{said}");
            let report = std::fs::read_to_string(shop.root().join("report.xml")).unwrap();
            assert!(report.contains("an order goes out"), "{report}");
        }
    }
}
