//! `crossdock schema`: the JSON Schemas of project files, for editors and CI.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{GOOD, Terminal, written};
use crate::diagnostic::closest;
use crate::failure::Failure;
use crate::flow::editor;
use crate::world::disk;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock schema flow > flow.schema.json
  crossdock schema --write schemas/crossdock

In VS Code, with the YAML extension, the first line of a flow names its schema:
  # yaml-language-server: $schema=../schemas/crossdock/flow.schema.json")]
pub(super) struct Schema {
    /// Only this kind of file: flow, mapping, system, project, fragment
    kind: Option<String>,
    /// Write all of them into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "kind")]
    write: Option<PathBuf>,
}

impl Schema {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let all = editor::all();
        if let Some(folder) = &self.write {
            disk::make_folder(folder)?;
            for (name, text) in &all {
                let path = folder.join(name);
                disk::write_atomic(&path, text.as_bytes())?;
                written(writeln!(terminal.out, "{}", path.display()))?;
            }
            return Ok(GOOD);
        }
        let Some(kind) = &self.kind else {
            let names = all
                .iter()
                .map(|(name, _)| kind_of(name))
                .collect::<Vec<_>>()
                .join(", ");
            return Err(Failure::config(format!(
                "name the kind of file: {names}; or write all with --write DIR"
            )));
        };
        let Some((_, text)) = all.iter().find(|(name, _)| kind_of(name) == kind) else {
            let kinds: Vec<_> = all.iter().map(|(name, _)| kind_of(name)).collect();
            let help = closest(kind, kinds.iter().copied())
                .map_or(format!("known: {}", kinds.join(", ")), |near| {
                    format!("did you mean `{near}`?")
                });
            return Err(Failure::config(format!(
                "there is no schema for `{kind}`; {help}"
            )));
        };
        written(terminal.out.write_all(text.as_bytes()))?;
        Ok(GOOD)
    }
}

/// The kind of file that a schema's file is for.
fn kind_of(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}
