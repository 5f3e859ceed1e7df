//! Watches the project's files: what has changed and come to rest is loaded. A project that cannot be loaded is told of once, and what runs
//! runs on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::reload::{Reloaded, Will, Works, short};
use crate::diagnostic::{Findings, Severity};
use crate::failure::Failure;
use crate::flow::stamp::Stamp;
use crate::world::bell::{Bell, Reach};
use crate::world::disk;

/// How often the files are looked at where nothing is announced.
const LOOK: Duration = Duration::from_secs(2);
/// How long files must have been at rest: a checkout of many files is one change.
const REST: Duration = Duration::from_millis(200);
/// After so long they are loaded although they are not at rest.
const RESTLESS_MAX: u32 = 50;
/// How many of the findings that keep a project from being loaded are told in the log.
const TOLD_MAX: usize = 5;

impl Works {
    /// Loads the project whenever its files are not as they were when it was `known`, until the engine stops.
    pub(super) async fn watch_files(self: Arc<Self>, mut known: Stamp) {
        let stop = self.stop();
        let (rings, root) = (Arc::new(Notify::new()), self.root());
        let mut bell = hang(&root, &rings);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = rings.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            let Ok(mut now) = stamp(&root).await else {
                return;
            };
            if now == known {
                continue;
            }
            for _ in 0..RESTLESS_MAX {
                tokio::time::sleep(REST).await;
                let Ok(later) = stamp(&root).await else {
                    return;
                };
                if std::mem::replace(&mut now, later) == later {
                    break;
                }
            }
            let reloaded = self.reload(Will::of_files(&root)).await;
            tell(&reloaded, &self.revision());
            if reloaded.is_ok() {
                known = now;
            }
            // A folder that was renamed, or a link that leads elsewhere, is another one to listen at.
            bell = hang(&root, &rings).or(bell);
        }
    }
}

impl Will {
    /// Whoever has changed the files.
    pub(super) fn of_files(root: &Path) -> Will {
        Will {
            how: "reload",
            who: format!("files in {}", root.display()),
            why: None,
            by: None,
        }
    }
}

/// Says in the log what became of a reload that nobody waits for.
pub(super) fn tell(reloaded: &Result<Reloaded, Failure>, running: &str) {
    match reloaded {
        Ok(Reloaded::Switched(changes, _)) => tracing::info!(
            name: "reload.switched",
            "reloaded: revision {} runs: {}",
            short(&changes.after),
            changes.line()
        ),
        Ok(Reloaded::Same(_)) => {}
        Ok(Reloaded::Withdrawn(withdrawn)) => tracing::warn!(
            "revision {} was withdrawn by {}; {} runs on. `crossdock rollback --lift` lets it run again",
            short(&withdrawn.revision),
            withdrawn.who,
            short(running)
        ),
        Ok(Reloaded::Refused(findings)) => tracing::error!(
            name: "reload.refused",
            "the project's files have changed and cannot be loaded; revision {} runs on\n{}",
            short(running),
            first_errors(findings)
        ),
        Err(failure) => tracing::error!(
            "the project could not be reloaded; revision {} runs on: {failure}",
            short(running)
        ),
    }
}

/// The first errors, a line each.
fn first_errors(findings: &Findings) -> String {
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error);
    let (mut lines, mut more) = (Vec::new(), 0);
    for finding in errors {
        if lines.len() == TOLD_MAX {
            more += 1;
            continue;
        }
        let (line, column) = finding.place.line_column();
        let path = &finding.place.file.path;
        lines.push(format!("  {path}:{line}:{column}: {}", finding.message));
    }
    if more > 0 {
        lines.push(format!("  and {more} more; `crossdock check` shows all"));
    }
    lines.join("\n")
}

async fn stamp(root: &Path) -> Result<Stamp, Failure> {
    let root = root.to_owned();
    disk::aside(move || Ok(Stamp::of(&root))).await
}

/// A bell for the folder itself and for those of the project in it.
fn hang(root: &Path, rings: &Arc<Notify>) -> Option<Bell> {
    let mut bell = Bell::hang(root, Reach::Folder, rings.clone())?;
    for top in crate::flow::TOPS {
        let folder = root.join(top);
        if folder.is_dir() {
            bell.hear(&folder, Reach::Below);
        }
    }
    Some(bell)
}
