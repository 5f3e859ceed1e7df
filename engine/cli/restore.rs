//! `crossdock restore`: a backup takes the place of the store, and what may have been done since is in doubt.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::office::Actor;
use super::{GOOD, ProjectArguments, Terminal, absolute, backup, run, table, written};
use crate::failure::Failure;
use crate::store::postgres::restored;
use crate::store::reader::Place;
use crate::store::restore::{self, Restored, Wish};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock restore /backups/crossdock-2026-11-21.db
  crossdock restore /backups/moved.db --resume             the engine was stopped before that backup: nothing is in doubt
  crossdock restore --mark --as-of 2026-11-21T09:00:00Z    the store was put back in another way (a snapshot of the disk)
  crossdock restore --mark                                 the store is on PostgreSQL, and its server's tools have put it back

What a restore means:
  - messages accepted after the backup are not in it: have their senders send them again
  - what was in flight at the backup may have gone on since. An effect of it that the backup does not know to be done is not simply
    sent: it goes out where the target recognises a repeat, is asked for where there is a probe, and is an exception otherwise
  - files that grow are cut back to their length at the backup; what was behind that is kept beside the store
The old store is kept beside the new one. No engine may run meanwhile.
Exit codes: 0 restored, 1 not: the old store is in its place, or the message says where")]
pub(super) struct Restore {
    /// The backup
    #[arg(required_unless_present = "mark")]
    file: Option<PathBuf>,
    /// The store is in its place already: only mark what is in doubt
    #[arg(long, conflicts_with = "file")]
    mark: bool,
    /// As of when the copy is, where it does not say so itself; a store on PostgreSQL knows when its last message came
    #[arg(long, value_name = "TIME")]
    as_of: Option<jiff::Timestamp>,
    /// Nothing was done after the backup: go on where it stopped
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    project: ProjectArguments,
    #[command(flatten)]
    actor: Actor,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let world = self.project.world()?;
        let (place, store) = run::store_place(&self.project.project, &world)?;
        let root = absolute(&self.project.project);
        let who = self.actor.name(&world);
        let wish = Wish {
            store: &store,
            root: &root,
            as_of_ms: self.as_of.map(|at| at.as_millisecond()),
            resume: self.resume,
            who: &who,
            now_ms: world.clock.now_ms(),
        };
        let restored = match (&self.file, &place) {
            (Some(file), Place::File(_)) => {
                let mut said = backup::progress(&mut terminal.err);
                restore::restore(&absolute(file), &wish, &mut said)?
            }
            (None, Place::File(_)) if self.as_of.is_none() => {
                return Err(Failure::config(
                    "say as of when the store is: `crossdock restore --mark --as-of TIME`",
                ));
            }
            (None, Place::File(_)) => restore::mark_in_place(&wish)?,
            (None, Place::Server(server)) => {
                let life = i64::try_from(world.random.next() >> 1).unwrap_or(0);
                restored::mark(server, &wish, life)?
            }
            (Some(_), Place::Server(server)) => {
                return Err(Failure::config(format!(
                    "the store is {}: put it back with its server's tools, then run `crossdock restore --mark` (docs/operating/backup.md)",
                    server.shown()
                )));
            }
        };
        let shown = place.shown();
        if self.json {
            written(writeln!(terminal.out, "{}", as_json(&restored, &shown)))?;
        } else {
            self.say(terminal, &restored, &shown)?;
        }
        Ok(GOOD)
    }

    fn say(
        &self,
        terminal: &mut Terminal,
        restored: &Restored,
        store: &str,
    ) -> Result<(), Failure> {
        let inside = &restored.inside;
        let out = &mut terminal.out;
        let as_of = table::time(inside.as_of_ms);
        let mut line = |text: String| written(writeln!(out, "{text}"));
        line(format!(
            "{store} is as of {as_of} UTC: {}",
            backup::words(inside)
        ))?;
        if let Some(old) = &restored.old {
            line(format!("the old store is {}", old.display()))?;
        }
        for cut in &restored.cut {
            line(format!(
                "{} was cut back to {} bytes, its length at the backup; the rest is {}",
                cut.file.display(),
                cut.length,
                cut.rest.display()
            ))?;
        }
        if self.resume {
            return line(
                "nothing is in doubt, as you say: what was in flight goes on at the next start"
                    .to_owned(),
            );
        }
        line(format!(
            "messages accepted after {as_of} are not in it: have their senders send them again"
        ))?;
        line(format!(
            "{} messages in flight go on at the next start; what they may have sent already is recognised by its key, asked for, or becomes an exception (`crossdock exceptions --issues`)",
            inside.hops
        ))
    }
}

fn as_json(restored: &Restored, store: &str) -> serde_json::Value {
    let cut: Vec<_> = restored
        .cut
        .iter()
        .map(|cut| json!({ "file": cut.file, "length": cut.length, "rest": cut.rest }))
        .collect();
    let mut whole = backup::as_json(&restored.inside, store);
    whole["old"] = json!(restored.old);
    whole["cut"] = json!(cut);
    whole
}
