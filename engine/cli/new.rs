//! `crossdock new`: a small project that runs, with a sample and the schemas for editors.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use include_dir::{Dir, include_dir};

use super::propose::NewFlow;
use super::{GOOD, Terminal, absolute, written};
use crate::failure::Failure;
use crate::flow::editor;
use crate::world::disk;

static TEMPLATE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/engine/cli/new");

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock new my-project
  cd my-project && crossdock check && crossdock run
  crossdock new flow wms-shipment --from wms/shipment.v1 --to canonical/shipment.v1    a flow with a mapping to begin with")]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(super) struct New {
    /// The folder; it is made, and must be empty if it exists (`./flow` for one that is called so)
    folder: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Add a flow to the project, with a mapping that is proposed from two schemas
    Flow(NewFlow),
}

impl New {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        if let Some(Part::Flow(flow)) = &self.part {
            return flow.run(terminal);
        }
        let Some(folder) = &self.folder else {
            return Err(Failure::config("name the folder of the new project"));
        };
        let root = absolute(folder);
        if disk::list(&root, false, 1000).is_ok_and(|found| !found.is_empty()) {
            return Err(Failure::config(format!(
                "{} is not empty; name a new folder",
                folder.display()
            )));
        }
        for file in files(&TEMPLATE) {
            write(&root.join(file.path()), file.contents())?;
        }
        for (name, text) in editor::all() {
            write(&root.join(editor::FOLDER).join(name), text.as_bytes())?;
        }
        written(writeln!(
            terminal.out,
            "{} is ready. Next:\n  cd {}\n  crossdock check\n  crossdock run &\n  cp samples/orders.jsonl inbox/\n  cat outbox/*.jsonl",
            folder.display(),
            folder.display(),
        ))?;
        Ok(GOOD)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    disk::make_folder(path.parent().unwrap_or(path))?;
    disk::write_atomic(path, bytes)
}

fn files<'a>(folder: &'a Dir<'a>) -> Vec<&'a include_dir::File<'a>> {
    let below = folder.dirs().flat_map(files);
    folder.files().chain(below).collect()
}
