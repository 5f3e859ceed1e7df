//! The trace that the shim writes, read back. It knows the format and no meaning.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A file was opened; it may be new. With `true` it was emptied.
    Open(PathBuf, bool),
    /// These bytes of the trace were written at this place of the file.
    Write(u64, Range<usize>),
    /// A file, or a folder, was synced.
    Sync(PathBuf),
    /// A sync failed: nobody knows what of the earlier writes is on the disk, and a later sync says nothing about them.
    SyncFailed,
    /// A file was cut or stretched to this length.
    Truncate(u64),
    /// A name was removed.
    Unlink(PathBuf),
    /// A name was moved.
    Rename(PathBuf, PathBuf),
    /// A folder was made.
    Mkdir(PathBuf),
    /// A folder was removed.
    Rmdir(PathBuf),
    /// Somebody else put a whole file there, synced.
    Arrival(PathBuf, Vec<u8>),
}

/// One call that changed something, or made changes durable.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When the call began, in nanoseconds since 1970.
    pub began_ns: u64,
    /// When it returned.
    pub ended_ns: u64,
    /// The file's inode, for calls on an open file.
    pub inode: u64,
    /// What it did.
    pub what: What,
}

/// How long the head of an entry is.
const HEAD: usize = 1 + 4 * 8 + 2 * 4;

/// The entries of a trace, in the order in which their calls began, with the bytes that they refer to.
pub fn read(path: &Path) -> (Vec<Entry>, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap_or_default();
    let mut entries = Vec::new();
    let mut at = 0;
    while at + HEAD <= bytes.len() {
        let number = |nth: usize| {
            let from = at + 1 + 8 * nth;
            u64::from_le_bytes(bytes[from..from + 8].try_into().unwrap())
        };
        let length = |nth: usize| {
            let from = at + 1 + 32 + 4 * nth;
            u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap()) as usize
        };
        let (path_length, data_length) = (length(0), length(1));
        let data = at + HEAD + path_length..at + HEAD + path_length + data_length;
        let named = std::str::from_utf8(&bytes[at + HEAD..data.start]).unwrap();
        let one = || PathBuf::from(named);
        let (first, second) = named.split_once('\0').unwrap_or((named, ""));
        let what = match bytes[at] {
            1 => What::Open(one(), number(3) == 1),
            2 => What::Write(number(3), data.clone()),
            3 => What::Sync(one()),
            4 => What::Truncate(number(3)),
            5 => What::Unlink(one()),
            6 => What::Rename(PathBuf::from(first), PathBuf::from(second)),
            7 => What::Mkdir(one()),
            8 => What::Rmdir(one()),
            9 => What::SyncFailed,
            other => panic!("an entry of kind {other} at byte {at}"),
        };
        entries.push(Entry {
            began_ns: number(0),
            ended_ns: number(1),
            inode: number(2),
            what,
        });
        at = data.end;
    }
    entries.sort_by_key(|entry| entry.began_ns);
    (entries, bytes)
}
