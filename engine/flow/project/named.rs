//! What flows can name: the settings, tables, schemas, mappings, systems and fragments of a project, read once, each with its hash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Parsed, last, stem};
use crate::component::Library;
use crate::component::common::RetryRule;
use crate::diagnostic::{File, Findings, Place, Span};
use crate::expression::Tables;
use crate::flow::check::fragments::{self, Fragment};
use crate::flow::check::judged::Judgements;
use crate::flow::check::names::Declared;
use crate::flow::check::{Known, Source, mappings, settings, systems, tables};
use crate::flow::folder::Folder;
use crate::flow::many::each_kept;
use crate::flow::memory::{Memory, Shelf};
use crate::flow::plan::{Print, SETTINGS_OF_THE_PLACE};
use crate::flow::revision::{self, Hash};
use crate::flow::settings::Settings;
use crate::flow::workspace::Noun;
use crate::flow::{Variant, codes};
use crate::schema::Schemas;
use crate::source::clients::Clients;

/// What the parts of a flow's revision are: the hashes of all that a flow can refer to.
#[derive(Default)]
pub(super) struct Hashes {
    /// The settings as far as they are the same for all engines of a project, and of them what holds in every flow.
    pub(super) settings: Hash,
    pub(super) defaults: Hash,
    pub(super) each_setting: BTreeMap<String, Hash>,
    pub(super) tables: BTreeMap<String, Hash>,
    pub(super) mappings: BTreeMap<String, Hash>,
    pub(super) schemas: BTreeMap<String, Hash>,
    pub(super) systems: BTreeMap<String, Hash>,
    /// The same with their secrets: for memory only.
    pub(super) system_prints: BTreeMap<String, Hash>,
    pub(super) fragments: BTreeMap<String, Hash>,
}

impl Hashes {
    /// The hash of what a flow's revision depends on. A flow is no part of another one's revision, and systems are no part of any: all runs
    /// meet them as they are now.
    pub(super) fn of(&self, noun: Noun, name: &str) -> Option<Hash> {
        let all = match noun {
            Noun::Flow | Noun::System => return None,
            Noun::Fragment => &self.fragments,
            Noun::Mapping => &self.mappings,
            Noun::Schema => &self.schemas,
            Noun::Table => &self.tables,
        };
        all.get(name).copied()
    }

    /// The hash of what a flow's behaviour depends on.
    pub(super) fn print_of(&self, noun: Noun, name: &str) -> Option<Hash> {
        match noun {
            Noun::System => self.system_prints.get(name).copied(),
            _ => self.of(noun, name),
        }
    }

    /// What there is beside the flows, as it is in memory.
    pub(super) fn prints(&self) -> BTreeMap<String, Print> {
        let systems = self.system_prints.iter();
        let systems = systems.map(|(name, hash)| (format!("system {name}"), Print(*hash)));
        let settings = self.each_setting.iter();
        let settings = settings.map(|(name, hash)| (format!("setting {name}"), Print(*hash)));
        systems.chain(settings).collect()
    }

    /// What is part of a project's revision beside its flows.
    pub(super) fn all(&self) -> BTreeMap<String, Hash> {
        let systems = self.systems.iter();
        let mut all: BTreeMap<String, Hash> = systems
            .map(|(name, hash)| (format!("system {name}"), *hash))
            .collect();
        all.insert("settings".to_owned(), self.settings);
        all
    }
}

/// Reads everything that flows can name.
pub(super) fn known(
    folder: &Folder,
    parsed: &Parsed,
    mut memory: Option<&mut Memory>,
    variant: &Variant<'_>,
    findings: &mut Findings,
) -> (Settings, Known, Hashes) {
    let mut hashes = Hashes::default();
    let mut library = Library::default();
    let settings = read_settings(parsed, &mut hashes, findings);
    library.root = folder.work.clone();
    if let Some(source) = &parsed.settings {
        settings::certificates(source, &settings, &folder.work, findings);
    }
    library.timeout = settings.defaults.timeout;
    let named = || Arc::new(Clients::of(&settings.apis, &mut Vec::new()));
    library.clients = variant.clients.clone().unwrap_or_else(named);
    let tables = read_tables(folder, &mut hashes, findings);
    let named: Vec<(String, Arc<File>)> = folder
        .schemas
        .iter()
        .map(|file| (stem(&file.path, "schemas/", ".json"), file.clone()))
        .collect();
    library.schemas = match (&variant.schemas, &mut memory) {
        (Some(schemas), _) => schemas.clone(),
        (None, Some(memory)) => memory.schemas.or(&folder.schemas, findings, |findings| {
            Schemas::load(&named, findings)
        }),
        (None, None) => Schemas::load(&named, findings),
    };
    for (name, file) in &named {
        hashes
            .schemas
            .insert(name.clone(), revision::of_bytes(file.text.as_bytes()));
    }
    let mut shelf = memory.map(|memory| memory.mappings_beside(folder));
    read_mappings(
        folder,
        parsed,
        &tables,
        &mut shelf,
        &mut library,
        &mut hashes,
        findings,
    );
    library.tables = Arc::new(tables);
    read_systems(folder, parsed, &mut library, &mut hashes, findings);
    unread(folder, &mut library);
    library.flows = flow_names(folder, parsed);
    let (fragments, broken_fragments) = read_fragments(folder, parsed, &mut hashes, findings);
    let known = Known {
        library,
        fragments,
        broken_fragments,
        processes: process_names(folder, parsed),
        judged: Judgements::of(&settings),
        accepts: all_accepted(parsed),
        retry: RetryRule::DEFAULT.with(settings.defaults.retry.as_ref()),
        typed: !variant.untyped,
    };
    (settings, known, hashes)
}

