//! Files and folders. Every write that must survive is synced, with its folder; every read has a limit. It knows no formats.
//!
//! All of it blocks: code that awaits calls it through `aside`. A failure names the path, the cause and, where there is one, the way out.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::failure::{Class, Failure};

/// How long a file that one writes first and all read may be.
const FIRST_BYTES_MAX: u64 = 4_096;
/// How often one looks whether a file that is appended to is free, and the pause in between: ten seconds in all.
const TURN_LOOKS: u32 = 2_000;
const TURN_PAUSE: Duration = Duration::from_millis(5);

/// Runs what blocks on a thread that may block.
pub async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| {
        Err(Failure::internal(
            "work on the disk was broken off by a defect",
        ))
    })
}

/// How many bytes are free for this user on the disk where a file or folder is.
pub fn free_bytes(path: &Path) -> Result<u64, Failure> {
    let disk = rustix::fs::statvfs(path)
        .map_err(|error| failure("ask for the free space of", path, &error.into()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The bytes of a file, which may have at most `bytes_max`.
pub fn read(path: &Path, bytes_max: u64) -> Result<Bytes, Failure> {
    let file = File::open(path).map_err(|error| failure("read", path, &error))?;
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| failure("read", path, &error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Failure::new(
            Class::TooLarge,
            format!(
                "{} has more than {bytes_max} bytes, the limit",
                path.display()
            ),
        ));
    }
    Ok(Bytes::from(bytes))
}

/// The text of a file, which may have at most `bytes_max` bytes. Anything but UTF-8 is a failure of class `parse` with its place.
pub fn read_text(path: &Path, bytes_max: u64) -> Result<String, Failure> {
    let bytes = read(path, bytes_max)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let sound = &bytes[..error.valid_up_to()];
            let line = 1 + sound.iter().filter(|byte| **byte == b'\n').count();
            Err(Failure::parse(format!(
                "{}:{line} is not UTF-8 text (byte {}); save it as UTF-8",
                path.display(),
                error.valid_up_to()
            )))
        }
    }
}

/// The files in a folder, sorted by path, at most `files_max`; with `deep` those in its folders too. Symbolic links to folders are not
/// followed, and temporary files of `write_atomic` are not listed.
pub fn list(folder: &Path, deep: bool, files_max: usize) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let cannot = |error: io::Error| failure("list", &folder, &error);
        for entry in fs::read_dir(&folder).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let kind = entry.file_type().map_err(cannot)?;
            if kind.is_dir() {
                if deep {
                    folders.push(entry.path());
                }
                continue;
            }
            if is_temporary(&entry.file_name()) || entry.path().is_dir() {
                continue;
            }
            if files.len() >= files_max {
                return Err(Failure::new(
                    Class::TooLarge,
                    format!(
                        "{} holds more than {files_max} files, the limit",
                        folder.display()
                    ),
                ));
            }
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Makes a folder and those above it, durably; no failure if it is there.
pub fn make_folder(path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        return Ok(());
    }
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
        .collect();
    fs::create_dir_all(path).map_err(|error| failure("make the folder", path, &error))?;
    missing.into_iter().rev().try_for_each(sync_folder_of)
}

/// Tries whether files can be made in a folder, or, where it is not there, whether it can be made. True if it is there.
pub fn try_folder(path: &Path) -> Result<bool, Failure> {
    let there = path
        .ancestors()
        .map(|folder| match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        })
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    let tried = temporary_beside(&there.join("try"));
    let made = File::create(&tried).and_then(|_| fs::remove_file(&tried));
    made.map_err(|error| failure("write in", there, &error))?;
    Ok(path.is_dir())
}

/// Writes a whole file: either the old or the new content is there, whatever happens, and the new one once this has returned.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = temporary_beside(path);
    let written = (|| {
        // A process with the same number may have left one behind.
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        fs::remove_file(&temporary).ok();
        return Err(failure("write", path, &error));
    }
    sync_folder_of(path)
}

