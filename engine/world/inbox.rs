//! A folder that files are taken from: list, claim by rename, read, put away. Every move is synced, with its folders. It knows no formats,
//! and what it does blocks: callers use `on_disk`.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::failure::{Class, Failure};

/// Where an inbox keeps its files. All paths are below `root` or absolute.
#[derive(Clone, Debug)]
pub struct Places {
    /// The project's folder.
    pub root: Arc<Path>,
    /// The folder that files arrive in.
    pub folder: String,
    /// Where files go that are done.
    pub archive: String,
    /// Where files go that cannot be read.
    pub quarantine: String,
    /// Whose inbox it is: claimed files of several owners are kept apart.
    pub owner: String,
}

/// A folder that files are taken from.
#[derive(Clone, Debug)]
pub struct Inbox {
    folder: PathBuf,
    claimed: PathBuf,
    archive: PathBuf,
    quarantine: PathBuf,
}

/// A file in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name, without the folder.
    pub name: String,
    /// Its length.
    pub size: u64,
    /// When it was last written, in milliseconds since 1970.
    pub modified_ms: i64,
}

/// What a folder holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Plain files, by name.
    pub files: Vec<Found>,
    /// Names that look right and are no plain files: links, folders, devices. Never followed.
    pub odd: Vec<String>,
}

/// The folder for claimed files, within the folder that files arrive in.
const CLAIMED: &str = ".claimed";

/// Runs what blocks on the disk apart from what must not block.
pub async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Failure::internal(format!(
            "work on the disk was lost: {error}"
        ))),
    }
}

/// Whether a path stays below the project's folder, or is absolute. Says nothing of links.
pub fn is_tame(path: &str) -> bool {
    let path = Path::new(path);
    path.components()
        .all(|part| !matches!(part, Component::ParentDir))
}

impl Inbox {
    /// Makes the folders that do not exist yet. A relative folder that leads out of the project, through a link, is refused.
    pub fn open(places: &Places) -> Result<Inbox, Failure> {
        let root = places
            .root
            .canonicalize()
            .map_err(|error| trouble("the project's folder", &places.root, &error))?;
        let folder = opened(&root, &places.folder)?;
        let owners = folder.join(CLAIMED).join(&places.owner);
        super::disk::make_folder(&owners)?;
        Ok(Inbox {
            claimed: owners,
            archive: opened(&root, &places.archive)?,
            quarantine: opened(&root, &places.quarantine)?,
            folder,
        })
    }

