//! `crossdock backup`: a copy of the store, made while the engine runs, and read back.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{GOOD, ProjectArguments, Terminal, absolute, run, table, written};
use crate::failure::Failure;
use crate::store::backup::{self, Inside};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock backup /backups/crossdock-2026-11-21.db
  crossdock backup /backups/now.db --json

The copy is the store of one moment; the engine goes on meanwhile. It is synced, read back page by page, and its books
must balance, before it gets its name. A file that exists is not overwritten. Put it back with `crossdock restore`.
Exit codes: 0 the copy is sound, 1 there is none")]
pub(super) struct BackUp {
    /// The new file
    file: PathBuf,
    #[command(flatten)]
    project: ProjectArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl BackUp {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let world = self.project.world()?;
        let store = run::store_path(&self.project.project, &world)?;
        let file = absolute(&self.file);
        let inside = {
            let mut said = progress(&mut terminal.err);
            backup::backup(&store, &file, world.clock.now_ms(), &mut said)?
        };
        if self.json {
            written(writeln!(
                terminal.out,
                "{}",
                as_json(&inside, &file.display().to_string())
            ))?;
            return Ok(GOOD);
        }
        written(writeln!(
            terminal.out,
            "{} is a sound copy of {} as of {} UTC: {}",
            file.display(),
            store.display(),
            table::time(inside.as_of_ms),
            words(&inside),
        ))?;
        Ok(GOOD)
    }
}

/// Says how far a copy is: a line each tenth of it, for copies that take a while.
pub(super) fn progress(err: &mut Box<dyn Write + Send>) -> impl FnMut(u64, u64) {
    let mut said = 0;
    move |done, all| {
        let tenth = 10 * done / all.max(1);
        if tenth > said && all > LARGE_PAGES {
            said = tenth;
            writeln!(err, "crossdock: {}0 % of {all} pages", tenth).ok();
        }
    }
}

/// From how many pages on the progress of a copy is told.
const LARGE_PAGES: u64 = 20_000;

/// What is in a copy, in words.
pub(super) fn words(inside: &Inside) -> String {
    format!(
        "{} runs, {} messages in flight, {} exceptions, {} bytes, store version {}",
        inside.runs, inside.hops, inside.exceptions, inside.bytes, inside.version
    )
}

/// What is in a copy, for programs.
pub(super) fn as_json(inside: &Inside, file: &str) -> serde_json::Value {
    json!({
        "file": file,
        "as_of_ms": inside.as_of_ms,
        "bytes": inside.bytes,
        "store_version": inside.version,
        "runs": inside.runs,
        "in_flight": inside.hops,
        "exceptions": inside.exceptions,
    })
}
