//! The language: files -> checked plans. It opens no socket and no file but the project's own.

pub mod against;
pub(crate) mod check;
pub mod codes;
pub mod editor;
pub mod explain;
pub mod file;
mod folder;
pub mod governance;
pub mod graph;
mod many;
mod memory;
pub mod notify;
pub mod openapi;
pub mod personal;
pub mod plan;
mod project;
pub mod reference;
mod revision;
pub mod settings;
pub(crate) mod shapes;
pub mod stamp;
mod substitute;
pub mod test;
mod told;
pub mod workspace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::Findings;
use crate::failure::Failure;
use crate::schema::Schemas;
use crate::source::clients::Clients;
use crate::world::World;
use crate::yaml::Node;
use plan::Project;

/// The folders of a project.
pub const TOPS: [&str; 6] = folder::Folder::TOPS;

/// What loading a project gives.
pub struct Loaded {
    /// The project, if nothing is wrong with it. Warnings do not keep it from running.
    pub project: Option<Project>,
    /// Everything that is wrong, and the warnings.
    pub findings: Findings,
    /// How many files were read.
    pub files: usize,
}

/// Loads the project in a folder: all its files, all findings at once. Variables come from the world's environment.
pub fn load(root: &Path, world: &World) -> Loaded {
    project::load(root, world, &Variant::default())
}

/// Loads the project that these files are, each with its path below the project's folder, as it ran before: types are not followed again. Of
/// the folder itself nothing is read but what `${file:..}` names. Variables come from the world's environment. With `clients` it is these that may
/// call its APIs, whatever the files say.
pub fn load_files(
    root: &Path,
    world: &World,
    files: BTreeMap<String, Vec<u8>>,
    clients: Option<Arc<Clients>>,
) -> Loaded {
    project::load_files(root, world, files, clients)
}

/// Loads the project in a folder again and again; what has not changed since is not worked out again.
pub struct Loader {
    root: PathBuf,
    world: World,
    memory: memory::Memory,
}

impl Loader {
    /// For the project in this folder.
    pub fn new(root: &Path, world: &World) -> Loader {
        Loader {
            root: root.to_owned(),
            world: world.clone(),
            memory: memory::Memory::default(),
        }
    }

    /// As `load`.
    pub fn load(&mut self) -> Loaded {
        project::load_again(&self.root, &self.world, &mut self.memory)
    }
}

/// Changes what a file says, by its path in the project.
pub type Edit<'a> = &'a (dyn Fn(&str, &mut Node) + Sync);

/// What is otherwise than on the disk while a project is loaded.
#[derive(Default)]
pub struct Variant<'a> {
    /// Where sources and sinks look for relative paths, instead of the project's folder.
    pub files: Option<PathBuf>,
    /// Cross-reference tables, by name, as CSV: instead of the project's, or beside them.
    pub tables: BTreeMap<String, String>,
    /// Changes what a YAML file says, by its path in the project.
    pub edit: Option<Edit<'a>>,
    /// The schemas, where they have been compiled before.
    pub schemas: Option<Schemas>,
    /// Who may call APIs, instead of those that the settings name.
    pub clients: Option<Arc<Clients>>,
    /// Types are not followed: what they say of this project is known.
    pub untyped: bool,
}

/// As `load`, with something otherwise than on the disk.
pub fn load_variant(root: &Path, world: &World, variant: &Variant<'_>) -> Loaded {
    project::load(root, world, variant)
}

/// The settings of the project in a folder, whatever is wrong with its flows.
pub fn settings_of(root: &Path, world: &World) -> Result<settings::Settings, Failure> {
    project::settings_of(root, world)
}
