//! What is on this machine: the store, its disk and its clock, the listener's address, folders.

use std::path::{Path, PathBuf};

use tokio::net::TcpListener;

use super::{Case, Look};
use crate::failure::Failure;
use crate::flow::settings::Settings;
use crate::net::local;
use crate::run::space::LEAST_DEFAULT;
use crate::run::toggles::told;
use crate::store::postgres::Server;
use crate::store::postgres::witness::folder_beside;
use crate::store::reader::{Place, Reader};
use crate::store::standing::{self, Standing};
use crate::store::toggles::Toggle;
use crate::world::disk;

/// From how many times the least on, free space is plenty.
const PLENTY: u64 = 4;
/// By how much the clock may be behind what the store has seen, in milliseconds.
const BEHIND_MS: i64 = 60_000;
/// How long the log may be before somebody should know.
const LOG_BYTES: u64 = 1 << 30;

/// The store: place and rights, engine, version, pages, disk, clock.
pub(super) async fn store(case: &Case, path: &Path, settings: &Settings) -> Vec<Look> {
    let shown = path.display();
    let mut looks = Vec::new();
    let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
    looks.push(rights("store folder", folder.clone()).await);
    looks.push(match local::connect(path).await {
        Ok(Some(_)) => Look::ok("engine", format!("one runs on {shown}")),
        Ok(None) => Look::ok("engine", format!("none runs on {shown}")),
        Err(failure) => Look::warn("engine", failure.message, "see who listens there"),
    });
    let least = settings.limits.disk_free;
    looks.push(space(
        &folder,
        least.map_or(LEAST_DEFAULT, |size| size.bytes),
    ));
    if !path.exists() {
        let found = format!("{shown} is not there yet; `crossdock run` makes it");
        looks.push(Look::ok("store", found));
        return looks;
    }
    let (file, within) = (path.to_owned(), case.within.mul_f64(0.7));
    let found = disk::aside(move || standing::look(&file, within)).await;
    match found {
        Ok(found) => looks.extend(standing_looks(case, path, &found)),
        Err(failure) => {
            let help = "if it is damaged, put a backup in its place: `crossdock restore FILE`";
            looks.push(Look::fail("store", failure.message, help));
        }
    }
    looks
}

/// The store on a server: reached, its version, its rights, its clock.
pub(super) async fn server(case: &Case, server: &Server) -> Vec<Look> {
    let shown = server.shown().to_owned();
    let asked = server.clone();
    let places = case.places.as_ref();
    let notes = places.map_or_else(PathBuf::new, |places| folder_beside(&places.door));
    let found = match disk::aside(move || standing::look_at(&asked, &notes)).await {
        Ok(found) => found,
        Err(failure) => {
            let help = "check `store.postgres`, the server, and the rights of its user (docs/operating/postgres.md)";
            return vec![Look::fail("store", failure.message, help)];
        }
    };
    if let Some(lacks) = found.lacks {
        let help = "an engine does not start on it before";
        return vec![Look::fail("store", lacks, help)];
    }
    let mut looks = vec![match found.version {
        _ if !found.writable => Look::fail(
            "store",
            format!("{shown} takes no writes"),
            "name the server that takes writes, not one that follows it",
        ),
        None if !found.may_make => Look::fail(
            "store",
            format!("{shown} is not there, and this user may make no schema"),
            "have the schema made, and owned by this user",
        ),
        None => Look::ok(
            "store",
            format!("{shown} is not there yet; `crossdock run` makes it"),
        ),
        Some(version) if version < found.known => Look::warn(
            "store",
            format!(
                "{shown}, version {version}; this program knows {}",
                found.known
            ),
            "the next `crossdock run` brings it up to date: back it up before",
        ),
        Some(version) => Look::ok("store", format!("{shown}, version {version}")),
    }];
    let ahead_ms = found.now_ms - case.world.clock.now_ms();
    looks.push(match ahead_ms.abs() > BEHIND_MS {
        true => Look::warn(
            "clock",
            format!("the server's differs by {} s", ahead_ms / 1_000),
            "set both by a time server; what waits goes by the server's",
        ),
        false => Look::ok("clock", "that of the server and this one agree"),
    });
    looks
}

