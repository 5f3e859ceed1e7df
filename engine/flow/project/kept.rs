//! Flows that were checked at an earlier look. One of them holds as long as all files that it depends on are the same.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::reach::Reach;
use super::{Checked, Source};
use crate::diagnostic::{File, Findings};
use crate::flow::folder::Folder;
use crate::flow::many::each;
use crate::flow::memory::same_files;

/// The checked flows without a mistake, by their paths. What is told of a mistake may depend on all names that there are.
#[derive(Default)]
pub(in crate::flow) struct Flows {
    /// Settings and processes: they hold for all flows.
    beside: Vec<Arc<File>>,
    /// Files that could not be read.
    unread: Vec<String>,
    kept: FxHashMap<String, Kept>,
}

/// A checked flow, and the files that it depends on; its own is the first one.
#[derive(Clone)]
struct Kept(Vec<Arc<File>>, Arc<Checked>);

impl Flows {
    /// Checks flows; those that are known are taken from memory.
    pub(super) fn check(
        &mut self,
        folder: &Folder,
        flows: &[&Source],
        reach: &Reach<'_>,
        check: impl Fn(&Source) -> Arc<Checked> + Sync,
    ) -> Vec<Arc<Checked>> {
        let beside = folder.settings.iter().chain(&folder.processes);
        let beside: Vec<_> = beside.cloned().collect();
        // Keys of clients that stand in files of their own may have changed.
        let outside = beside.iter().any(|file| file.text.contains("${file:"));
        if outside || !same_files(&self.beside, &beside) || self.unread != folder.unread {
            self.kept.clear();
            self.beside = beside;
            self.unread.clone_from(&folder.unread);
        }
        let kept = &self.kept;
        let one = |source: &&Source, _: &mut Findings| {
            let reached = reach.from(&source.node).files.into_iter().cloned();
            let files: Vec<_> = [source.file.clone()].into_iter().chain(reached).collect();
            let before = kept.get(&source.file.path);
            match before.filter(|kept| same_files(&kept.0, &files)) {
                Some(kept) => kept.clone(),
                None => Kept(files, check(source)),
            }
        };
        let all = each(flows, one, &mut Findings::new());
        // What depends on files outside the project (`${file:..}`) is checked every time.
        let holds = |Kept(files, checked): &&Kept| {
            let outside = files.iter().any(|file| file.text.contains("${file:"));
            !outside && !checked.findings.has_errors()
        };
        let paths = flows.iter().map(|source| source.file.path.clone());
        self.kept = paths
            .zip(&all)
            .filter(|(_, kept)| holds(kept))
            .map(|(path, kept)| (path, kept.clone()))
            .collect();
        all.into_iter().map(|Kept(_, checked)| checked).collect()
    }
}
