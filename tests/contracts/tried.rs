//! The correct mappings tried: of each body that comes to it a mapping makes one that its target allows, and it never fails. What the checker says of them
//! stands beside.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossdock::flow::{self, Variant};
use crossdock::mapping::property::Trial;
use crossdock::world::World;
use crossdock::world::env::FixedEnvironment;
use serde_json::{Value, json};

use super::units::UNITS;
use super::{files, made, written};

/// How many bodies each mapping is tried on.
const BODIES: u64 = 20;
/// From which the bodies are made up.
const SEED: u64 = 7;
/// When they come in, in milliseconds since 1970.
const NOW_MS: i64 = 1_767_323_045_000;

/// Fields without which a filter before the mapping lets nothing through: what must stand in the flow, and the field.
const FILTERED: &[(&str, &str)] = &[
    ("not_null(OrderTotal, `false`) != `false`", "OrderTotal"),
    (
        "not_null(ShippingAddress, `false`) != `false`",
        "ShippingAddress",
    ),
    ("filter: not_null(received_at, '') != ''", "received_at"),
    ("filter: weight != `null`", "weight"),
];

/// Texts that are times in a form of their own, which their schemas do not say.
const TIMES: &[(&str, &str)] = &[
    ("date_created_gmt", "2026-02-03T04:05:06"),
    ("date_created", "Tue, 03 Feb 2026 04:05:06 +0000"),
];

/// The pattern of days in eight digits; not all that it takes are days.
const DAY: &str = "^[0-9]{8}$";

/// Says in a schema what only the times among its texts are.
fn with_times(schema: &mut Value) {
    if schema.get("pattern").and_then(Value::as_str) == Some(DAY) {
        *schema = json!({"enum": ["20260203", "19991231"]});
        return;
    }
    match schema {
        Value::Object(words) => {
            for (name, inner) in words {
                match TIMES.iter().find(|(time, _)| time == name) {
                    Some((_, text)) => *inner = json!({"const": text}),
                    None => with_times(inner),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(with_times),
        _ => {}
    }
}

/// Says in the sources' schemas what the flows' filters and the systems' documents say beside them.
fn narrow(files: &mut BTreeMap<String, String>) {
    let flows: Vec<(String, String)> = files
        .iter()
        .filter_map(|(path, text)| {
            let name = path.strip_prefix("flows/")?.strip_suffix(".yaml")?;
            Some((name.to_owned(), text.clone()))
        })
        .collect();
    for (name, flow) in flows {
        let text = files.get_mut(&format!("schemas/{name}/from.json")).unwrap();
        let mut schema: Value = serde_json::from_str(text).unwrap();
        with_times(&mut schema);
        for (filter, field) in FILTERED {
            if flow.contains(filter) {
                let required = schema["required"].as_array_mut().unwrap();
                required.push(json!(field));
            }
        }
        *text = schema.to_string();
    }
}

/// Tries all mappings of a project: how many there are, and what is wrong with them.
fn tried(mut files: BTreeMap<String, String>) -> (usize, Vec<String>) {
    narrow(&mut files);
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), &files);
    let world = World {
        env: Arc::new(FixedEnvironment(BTreeMap::new())),
        ..World::real()
    };
    let untyped = Variant {
        untyped: true,
        ..Variant::default()
    };
    let loaded = flow::load_variant(folder.path(), &world, &untyped);
    let Some(project) = loaded.project else {
        panic!("{:?}", loaded.findings);
    };
    let library = &project.library;
    let mut wrong = Vec::new();
    for (name, mapping) in &library.mappings {
        let trial = Trial {
            mapping,
            schemas: &library.schemas,
            tables: &library.tables,
            keeps: &[],
            now_ms: NOW_MS,
        };
        match trial.run(BODIES, SEED) {
            Ok(None) => {}
            Ok(Some(found)) => wrong.push(format!(
                "{name}: {:?}\n    {}",
                found.broken,
                String::from_utf8_lossy(found.body.bytes())
            )),
            Err(failure) => wrong.push(format!("{name}: {failure}")),
        }
    }
    (library.mappings.len(), wrong)
}

#[test]
fn of_what_comes_to_it_a_correct_mapping_makes_what_its_target_allows() {
    let units = UNITS.iter().flat_map(files).collect();
    let (mut mappings, mut wrong) = tried(units);
    for (number, mut files) in made::projects().into_iter().enumerate() {
        // The units are the same in all projects.
        files.retain(|path, _| path.contains("made-") || path.starts_with("tables/"));
        let (more, found) = tried(files);
        mappings += more;
        wrong.extend(
            found
                .iter()
                .map(|found| format!("project {number}, {found}")),
        );
    }
    assert!(
        wrong.is_empty(),
        "{} of {mappings} mappings are not correct:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(mappings >= UNITS.len() + 160, "{mappings} mappings");
}
