//! `crossdock lsp`: the language server, for editors.

use std::path::PathBuf;

use clap::Args;

use super::{FINDINGS, GOOD, Terminal, absolute};
use crate::failure::Failure;
use crate::lsp;
use crate::world::World;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock lsp                        the project is the folder that the editor has open
  crossdock lsp --project ./shop       the project is this one, whatever the editor says

Speaks the language server protocol over standard input and output; editors start it by themselves (docs/guide/editor.md).
Nothing is run and nothing is sent.")]
pub(super) struct Lsp {
    /// The project's folder; without it, the folder that the editor names
    #[arg(short, long, value_name = "DIR", env = "CROSSDOCK_PROJECT")]
    project: Option<PathBuf>,
    /// For editors that always say so: standard input and output are what is used
    #[arg(long)]
    stdio: bool,
}

impl Lsp {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let options = lsp::Options {
            root: self.project.as_deref().map(absolute),
            world: World::real(),
        };
        let shut_down = lsp::serve(std::io::stdin(), &mut *terminal.out, options)?;
        Ok(if shut_down { GOOD } else { FINDINGS })
    }
}
