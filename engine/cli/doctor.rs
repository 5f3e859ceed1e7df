//! `crossdock doctor`: is everything there that an engine of this project needs? One line a look, with what to do.

use std::io::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, absolute, run, wait_for, written};
use crate::failure::Failure;
use crate::flow;
use crate::run::doctor::{Case, Look, Word, examine};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock doctor
  crossdock doctor --env-file secrets.env --timeout 30
  crossdock doctor --format json | jq 'select(.word == \"FAIL\")'

Looks at the project, its variables, the store, its disk and its clock, the listener's address, the folders of sources, every system
(address, certificate, credentials, rights), and those who are told. It changes nothing; beside a running engine as well as before its start.
Exit codes: 0 nothing fails (there may be warnings), 1 something fails")]
pub(super) struct Doctor {
    #[command(flatten)]
    project: ProjectArguments,
    /// The form of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// How long one look may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: one line a look, and below it what to do
    Text,
    /// {word, name, found, help}, one a line
    Json,
}

impl Doctor {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let world = self.project.world()?;
        let root = absolute(&self.project.project);
        // What is wrong with the settings is told with the project.
        let places = flow::settings_of(&root, &world)
            .and_then(|settings| run::places(&root, settings))
            .ok();
        let case = Case {
            root,
            world,
            places,
            within: Duration::from_secs(self.timeout),
        };
        let looks = wait_for(async { Ok(examine(&case).await) })?;
        for look in &looks {
            written(match self.format {
                Format::Text => say(terminal, look),
                Format::Json => {
                    let line = json!({ "word": look.word.name(), "name": look.name, "found": look.found, "help": look.help });
                    writeln!(terminal.out, "{line}")
                }
            })?;
        }
        let fails = looks.iter().any(|look| look.word == Word::Fail);
        Ok(if fails { FINDINGS } else { GOOD })
    }
}

fn say(terminal: &mut Terminal, look: &Look) -> std::io::Result<()> {
    let color = match look.word {
        Word::Ok => "32",
        Word::Warn => "33",
        Word::Fail => "31",
    };
    let word = format!("{:<4}", look.word.name());
    let word = match terminal.color {
        true => format!("\x1b[{color}m{word}\x1b[0m"),
        false => word,
    };
    let help = look.help.as_deref();
    let help = help.map_or(String::new(), |help| format!("; {help}"));
    writeln!(terminal.out, "{word} {}: {}{help}", look.name, look.found)
}