/// Writes a file if there is none, and gives what is in it then: of several who do so at the same time one wins, and all get the same.
pub fn write_first(path: &Path, bytes: &[u8]) -> Result<Bytes, Failure> {
    if !path.exists() {
        make_folder(path.parent().unwrap_or(Path::new(".")))?;
        let temporary = temporary_beside(path);
        let written = (|| {
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            // A second name, unlike a new name, takes nothing away from the one who was first.
            fs::hard_link(&temporary, path)
        })();
        fs::remove_file(&temporary).ok();
        match written {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failure("write", path, &error));
            }
            _ => sync_folder_of(path)?,
        }
    }
    read(path, FIRST_BYTES_MAX)
}

/// Removes a file, durably; no failure if it is gone already.
pub fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder_of(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failure("remove", path, &error)),
    }
}

/// Cuts a file to this length; what was behind it is first written to `rest`, durably, in a folder that is made. False if there was
/// nothing behind it.
pub fn cut_aside(path: &Path, length: u64, rest: &Path) -> Result<bool, Failure> {
    let cannot = |error: io::Error| failure("cut back", path, &error);
    let mut file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(cannot(error)),
    };
    if file.metadata().map_err(cannot)?.len() <= length {
        return Ok(false);
    }
    make_folder(rest.parent().unwrap_or(Path::new(".")))?;
    let keep = |file: &mut File| {
        file.seek(SeekFrom::Start(length))?;
        let mut kept = File::options().create_new(true).write(true).open(rest)?;
        io::copy(file, &mut kept)?;
        kept.sync_all()
    };
    keep(&mut file).map_err(|error| failure("write", rest, &error))?;
    sync_folder_of(rest)?;
    file.set_len(length).map_err(cannot)?;
    file.sync_all().map_err(cannot)?;
    Ok(true)
}

/// A file that only grows. While it is open nobody else can open it so.
#[derive(Debug)]
pub struct Appending {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Appending {
    /// Opens the file, or makes it and its folder, on a thread that may block: engines that share a disk take turns. Fails with class
    /// `unavailable` if somebody else has it open for appending all the time.
    pub fn open(path: &Path) -> Result<Appending, Failure> {
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            make_folder(folder)?;
        }
        let cannot = |error: io::Error| failure("append to", path, &error);
        let new = !path.exists();
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(cannot)?;
        take_turn(&file, path, TURN_LOOKS)?;
        let length = file.metadata().map_err(cannot)?.len();
        if new {
            sync_folder_of(path)?;
        }
        Ok(Appending {
            file,
            path: path.to_owned(),
            length,
        })
    }

    /// How long the file is.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends and syncs. After a failure the file is as long as before, if the disk still lets itself be written at all.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = (|| {
            self.file.seek(SeekFrom::Start(self.length))?;
            self.file.write_all(bytes)?;
            self.file.sync_data()
        })();
        match written {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.truncate(self.length).ok();
                Err(failure("append to", &self.path, &error))
            }
        }
    }

    /// Cuts the file back to this length, if it is longer, and syncs.
    pub fn truncate(&mut self, length: u64) -> Result<(), Failure> {
        let cut = (|| {
            if self.file.metadata()?.len() > length {
                self.file.set_len(length)?;
                self.file.sync_all()?;
            }
            Ok(self.file.metadata()?.len())
        })();
        self.length = cut.map_err(|error| failure("truncate", &self.path, &error))?;
        Ok(())
    }
}

impl Drop for Appending {
    /// A process that is being started at this moment holds a copy of the file: closing ours alone would not unlock it.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!("{}", failure("unlock", &self.path, &error).message);
        }
    }
}

/// Locks a file that others may have locked for the time of a commit.
fn take_turn(file: &File, path: &Path, looks: u32) -> Result<(), Failure> {
    for _ in 0..looks {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(TURN_PAUSE),
            Err(TryLockError::Error(error)) => return Err(failure("append to", path, &error)),
        }
    }
    Err(Failure::new(
        Class::Unavailable,
        format!(
            "{} is being appended to by another program, and has been for {} s",
            path.display(),
            (TURN_PAUSE * looks).as_secs()
        ),
    ))
}

