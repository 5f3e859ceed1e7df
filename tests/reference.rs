//! What is generated and committed is fresh, and everything that is shown as an example checks. Not what the examples do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossdock::component::{Kind, Registry};
use crossdock::diagnostic::{File, Findings};
use crossdock::flow::{self, editor, reference};
use crossdock::sink::SinkKind;
use crossdock::source::SourceKind;
use crossdock::step::StepKind;
use crossdock::world::World;
use crossdock::world::env::Environment;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares generated files with the committed ones; `UPDATE=1` writes them.
fn fresh(folder: &str, files: Vec<(&str, String)>) {
    let mut stale = Vec::new();
    for (name, text) in files {
        let path = root().join(folder).join(name);
        if std::env::var_os("UPDATE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            stale.push(format!("{folder}/{name}"));
        }
    }
    assert!(
        stale.is_empty(),
        "run `UPDATE=1 cargo test --test main reference`: {stale:?} are not fresh"
    );
}

#[test]
fn the_reference_pages_are_fresh() {
    fresh("docs/reference", reference::pages());
}

#[test]
fn the_document_of_the_admin_api_is_fresh() {
    let document = crossdock::admin::routes::document();
    let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
    fresh("docs/reference", vec![("admin-api.openapi.json", text)]);
}

#[test]
fn the_schemas_for_editors_are_fresh() {
    fresh(editor::FOLDER, editor::all());
}

#[test]
fn codes_have_a_name_and_a_meaning_of_their_own() {
    let codes = reference::all_codes();
    let names: BTreeSet<&str> = codes.iter().map(|code| code.name).collect();
    assert_eq!(names.len(), codes.len());
    for code in codes {
        let plain = code
            .name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit());
        assert!(plain && code.meaning.len() > 10, "{code}");
    }
}

/// All YAML files of the project in a folder, with the schema that an editor uses for them.
fn project_files(folder: &Path) -> Vec<(PathBuf, &'static str)> {
    let mut files = Vec::new();
    for (below, schema) in [
        ("flows", "flow"),
        ("mappings", "mapping"),
        ("systems", "system"),
    ] {
        let mut open = vec![folder.join(below)];
        while let Some(at) = open.pop() {
            for entry in fs::read_dir(at).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = path.to_string_lossy().into_owned();
                if path.is_dir() {
                    open.push(path);
                } else if name.contains("/fragments/") {
                    files.push((path, "fragment"));
                } else if name.ends_with(".test.yaml") {
                    files.push((path, "test"));
                } else if name.ends_with(".yaml") {
                    files.push((path, schema));
                }
            }
        }
    }
    let settings = folder.join("crossdock.yaml");
    if settings.exists() {
        files.push((settings, "project"));
    }
    files
}

