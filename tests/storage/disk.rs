//! What a disk may hold when the power goes. Only what a sync covers that had returned is sure to be there; of the rest any part is, in
//! any order, and torn. Names count as data of their folder.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::dice::Dice;
use super::trace::{Entry, What};

/// How large the pieces are in which a disk writes.
const SECTOR: usize = 512;

/// A disk, told by its trace.
pub struct Disk {
    /// The folder that was watched.
    root: PathBuf,
    /// What was there at the beginning, all of it durable: path, inode, bytes (`None`: a folder).
    first: Vec<(PathBuf, u64, Option<Vec<u8>>)>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

/// How strictly names are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// A name is durable once its folder was synced: all that POSIX promises.
    ByFolder,
    /// A new file's name is durable with the file, too: what ext4, xfs and btrfs do.
    ByFile,
}

/// What a sync that is believed may be worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// It does what it says.
    Honest,
    /// Syncs of files whose path ends so do nothing: the disk lies. For tests of the tests.
    Void(&'static str),
}

/// A file or folder, whatever its names.
#[derive(Clone, Default)]
struct Thing {
    folder: bool,
    /// What is surely on the disk.
    sure: Vec<u8>,
    /// What may be.
    open: Vec<Change>,
}

#[derive(Clone)]
struct Change {
    ended_ns: u64,
    how: How,
}

#[derive(Clone)]
enum How {
    Write(u64, Range<usize>),
    Truncate(u64),
}

/// A change of names that no sync has covered yet.
struct Naming {
    ended_ns: u64,
    from: Option<PathBuf>,
    to: Option<PathBuf>,
    thing: usize,
}

/// The state of the disk while its trace is told.
struct Telling<'a> {
    disk: &'a Disk,
    things: Vec<Thing>,
    inodes: HashMap<u64, usize>,
    /// The names as programs see them.
    seen: BTreeMap<PathBuf, usize>,
    /// The names that are surely on the disk.
    sure: BTreeMap<PathBuf, usize>,
    open: Vec<Naming>,
    names: Names,
    syncs: Syncs,
}

impl Disk {
    /// A disk whose watched folder is as it is now; to be told once its trace is there.
    pub fn of(root: &Path) -> Disk {
        let mut first = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let inode = path.metadata().unwrap().ino();
                let content = path.is_file().then(|| std::fs::read(&path).unwrap());
                if content.is_none() {
                    folders.push(path.clone());
                }
                first.push((path, inode, content));
            }
        }
        Disk {
            root: root.to_owned(),
            first,
            entries: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Takes the trace, and what others did meanwhile.
    pub fn trace(&mut self, (mut entries, bytes): (Vec<Entry>, Vec<u8>), others: Vec<Entry>) {
        entries.extend(others);
        entries.sort_by_key(|entry| entry.began_ns);
        (self.entries, self.bytes) = (entries, bytes);
    }

    /// All that happened.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Writes to `to` what the disk may hold when the power goes at this time.
    pub fn cut(&self, at_ns: u64, names: Names, syncs: Syncs, dice: &mut Dice, to: &Path) {
        let mut telling = Telling {
            disk: self,
            things: Vec::new(),
            inodes: HashMap::new(),
            seen: BTreeMap::new(),
            sure: BTreeMap::new(),
            open: Vec::new(),
            names,
            syncs,
        };
        for (path, inode, content) in &self.first {
            let thing = telling.thing(*inode, content.is_none());
            telling.things[thing].sure = content.clone().unwrap_or_default();
            telling.seen.insert(path.clone(), thing);
            telling.sure.insert(path.clone(), thing);
        }
        for entry in self
            .entries
            .iter()
            .take_while(|entry| entry.began_ns <= at_ns)
        {
            telling.tell(entry, at_ns, dice);
        }
        telling.end(dice, to);
    }
}

