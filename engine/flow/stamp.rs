//! Whether the files of a project have changed, without reading them: their names, sizes, times and places on the disk.
#![allow(
    clippy::disallowed_methods,
    reason = "a plan is made from the project's files; here is looked whether it must be made anew"
)]

use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::folder::Folder;

/// How many files and folders are looked at, and how deep.
const MOST: (usize, usize) = (50_000, 16);

/// Stands for the files of a project as they are on the disk now. While it stays the same, so does the project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64);

impl Stamp {
    /// Of the project in this folder. What a link leads to is looked at, not the link.
    pub fn of(root: &Path) -> Stamp {
        let mut look = Look {
            hasher: DefaultHasher::new(),
            left: MOST.0,
        };
        look.file(&root.join("crossdock.yaml"));
        for top in Folder::TOPS {
            look.folder(&root.join(top), 0);
        }
        Stamp(look.hasher.finish())
    }
}

struct Look {
    hasher: DefaultHasher,
    left: usize,
}

impl Look {
    fn folder(&mut self, folder: &Path, depth: usize) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return false.hash(&mut self.hasher);
        };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            path.hash(&mut self.hasher);
            if self.file(&path) && depth < MOST.1 {
                self.folder(&path, depth + 1);
            }
        }
    }

    /// Notes a file; gives whether it is a folder.
    fn file(&mut self, path: &Path) -> bool {
        let Ok(metadata) = std::fs::metadata(path) else {
            false.hash(&mut self.hasher);
            return false;
        };
        let is_folder = metadata.is_dir();
        let of: fn(&Metadata) -> [i64; 4] = |of| {
            let wrap = |number: u64| number.cast_signed();
            [wrap(of.len()), of.mtime(), of.mtime_nsec(), wrap(of.ino())]
        };
        if !is_folder {
            of(&metadata).hash(&mut self.hasher);
        }
        is_folder
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn project() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("release");
        std::fs::create_dir_all(root.join("flows")).unwrap();
        std::fs::write(root.join("flows/orders.yaml"), "flow: orders\n").unwrap();
        (folder, root)
    }

    #[test]
    fn what_is_no_file_of_the_project_changes_nothing() {
        let (_folder, root) = project();
        let before = Stamp::of(&root);
        std::fs::write(root.join("orders.csv"), "1\n").unwrap();
        std::fs::create_dir(root.join("inbox")).unwrap();
        assert_eq!(Stamp::of(&root), before);
    }

    #[test]
    fn new_text_another_file_in_its_place_and_another_folder_behind_the_link_are_seen() {
        let (folder, root) = project();
        let before = Stamp::of(&root);
        std::fs::write(root.join("flows/orders.yaml"), "flow: orders2\n").unwrap();
        let written = Stamp::of(&root);
        assert_ne!(written, before);
        // As editors save.
        std::fs::write(root.join("new"), "flow: orders3\n").unwrap();
        std::fs::rename(root.join("new"), root.join("flows/orders.yaml")).unwrap();
        let saved = Stamp::of(&root);
        assert_ne!(saved, written);
        std::fs::write(root.join("crossdock.yaml"), "limits: {}\n").unwrap();
        assert_ne!(Stamp::of(&root), saved);
        // As a mounted ConfigMap is changed.
        let link = folder.path().join("current");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        let before = Stamp::of(&link);
        let next = folder.path().join("next");
        std::fs::create_dir_all(next.join("flows")).unwrap();
        std::fs::write(next.join("flows/orders.yaml"), "flow: orders4\n").unwrap();
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&next, &link).unwrap();
        assert_ne!(Stamp::of(&link), before);
    }
}
