//! `crossdock explain`: what a finding means, with an example of what is wrong and of what is right.

use std::io::Write;

use clap::Args;

use super::{GOOD, Terminal, USAGE, written};
use crate::failure::Failure;
use crate::flow::{explain, reference};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock explain null-for-required
  crossdock explain                   all codes")]
pub(super) struct Explain {
    /// The code, as `crossdock check` shows it in brackets
    code: Option<String>,
}

impl Explain {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let Some(code) = &self.code else {
            for code in reference::all_codes() {
                written(writeln!(terminal.out, "{:28} {}", code.name, code.meaning))?;
            }
            return Ok(GOOD);
        };
        match explain::text(code) {
            Ok(text) => {
                written(write!(terminal.out, "{text}"))?;
                Ok(GOOD)
            }
            Err(near) => {
                let help = match near.as_slice() {
                    [] => "`crossdock explain` lists all codes".to_owned(),
                    near => format!("did you mean {}?", near.join(", ")),
                };
                writeln!(terminal.err, "crossdock: there is no code `{code}`; {help}").ok();
                Ok(USAGE)
            }
        }
    }
}
