//! A project's folder -> a checked project: every file read and parsed by itself, then held against the others. It decides the order only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::check::flow::{self, Checked};
use super::check::fragments::{self, Fragment};
use super::check::names::Declared;
use super::check::{Known, Source, across, mappings, settings, systems, tables};
use super::folder::{Folder, TEXT_BYTES_MAX};
use super::plan::Project;
use super::revision::{self, Hash};
use super::settings::Settings;
use super::substitute::{self, Values};
use super::{Loaded, codes, told};
use crate::component::Library;
use crate::component::common::RetryRule;
use crate::diagnostic::{Diagnostic, File, Findings, Place, Severity, Span, closest};
use crate::expression::Tables;
use crate::failure::Failure;
use crate::schema::Schemas;
use crate::world::{World, disk};
use crate::yaml::{self, Node};

/// Fewer files than this are read by one thread.
const PARALLEL_MIN: usize = 8;

/// Loads a project; see [`super::load`].
pub(super) fn load(root: &Path, world: &World) -> Loaded {
    let mut findings = Findings::new();
    let folder = Folder::read(root, &mut findings);
    let parsed = Parsed::of(&folder, root, world, &mut findings);
    let (settings, known, hashes) = known(&folder, &parsed, &mut findings);
    let flows: Vec<&Source> = parsed.flows.iter().flatten().collect();
    let checked = each(
        &flows,
        |source, _| flow::check(&known, source),
        &mut findings,
    );
    for flow in &checked {
        for finding in flow.findings.iter() {
            findings.push(finding.clone());
        }
    }
    let whole = folder.unread.is_empty() && parsed.flows.iter().all(Option::is_some);
    across::check(&checked, whole, &mut findings);
    unused_fragments(&known, &checked, &mut findings);
    file_names(&checked, &mut findings);
    if folder.flows.is_empty() && folder.unread.is_empty() && !findings.has_errors() {
        let place = Place {
            file: File::new("flows", ""),
            span: Span::default(),
        };
        let message = "the folder holds no flow: there is no `flows/*.yaml`";
        findings.push(
            Diagnostic::error(codes::NO_FLOWS, place, message)
                .help("name the project's folder, or begin one with `crossdock new`"),
        );
    }
    let findings = told::once(findings);
    let project =
        (!findings.has_errors()).then(|| assemble(settings, known, checked, &flows, &hashes));
    Loaded {
        project,
        findings,
        files: folder.len(),
    }
}

/// The YAML files of a project, parsed, their variables put in. A file that is not YAML is `None`, with findings.
struct Parsed {
    settings: Option<Source>,
    flows: Vec<Option<Source>>,
    fragments: Vec<Option<Source>>,
    mappings: Vec<Option<Source>>,
    systems: Vec<Option<Source>>,
    processes: Vec<Option<Source>>,
}

impl Parsed {
    fn of(folder: &Folder, root: &Path, world: &World, findings: &mut Findings) -> Parsed {
        let read = |files: &[Arc<File>], fragment: bool, findings: &mut Findings| {
            let one = |file: &Arc<File>, findings: &mut Findings| {
                parse(file, root, world, fragment, findings)
            };
            each(files, one, findings)
        };
        Parsed {
            settings: folder
                .settings
                .as_ref()
                .filter(|file| !is_blank(&file.text))
                .and_then(|file| parse(file, root, world, false, findings))
                .filter(|source| source.lost.is_empty()),
            flows: read(&folder.flows, false, findings),
            fragments: whole(read(&folder.fragments, true, findings)),
            mappings: whole(read(&folder.mappings, false, findings)),
            systems: whole(read(&folder.systems, false, findings)),
            processes: whole(read(&folder.processes, false, findings)),
        }
    }
}

/// Whether a file holds nothing but comments: then all settings are the defaults.
fn is_blank(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}');
    text.lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

/// Only flows are checked past entries that could not be read.
fn whole(sources: Vec<Option<Source>>) -> Vec<Option<Source>> {
    let whole = |source: Option<Source>| source.filter(|source| source.lost.is_empty());
    sources.into_iter().map(whole).collect()
}

fn parse(
    file: &Arc<File>,
    root: &Path,
    world: &World,
    fragment: bool,
    findings: &mut Findings,
) -> Option<Source> {
    let read = yaml::read(file, findings);
    let mut node = read.node?;
    let values = Values {
        env: &*world.env,
        root,
        fragment,
    };
    let mut missing = substitute::variables(&mut node, file, &values, findings);
    missing.extend(read.dubious);
    Some(Source {
        file: file.clone(),
        node,
        missing,
        lost: read.unread,
    })
}

