//! Contracts: mistakes planted into mappings that are correct, each found at its line and column; and correct projects without any error. That their
//! mappings are correct is tried in `tried`, on bodies made up of their sources' schemas.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crossdock::diagnostic::{Diagnostic, Severity};
use crossdock::flow::{self, codes};
use crossdock::world::World;
use crossdock::world::env::FixedEnvironment;
use serde_json::{Map, Value, json};

mod made;
mod planted;
mod tried;
mod units;

use units::{UNITS, Unit};

/// A schema from its short form: YAML whose scalars say what stands there, and whose keys end with `?` where they may be left out.
fn schema(short: &str, closed: bool) -> Value {
    let mut findings = crossdock::diagnostic::Findings::new();
    let file = crossdock::diagnostic::File::new("short.yaml", quoted(short));
    let node = crossdock::yaml::parse(&file, &mut findings);
    let node = node.unwrap_or_else(|| panic!("{short}\n{findings:?}"));
    expanded(&node.to_json(), closed)
}

/// Each scalar in quotes, so that commas and brackets in it mean nothing to YAML.
fn quoted(short: &str) -> String {
    let mut out = String::new();
    let mut rest = short;
    while let Some(at) = rest.find(": ") {
        let (head, tail) = rest.split_at(at + 2);
        out.push_str(head);
        rest = tail;
        if rest.starts_with(['{', '[', '"']) {
            continue;
        }
        let end = scalar_end(rest);
        out.push_str(&format!("{:?}", rest[..end].trim()));
        rest = &rest[end..];
    }
    out + rest
}

/// Where a scalar ends: at a comma or a bracket outside of its own.
fn scalar_end(text: &str) -> usize {
    let mut depth = 0_i32;
    let mut in_pattern = false;
    for (at, c) in text.char_indices() {
        match c {
            '/' => in_pattern = !in_pattern,
            _ if in_pattern => {}
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' | '}' | ']' | '\n' if depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

fn expanded(short: &Value, closed: bool) -> Value {
    match short {
        Value::Object(fields) => {
            let mut properties = Map::new();
            let mut required = Vec::new();
            for (name, value) in fields {
                if name == "ornull" {
                    continue;
                }
                let (name, optional) = match name.strip_suffix('?') {
                    Some(name) => (name, true),
                    None => (name.as_str(), false),
                };
                if !optional {
                    required.push(json!(name));
                }
                properties.insert(name.to_owned(), expanded(value, closed));
            }
            let kind = match fields.contains_key("ornull") {
                true => json!(["object", "null"]),
                false => json!("object"),
            };
            let mut made = json!({"type": kind, "required": required, "properties": properties});
            if closed {
                made["additionalProperties"] = json!(false);
            }
            made
        }
        Value::Array(items) => {
            let mut made = json!({"type": "array", "items": expanded(&items[0], closed)});
            if let Some(Value::String(range)) = items.get(1) {
                let (least, most) = range.split_once("..").unwrap();
                if let Ok(least) = least.parse::<u64>() {
                    made["minItems"] = json!(least);
                }
                if let Ok(most) = most.parse::<u64>() {
                    made["maxItems"] = json!(most);
                }
            }
            made
        }
        Value::String(word) => scalar(word),
        other => panic!("{other}"),
    }
}

fn scalar(word: &str) -> Value {
    if let Some(word) = word.strip_suffix(" or null") {
        let mut made = scalar(word);
        match made.get("type").cloned() {
            Some(kind) => made["type"] = json!([kind, "null"]),
            None => made["enum"].as_array_mut().unwrap().push(Value::Null),
        }
        return made;
    }
    if let Some(pattern) = word
        .strip_prefix('/')
        .and_then(|word| word.strip_suffix('/'))
    {
        return json!({"type": "string", "pattern": pattern});
    }
    if let Some(words) = word.strip_prefix("one ") {
        return json!({"enum": words.split(' ').collect::<Vec<_>>()});
    }
    if let Some(word) = word.strip_prefix("const ") {
        return json!({"const": word});
    }
    let (kind, range) = word.split_once('(').unwrap_or((word, ".."));
    let (least, most) = range.trim_end_matches(')').split_once("..").unwrap();
    let mut made = match kind {
        "str" => json!({"type": "string"}),
        "int" => json!({"type": "integer"}),
        "num" => json!({"type": "number"}),
        "bool" => json!({"type": "boolean"}),
        "time" => json!({"type": "string", "format": "date-time"}),
        "date" => json!({"type": "string", "format": "date"}),
        other => panic!("no short form: {other}"),
    };
    let (low, high) = match kind {
        "str" => ("minLength", "maxLength"),
        _ => ("minimum", "maximum"),
    };
    if let Ok(least) = least.parse::<i64>() {
        made[low] = json!(least);
    }
    if let Ok(most) = most.parse::<i64>() {
        made[high] = json!(most);
    }
    made
}

/// A schema in which `{ .. } or null` is an object or null.
fn with_null(short: &str) -> String {
    short.replace("} or null", ", ornull: str }")
}

/// The files of a unit: a folder of schemas, a mapping, a flow.
fn files(unit: &Unit) -> BTreeMap<String, String> {
    let name = unit.name;
    let text = |short: &str, closed| format!("{:#}\n", schema(&with_null(short), closed));
    BTreeMap::from([
        (format!("schemas/{name}/from.json"), text(unit.from, false)),
        (format!("schemas/{name}/to.json"), text(unit.to, true)),
        (
            format!("mappings/{name}.yaml"),
            format!(
                "mapping: {name}\nfrom: {name}/from\nto: {name}/to\n{}",
                unit.mapping.trim_start()
            ),
        ),
        (
            format!("flows/{name}.yaml"),
            format!(
                "flow: {name}\nsource: {{ flow: {{}} }}\naccepts: {name}/from\n{}sinks: {{ out: {{ discard: {{}} }} }}\n",
                unit.flow.trim_start()
            ),
        ),
        (
            "tables/carriers.csv".to_owned(),
            "code,name,scac\nusps,USPS,USPS\nfedex,FedEx,FEDX\nups,UPS,UPSN\ndhl,DHL,DHLE\n"
                .to_owned(),
        ),
    ])
}

fn written(root: &Path, files: &BTreeMap<String, String>) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// The findings of a project, but for those about flows that nobody feeds.
fn found(files: &BTreeMap<String, String>) -> Vec<Diagnostic> {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), files);
    let world = World {
        env: Arc::new(FixedEnvironment(BTreeMap::new())),
        ..World::real()
    };
    let loaded = flow::load(folder.path(), &world);
    let all = loaded.findings.sorted().into_iter();
    all.filter(|finding| finding.code != codes::UNFED_FLOW)
        .cloned()
        .collect()
}

