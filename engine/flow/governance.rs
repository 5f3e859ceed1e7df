//! Who owns what, and who depends on whom: a register of a project's flows, mappings, schemas, systems and tables, read from the files as
//! they are. A project with mistakes has one too; whether it could run is found by `check`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::folder::Folder;
use super::settings::Settings;
use crate::component::lifecycle::Deprecation;
use crate::diagnostic::{File, Findings, Place};
use crate::schema::Schemas;
use crate::world::World;

pub(crate) mod collect;
pub mod picture;
pub(crate) mod reads;

/// What kind of thing a project declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A flow.
    Flow,
    /// A fragment of flows.
    Fragment,
    /// A mapping.
    Mapping,
    /// A schema.
    Schema,
    /// An outside system.
    System,
    /// A cross-reference table.
    Table,
}

impl Kind {
    /// All kinds, in the order in which they are listed.
    pub const ALL: [Kind; 6] = [
        Kind::Flow,
        Kind::Fragment,
        Kind::Mapping,
        Kind::Schema,
        Kind::System,
        Kind::Table,
    ];

    /// The word on the screen and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Flow => "flow",
            Kind::Fragment => "fragment",
            Kind::Mapping => "mapping",
            Kind::Schema => "schema",
            Kind::System => "system",
            Kind::Table => "table",
        }
    }
}

/// Something that a project declares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thing {
    /// What kind it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl Thing {
    /// The thing of this kind and name.
    pub fn new(kind: Kind, name: impl Into<String>) -> Thing {
        Thing {
            kind,
            name: name.into(),
        }
    }
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

/// That one thing names another.
#[derive(Clone, Debug)]
pub struct Use {
    /// What is named.
    pub thing: Thing,
    /// By which word: `accepts`, `validate`, `map`, `from`, `to`, `system` ..
    pub by: String,
    /// Where.
    pub place: Place,
}

/// One thing, with all that its file says about who answers for it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is.
    pub thing: Thing,
    /// Where it is declared.
    pub place: Place,
    /// What it is for.
    pub description: Option<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// How much it matters.
    pub criticality: Option<String>,
    /// The version that its file gives; of a schema that of its name.
    pub version: Option<String>,
    /// Whether it is to be given up.
    pub deprecated: Option<Deprecation>,
    /// The system that a flow's messages come from, if the flow says so or its source names one.
    pub origin: Option<String>,
    /// The kind of a flow's source.
    pub source: Option<String>,
    /// Where a flow listens, such as `webhook /hooks/orders`.
    pub listens: Option<String>,
    /// Whether a flow has a sink that sends the body to the outside as it is.
    pub sends_whole: bool,
    /// What it names.
    pub uses: Vec<Use>,
}

/// All that a project declares.
#[derive(Clone, Debug, Default)]
pub struct Register {
    /// By kind and name.
    pub entries: BTreeMap<Thing, Entry>,
}

impl Register {
    /// What is declared under this kind and name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Entry> {
        self.entries.get(&Thing::new(kind, name))
    }

    /// All of a kind, by name.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.entries
            .values()
            .filter(move |entry| entry.thing.kind == kind)
    }

    /// Who names a thing, each with the place.
    pub fn users<'r>(&'r self, thing: &Thing) -> Vec<(&'r Entry, &'r Use)> {
        let all = self.entries.values();
        all.flat_map(|entry| entry.uses.iter().map(move |used| (entry, used)))
            .filter(|(_, used)| used.thing == *thing)
            .collect()
    }

    /// The flows that depend on a thing, directly or by what they use; not those that only hand messages to such a flow.
    pub fn flows_of(&self, thing: &Thing) -> BTreeSet<&str> {
        let mut flows = BTreeSet::new();
        let mut seen: BTreeSet<&Thing> = BTreeSet::new();
        let mut open: Vec<&Thing> = self
            .entries
            .get_key_value(thing)
            .map(|(thing, _)| thing)
            .into_iter()
            .collect();
        while let Some(thing) = open.pop() {
            if !seen.insert(thing) {
                continue;
            }
            for (entry, _) in self.users(thing) {
                if entry.thing.kind == Kind::Flow {
                    flows.insert(entry.thing.name.as_str());
                } else {
                    open.push(&entry.thing);
                }
            }
        }
        flows
    }

    /// Who answers for a thing, or for the flows that depend on it.
    pub fn owners_of(&self, thing: &Thing) -> BTreeSet<&str> {
        let own = self
            .entries
            .get(thing)
            .and_then(|entry| entry.owner.as_deref());
        let flows = self.flows_of(thing);
        let flows = flows
            .iter()
            .filter_map(|flow| self.get(Kind::Flow, flow)?.owner.as_deref());
        own.into_iter().chain(flows).collect()
    }

    /// The systems that a flow's messages come from; those of the flows that hand over to it, if it takes its messages from flows.
    pub fn origins_of(&self, flow: &str) -> BTreeSet<&str> {
        let mut origins = BTreeSet::new();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut open: Vec<&str> = vec![flow];
        while let Some(name) = open.pop() {
            let Some(entry) = self.get(Kind::Flow, name) else {
                continue;
            };
            if !seen.insert(&entry.thing.name) {
                continue;
            }
            if let Some(origin) = &entry.origin {
                origins.insert(origin.as_str());
                continue;
            }
            let users = self.users(&entry.thing);
            open.extend(
                users
                    .iter()
                    .filter(|(user, _)| user.thing.kind == Kind::Flow)
                    .map(|(user, _)| user.thing.name.as_str()),
            );
        }
        origins
    }
}

/// A project's files as far as they tell who depends on whom, and its schemas.
pub struct Survey {
    /// Who owns what, and who depends on whom.
    pub register: Register,
    /// The schemas.
    pub schemas: Schemas,
    /// The files of the schemas, by name.
    pub files: BTreeMap<String, Arc<File>>,
    /// The mappings' files, by name.
    pub(crate) mappings: BTreeMap<String, super::check::Source>,
    /// What `crossdock.yaml` says.
    pub settings: Settings,
    /// The day, such as `2026-11-21`.
    pub today: String,
    /// What is wrong with the files themselves.
    pub findings: Findings,
}

/// Reads the files of a project. Nothing needs to be right but the YAML; environment variables need not be there.
pub fn survey(root: &Path, world: &World) -> Survey {
    let mut findings = Findings::new();
    let folder = Folder::read(root, &Default::default(), None, &mut findings);
    super::project::govern::survey(&folder, findings, world)
}

/// As `survey`, of files that are held in memory: each with its path below the project's folder.
pub fn survey_of(files: BTreeMap<String, Vec<u8>>, world: &World) -> Survey {
    let mut findings = Findings::new();
    let folder = Folder::of(files, &mut findings);
    super::project::govern::survey(&folder, findings, world)
}

/// Whether a path below a project's folder may be one of its files.
pub fn is_of_project(path: &str) -> bool {
    let top = path.split_once('/').map(|(top, _)| top);
    path == "crossdock.yaml" || top.is_some_and(|top| Folder::TOPS.contains(&top))
}

/// A schema's name without its version, and the version: `canonical/order.v2` is version 2 of `canonical/order`.
pub fn version_of(name: &str) -> Option<(&str, u32)> {
    let (stem, version) = name.rsplit_once(".v")?;
    Some((stem, version.parse().ok()?))
}