/// The settings alone, for commands that only look at the store: mistakes elsewhere do not matter to them.
pub(super) fn settings_of(root: &Path, world: &World) -> Result<Settings, Failure> {
    let path = root.join("crossdock.yaml");
    if !path.exists() {
        return Ok(Settings::default());
    }
    let text = disk::read_text(&path, TEXT_BYTES_MAX)?;
    let mut findings = Findings::new();
    let source = parse(
        &File::new("crossdock.yaml", text),
        root,
        world,
        false,
        &mut findings,
    );
    let settings = source
        .map(|source| settings::read(&source, &mut findings))
        .unwrap_or_default();
    match findings
        .iter()
        .find(|finding| finding.severity == Severity::Error)
    {
        Some(finding) => Err(Failure::config(format!(
            "crossdock.yaml: {}",
            finding.message
        ))),
        None => Ok(settings),
    }
}

/// Checks the fragments that no flow could show.
fn unused_fragments(known: &Known, checked: &[Checked], findings: &mut Findings) {
    for (name, fragment) in &known.fragments {
        if !checked.iter().any(|flow| flow.fragments.contains(name)) {
            findings.extend(flow::check_fragment(known, name, fragment));
        }
    }
}

/// What the parts of a flow's revision are: the hashes of all that a flow can refer to.
struct Hashes {
    settings: Hash,
    tables: BTreeMap<String, Hash>,
    mappings: BTreeMap<String, Hash>,
    schemas: BTreeMap<String, Hash>,
    systems: BTreeMap<String, Hash>,
    fragments: BTreeMap<String, (Hash, Node)>,
}