fn shown(finding: &Diagnostic) -> String {
    let (line, column) = finding.place.line_column();
    format!(
        "{}:{line}:{column} {} {}: {} ({}) {}",
        finding.place.file.path,
        finding.severity.name(),
        finding.code,
        finding.message,
        finding.help,
        finding.witness
    )
}

#[test]
fn every_planted_mistake_is_found_and_no_correct_project_has_an_error() {
    let mut missed = Vec::new();
    let mut proven = 0;
    for plant in planted::ALL {
        let unit = UNITS.iter().find(|unit| unit.name == plant.unit).unwrap();
        let mut files = files(unit);
        let path = plant.path(&files);
        let text = files.get_mut(&path).unwrap();
        let at = text.find(plant.old).unwrap();
        text.replace_range(at..at + plant.old.len(), plant.new);
        let (path, offset) = match plant.at.strip_prefix("->") {
            Some(part) => {
                let path = format!("mappings/{}.yaml", plant.unit);
                let offset = files[&path].find(part).unwrap();
                (path, offset)
            }
            None => {
                let inside = plant.at.find('^').unwrap_or(0);
                let start = plant.new.find(&plant.at.replace('^', "")).unwrap();
                (path, at + start + inside)
            }
        };
        let text = &files[&path];
        let line = text[..offset].matches('\n').count() + 1;
        let column = offset - text[..offset].rfind('\n').map_or(0, |at| at + 1) + 1;
        let all = found(&files);
        let hit = all.iter().find(|finding| {
            finding.code.name == plant.code
                && finding.place.file.path == path
                && finding.place.line_column() == (line, column)
        });
        match hit {
            Some(finding) => proven += usize::from(finding.severity == Severity::Error),
            None => missed.push(format!(
                "{}: {} at {line}:{column} {:?}\n    {}",
                plant.unit,
                plant.code,
                plant.new,
                all.iter().map(shown).collect::<Vec<_>>().join("\n    ")
            )),
        }
    }
    let mut wrong = Vec::new();
    let projects = made::projects();
    let mappings: usize = projects
        .iter()
        .map(|files| {
            files
                .keys()
                .filter(|path| path.starts_with("mappings/"))
                .count()
        })
        .sum();
    for (number, files) in projects.iter().enumerate() {
        assert!(
            files
                .keys()
                .filter(|path| path.starts_with("mappings/"))
                .count()
                >= 5
        );
        let all = found(files);
        let errors = all
            .iter()
            .filter(|finding| finding.severity == Severity::Error);
        wrong.extend(errors.map(|finding| format!("project {number}: {}", shown(finding))));
    }
    let planted = planted::ALL.len();
    let hits = planted - missed.len();
    let precision = proven as f64 / (proven + wrong.len()).max(1) as f64;
    let recall = hits as f64 / planted as f64;
    let mut out = std::io::stderr();
    use std::io::Write;
    writeln!(
        out,
        "precision {precision:.3} recall {recall:.3}: {hits} of {planted} planted mistakes found, {proven} of them as errors; {} errors in {} correct projects with {mappings} mappings",
        wrong.len(),
        projects.len()
    )
    .unwrap();
    assert!(
        missed.is_empty(),
        "missed {}:\n{}",
        missed.len(),
        missed.join("\n")
    );
    assert!(
        wrong.is_empty(),
        "{} errors in correct projects:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(planted >= 60 && projects.len() >= 40);
}
