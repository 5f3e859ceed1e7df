//! What was worked out of a project's files and still holds, for those who look at it again and again. It knows no meaning, only which file a
//! result was made of.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::check::{Source, mappings};
use super::folder::Folder;
use super::project::kept::Flows;
use crate::diagnostic::{Diagnostic, File, Findings};
use crate::schema::Schemas;

/// All that is kept from one look to the next.
#[derive(Default)]
pub(super) struct Memory {
    /// The files themselves: the same text is the same `Arc`.
    pub(super) files: Shelf<()>,
    /// What YAML made of them.
    pub(super) parsed: Shelf<Option<Source>>,
    /// The compiled schemas.
    pub(super) schemas: Kept<Schemas>,
    /// The mappings, as long as schemas and tables stay.
    pub(super) mappings: Shelf<mappings::Read>,
    /// The checked flows.
    pub(super) flows: Flows,
    /// What the mappings were held against.
    pub(super) beside: Vec<Arc<File>>,
}

impl Memory {
    /// Keeps the files of the folder, and nothing of those that are gone.
    pub(super) fn forget(&mut self, folder: &Folder) {
        self.files.clear();
        for file in folder.all() {
            self.files
                .0
                .insert(file.path.clone(), (file.clone(), (), Vec::new()));
        }
        let files = &self.files;
        self.parsed.retain(|path| files.0.contains_key(path));
        self.mappings.retain(|path| files.0.contains_key(path));
    }

    /// The mappings that were held against these schemas and tables.
    pub(super) fn mappings_beside(&mut self, folder: &Folder) -> &mut Shelf<mappings::Read> {
        let beside: Vec<Arc<File>> = folder
            .schemas
            .iter()
            .chain(&folder.tables)
            .cloned()
            .collect();
        if !same_files(&self.beside, &beside) {
            self.mappings.clear();
            self.beside = beside;
        }
        &mut self.mappings
    }
}

/// Results by the file that they were made of.
pub(super) struct Shelf<R>(FxHashMap<String, (Arc<File>, R, Vec<Diagnostic>)>);

impl<R> Default for Shelf<R> {
    fn default() -> Shelf<R> {
        Shelf(FxHashMap::default())
    }
}

impl<R: Clone> Shelf<R> {
    /// The result of this very file, its findings put to the others.
    pub(super) fn find(&self, file: &Arc<File>, findings: &mut Vec<Diagnostic>) -> Option<R> {
        let (of, result, found) = self.0.get(&file.path)?;
        if !Arc::ptr_eq(of, file) {
            return None;
        }
        findings.extend(found.iter().cloned());
        Some(result.clone())
    }

    /// The file of this path, if its text is still this one.
    pub(super) fn same(&self, path: &str, text: &str) -> Option<Arc<File>> {
        let (file, ..) = self.0.get(path)?;
        (file.text == text).then(|| file.clone())
    }

    /// Keeps a result. What depends on other files (`${file:..}`) is worked out every time.
    pub(super) fn keep(&mut self, file: &Arc<File>, result: &R, found: &[Diagnostic]) {
        if file.text.contains("${file:") {
            return;
        }
        self.0.insert(
            file.path.clone(),
            (file.clone(), result.clone(), found.to_vec()),
        );
    }

    /// Forgets files that are gone.
    pub(super) fn retain(&mut self, there: impl Fn(&str) -> bool) {
        self.0.retain(|path, _| there(path));
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// One result of many files.
pub(super) struct Kept<R>(Option<(Vec<Arc<File>>, R, Vec<Diagnostic>)>);

impl<R> Default for Kept<R> {
    fn default() -> Kept<R> {
        Kept(None)
    }
}

impl<R: Clone> Kept<R> {
    /// The result of these very files, or what `work` makes of them.
    pub(super) fn or(
        &mut self,
        files: &[Arc<File>],
        findings: &mut Findings,
        work: impl FnOnce(&mut Findings) -> R,
    ) -> R {
        if let Some((of, result, found)) = &self.0
            && same_files(of, files)
        {
            for finding in found {
                findings.push(finding.clone());
            }
            return result.clone();
        }
        let mut found = Findings::new();
        let result = work(&mut found);
        let list = found.iter().cloned().collect();
        self.0 = Some((files.to_vec(), result.clone(), list));
        findings.extend(found);
        result
    }
}

/// Whether both lists hold the same files with the same texts.
pub(super) fn same_files(a: &[Arc<File>], b: &[Arc<File>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}
