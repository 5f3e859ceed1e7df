//! A folder for a moment: only this user may look into it, and it is gone with its value. In memory where the system has a place for that.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::failure::Failure;

use super::disk;

/// Where systems keep files in memory.
const MEMORY: &str = "/dev/shm";
/// How many names are tried before it is given up.
const TRIES_MAX: u64 = 1_000;

/// A folder that is removed with all that is in it when this goes.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes a folder of its own.
    pub fn new() -> Result<Scratch, Failure> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new(MEMORY);
        let base = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let mut tried = 0;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = base.join(format!("crossdock-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Scratch(path)),
                Err(error)
                    if error.kind() == std::io::ErrorKind::AlreadyExists && tried < TRIES_MAX =>
                {
                    tried += 1;
                }
                Err(error) => return Err(disk::failure("make", &path, &error)),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a folder for a moment could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_goes_with_its_value() {
        let (one, two) = (Scratch::new().unwrap(), Scratch::new().unwrap());
        assert_ne!(one.path(), two.path());
        let path = one.path().to_owned();
        std::fs::write(path.join("a"), "b").unwrap();
        drop(one);
        assert!(!path.exists() && two.path().is_dir());
    }
}