/// What went wrong on the disk, as a failure that names the path.
pub fn failure(verb: &str, path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Class::NotFound,
            format!("cannot {verb} {path}: it does not exist"),
        ),
        io::ErrorKind::PermissionDenied => Failure::new(
            Class::Forbidden,
            format!("cannot {verb} {path}: this user has no right to; check its owner and mode"),
        ),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::new(
            Class::Unavailable,
            format!("cannot {verb} {path}: the disk is full; free some space"),
        ),
        _ => Failure::new(Class::Unavailable, format!("cannot {verb} {path}: {error}")),
    }
}

const TEMPORARY: &str = ".crossdock-";

fn is_temporary(name: &std::ffi::OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with(TEMPORARY))
}

fn temporary_beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(format!("{TEMPORARY}{}-{count}-", std::process::id()));
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// Makes a name durable: a name in a folder is, once the folder is synced.
pub fn sync_folder_of(path: &Path) -> Result<(), Failure> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| failure("sync", folder, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_has_a_limit_and_says_where_text_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        write_atomic(&path, b"sku\nM\xFCller").unwrap();
        assert_eq!(read(&path, 10).unwrap().len(), 10);
        assert_eq!(read(&path, 9).unwrap_err().class, Class::TooLarge);
        let failure = read_text(&path, 100).unwrap_err();
        assert_eq!(failure.class, Class::Parse);
        assert!(failure.message.contains("a.csv:2"), "{}", failure.message);
        let missing = read(&folder.path().join("b"), 9).unwrap_err();
        assert_eq!(missing.class, Class::NotFound);
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/a.json");
        assert!(write_atomic(&path, b"1").is_err());
        make_folder(path.parent().unwrap()).unwrap();
        write_atomic(&path, b"1").unwrap();
        write_atomic(&path, b"22").unwrap();
        assert_eq!(read_text(&path, 9).unwrap(), "22");
        assert_eq!(list(folder.path(), false, 9).unwrap().len(), 0);
        assert_eq!(list(folder.path(), true, 9).unwrap(), [path]);
        assert!(list(folder.path(), true, 0).is_err());
    }

    #[test]
    fn those_who_append_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut first = Appending::open(&path).unwrap();
        let file = File::open(&path).unwrap();
        let refused = take_turn(&file, &path, 2).unwrap_err();
        assert_eq!(refused.class, Class::Unavailable);
        let (opens, opened) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                opens
                    .send(Appending::open(&path).unwrap().length())
                    .unwrap()
            });
            first.append(b"one\n").unwrap();
            assert!(opened.try_recv().is_err());
            drop(first);
            assert_eq!(opened.recv().unwrap(), 4);
        });
    }

    #[test]
    fn the_first_one_says_what_is_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/name");
        let all: Vec<Bytes> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u8)
                .map(|nth| {
                    let path = &path;
                    scope.spawn(move || write_first(path, &[b'a' + nth]).unwrap())
                })
                .collect();
            threads
                .into_iter()
                .map(|each| each.join().unwrap())
                .collect()
        });
        assert!(all.iter().all(|each| *each == all[0]), "{all:?}");
        assert_eq!(list(path.parent().unwrap(), false, 9).unwrap(), [path]);
    }

    #[test]
    fn a_growing_file_can_be_cut_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out/audit.jsonl");
        let mut file = Appending::open(&path).unwrap();
        file.append(b"one\n").unwrap();
        file.append(b"two\n").unwrap();
        assert_eq!(file.length(), 8);
        file.truncate(100).unwrap();
        file.truncate(4).unwrap();
        drop(file);
        let mut file = Appending::open(&path).unwrap();
        file.append(b"three\n").unwrap();
        assert_eq!(read_text(&path, 99).unwrap(), "one\nthree\n");
    }

    #[test]
    fn a_file_that_is_gone_already_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        write_atomic(&file, b"x").unwrap();
        remove(&file).unwrap();
        remove(&file).unwrap();
        assert!(!file.exists());
    }
}