fn read_settings(parsed: &Parsed, hashes: &mut Hashes, findings: &mut Findings) -> Settings {
    match &parsed.settings {
        Some(source) => {
            for (key, value) in source.node.entries() {
                let hash = revision::of_tree(value, &[]);
                hashes.each_setting.insert(key.text.clone(), hash);
            }
            let mut everywhere = hashes.each_setting.clone();
            everywhere.retain(|name, _| !SETTINGS_OF_THE_PLACE.contains(&name.as_str()));
            hashes.settings = revision::hash_of(&everywhere);
            let defaults = source.node.get("defaults");
            hashes.defaults = defaults.map_or(Hash::default(), |at| revision::of_tree(at, &[]));
            settings::read(source, findings)
        }
        None => Settings::default(),
    }
}

fn read_tables(folder: &Folder, hashes: &mut Hashes, findings: &mut Findings) -> Tables {
    let mut all = Tables::default();
    for file in &folder.tables {
        let name = stem(&file.path, "tables/", ".csv");
        all.insert(tables::read(&name, file, findings));
        hashes
            .tables
            .insert(name, revision::of_bytes(file.text.as_bytes()));
    }
    all
}

fn read_mappings(
    folder: &Folder,
    parsed: &Parsed,
    tables: &Tables,
    shelf: &mut Option<&mut Shelf<mappings::Read>>,
    library: &mut Library,
    hashes: &mut Hashes,
    findings: &mut Findings,
) {
    let sources: Vec<&Source> = parsed.mappings.iter().flatten().collect();
    let schemas = &library.schemas;
    let read = each_kept(
        &sources,
        |source| &source.file,
        |source, findings| mappings::read(source, schemas, tables, findings),
        shelf.as_deref_mut(),
        findings,
    );
    let mut names = Declared::new("mappings", codes::DUPLICATE_NAME);
    for (source, read) in sources.iter().zip(&read) {
        let Some((name, place)) = &read.name else {
            continue;
        };
        names.declare(name, place.clone(), findings);
        hashes
            .mappings
            .insert(name.clone(), revision::of_tree(&source.node, &[]));
    }
    let mut all = read;
    for (file, source) in folder.mappings.iter().zip(&parsed.mappings) {
        if source.is_none() {
            library
                .broken
                .mappings
                .insert(name_of(Noun::Mapping, file, None));
        }
    }
    for file in &folder.expressions {
        let name = stem(&file.path, "mappings/", ".jmespath");
        let place = Place {
            file: file.clone(),
            span: Span::default(),
        };
        names.declare(&name, place.clone(), findings);
        hashes
            .mappings
            .insert(name.clone(), revision::of_bytes(file.text.as_bytes()));
        let mapping = mappings::read_expression(&name, file, tables, findings);
        all.push(mappings::Read {
            name: Some((name, place)),
            mapping: mapping.map(Arc::new),
        });
    }
    mappings::into_library(all, library);
}

fn read_systems(
    folder: &Folder,
    parsed: &Parsed,
    library: &mut Library,
    hashes: &mut Hashes,
    findings: &mut Findings,
) {
    let mut names = Declared::new("systems", codes::DUPLICATE_NAME);
    for (file, source) in folder.systems.iter().zip(&parsed.systems) {
        let Some(source) = source else {
            library
                .broken
                .systems
                .insert(name_of(Noun::System, file, None));
            continue;
        };
        let read = systems::read(source, &library.root, findings);
        let Some((name, at)) = source
            .node
            .get("system")
            .and_then(|at| Some((at.as_text()?.to_owned(), at)))
        else {
            continue;
        };
        names.declare(&name, at.place(file), findings);
        hashes
            .systems
            .insert(name.clone(), revision::of_tree(&source.node, &read.secrets));
        hashes
            .system_prints
            .insert(name.clone(), revision::of_tree(&source.node, &[]));
        if let Some(system) = read.system {
            library.systems.insert(name, Arc::new(system));
        } else if let Some(database) = read.database {
            library.databases.insert(name, Arc::new(database));
        } else if let Some(broker) = read.broker {
            library.brokers.insert(name, Arc::new(broker));
        } else {
            library.broken.systems.insert(name);
        }
    }
}