    /// The folder that files arrive in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files in the folder whose name is wanted, by name.
    pub fn list(&self, wanted: impl Fn(&str) -> bool) -> Result<Listing, Failure> {
        let cannot = |error: io::Error| trouble("the folder", &self.folder, &error);
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.folder).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !wanted(&name) {
                continue;
            }
            match found(&entry.path(), &name) {
                Ok(Some(file)) => listing.files.push(file),
                Ok(None) => listing.odd.push(name),
                // Gone between the listing and the look at it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(trouble("the file", &entry.path(), &error)),
            }
        }
        listing.files.sort_by(|a, b| a.name.cmp(&b.name));
        listing.odd.sort();
        Ok(listing)
    }

    /// A file in the folder, if it is a plain file.
    pub fn find(&self, name: &str) -> Result<Option<Found>, Failure> {
        look(&self.folder.join(name), name)
    }

    /// The claims whose files are here, each with the file's name.
    pub fn claims(&self) -> Result<Vec<(String, String)>, Failure> {
        let cannot = |error: io::Error| trouble("the folder", &self.claimed, &error);
        let mut claims = Vec::new();
        for entry in fs::read_dir(&self.claimed).map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name();
            if let Some((claim, name)) = name.to_str().and_then(|name| name.split_once('.')) {
                claims.push((claim.to_owned(), name.to_owned()));
            }
        }
        claims.sort();
        Ok(claims)
    }

    /// Takes a file out of the folder; false if it is gone.
    pub fn claim(&self, claim: &str, name: &str) -> Result<bool, Failure> {
        let (from, to) = (self.folder.join(name), self.claimed_path(claim, name));
        match fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(trouble("the file", &from, &error)),
        }
        sync_folder(&self.claimed)?;
        sync_folder(&self.folder)?;
        Ok(true)
    }

    /// A claimed file, if it is still there.
    pub fn find_claimed(&self, claim: &str, name: &str) -> Result<Option<Found>, Failure> {
        look(&self.claimed_path(claim, name), name)
    }

    /// Up to so many bytes of a claimed file; none at its end.
    pub fn read(
        &self,
        claim: &str,
        name: &str,
        offset: u64,
        most: usize,
    ) -> Result<Vec<u8>, Failure> {
        let path = self.claimed_path(claim, name);
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::with_capacity(most);
            file.take(most as u64).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|error| trouble("the file", &path, &error))
    }

    /// Puts a claimed file away as done. A file that is put away already is no mistake.
    pub fn archive(&self, claim: &str, name: &str) -> Result<(), Failure> {
        self.put_away(claim, name, &self.archive).map(|_| ())
    }

    /// Puts a claimed file away as not readable, with the reason beside it.
    pub fn quarantine(&self, claim: &str, name: &str, why: &str) -> Result<(), Failure> {
        let Some(path) = self.put_away(claim, name, &self.quarantine)? else {
            return Ok(());
        };
        let mut beside = path.into_os_string();
        beside.push(".error.txt");
        let beside = PathBuf::from(beside);
        let write = || -> io::Result<()> {
            let mut file = File::create(&beside)?;
            file.write_all(why.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        };
        write().map_err(|error| trouble("the file", &beside, &error))?;
        sync_folder(&self.quarantine)
    }

    /// Moves a claimed file under its own name, or with the claim in it if that is taken. `None` if there is nothing to move.
    fn put_away(&self, claim: &str, name: &str, folder: &Path) -> Result<Option<PathBuf>, Failure> {
        let from = self.claimed_path(claim, name);
        if self.find_claimed(claim, name)?.is_none() {
            return Ok(None);
        }
        let mut to = folder.join(name);
        if to.symlink_metadata().is_ok() {
            to = folder.join(match name.rsplit_once('.') {
                Some((stem, extension)) => format!("{stem}-{claim}.{extension}"),
                None => format!("{name}-{claim}"),
            });
        }
        match fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                carry(&from, &to).map_err(|error| trouble("the file", &to, &error))?;
            }
            Err(error) => return Err(trouble("the file", &from, &error)),
        }
        sync_folder(folder)?;
        sync_folder(&self.claimed)?;
        Ok(Some(to))
    }

    fn claimed_path(&self, claim: &str, name: &str) -> PathBuf {
        self.claimed.join(format!("{claim}.{name}"))
    }
}

/// The folder that a path names, made if need be. A relative one must be below the root, also after links are followed.
fn opened(root: &Path, path: &str) -> Result<PathBuf, Failure> {
    let folder = root.join(path);
    super::disk::make_folder(&folder)?;
    let real = folder
        .canonicalize()
        .map_err(|error| trouble("the folder", &folder, &error))?;
    if Path::new(path).is_relative() && !real.starts_with(root) {
        let message = format!(
            "the folder {path} leads out of the project, to {}; write the absolute path if that is meant",
            real.display()
        );
        return Err(Failure::config(message));
    }
    Ok(real)
}

fn look(path: &Path, name: &str) -> Result<Option<Found>, Failure> {
    match found(path, name) {
        Ok(found) => Ok(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(trouble("the file", path, &error)),
    }
}

/// The file at a path; `None` if it is a link, a folder or a device.
fn found(path: &Path, name: &str) -> io::Result<Option<Found>> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let modified = metadata
        .modified()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Some(Found {
        name: name.to_owned(),
        size: metadata.len(),
        modified_ms: i64::try_from(modified.as_millis()).unwrap_or(i64::MAX),
    }))
}

