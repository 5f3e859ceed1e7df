//! A project's folder -> a checked project: every file read and parsed by itself, then held against the others. It decides the order only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::check::flow::{self, Checked};
use super::check::{Known, Source, across, settings, types};

use super::folder::{Folder, TEXT_BYTES_MAX};
use super::many::{each, each_kept};
use super::memory::Memory;
use super::plan::{Plan, Print, Project};
use super::revision;
use super::settings::Settings;
use super::substitute::{self, Values};
use super::test::Tested;
use super::workspace::Texts;
use super::{Loaded, Variant, codes, told};
use crate::diagnostic::{Diagnostic, File, Findings, Place, Severity, Span, closest};
use crate::failure::Failure;
use crate::source::clients::Clients;
use crate::world::{World, disk};
use crate::yaml::{self, Node};
use reach::Reach;

pub(super) mod govern;
pub(super) mod kept;
mod named;
mod reach;
mod variant;

/// Loads a project; see [`super::load`].
pub(super) fn load(root: &Path, world: &World, variant: &Variant<'_>) -> Loaded {
    let mut findings = Findings::new();
    let mut folder = Folder::read(root, &Texts::new(), None, &mut findings);
    variant::put_tables(&mut folder, variant);
    let mut parsed = Parsed::of(&folder, root, world, None, &mut findings);
    parsed.change(variant);
    if let Some(files) = &variant.files {
        folder.work = files.clone();
    }
    let looked = hold(folder, parsed, None, variant, &mut findings);
    looked.loaded(findings, world)
}

/// Loads a project of files; see [`super::load_files`].
pub(super) fn load_files(
    root: &Path,
    world: &World,
    files: BTreeMap<String, Vec<u8>>,
    clients: Option<Arc<Clients>>,
) -> Loaded {
    let mut findings = Findings::new();
    let mut folder = Folder::of(files, &mut findings);
    (folder.root, folder.work) = (root.to_owned(), root.to_owned());
    let parsed = Parsed::of(&folder, root, world, None, &mut findings);
    let variant = Variant {
        untyped: true,
        clients,
        ..Variant::default()
    };
    let looked = hold(folder, parsed, None, &variant, &mut findings);
    looked.loaded(findings, world)
}

/// Loads a project once more; see [`super::Loader`].
pub(super) fn load_again(root: &Path, world: &World, memory: &mut Memory) -> Loaded {
    let mut findings = Findings::new();
    let folder = Folder::read(root, &Texts::new(), Some(memory), &mut findings);
    memory.forget(&folder);
    look(folder, root, world, Some(memory), &mut findings).loaded(findings, world)
}

/// What a project is, whatever is wrong with it.
pub(super) struct Looked {
    pub(super) folder: Folder,
    pub(super) parsed: Parsed,
    pub(super) known: Known,
    settings: Settings,
    hashes: named::Hashes,
    checked: Vec<Arc<Checked>>,
}

impl Looked {
    /// The project, if nothing is wrong with it, and what is told of it.
    fn loaded(self, findings: Findings, world: &World) -> Loaded {
        let files = self.folder.len();
        let findings = self.told(findings, world);
        let project = (!findings.has_errors()).then(|| assemble(self));
        Loaded {
            project,
            findings,
            files,
        }
    }

    /// What is told of all that was found, and what the project's own rules say.
    pub(super) fn told(&self, findings: Findings, world: &World) -> Findings {
        let mut findings = told::once(findings);
        let project = (&self.settings, &self.known);
        govern::check(&self.folder, &self.parsed, project, world, &mut findings);
        self.known.judged.all(findings)
    }

    /// What tests are about; nothing while a flow cannot be loaded.
    pub(super) fn tested(&self) -> Option<Tested<'_>> {
        let plans = self.checked.iter().map(|flow| flow.plan.as_deref());
        let plans: Option<Vec<&Plan>> = plans.collect();
        Some(Tested {
            plans: plans?.into_iter().map(|plan| (&*plan.flow, plan)).collect(),
            library: &self.known.library,
        })
    }
}

/// Parses and checks the files of a folder. With a memory, only those that have changed.
pub(super) fn look(
    folder: Folder,
    root: &Path,
    world: &World,
    mut memory: Option<&mut Memory>,
    findings: &mut Findings,
) -> Looked {
    let parsed = Parsed::of(&folder, root, world, memory.as_deref_mut(), findings);
    hold(folder, parsed, memory, &Variant::default(), findings)
}

/// Holds the files of a project against each other.
fn hold(
    folder: Folder,
    parsed: Parsed,
    mut memory: Option<&mut Memory>,
    variant: &Variant<'_>,
    findings: &mut Findings,
) -> Looked {
    let (settings, known, hashes) =
        named::known(&folder, &parsed, memory.as_deref_mut(), variant, findings);
    let flows: Vec<&Source> = parsed.flows.iter().flatten().collect();
    let reach = Reach::of(&folder, &parsed, &known.library.schemas);
    let check = |source: &Source| {
        Arc::new(stamped(
            flow::check(&known, source),
            source,
            &reach,
            &hashes,
        ))
    };
    let checked = match memory {
        None => each(&flows, |source, _| check(source), findings),
        Some(memory) => memory.flows.check(&folder, &flows, &reach, check),
    };
    for flow in &checked {
        for finding in flow.findings.iter() {
            findings.push(finding.clone());
        }
    }
    let whole = folder.unread.is_empty() && parsed.flows.iter().all(Option::is_some);
    across::check(&checked, whole, findings);
    if known.typed {
        unused_mappings(&known, &checked, findings);
    }
    unused_fragments(&known, &checked, findings);
    file_names(&checked, findings);
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
    Looked {
        folder,
        parsed,
        known,
        settings,
        hashes,
        checked,
    }
}

