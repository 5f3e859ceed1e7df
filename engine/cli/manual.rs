//! `crossdock completions` and `crossdock man`: made from the arguments themselves.

use clap::Args;

use super::{GOOD, Terminal, command, written};
use crate::failure::Failure;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock completions bash > /etc/bash_completion.d/crossdock
  crossdock completions zsh > ~/.zfunc/_crossdock")]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Completions {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        clap_complete::generate(self.shell, &mut command(), "crossdock", &mut terminal.out);
        Ok(GOOD)
    }
}

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock man > crossdock.1
  crossdock man check | man -l -")]
pub(super) struct Man {
    /// The page of this command; without it the program's own
    subcommand: Option<String>,
}

impl Man {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let whole = command();
        let page = match &self.subcommand {
            None => whole,
            Some(name) => whole
                .find_subcommand(name)
                .cloned()
                .ok_or_else(|| {
                    Failure::config(format!(
                        "there is no command `{name}`; `crossdock --help` lists them"
                    ))
                })?
                .name(leak(format!("crossdock-{name}"))),
        };
        written(clap_mangen::Man::new(page).render(&mut terminal.out))?;
        Ok(GOOD)
    }
}

/// clap wants names that live as long as the program; this one does, once.
fn leak(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}
