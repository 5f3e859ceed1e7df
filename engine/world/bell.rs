//! A bell that rings when something changes in a folder. Where the system announces nothing (network folders), it does not ring: whoever
//! listens looks now and then anyway.

use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// It rings as long as this lives.
pub struct Bell(RecommendedWatcher);

/// How far a bell hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// What is in the folder.
    Folder,
    /// And in the folders in it.
    Below,
}

impl Bell {
    /// A bell for a folder; `None` where nothing is announced.
    pub fn hang(folder: &Path, reach: Reach, rings: Arc<Notify>) -> Option<Bell> {
        let watcher = notify::recommended_watcher(move |told: notify::Result<Event>| {
            // To look into the folder is announced too: it would be looked at for ever.
            if told.map_or(true, |told| changes(told.kind)) {
                rings.notify_one();
            }
        });
        let mut bell = match watcher {
            Ok(watcher) => Bell(watcher),
            Err(error) => {
                tracing::debug!(%error, "changes are not announced here");
                return None;
            }
        };
        bell.hear(folder, reach).then_some(bell)
    }

    /// Hears of another folder too. Gives whether it does.
    pub fn hear(&mut self, folder: &Path, reach: Reach) -> bool {
        let mode = match reach {
            Reach::Folder => RecursiveMode::NonRecursive,
            Reach::Below => RecursiveMode::Recursive,
        };
        match self.0.watch(folder, mode) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, folder = %folder.display(), "changes are not announced here");
                false
            }
        }
    }
}

/// Whether what was announced is more than that somebody reads.
fn changes(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