fn read_fragments(
    folder: &Folder,
    parsed: &Parsed,
    hashes: &mut Hashes,
    findings: &mut Findings,
) -> (BTreeMap<String, Fragment>, BTreeSet<String>) {
    let mut names = Declared::new("fragments", codes::DUPLICATE_NAME);
    let mut sound = BTreeMap::new();
    let mut broken = BTreeSet::new();
    for (file, source) in folder.fragments.iter().zip(&parsed.fragments) {
        let Some(source) = source else {
            broken.insert(name_of(Noun::Fragment, file, None));
            continue;
        };
        let (name, fragment) = fragments::read(source.clone(), findings);
        let Some((name, place)) = name else { continue };
        names.declare(&name, place, findings);
        let hash = revision::of_tree(&source.node, &[]);
        hashes.fragments.insert(name.clone(), hash);
        match fragment {
            Some(fragment) => {
                sound.insert(name, fragment);
            }
            None => {
                broken.insert(name);
            }
        }
    }
    (sound, broken)
}

/// Files that could not even be read: what they hold is guessed from their names, so that naming it is no second mistake.
fn unread(folder: &Folder, library: &mut Library) {
    for path in &folder.unread {
        if path.starts_with("mappings/") {
            library
                .broken
                .mappings
                .insert(stem(path, "mappings/", ".yaml"));
        } else if path.starts_with("systems/") {
            library
                .broken
                .systems
                .insert(stem(path, "systems/", ".yaml"));
        } else if path.starts_with("schemas/") {
            library
                .broken
                .schemas
                .insert(stem(path, "schemas/", ".json"));
        }
    }
}

/// The schemas that flows accept, by flow.
fn all_accepted(parsed: &Parsed) -> BTreeMap<String, String> {
    let sources = parsed.flows.iter().flatten();
    let named = sources.filter_map(|source| {
        let name = source.node.get("flow")?.as_text()?;
        Some((name.to_owned(), accepted(source)?.to_owned()))
    });
    named.collect()
}

/// The schema that a flow accepts.
pub(super) fn accepted(flow: &Source) -> Option<&str> {
    let accepts = flow.node.get("accepts")?;
    accepts.get("schema").unwrap_or(accepts).as_text()
}

/// The name of what a YAML file declares, or would, if it could be read.
pub(super) fn name_of(noun: Noun, file: &File, source: Option<&Source>) -> String {
    let name = source.and_then(|source| source.node.get(noun.word())?.as_text());
    let folder = match noun {
        Noun::Flow => "flows/",
        Noun::Fragment => "flows/fragments/",
        Noun::Mapping => "mappings/",
        Noun::System => "systems/",
        Noun::Schema => "schemas/",
        Noun::Table => "tables/",
    };
    name.map_or_else(|| guess(file, noun.word(), folder), str::to_owned)
}

fn flow_names(folder: &Folder, parsed: &Parsed) -> BTreeSet<String> {
    let files = folder.flows.iter().zip(&parsed.flows);
    let mut names: BTreeSet<String> = files
        .map(|(file, source)| name_of(Noun::Flow, file, source.as_ref()))
        .collect();
    let unread = folder
        .unread
        .iter()
        .filter(|path| path.starts_with("flows/"));
    names.extend(unread.map(|path| last(&stem(path, "flows/", ".yaml"))));
    names
}

/// The names of the processes; `None` if the project has none. Their files belong to a later version and are not looked at besides.
fn process_names(folder: &Folder, parsed: &Parsed) -> Option<BTreeSet<String>> {
    if folder.processes.is_empty() {
        return None;
    }
    let names = folder
        .processes
        .iter()
        .zip(&parsed.processes)
        .map(|(file, source)| {
            let name = source
                .as_ref()
                .and_then(|source| source.node.get("process")?.as_text());
            name.map_or_else(|| guess(file, "process", "processes/"), str::to_owned)
        });
    Some(names.collect())
}

/// What a file that is not YAML would have declared: by its text if a line says so, else by its name.
fn guess(file: &File, key: &str, folder: &str) -> String {
    let declared = file.text.lines().find_map(|line| {
        let name = line.strip_prefix(key)?.strip_prefix(':')?.trim();
        let name = name.trim_matches(['"', '\'']);
        (!name.is_empty()).then(|| name.to_owned())
    });
    declared.unwrap_or_else(|| last(&stem(&file.path, folder, ".yaml")))
}