/// A move between file systems: never half a file under the final name.
fn carry(from: &Path, to: &Path) -> io::Result<()> {
    let mut half = to.as_os_str().to_owned();
    half.push(".part");
    let half = PathBuf::from(half);
    fs::copy(from, &half)?;
    File::open(&half)?.sync_all()?;
    fs::rename(&half, to)?;
    fs::remove_file(from)
}

fn sync_folder(folder: &Path) -> Result<(), Failure> {
    let sync = || File::open(folder)?.sync_all();
    sync().map_err(|error| trouble("the folder", folder, &error))
}

fn trouble(what: &str, path: &Path, error: &io::Error) -> Failure {
    let (class, wish) = match error.kind() {
        io::ErrorKind::NotFound => (Class::NotFound, "is it there?"),
        io::ErrorKind::PermissionDenied => {
            (Class::Forbidden, "may the engine's user read and write it?")
        }
        io::ErrorKind::StorageFull => (Class::Unavailable, "make room on the disk"),
        _ => (Class::Unavailable, "is the disk well?"),
    };
    Failure::new(class, format!("{what} {}: {error}; {wish}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox(root: &Path) -> Result<Inbox, Failure> {
        Inbox::open(&Places {
            root: Arc::from(root),
            folder: "inbox".to_owned(),
            archive: "inbox/done".to_owned(),
            quarantine: "inbox/failed".to_owned(),
            owner: "a-flow".to_owned(),
        })
    }

    #[test]
    fn a_file_is_claimed_read_and_put_away_under_a_name_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let inbox = inbox(root.path()).unwrap();
        for claim in ["c1", "c2"] {
            fs::write(root.path().join("inbox/a.csv"), "0123456789").unwrap();
            assert!(inbox.claim(claim, "a.csv").unwrap());
            assert!(!inbox.claim(claim, "a.csv").unwrap(), "gone");
            assert_eq!(
                inbox.claims().unwrap(),
                [(claim.to_owned(), "a.csv".to_owned())]
            );
            assert_eq!(inbox.read(claim, "a.csv", 4, 3).unwrap(), b"456");
            assert_eq!(inbox.read(claim, "a.csv", 10, 3).unwrap(), b"");
            inbox.archive(claim, "a.csv").unwrap();
            inbox.archive(claim, "a.csv").unwrap();
        }
        assert!(root.path().join("inbox/done/a.csv").exists());
        assert!(root.path().join("inbox/done/a-c2.csv").exists());
        fs::write(root.path().join("inbox/b"), "x").unwrap();
        assert!(inbox.claim("c3", "b").unwrap());
        inbox.quarantine("c3", "b", "why").unwrap();
        assert_eq!(
            fs::read(root.path().join("inbox/failed/b.error.txt")).unwrap(),
            b"why\n"
        );
        assert!(inbox.claims().unwrap().is_empty());
    }

    #[test]
    fn links_are_seen_and_never_followed() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let inbox = inbox(root.path()).unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        let link =
            |to: &Path, name: &str| std::os::unix::fs::symlink(to, root.path().join(name)).unwrap();
        link(&outside.path().join("secret"), "inbox/a.csv");
        fs::write(root.path().join("inbox/b.csv"), "1").unwrap();
        let listing = inbox.list(|name| name.ends_with(".csv")).unwrap();
        assert_eq!(listing.odd, ["a.csv"]);
        assert_eq!(listing.files.len(), 1);
        fs::remove_dir_all(root.path().join("inbox")).unwrap();
        link(outside.path(), "inbox");
        let failure = super::tests::inbox(root.path()).unwrap_err();
        assert!(
            failure.message.contains("leads out of the project"),
            "{failure}"
        );
    }

    #[test]
    fn paths_that_climb_are_told() {
        assert!(is_tame("inbox/a") && is_tame("/srv/inbox") && is_tame("a..b"));
        assert!(!is_tame("../a") && !is_tame("a/../../b"));
    }
}