impl Telling<'_> {
    fn thing(&mut self, inode: u64, folder: bool) -> usize {
        self.things.push(Thing {
            folder,
            ..Thing::default()
        });
        let thing = self.things.len() - 1;
        if inode != 0 {
            self.inodes.insert(inode, thing);
        }
        thing
    }

    fn tell(&mut self, entry: &Entry, cut_ns: u64, dice: &mut Dice) {
        let known = self.inodes.get(&entry.inode).copied();
        match &entry.what {
            What::Open(path, emptied) => self.opened(entry, path, *emptied, known),
            What::Write(at, data) => self.change(entry, known, How::Write(*at, data.clone())),
            What::Truncate(length) => self.change(entry, known, How::Truncate(*length)),
            What::Sync(path) if entry.ended_ns <= cut_ns => self.synced(entry, path, known),
            What::Sync(_) => {}
            What::SyncFailed => {
                let Some(thing) = known else { return };
                let open = std::mem::take(&mut self.things[thing].open);
                for change in open {
                    if dice.chance(0.3) {
                        apply(&mut self.things[thing].sure, &change.how, &self.disk.bytes);
                    }
                }
            }
            What::Unlink(path) | What::Rmdir(path) => {
                if let Some(thing) = self.seen.remove(path) {
                    self.naming(entry, Some(path), None, thing);
                }
            }
            What::Rename(from, to) => {
                if let Some(thing) = self.seen.remove(from) {
                    self.seen.insert(to.clone(), thing);
                    self.naming(entry, Some(from), Some(to), thing);
                }
            }
            What::Mkdir(path) => {
                let thing = self.thing(0, true);
                self.seen.insert(path.clone(), thing);
                self.naming(entry, None, Some(path), thing);
            }
            What::Arrival(path, content) => {
                let thing = self.thing(entry.inode, false);
                self.things[thing].sure = content.clone();
                self.seen.insert(path.clone(), thing);
                self.sure.insert(path.clone(), thing);
            }
        }
    }

    fn opened(&mut self, entry: &Entry, path: &Path, emptied: bool, known: Option<usize>) {
        let named = self.seen.get(path).copied();
        if named.is_none() || named != known {
            let thing = self.thing(entry.inode, false);
            self.seen.insert(path.to_owned(), thing);
            self.naming(entry, None, Some(path), thing);
        } else if emptied {
            self.change(entry, known, How::Truncate(0));
        }
    }

    fn change(&mut self, entry: &Entry, known: Option<usize>, how: How) {
        let thing = known.expect("a file was opened before it was changed");
        self.things[thing].open.push(Change {
            ended_ns: entry.ended_ns,
            how,
        });
    }

    fn naming(&mut self, entry: &Entry, from: Option<&Path>, to: Option<&Path>, thing: usize) {
        self.open.push(Naming {
            ended_ns: entry.ended_ns,
            from: from.map(Path::to_owned),
            to: to.map(Path::to_owned),
            thing,
        });
    }

    /// What ended before this sync began is durable.
    fn synced(&mut self, entry: &Entry, path: &Path, known: Option<usize>) {
        if let Syncs::Void(suffix) = self.syncs
            && path.to_string_lossy().ends_with(suffix)
        {
            return;
        }
        let folder = path == self.disk.root
            || self
                .seen
                .get(path)
                .is_some_and(|thing| self.things[*thing].folder);
        if folder {
            let inside = |name: &Option<PathBuf>| {
                name.as_ref()
                    .is_some_and(|name| name.parent() == Some(path))
            };
            self.names_kept(entry.began_ns, |naming| {
                inside(&naming.from) || inside(&naming.to)
            });
            return;
        }
        let Some(thing) = known else { return };
        let open = std::mem::take(&mut self.things[thing].open);
        for change in open {
            if change.ended_ns <= entry.began_ns {
                apply(&mut self.things[thing].sure, &change.how, &self.disk.bytes);
            } else {
                self.things[thing].open.push(change);
            }
        }
        if self.names == Names::ByFile {
            let above = path.to_owned();
            self.names_kept(entry.began_ns, |naming| {
                let made = naming.from.is_none();
                made && naming
                    .to
                    .as_ref()
                    .is_some_and(|name| above.starts_with(name))
            });
        }
    }

    fn names_kept(&mut self, before_ns: u64, covered: impl Fn(&Naming) -> bool) {
        let open = std::mem::take(&mut self.open);
        for naming in open {
            if naming.ended_ns <= before_ns && covered(&naming) {
                rename(&mut self.sure, &naming);
            } else {
                self.open.push(naming);
            }
        }
    }

    /// Chance decides about all that is open, then it is written.
    fn end(mut self, dice: &mut Dice, to: &Path) {
        let likely = *dice.one_of(&[0.0, 0.5, 1.0]);
        for naming in std::mem::take(&mut self.open) {
            if dice.chance(likely) {
                rename(&mut self.sure, &naming);
            }
        }
        let mut names: Vec<_> = self.sure.iter().collect();
        // Folders before what is in them; what has no folder is gone with it.
        names.sort();
        for (path, thing) in names {
            let place = to.join(path.strip_prefix(&self.disk.root).unwrap());
            if !place.parent().is_some_and(Path::is_dir) {
                continue;
            }
            let thing = &self.things[*thing];
            if thing.folder {
                std::fs::create_dir_all(&place).unwrap();
            } else if path.to_string_lossy().ends_with("-shm") {
                // Written through memory, never synced: rubbish, or nothing.
                if dice.chance(0.5) {
                    let rubbish: Vec<u8> = (0..32 << 10).map(|_| dice.below(256) as u8).collect();
                    std::fs::write(&place, rubbish).unwrap();
                }
            } else {
                std::fs::write(&place, thing.chanced(&self.disk.bytes, dice)).unwrap();
            }
        }
    }
}