/// The YAML files of a project, parsed, their variables put in. A file that is not YAML is `None`, with findings.
pub(super) struct Parsed {
    settings: Option<Source>,
    pub(super) flows: Vec<Option<Source>>,
    pub(super) fragments: Vec<Option<Source>>,
    pub(super) mappings: Vec<Option<Source>>,
    pub(super) systems: Vec<Option<Source>>,
    processes: Vec<Option<Source>>,
}

impl Parsed {
    fn of(
        folder: &Folder,
        root: &Path,
        world: &World,
        memory: Option<&mut Memory>,
        findings: &mut Findings,
    ) -> Parsed {
        let mut shelf = memory.map(|memory| &mut memory.parsed);
        let mut read = |files: &[Arc<File>], fragment: bool, findings: &mut Findings| {
            let one = |file: &Arc<File>, findings: &mut Findings| {
                parse(file, root, world, fragment, findings)
            };
            each_kept(files, |file| file, one, shelf.as_deref_mut(), findings)
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

impl Parsed {
    /// All files that could be read.
    pub(super) fn all(&self) -> impl Iterator<Item = &Source> {
        let lists = [
            &self.flows,
            &self.fragments,
            &self.mappings,
            &self.systems,
            &self.processes,
        ];
        let settings = self.settings.iter();
        settings.chain(lists.into_iter().flatten().flatten())
    }

    /// The names that files declare under a key, each with its place.
    pub(super) fn declared(&self, of: &[Option<Source>], key: &str) -> Vec<(String, Place)> {
        let named = of.iter().flatten().filter_map(|source| {
            let at = source.node.get(key)?;
            Some((at.as_text()?.to_owned(), at.place(&source.file)))
        });
        named.collect()
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
fn unused_fragments(known: &Known, checked: &[Arc<Checked>], findings: &mut Findings) {
    for (name, fragment) in &known.fragments {
        if !checked.iter().any(|flow| flow.fragments.contains(name)) {
            findings.extend(flow::check_fragment(known, name, fragment));
        }
    }
}

/// Checks the mappings that no flow uses where their types are known.
fn unused_mappings(known: &Known, checked: &[Arc<Checked>], findings: &mut Findings) {
    let used: BTreeSet<&String> = checked.iter().flat_map(|flow| &flow.mappings).collect();
    let unused: Vec<_> = known
        .library
        .mappings
        .iter()
        .filter(|(name, _)| !used.contains(name))
        .map(|(_, mapping)| mapping)
        .collect();
    each(
        &unused,
        |mapping, findings| types::mapping::unused(known, mapping, findings),
        findings,
    );
}

pub(super) fn stem(path: &str, folder: &str, extension: &str) -> String {
    let path = path.strip_prefix(folder).unwrap_or(path);
    path.strip_suffix(extension).unwrap_or(path).to_owned()
}

fn last(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// Warns of a flow whose file has the name of another flow, or almost its own: one of the two is a slip.
fn file_names(flows: &[Arc<Checked>], findings: &mut Findings) {
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

/// The project, with its revision.
fn assemble(looked: Looked) -> Project {
    let Looked {
        folder,
        settings,
        known,
        checked,
        hashes,
        ..
    } = looked;
    let mut all = hashes.all();
    let mut plans = BTreeMap::new();
    for checked in checked {
        let Some(plan) = &checked.plan else { continue };
        let hash = revision::of_bytes(plan.revision.as_bytes());
        all.insert(format!("flow {}", plan.flow), hash);
        plans.insert(plan.flow.clone(), plan.clone());
    }
    Project {
        revision: Arc::from(revision::of_parts(&all)),
        plans,
        library: Arc::new(known.library),
        settings,
        parts: hashes.prints(),
        files: folder.all().cloned().collect(),
    }
}

/// A checked flow, its plan with its revision and its prints.
fn stamped(
    mut checked: Checked,
    source: &Source,
    reach: &Reach<'_>,
    hashes: &named::Hashes,
) -> Checked {
    let secrets = std::mem::take(&mut checked.secrets);
    let Some(plan) = checked.plan.as_mut().and_then(Arc::get_mut) else {
        return checked;
    };
    let parts = |nodes: &[Option<&Node>], secrets: &[Span], whole: bool| {
        let mut parts = BTreeMap::new();
        parts.insert("defaults".to_owned(), hashes.defaults);
        for (nth, node) in nodes.iter().flatten().enumerate() {
            parts.insert(format!("at {nth}"), revision::of_tree(node, secrets));
            for (noun, name) in reach.from(node).things {
                let hash = match whole {
                    true => hashes.print_of(noun, &name),
                    false => hashes.of(noun, &name),
                };
                parts.extend(hash.map(|hash| (format!("{} {name}", noun.word()), hash)));
            }
        }
        parts
    };
    let (whole, node) = (Some(&source.node), &source.node);
    plan.revision = Arc::from(revision::of_parts(&parts(&[whole], &secrets, false)));
    // Some formats read by the schema of what arrives.
    let begins = [node.get("flow"), node.get("source"), node.get("accepts")];
    let mut all = [parts(&[whole], &[], true), parts(&begins, &[], true)];
    if plan.source_kind == "api" {
        // Who may call is no part of a revision: a key that is replaced or revoked counts for all at once.
        let apis = hashes.each_setting.get("apis").copied();
        for parts in &mut all {
            parts.extend(apis.map(|hash| ("apis".to_owned(), hash)));
        }
    }
    let [whole, begins] = all.map(|parts| Print(revision::hash_of(&parts)));
    (plan.prints.whole, plan.prints.source) = (whole, begins);
    checked
}
