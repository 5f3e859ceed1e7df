//! The language: files -> checked plans. It opens no socket and no file but the project's own.

pub(crate) mod check;
pub mod codes;
pub mod editor;
pub mod file;
mod folder;
pub mod graph;
pub mod notify;
pub mod plan;
mod project;
pub mod reference;
mod revision;
pub mod settings;
pub(crate) mod shapes;
mod substitute;
mod told;

use std::path::Path;

use crate::diagnostic::Findings;
use crate::failure::Failure;
use crate::world::World;
use plan::Project;

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
    project::load(root, world)
}

/// The settings of the project in a folder, whatever is wrong with its flows.
pub fn settings_of(root: &Path, world: &World) -> Result<settings::Settings, Failure> {
    project::settings_of(root, world)
}