impl Thing {
    /// The file with that part of its open changes which the disk happens to have.
    fn chanced(&self, bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
        let mut content = self.sure.clone();
        match dice.below(4) {
            0 => {}
            1 => {
                for change in &self.open {
                    apply(&mut content, &change.how, bytes);
                }
            }
            2 => {
                let many = dice.below(self.open.len() as u64 + 1) as usize;
                for (at, change) in self.open[..many].iter().enumerate() {
                    if at + 1 < many {
                        apply(&mut content, &change.how, bytes);
                    } else {
                        tear(&mut content, &change.how, bytes, dice);
                    }
                }
            }
            _ => {
                let mut some: Vec<&Change> =
                    self.open.iter().filter(|_| dice.chance(0.5)).collect();
                dice.shuffle(&mut some);
                for change in some {
                    if dice.chance(0.3) {
                        tear(&mut content, &change.how, bytes, dice);
                    } else {
                        apply(&mut content, &change.how, bytes);
                    }
                }
            }
        }
        content
    }
}

fn rename(names: &mut BTreeMap<PathBuf, usize>, naming: &Naming) {
    if let Some(from) = &naming.from
        && names.get(from) == Some(&naming.thing)
    {
        names.remove(from);
    }
    if let Some(to) = &naming.to {
        names.insert(to.clone(), naming.thing);
    }
}

fn apply(content: &mut Vec<u8>, how: &How, bytes: &[u8]) {
    match how {
        How::Truncate(length) => content.resize(*length as usize, 0),
        How::Write(at, data) => put(content, *at as usize, &bytes[data.clone()]),
    }
}

fn put(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    if content.len() < at + data.len() {
        content.resize(at + data.len(), 0);
    }
    content[at..at + data.len()].copy_from_slice(data);
}

/// A write of which only a part arrives: up to any byte, or some sectors of it.
fn tear(content: &mut Vec<u8>, how: &How, bytes: &[u8], dice: &mut Dice) {
    let How::Write(at, data) = how else {
        return apply(content, how, bytes);
    };
    let data = &bytes[data.clone()];
    if dice.chance(0.5) {
        let part = dice.below(data.len() as u64 + 1) as usize;
        return put(content, *at as usize, &data[..part]);
    }
    for (nth, sector) in data.chunks(SECTOR).enumerate() {
        if dice.chance(0.5) {
            put(content, *at as usize + nth * SECTOR, sector);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk on which `a` gets `one` and a sync, then `two`, and is renamed to `b`; times are 10, 20, 30, 40, 50.
    fn disk() -> (tempfile::TempDir, Disk) {
        let root = tempfile::tempdir().unwrap();
        let mut disk = Disk::of(root.path());
        let path = |name: &str| root.path().join(name);
        let whats = [
            What::Open(path("a"), false),
            What::Write(0, 0..3),
            What::Sync(path("a")),
            What::Write(3, 3..6),
            What::Rename(path("a"), path("b")),
            What::Sync(root.path().to_owned()),
        ];
        let entry = |(nth, what): (usize, What)| Entry {
            began_ns: 10 * (nth as u64 + 1),
            ended_ns: 10 * (nth as u64 + 1) + 5,
            inode: 7,
            what,
        };
        let entries = whats.into_iter().enumerate().map(entry).collect();
        disk.trace((entries, b"onetwo".to_vec()), Vec::new());
        (root, disk)
    }

    /// All that the disk may hold at a time, as `name=content`.
    fn possible(at_ns: u64, names: Names, syncs: Syncs) -> std::collections::BTreeSet<String> {
        let (_root, disk) = disk();
        let mut found = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let to = tempfile::tempdir().unwrap();
            disk.cut(at_ns, names, syncs, &mut Dice::of(seed), to.path());
            let mut files: Vec<_> = std::fs::read_dir(to.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| {
                    let text = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
                    format!("{}={text}", path.file_name().unwrap().to_str().unwrap())
                })
                .collect();
            files.sort();
            found.insert(files.join(" "));
        }
        found
    }

    #[test]
    fn only_what_is_synced_is_sure() {
        let sure = |found: &std::collections::BTreeSet<String>, part: &str| {
            found.iter().all(|files| files.contains(part))
        };
        let before = possible(25, Names::ByFile, Syncs::Honest);
        assert!(before.contains("") && before.contains("a=one") && before.contains("a=o"));
        // The sync has begun and not returned: nothing is sure yet.
        let during = possible(32, Names::ByFile, Syncs::Honest);
        assert!(during.contains(""), "{during:?}");
        let after = possible(45, Names::ByFile, Syncs::Honest);
        assert!(sure(&after, "a=one"), "{after:?}");
        assert!(after.contains("a=onetwo") && after.contains("a=onet") && after.contains("a=one"));
        // Without a sync of the folder the name is not sure where only POSIX counts.
        assert!(possible(45, Names::ByFolder, Syncs::Honest).contains(""));
        let renamed = possible(58, Names::ByFile, Syncs::Honest);
        assert!(renamed.iter().any(|files| files.starts_with("a=")));
        assert!(renamed.iter().any(|files| files.starts_with("b=")));
        let last = possible(70, Names::ByFolder, Syncs::Honest);
        assert!(sure(&last, "b=one") && !last.iter().any(|files| files.contains("a=")));
        let lying = possible(70, Names::ByFolder, Syncs::Void("a"));
        assert!(lying.contains("b="), "{lying:?}");
    }
}