/// Reads everything that flows can name.
fn known(folder: &Folder, parsed: &Parsed, findings: &mut Findings) -> (Settings, Known, Hashes) {
    let mut hashes = Hashes {
        settings: Hash::default(),
        tables: BTreeMap::new(),
        mappings: BTreeMap::new(),
        schemas: BTreeMap::new(),
        systems: BTreeMap::new(),
        fragments: BTreeMap::new(),
    };
    let mut library = Library::default();
    let settings = match &parsed.settings {
        Some(source) => {
            hashes.settings = revision::of_tree(&source.node, &[]);
            settings::read(source, findings)
        }
        None => Settings::default(),
    };
    library.root = folder.root.clone();
    library.timeout = settings.defaults.timeout;
    let tables = read_tables(folder, &mut hashes, findings);
    let named: Vec<(String, Arc<File>)> = folder
        .schemas
        .iter()
        .map(|file| (stem(&file.path, "schemas/", ".json"), file.clone()))
        .collect();
    library.schemas = Schemas::load(&named, findings);
    for (name, file) in &named {
        hashes
            .schemas
            .insert(name.clone(), revision::of_bytes(file.text.as_bytes()));
    }
    read_mappings(folder, parsed, &tables, &mut library, &mut hashes, findings);
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
        retry: RetryRule::DEFAULT.with(settings.defaults.retry.as_ref()),
    };
    (settings, known, hashes)
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
    library: &mut Library,
    hashes: &mut Hashes,
    findings: &mut Findings,
) {
    let sources: Vec<&Source> = parsed.mappings.iter().flatten().collect();
    let schemas = &library.schemas;
    let read = each(
        &sources,
        |source, findings| mappings::read(source, schemas, tables, findings),
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
                .insert(guess(file, "mapping", "mappings/"));
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
            mapping,
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
                .insert(guess(file, "system", "systems/"));
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
        match (read.system, read.database) {
            (Some(system), _) => {
                library.systems.insert(name, Arc::new(system));
            }
            (_, Some(database)) => {
                library.databases.insert(name, Arc::new(database));
            }
            _ => {
                library.broken.systems.insert(name);
            }
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
            broken.insert(guess(file, "fragment", "flows/fragments/"));
            continue;
        };
        let (name, fragment) = fragments::read(source.clone(), findings);
        let Some((name, place)) = name else { continue };
        names.declare(&name, place, findings);
        let hash = revision::of_tree(&source.node, &[]);
        hashes
            .fragments
            .insert(name.clone(), (hash, source.node.clone()));
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

fn flow_names(folder: &Folder, parsed: &Parsed) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = folder
        .flows
        .iter()
        .zip(&parsed.flows)
        .map(|(file, source)| {
            let name = source
                .as_ref()
                .and_then(|source| source.node.get("flow")?.as_text());
            name.map_or_else(|| guess(file, "flow", "flows/"), str::to_owned)
        })
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

fn stem(path: &str, folder: &str, extension: &str) -> String {
    let path = path.strip_prefix(folder).unwrap_or(path);
    path.strip_suffix(extension).unwrap_or(path).to_owned()
}

fn last(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// Warns of a flow whose file has the name of another flow, or almost its own: one of the two is a slip.
fn file_names(flows: &[Checked], findings: &mut Findings) {
    let names: BTreeSet<&str> = flows
        .iter()
        .filter_map(|flow| Some(flow.name.as_ref()?.0.as_str()))
        .collect();
    for flow in flows {
        let Some((name, place)) = &flow.name else {
            continue;
        };
        let file = last(&stem(&place.file.path, "flows/", ".yaml"));
        if file == *name {
            continue;
        }
        let message = if names.contains(file.as_str()) {
            format!("the flow `{name}` stands in a file with the name of the flow `{file}`")
        } else if closest(&file, [name.as_str()]).is_some() {
            format!("the flow `{name}` stands in a file named `{file}`")
        } else {
            continue;
        };
        findings.push(
            Diagnostic::warning(codes::FILE_NAME, place.clone(), message).help(format!(
                "rename the file to `{name}.yaml`, or the flow to `{file}`"
            )),
        );
    }
}

/// The project, with the revisions of its flows.
fn assemble(
    settings: Settings,
    known: Known,
    checked: Vec<Checked>,
    sources: &[&Source],
    hashes: &Hashes,
) -> Project {
    let mut plans = BTreeMap::new();
    let mut all: BTreeMap<String, Hash> = BTreeMap::new();
    all.insert("settings".to_owned(), hashes.settings);
    for (checked, source) in checked.into_iter().zip(sources) {
        let Some(mut plan) = checked.plan else {
            continue;
        };
        let parts = parts_of(source, &checked.secrets, &known.library, hashes);
        plan.revision = Arc::from(revision::of_parts(&parts));
        all.insert(
            format!("flow {}", plan.flow),
            revision::of_bytes(plan.revision.as_bytes()),
        );
        plans.insert(plan.flow.clone(), Arc::new(plan));
    }
    Project {
        revision: Arc::from(revision::of_parts(&all)),
        plans,
        library: Arc::new(known.library),
        settings,
    }
}

/// All that a flow's behaviour depends on: itself, and what any of its texts names. A text that has a name by chance counts too: then the
/// revision changes once too often, never too seldom.
fn parts_of(
    source: &Source,
    secrets: &[Span],
    library: &Library,
    hashes: &Hashes,
) -> BTreeMap<String, Hash> {
    let mut parts = BTreeMap::new();
    parts.insert("flow".to_owned(), revision::of_tree(&source.node, secrets));
    // The settings' defaults hold in every flow.
    parts.insert("settings".to_owned(), hashes.settings);
    let mut open: Vec<String> = Vec::new();
    revision::texts(&source.node, &mut |text| open.push(text.to_owned()));
    let mut seen = BTreeSet::new();
    while let Some(text) = open.pop() {
        if !seen.insert(text.clone()) {
            continue;
        }
        if let Some(hash) = hashes.systems.get(&text) {
            parts.insert(format!("system {text}"), *hash);
        }
        if let Some((hash, node)) = hashes.fragments.get(&text) {
            parts.insert(format!("fragment {text}"), *hash);
            revision::texts(node, &mut |text| open.push(text.to_owned()));
        }
        if let (Some(hash), Some(mapping)) =
            (hashes.mappings.get(&text), library.mappings.get(&text))
        {
            parts.insert(format!("mapping {text}"), *hash);
            open.extend(mapping.to().map(|(name, _)| name.to_owned()));
            for used in mapping.tables() {
                table_part(&used.table, hashes, &mut parts);
            }
        }
        if let Some(hash) = hashes.schemas.get(&text) {
            parts.insert(format!("schema {text}"), *hash);
            if let Some(raw) = library.schemas.raw(&text) {
                open.extend(super::check::target::references(
                    &library.schemas,
                    &text,
                    raw,
                ));
            }
        }
        for word in text.split(|c: char| !(c.is_alphanumeric() || "_-./".contains(c))) {
            table_part(word, hashes, &mut parts);
        }
    }
    parts
}

fn table_part(name: &str, hashes: &Hashes, parts: &mut BTreeMap<String, Hash>) {
    if let Some(hash) = hashes.tables.get(name) {
        parts.insert(format!("table {name}"), *hash);
    }
}

/// Works on each of many items, on all processors; findings stay in the order of the items.
fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T, &mut Findings) -> R + Sync,
    findings: &mut Findings,
) -> Vec<R> {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(8);
    if threads == 1 || items.len() < PARALLEL_MIN {
        return items.iter().map(|item| work(item, findings)).collect();
    }
    let work = &work;
    let share = |items: &[T]| {
        let mut findings = Findings::new();
        let results: Vec<R> = items.iter().map(|item| work(item, &mut findings)).collect();
        (results, findings)
    };
    let parts = std::thread::scope(|scope| {
        let running: Vec<_> = items
            .chunks(items.len().div_ceil(threads))
            .map(|chunk| scope.spawn(move || share(chunk)))
            .collect();
        let joined = running.into_iter().map(|thread| match thread.join() {
            Ok(part) => part,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<Vec<_>>()
    });
    let mut all = Vec::with_capacity(items.len());
    for (results, found) in parts {
        all.extend(results);
        findings.extend(found);
    }
    all
}
