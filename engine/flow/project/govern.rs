//! A project's files as those take them who ask who owns what and who depends on whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Parsed, stem};
use crate::diagnostic::{File, Findings};
use crate::flow::check::{Known, Source, authority, policies, settings};
use crate::flow::folder::Folder;
use crate::flow::governance::Survey;
use crate::flow::governance::collect::{self, Sources};
use crate::flow::settings::Settings;
use crate::schema::Schemas;
use crate::world::World;

/// Holds the project against its own policies, and against who owns what.
pub(super) fn check(
    folder: &Folder,
    parsed: &Parsed,
    (settings, known): (&Settings, &Known),
    world: &World,
    findings: &mut Findings,
) {
    let (policies, authority) = (&settings.policies, &settings.authority);
    let Some(file) = parsed.settings.as_ref() else {
        return;
    };
    if !policies.any() && authority.is_empty() {
        return;
    }
    let sources = sources(folder, parsed);
    let register = collect::register(&sources, &known.library.schemas);
    if !authority.is_empty() {
        let project = authority::Project {
            register: &register,
            flows: sources.flows.clone(),
            mappings: mappings_of(&sources),
            schemas: &known.library.schemas,
            settings: file,
        };
        authority::check(authority, &project, findings);
    }
    if policies.any() {
        let all = [&sources.flows, &sources.fragments, &sources.systems];
        let project = policies::Project {
            register: &register,
            sources: all.into_iter().flatten().copied().chain([file]).collect(),
            settings: Some(file),
            today: today(world),
        };
        policies::check(policies, &project, findings);
    }
}

/// The day, by the world's clock, such as `2026-11-21`.
fn today(world: &World) -> String {
    let now = jiff::Timestamp::from_millisecond(world.clock.now_ms()).unwrap_or_default();
    now.to_zoned(jiff::tz::TimeZone::UTC).date().to_string()
}

/// The parsed files, as the register takes them.
fn sources<'p>(folder: &Folder, parsed: &'p Parsed) -> Sources<'p> {
    let named = |files: &[Arc<File>], below: &str, extension: &str| {
        let files = files.iter();
        files
            .map(|file| (stem(&file.path, below, extension), file.clone()))
            .collect::<Vec<_>>()
    };
    Sources {
        flows: parsed.flows.iter().flatten().collect(),
        fragments: parsed.fragments.iter().flatten().collect(),
        mappings: parsed.mappings.iter().flatten().collect(),
        expressions: named(&folder.expressions, "mappings/", ".jmespath"),
        systems: parsed.systems.iter().flatten().collect(),
        tables: named(&folder.tables, "tables/", ".csv"),
        schemas: named(&folder.schemas, "schemas/", ".json")
            .into_iter()
            .collect(),
    }
}

/// The mappings' files, by what they declare.
fn mappings_of<'p>(sources: &Sources<'p>) -> BTreeMap<&'p str, &'p Source> {
    let mappings = sources.mappings.iter();
    mappings
        .filter_map(|source| Some((source.node.get("mapping")?.as_text()?, *source)))
        .collect()
}

/// See [`crate::flow::governance::survey`].
pub(crate) fn survey(folder: &Folder, mut findings: Findings, world: &World) -> Survey {
    let parsed = Parsed::of(folder, &folder.root, world, None, &mut Findings::new());
    let sources = sources(folder, &parsed);
    let files: Vec<(String, Arc<File>)> = sources
        .schemas
        .iter()
        .map(|(name, file)| (name.clone(), file.clone()))
        .collect();
    let schemas = Schemas::load(&files, &mut findings);
    let settings = parsed.settings.as_ref();
    let mappings = mappings_of(&sources).into_iter();
    Survey {
        register: collect::register(&sources, &schemas),
        mappings: mappings
            .map(|(name, source)| (name.to_owned(), source.clone()))
            .collect(),
        settings: settings
            .map(|source| settings::read(source, &mut Findings::new()))
            .unwrap_or_default(),
        files: sources.schemas,
        schemas,
        today: today(world),
        findings,
    }
}
