//! `crossdock check --against`: the project as it is, against an older state of it. It fetches the old state and prints what `flow` finds.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::{Terminal, absolute, written};
use crate::diagnostic::render;
use crate::failure::Failure;
use crate::flow::against::{Affected, Against, SchemaChange};
use crate::flow::governance::{self, Survey};
use crate::schema::compatible::{Change, Direction, Fit};
use crate::world::World;
use crate::world::git;

/// What was compared with what.
pub(super) struct Compared {
    /// The old state, as a person names it.
    pub(super) name: String,
    /// What came of it.
    pub(super) against: Against,
}

/// Compares the project in a folder with an older state: a folder that is a project, or a git revision.
pub(super) fn compare(root: &Path, state: &str, world: &World) -> Result<Compared, Failure> {
    let folder = absolute(Path::new(state));
    let is_project = ["crossdock.yaml", "flows", "schemas"]
        .iter()
        .any(|part| folder.join(part).exists());
    let (name, old): (String, Survey) = if is_project {
        (state.to_owned(), governance::survey(&folder, world))
    } else if folder.is_dir() && state.contains('/') {
        return Err(Failure::config(format!(
            "{} is no project: it holds no flows/, schemas/ or crossdock.yaml",
            folder.display()
        )));
    } else {
        let tree = git::tree(root, state, &governance::is_of_project)?;
        let short = tree.commit.get(..10).unwrap_or(&tree.commit);
        let name = format!("{state} ({short})");
        (name, governance::survey_of(tree.files, world))
    };
    let new = governance::survey(root, world);
    let against = crate::flow::against::compare(&old, &new);
    Ok(Compared { name, against })
}

/// For people: what became of each schema, behind the findings.
pub(super) fn text(compared: &Compared, terminal: &mut Terminal) -> Result<(), Failure> {
    let schemas = &compared.against.schemas;
    let out = &mut terminal.out;
    if schemas.is_empty() {
        return written(writeln!(
            out,
            "against {}: no schema says anything else",
            compared.name
        ));
    }
    written(writeln!(out, "against {}:", compared.name))?;
    for change in schemas {
        written(writeln!(out, "  {}", headline(change)))?;
        for one in &change.affected {
            let (line, _) = one.place.line_column();
            let flows = if one.flows.is_empty() {
                String::new()
            } else {
                format!(" (in {})", one.flows.join(", "))
            };
            let place = format!("{}:{line}", one.place.file.path);
            written(writeln!(out, "    {place}: {} {}{flows}", one.by, one.does))?;
        }
        if !change.owners.is_empty() {
            written(writeln!(out, "    tell: {}", change.owners.join(", ")))?;
        }
    }
    Ok(())
}

/// `canonical/order.v2 added, breaking against canonical/order.v1: breaks 3 mappings in 2 flows`.
fn headline(change: &SchemaChange) -> String {
    let mut line = format!("{} {}", change.name, change.became.name());
    if let Some(found) = &change.comparison {
        let before = match &change.version_of {
            Some(before) => format!(" against {before}"),
            None => String::new(),
        };
        line.push_str(&format!(", {}{before}", compatible(found.word())));
    }
    let roles = change.roles.names();
    if !roles.is_empty() {
        line.push_str(&format!("; {}", roles.join(", ")));
    }
    let breaks = change.breaks();
    if !breaks.is_empty() {
        let verb = match change.version_of {
            Some(_) => "breaks",
            None => "concerns",
        };
        line.push_str(&format!(": {verb} {breaks}"));
    }
    line
}

fn compatible(word: &str) -> String {
    match word {
        "full" => "compatible both ways".to_owned(),
        "backward" | "forward" => format!("{word} compatible"),
        word => word.to_owned(),
    }
}

/// For programs: the findings, and what became of each schema.
pub(super) fn json(
    compared: &Compared,
    findings: &crate::diagnostic::Findings,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let mut list = Vec::new();
    written(render::json(findings, &mut list))?;
    let findings: Value = serde_json::from_slice(&list)
        .map_err(|error| Failure::internal(format!("findings are no JSON: {error}")))?;
    let schemas: Vec<Value> = compared.against.schemas.iter().map(schema).collect();
    let all = json!({ "against": compared.name, "findings": findings, "schemas": schemas });
    let text = serde_json::to_string_pretty(&all)
        .map_err(|error| Failure::internal(format!("cannot write JSON: {error}")))?;
    written(writeln!(terminal.out, "{text}"))
}

fn schema(change: &SchemaChange) -> Value {
    let mut value = json!({
        "schema": change.name,
        "became": change.became.name(),
        "roles": change.roles.names(),
        "owners": change.owners,
        "affected": change.affected.iter().map(affected).collect::<Vec<_>>(),
    });
    if let Some(before) = &change.version_of {
        value["version_of"] = json!(before);
    }
    if let Some(found) = &change.comparison {
        value["compatible"] = json!(found.word());
        for (name, direction) in [
            ("backward", Direction::Backward),
            ("forward", Direction::Forward),
        ] {
            let fit = match found.fit(direction) {
                Fit::Proved => "proved",
                Fit::Unclear => "unclear",
                Fit::Broken => "broken",
            };
            let changes: Vec<Value> = found.changes(direction).iter().map(one).collect();
            value[name] = json!({ "fit": fit, "changes": changes });
        }
    }
    value
}

fn one(change: &Change) -> Value {
    json!({
        "path": change.whole_path(),
        "reason": change.reason,
        "schema": change.place.0,
        "pointer": change.place.1,
        "witness": change.witness.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok()),
    })
}

fn affected(one: &Affected) -> Value {
    let (line, column) = one.place.line_column();
    json!({
        "kind": one.by.kind.name(),
        "name": one.by.name,
        "file": one.place.file.path,
        "line": line,
        "column": column,
        "does": one.does,
        "flows": one.flows,
    })
}
