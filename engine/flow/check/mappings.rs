//! Mappings: each file compiled, and held against the project: its schemas, its tables, the fields of its target.

use std::sync::Arc;

use super::{Source, mapping_target};
use crate::component::codes as part_codes;
use crate::component::{Broken, Library};
use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span};
use crate::expression::{TableUse, Tables};
use crate::mapping::{self, Mapping};
use crate::schema::Schemas;
use crate::schema::place::{self, At};

/// A mapping's file, read.
#[derive(Clone)]
pub(crate) struct Read {
    /// Its name with its place, if it has one.
    pub(crate) name: Option<(String, Place)>,
    /// The mapping, if it is sound.
    pub(crate) mapping: Option<Arc<Mapping>>,
}

/// Reads a mapping and holds it against schemas and tables.
pub(crate) fn read(
    source: &Source,
    schemas: &Schemas,
    tables: &Tables,
    findings: &mut Findings,
) -> Read {
    let file = &source.file;
    let name = source
        .node
        .get("mapping")
        .and_then(|at| Some((at.as_text()?.to_owned(), at.place(file))));
    let mut found = Findings::new();
    let (mapping, outline) = mapping::read(file, &source.node, &mut found);
    for finding in found.iter() {
        if !source.missing.contains(&finding.place.span) {
            findings.push(finding.clone());
        }
    }
    for (name, span) in [&outline.from, &outline.to].into_iter().flatten() {
        known_schema(file, (name, *span), schemas, findings);
    }
    known_tables(file, &outline.tables, tables, findings);
    let mut mapping = mapping.filter(|_| source.missing.is_empty());
    if let Some((to, _)) = &outline.to
        && let Some(target) = At::named(schemas, to)
    {
        mapping_target::check(file, &source.node, target, to, findings);
        if let Some(mapping) = &mut mapping {
            mapping.with_target_in(target.raw(), &|reference| {
                place::find(schemas, to, reference)
            });
        }
    }
    Read {
        name,
        mapping: mapping.map(Arc::new),
    }
}

/// Reads a file that is one expression; its name comes from its path.
pub(crate) fn read_expression(
    name: &str,
    file: &Arc<File>,
    tables: &Tables,
    findings: &mut Findings,
) -> Option<Mapping> {
    let mapping = mapping::compile_expression(name, file, findings)?;
    known_tables(file, mapping.tables(), tables, findings);
    Some(mapping)
}

fn known_schema(
    file: &Arc<File>,
    (name, span): (&str, Span),
    schemas: &Schemas,
    findings: &mut Findings,
) {
    if schemas.get(name).is_some() {
        return;
    }
    let known: Vec<String> = schemas.names().map(str::to_owned).collect();
    let help = part_codes::names_help("schema", name, &known, "schemas/");
    let message = format!("there is no schema `{name}`");
    error(
        file,
        part_codes::UNKNOWN_SCHEMA,
        span,
        message,
        help,
        findings,
    );
}

fn known_tables(file: &Arc<File>, used: &[TableUse], tables: &Tables, findings: &mut Findings) {
    let place = |span| Place {
        file: file.clone(),
        span,
    };
    for used in used {
        if let Some(finding) = part_codes::table_use(used, tables, &place) {
            findings.push(finding);
        }
    }
}

fn error(
    file: &Arc<File>,
    code: Code,
    span: Span,
    message: String,
    help: String,
    findings: &mut Findings,
) {
    let place = Place {
        file: file.clone(),
        span,
    };
    findings.push(Diagnostic::error(code, place, message).help(help));
}

/// Puts mappings into the library; those that exist and are broken into its list of broken ones.
pub(crate) fn into_library(read: Vec<Read>, library: &mut Library) {
    for read in read {
        match (read.name, read.mapping) {
            (Some((name, _)), Some(mapping)) => {
                library.mappings.insert(name, mapping);
            }
            (Some((name, _)), None) => note_broken(&mut library.broken, name),
            _ => {}
        }
    }
}

fn note_broken(broken: &mut Broken, name: String) {
    broken.mappings.insert(name);
}