/// What the editor's schema says about a YAML text.
fn breaches(schema: &str, text: &str) -> Vec<String> {
    let (_, schema) = editor::all()
        .into_iter()
        .find(|(name, _)| *name == format!("{schema}.schema.json"))
        .unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut findings = Findings::new();
    let node = crossdock::yaml::parse(&File::new("a.yaml", text), &mut findings).unwrap();
    let value = node.to_json();
    validator
        .iter_errors(&value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

#[test]
fn all_shipped_files_are_valid_for_editors() {
    let mut count = 0;
    let golden = root().join("tests/golden/check");
    for folder in [root().to_owned(), golden.join("correct")] {
        for (path, schema) in project_files(&folder) {
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(breaches(schema, &text), [""; 0], "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 12, "{count} files");
}

#[test]
fn editors_see_common_mistakes() {
    let flow = |entry: &str| {
        format!(
            "flow: a\nsource: {{ flow: {{}} }}\nsteps:\n  - {entry}\nsinks:\n  out: {{ discard: {{}} }}\n"
        )
    };
    assert_eq!(breaches("flow", &flow("map: x")), [""; 0]);
    for wrong in [
        "mapp: x",
        "id: x",
        "{ map: x, wehn: y }",
        "call: { systm: erp, get: /x }",
        "branch: [{ when: a }]",
        "saga: { undo_retry: {} }",
        "with: {}",
    ] {
        assert!(!breaches("flow", &flow(wrong)).is_empty(), "{wrong}");
    }
    assert!(!breaches("flow", "flow: a\n").is_empty());
    assert!(
        !breaches(
            "flow",
            "flow: a\nsource: { file: {} , flow: {} }\nsinks: { a: { discard: {} } }\n"
        )
        .is_empty()
    );
    assert!(!breaches("mapping", "mapping: a\nfields: { a: null }\n").is_empty());
    assert!(!breaches("system", "system: a\nhttp: { base: x }\n").is_empty());
}

/// An environment in which every variable is set.
struct Everything;

impl Environment for Everything {
    fn get(&self, name: &str) -> Option<String> {
        let value = match name {
            "EVENTS_URL" => "amqps://me:secret@rabbit-1.example:5671/shop",
            "DATABASE_URL" => "postgres://me:secret@db.example/warehouse",
            name if name.ends_with("SECRET") => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw",
            _ => "https://x.example",
        };
        Some(value.to_owned())
    }
}

/// A project around examples: everything that examples name exists.
struct Around(tempfile::TempDir);

impl Around {
    fn new() -> Around {
        let folder = tempfile::tempdir().unwrap();
        let around = Around(folder);
        for name in [
            "canonical/order.v1",
            "erp/customer.v1",
            "storefront/order.v1",
        ] {
            around.put(&format!("schemas/{name}.json"), "{}");
        }
        for name in [
            "storefront-order",
            "erp-sales-order",
            "reservation",
            "order-booked",
        ] {
            around.put(
                &format!("mappings/{name}.yaml"),
                &format!("mapping: {name}\nfields: {{ a: b }}\n"),
            );
        }
        for name in ["erp", "wms", "carrier"] {
            around.put(
                &format!("systems/{name}.yaml"),
                &format!("system: {name}\nhttp: {{ base_url: \"https://{name}.example.com\" }}\n"),
            );
        }
        around.put(
            "systems/warehouse-db.yaml",
            "system: warehouse-db\nsql: { url: \"sqlite:data/warehouse.db\" }\n",
        );
        around.put(
            "systems/events.yaml",
            "system: events\namqp: { urls: [\"amqps://rabbit-1.example:5671/shop\"] }\n",
        );
        around.put("tables/countries.csv", "name,code\nAustria,AT\n");
        around.put("tables/customers.csv", "name,code\nAcme,C-1\n");
        for name in ["order-booking", "stock-reservation", "credit-review"] {
            let flow = format!(
                "flow: {name}\nsource: {{ flow: {{}} }}\nsinks: {{ nowhere: {{ discard: {{}} }} }}\n"
            );
            around.put(&format!("flows/{name}.yaml"), &flow);
        }
        around.put(
            "flows/wms-confirmations.yaml",
            "flow: wms-confirmations\nsource: { flow: {} }\nkeys: { order: n }\nsinks: { nowhere: { discard: {} } }\n",
        );
        around
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The errors of the project, but for what an example cannot know.
    fn errors(&self) -> Vec<String> {
        let world = World {
            env: Arc::new(Everything),
            ..World::real()
        };
        let loaded = flow::load(self.0.path(), &world);
        loaded
            .findings
            .iter()
            .filter(|finding| finding.severity.name() == "error")
            .map(|finding| {
                let (line, column) = finding.place.line_column();
                format!(
                    "{}:{line}:{column} {}: {}",
                    finding.place.file.path, finding.code, finding.message
                )
            })
            .collect()
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// A flow around an example of a kind.
fn flow_around(role: &str, example: &str) -> String {
    let sink = "sinks:\n  nowhere-else: { discard: {} }\n";
    let keys = "keys: { order: orderNumber }\nonce: { key: order }\n";
    match role {
        // An API must say what it takes; that stands beside its source.
        "source" if example.contains("\n  api:") => {
            format!("flow: example\n{example}accepts: canonical/order.v1\n{keys}{sink}")
        }
        "source" => format!("flow: example\n{example}{keys}{sink}"),
        "step" => format!(
            "flow: example\nsource: {{ stdin: {{ format: jsonl }} }}\n{keys}steps:\n{}{sink}",
            indented(example)
        ),
        _ => format!(
            "flow: example\nsource: {{ stdin: {{ format: jsonl }} }}\n{keys}sinks:\n{}",
            indented(example)
        ),
    }
}

#[test]
fn every_example_of_a_part_checks() {
    let all: [(&str, &[Kind]); 3] = [
        ("source", SourceKind::KINDS),
        ("step", StepKind::KINDS),
        ("sink", SinkKind::KINDS),
    ];
    for (role, kinds) in all {
        for kind in kinds {
            let around = Around::new();
            let text = flow_around(role, kind.example);
            around.put("flows/example.yaml", &text);
            assert_eq!(around.errors(), [""; 0], "{role} {}\n{text}", kind.name);
            assert_eq!(
                breaches("flow", &text),
                [""; 0],
                "{role} {}\n{text}",
                kind.name
            );
        }
    }
}

/// The YAML blocks of a Markdown file, each with its first line's number.
fn yaml_blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            Some((_, block)) if !line.starts_with("```") => {
                block.push_str(line);
                block.push('\n');
            }
            Some(_) => blocks.extend(open.take()),
            None if line.trim_end() == "```yaml" => open = Some((number + 2, String::new())),
            None => {}
        }
    }
    blocks
}

#[test]
fn whole_files_that_the_documentation_shows_check() {
    let mut open = vec![root().join("docs"), root().join("README.md")];
    let mut count = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                fs::read_dir(path)
                    .unwrap()
                    .flatten()
                    .map(|entry| entry.path()),
            );
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        for (line, block) in yaml_blocks(&fs::read_to_string(&path).unwrap()) {
            let around = Around::new();
            let file = match block
                .lines()
                .find(|line| !line.starts_with('#'))
                .and_then(|line| line.split(':').next())
            {
                Some("flow") if block.contains("\ntests:") => {
                    let found = breaches("test", &block);
                    assert_eq!(found, [""; 0], "{}:{line}", path.display());
                    continue;
                }
                Some("flow") => "flows/example.yaml",
                Some("mapping") => "mappings/example.yaml",
                Some("system") if block.contains("\nsql:") => "systems/warehouse-db.yaml",
                Some("system") if block.contains("\namqp:") => "systems/events.yaml",
                Some("system") => "systems/erp.yaml",
                Some("fragment") => "flows/fragments/example.yaml",
                _ => continue,
            };
            // An example may carry the name of something around it.
            let name = block
                .lines()
                .find_map(|line| line.split_once(':').map(|(_, name)| name.trim().to_owned()));
            for folder in ["flows", "mappings"] {
                let same = around.0.path().join(format!(
                    "{folder}/{}.yaml",
                    name.clone().unwrap_or_default()
                ));
                if file.starts_with(folder) && same.exists() {
                    fs::remove_file(same).unwrap();
                }
            }
            around.put(file, &block);
            assert_eq!(
                around.errors(),
                [""; 0],
                "{}:{line}\n{block}",
                path.display()
            );
            count += 1;
        }
    }
    assert!(count > 0, "the documentation shows no whole file");
}
