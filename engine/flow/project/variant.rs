//! What is otherwise than on the disk: tables in the place of others, files that say something else. It checks nothing.

use super::{Folder, Parsed};
use crate::diagnostic::File;
use crate::flow::Variant;

/// Puts tables in the place of the project's.
pub(super) fn put_tables(folder: &mut Folder, variant: &Variant<'_>) {
    for (name, text) in &variant.tables {
        let path = format!("tables/{name}.csv");
        folder.tables.retain(|file| file.path != path);
        folder.tables.push(File::new(path, text.as_str()));
    }
}

impl Parsed {
    /// Changes what the files say.
    pub(super) fn change(&mut self, variant: &Variant<'_>) {
        let Some(edit) = variant.edit else { return };
        let lists = [
            &mut self.flows,
            &mut self.fragments,
            &mut self.mappings,
            &mut self.systems,
        ];
        for source in lists.into_iter().flatten().flatten() {
            edit(&source.file.path, &mut source.node);
        }
    }
}