/// What people have stopped. That the store cannot be read is told with the store.
pub(super) async fn toggles(case: &Case, place: &Place) -> Vec<Look> {
    let Ok(toggles) = async { Reader::at(place)?.toggles().await }.await else {
        return Vec::new();
    };
    let now_ms = case.world.clock.now_ms();
    let stopped = toggles.iter().filter(|toggle| !toggle.is_over(now_ms));
    let look = |toggle: &Toggle| {
        let help = format!("`crossdock resume {}` lets it go on", toggle.target);
        Look::warn(toggle.target.to_string(), told(toggle), help)
    };
    stopped.map(look).collect()
}

fn standing_looks(case: &Case, path: &Path, found: &Standing) -> Vec<Look> {
    let shown = path.display();
    let mut looks = Vec::new();
    let version = format!(
        "{shown}, version {} (programs from version {} on can read it; this one knows {}), {} MB",
        found.version,
        found.readable_by,
        found.known,
        found.bytes >> 20
    );
    looks.push(match found.version < found.known {
        true => Look::warn(
            "store",
            version,
            "the next `crossdock run` brings it up to date: back it up before",
        ),
        false => Look::ok("store", version),
    });
    looks.push(match &found.sound {
        Some(Ok(())) => Look::ok("store pages", "sound"),
        Some(Err(why)) => Look::fail(
            "store pages",
            format!("damaged: {why}"),
            "stop the engine and put a backup in its place: `crossdock restore FILE`",
        ),
        None => Look::warn(
            "store pages",
            "not looked at to the end in time",
            "give it more time with --timeout; `crossdock backup` looks at all of them",
        ),
    });
    if !found.balanced {
        let help =
            "run `crossdock books --recount`, and tell its makers: this is a defect of the engine";
        looks.push(Look::fail("books", "they do not balance", help));
    }
    if found.log_bytes > LOG_BYTES {
        let what = format!("the log beside {shown} has {} MB", found.log_bytes >> 20);
        let help = "something reads from the store for a very long time: find it and end it";
        looks.push(Look::warn("store log", what, help));
    }
    let behind_ms = found.seen_ms - case.world.clock.now_ms();
    looks.push(match behind_ms > BEHIND_MS {
        true => Look::fail(
            "clock",
            format!("{} s behind what the store has seen", behind_ms / 1_000),
            "set the clock by a time server",
        ),
        false => Look::ok("clock", "not behind what the store has seen"),
    });
    looks
}

fn space(folder: &Path, least: u64) -> Look {
    let there = folder.ancestors().find(|folder| folder.is_dir());
    let free = match disk::free_bytes(there.unwrap_or(Path::new("."))) {
        Ok(free) => free,
        Err(failure) => {
            return Look::fail("disk", failure.message, "see whether the disk is there");
        }
    };
    let found = format!(
        "{} MB free, at least {} MB are needed (`limits.disk_free`)",
        free >> 20,
        least >> 20
    );
    if free < least {
        Look::fail(
            "disk",
            found,
            "free some space: until then nothing new is accepted",
        )
    } else if free < least.saturating_mul(PLENTY) {
        Look::warn("disk", found, "free some space soon")
    } else {
        Look::ok("disk", found)
    }
}

/// Whether the listener's address can be had, or its engine has it.
pub(super) async fn listener(store: &Path, address: &str) -> Vec<Look> {
    let bound = TcpListener::bind(address).await;
    vec![match bound {
        Ok(_) => Look::ok("listener", format!("{address} is free")),
        Err(_) if matches!(local::connect(store).await, Ok(Some(_))) => Look::ok(
            "listener",
            format!("{address} is taken, and the engine runs"),
        ),
        Err(error) => Look::fail(
            "listener",
            format!("cannot listen at {address}: {error}"),
            "stop what uses it, or choose another `listen` in crossdock.yaml",
        ),
    }]
}

/// Whether files can be made in a folder that a source uses.
pub(super) async fn folder(name: String, path: PathBuf) -> Vec<Look> {
    vec![rights(&name, path).await]
}

async fn rights(name: &str, path: PathBuf) -> Look {
    let shown = path.display().to_string();
    let tried = disk::aside(move || disk::try_folder(&path)).await;
    match tried {
        Ok(true) => Look::ok(name, format!("{shown} can be written")),
        Ok(false) => Look::ok(name, format!("{shown} is not there yet and can be made")),
        Err(Failure { message, .. }) => Look::fail(
            name,
            message,
            "give the engine's user the right to write there, or name another folder",
        ),
    }
}
