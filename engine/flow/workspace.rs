//! A project that is being written: the files of its folder, with the unsaved texts of an editor over them. Each look gives all findings, as
//! `check` would, and what the project declares. What has not changed since the last look is not worked out again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::{self, Source};
use super::folder::Folder;
use super::memory::Memory;
use super::project::{self, Looked};
use super::test;
use crate::component::Library;
use crate::diagnostic::{File, Findings, Place, Span};
use crate::world::World;
use crate::yaml::Node;

/// Texts that stand before those of the disk, by the path below the project's folder.
pub type Texts = BTreeMap<String, String>;

/// A project that is being written.
pub struct Workspace {
    root: PathBuf,
    world: World,
    memory: Memory,
}

/// What a project is at this moment.
pub struct View {
    /// Everything that is wrong, and the warnings.
    pub findings: Findings,
    looked: Looked,
}

/// What a name can stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Noun {
    /// A flow.
    Flow,
    /// A fragment.
    Fragment,
    /// A mapping.
    Mapping,
    /// A schema.
    Schema,
    /// A system.
    System,
    /// A cross-reference table.
    Table,
}

impl Noun {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Noun::Flow => "flow",
            Noun::Fragment => "fragment",
            Noun::Mapping => "mapping",
            Noun::Schema => "schema",
            Noun::System => "system",
            Noun::Table => "table",
        }
    }
}

impl Workspace {
    /// The project in this folder.
    pub fn new(root: &Path, world: World) -> Workspace {
        Workspace {
            root: root.to_owned(),
            world,
            memory: Memory::default(),
        }
    }

    /// Reads and checks the project, with these texts instead of those on the disk.
    pub fn look(&mut self, texts: &Texts) -> View {
        let mut findings = Findings::new();
        let folder = Folder::read(&self.root, texts, Some(&self.memory), &mut findings);
        self.memory.forget(&folder);
        let memory = Some(&mut self.memory);
        let looked = project::look(folder, &self.root, &self.world, memory, &mut findings);
        let mut findings = looked.told(findings, &self.world);
        let tested = looked.tested();
        let (_, wrong) = test::load_over(&self.root, tested.as_ref(), texts);
        findings.extend(wrong);
        View { findings, looked }
    }
}

impl View {
    /// Schemas, mappings, tables and systems, as far as they are sound.
    pub fn library(&self) -> &Library {
        &self.looked.known.library
    }

    /// The type of what stands at a byte of a flow or a mapping, in words, with its place: the smallest part of an expression, or the whole of it.
    /// Nothing where no type is known.
    pub fn type_at(&self, path: &str, at: usize, whole: bool) -> Option<(Span, String)> {
        let (known, parsed) = (&self.looked.known, &self.looked.parsed);
        if let Some(flow) = source_of(&parsed.flows, path) {
            return check::flow::type_at(known, flow, at);
        }
        let mapping = source_of(&parsed.mappings, path)?;
        let name = mapping.node.get("mapping").and_then(Node::as_text)?;
        let mapping = known.library.mappings.get(name)?;
        check::types::asked::in_mapping(known, mapping, at, whole)
    }

    /// The file at this path, if the project has it.
    pub fn file(&self, path: &str) -> Option<&Arc<File>> {
        self.looked.folder.all().find(|file| file.path == path)
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &Arc<File>> {
        self.looked.folder.all()
    }

    /// The tree of a YAML file, as far as it could be read.
    pub fn tree(&self, path: &str) -> Option<&Node> {
        let source = self.looked.parsed.all().find(|one| one.file.path == path)?;
        Some(&source.node)
    }

    /// All names of a kind, with the place that declares each.
    pub fn declared(&self, noun: Noun) -> Vec<(String, Place)> {
        let folder = &self.looked.folder;
        let parsed = &self.looked.parsed;
        match noun {
            Noun::Schema => by_path(&folder.schemas, "schemas/", ".json"),
            Noun::Table => by_path(&folder.tables, "tables/", ".csv"),
            Noun::Mapping => {
                let mut all = parsed.declared(&parsed.mappings, "mapping");
                all.extend(by_path(&folder.expressions, "mappings/", ".jmespath"));
                all
            }
            Noun::Flow => parsed.declared(&parsed.flows, "flow"),
            Noun::Fragment => parsed.declared(&parsed.fragments, "fragment"),
            Noun::System => parsed.declared(&parsed.systems, "system"),
        }
    }

    /// The place that declares a name.
    pub fn declaration(&self, noun: Noun, name: &str) -> Option<Place> {
        let found = self.declared(noun).into_iter().find(|(of, _)| of == name);
        found.map(|(_, place)| place)
    }
}

fn source_of<'a>(all: &'a [Option<Source>], path: &str) -> Option<&'a Source> {
    all.iter().flatten().find(|source| source.file.path == path)
}

fn by_path(files: &[Arc<File>], folder: &str, extension: &str) -> Vec<(String, Place)> {
    let named = files.iter().map(|file| {
        let place = Place {
            file: file.clone(),
            span: Span::default(),
        };
        (project::stem(&file.path, folder, extension), place)
    });
    named.collect()
}
