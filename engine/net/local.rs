//! A socket of this machine, for one user: listening beside a file, and connecting to it. It knows no HTTP.
//!
//! The system limits a socket's path (108 bytes on Linux, 104 elsewhere). Where the place beside the file is too deep, the socket stands in
//! the temporary folder under a name that is derived from the file; who listens there is checked before anything is said.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio::net::{UnixListener, UnixStream};

use crate::failure::{Class, Failure};
use crate::world::disk;

/// The longest path that every system takes, with the number of a process for its end.
const PATH_BYTES_MAX: usize = 100;

/// A socket that only this user can connect to. It is removed when this goes.
pub struct LocalListener {
    socket: UnixListener,
    path: PathBuf,
    user: u32,
    inode: u64,
}

/// Where the socket of the store in this file stands.
pub fn path_of(file: &Path) -> PathBuf {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let stem = file.file_stem().unwrap_or_default();
    let name = if stem == "store" {
        "engine.sock".to_owned()
    } else {
        format!("{}.sock", stem.to_string_lossy())
    };
    let beside = file.with_file_name(name);
    if beside.as_os_str().len() <= PATH_BYTES_MAX {
        return beside;
    }
    let digest = Sha256::digest(file.as_os_str().as_encoded_bytes());
    let short: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    std::env::temp_dir().join(format!("crossdock-{short}.sock"))
}

impl LocalListener {
    /// Listens for the store in this file. A socket that is there already is a dead engine's, or that of an engine which shares the store:
    /// the newest one has the place. It is made beside it and moved there, so that engines that start together do not meet.
    #[allow(
        clippy::disallowed_methods,
        reason = "a socket says nothing after a power cut: its move need not be durable"
    )]
    pub fn bind(file: &Path) -> Result<LocalListener, Failure> {
        let path = path_of(file);
        let refused = |error: std::io::Error| {
            Failure::new(
                Class::Config,
                format!(
                    "the engine's socket {} cannot be made: {error}; check the folder's rights",
                    path.display()
                ),
            )
        };
        let made = path.with_extension(std::process::id().to_string());
        disk::remove(&made)?;
        let socket = UnixListener::bind(&made).map_err(refused)?;
        let only_owner = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&made, only_owner).map_err(refused)?;
        let there = std::fs::metadata(&made).map_err(refused)?;
        let (user, inode) = (there.uid(), there.ino());
        std::fs::rename(&made, &path).map_err(refused)?;
        Ok(LocalListener {
            socket,
            path,
            user,
            inode,
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection of this user, or of the system's administrator; others are turned away.
    pub async fn accept(&self) -> std::io::Result<UnixStream> {
        loop {
            let (stream, _) = self.socket.accept().await?;
            let user = stream.peer_cred()?.uid();
            if user == self.user || user == 0 {
                return Ok(stream);
            }
            tracing::warn!(user, "another user's connection to the engine was refused");
        }
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        // Not that of an engine which has taken the place since.
        if std::fs::metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            disk::remove(&self.path).ok();
        }
    }
}

/// Connects to the engine that has the store in this file; `None` if nobody listens.
///
/// Fails with class `forbidden` if the store is another user's, or another user listens there.
pub async fn connect(file: &Path) -> Result<Option<UnixStream>, Failure> {
    let path = path_of(file);
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Failure::new(
                Class::Forbidden,
                format!(
                    "the engine at {} is another user's; run this as that user",
                    path.display()
                ),
            ));
        }
        Err(_) => return Ok(None),
    };
    let of = |error: std::io::Error| {
        Failure::new(
            Class::Unavailable,
            format!(
                "the engine at {} cannot be reached: {error}",
                path.display()
            ),
        )
    };
    let listens = stream.peer_cred().map_err(of)?.uid();
    // Where the store is on a server there is no such file, only its folder.
    let folder = file.parent().unwrap_or(Path::new("."));
    let owned = std::fs::metadata(file).or_else(|_| std::fs::metadata(folder));
    let owner = owned.map_err(of)?.uid();
    if listens != owner && listens != 0 {
        return Err(Failure::new(
            Class::Forbidden,
            format!(
                "somebody else listens at {}; it is not the engine of this store",
                path.display()
            ),
        ));
    }
    Ok(Some(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_stands_beside_the_store_and_only_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        disk::write_atomic(&file, b"").unwrap();
        assert!(connect(&file).await.unwrap().is_none());
        let listener = LocalListener::bind(&file).unwrap();
        assert_eq!(listener.path(), folder.path().join("engine.sock"));
        let mode = std::fs::metadata(listener.path()).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let (came, went) = tokio::join!(listener.accept(), connect(&file));
        assert!(came.is_ok() && went.unwrap().is_some());
        drop(listener);
        assert!(!folder.path().join("engine.sock").exists());
    }

    #[tokio::test]
    async fn an_engine_whose_store_is_on_a_server_is_reached() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        let listener = LocalListener::bind(&file).unwrap();
        let (came, went) = tokio::join!(listener.accept(), connect(&file));
        assert!(came.is_ok() && went.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_a_dead_engine_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("other.db");
        disk::write_atomic(&file, b"").unwrap();
        let dead = UnixListener::bind(folder.path().join("other.sock")).unwrap();
        drop(dead);
        assert!(connect(&file).await.unwrap().is_none());
        let listener = LocalListener::bind(&file).unwrap();
        let (came, went) = tokio::join!(listener.accept(), connect(&file));
        assert!(came.is_ok() && went.unwrap().is_some());
    }

    #[tokio::test]
    async fn the_newest_of_those_that_share_a_store_has_the_place_and_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        disk::write_atomic(&file, b"").unwrap();
        let older = LocalListener::bind(&file).unwrap();
        let newer = LocalListener::bind(&file).unwrap();
        drop(older);
        let (came, went) = tokio::join!(newer.accept(), connect(&file));
        assert!(came.is_ok() && went.unwrap().is_some());
        drop(newer);
        assert!(!path_of(&file).exists());
    }

    #[tokio::test]
    async fn a_place_that_is_too_deep_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a".repeat(60)).join("b".repeat(60));
        disk::make_folder(&deep).unwrap();
        let file = deep.join("store.db");
        disk::write_atomic(&file, b"").unwrap();
        assert!(path_of(&file).as_os_str().len() <= PATH_BYTES_MAX);
        let listener = LocalListener::bind(&file).unwrap();
        let (came, went) = tokio::join!(listener.accept(), connect(&file));
        assert!(came.is_ok() && went.unwrap().is_some());
    }
}
