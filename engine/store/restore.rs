//! Puts a copy in the place of a store, while no engine runs on it. The old store is kept; what is in doubt after that is marked (`doubt`).
//!
//! The copy is complete, checked and synced before anything is moved. While the old store is out of its place a file says so, and no engine
//! starts beside it: a restore that is broken off never looks like an empty store.

use std::path::{Path, PathBuf};

use crate::failure::{Class, Failure};
use crate::world::disk;

use super::backup::{self, Inside, Said, beside};
use super::database::{Connection, Error, Sql, params};
use super::doubt::{Doubt, jump};
use super::{failure, lock, make_folder_of};

/// The flow under whose name the lengths of growing files are kept.
pub(super) const FILES: &str = "@files";
/// Where a disk has its own name, below the project's folder; on a server its files are under `FILES/NAME`.
pub(super) const DISK: &str = ".crossdock/disk";
/// How a copy is called that is about to take the store's place.
const READY: &str = ".restoring";

/// What is to be restored, and how.
#[derive(Clone, Debug)]
pub struct Wish<'w> {
    /// The store's place.
    pub store: &'w Path,
    /// The project's folder, below which growing files are.
    pub root: &'w Path,
    /// As of when the copy is, if it does not say so itself.
    pub as_of_ms: Option<i64>,
    /// Nothing was done after the backup: nothing is in doubt.
    pub resume: bool,
    /// In whose name.
    pub who: &'w str,
    /// Now, in milliseconds since 1970.
    pub now_ms: i64,
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What is in the store now.
    pub inside: Inside,
    /// Where the old store is, if there was one.
    pub old: Option<PathBuf>,
    /// Growing files that were cut back to their length at the backup.
    pub cut: Vec<Cut>,
}

/// A growing file that was cut back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub file: PathBuf,
    /// How long it is now, in bytes.
    pub length: u64,
    /// Where the rest is.
    pub rest: PathBuf,
}

/// Puts a backup in the place of the store.
///
/// Fails with class `config` if an engine runs on the store, and with class `unavailable` if the backup is damaged or a disk fails; as long as it
/// fails before the old store is moved, that is as it was.
pub fn restore(from: &Path, wish: &Wish<'_>, said: Said<'_>) -> Result<Restored, Failure> {
    if !from.exists() {
        return Err(Failure::config(format!(
            "there is no backup at {}",
            from.display()
        )));
    }
    make_folder_of(wish.store)?;
    let _held = lock(wish.store)?;
    let part = beside(wish.store, ".restore-part");
    backup::room_for(from, wish.store)?;
    let made = (|| -> Result<_, Failure> {
        std::fs::remove_file(&part).ok();
        backup::copy(&backup::read_only(from)?, &part, said)?;
        let inside = backup::look(&part)?;
        let marked = mark(&part, inside, wish, &format!("from {}", from.display()))?;
        backup::sync(&part)?;
        Ok((marked, inside))
    })();
    let ((lengths, as_of_ms), inside) = made.inspect_err(|_| {
        std::fs::remove_file(&part).ok();
    })?;
    let cut = match wish.resume {
        true => Vec::new(),
        false => cut_back(with_begun(lengths, wish), wish)?,
    };
    let old = swap(&part, wish)?;
    Ok(Restored {
        inside: Inside { as_of_ms, ..inside },
        old,
        cut,
    })
}

/// Marks a store that was put back in another way, such as a snapshot of its disk.
pub fn mark_in_place(wish: &Wish<'_>) -> Result<Restored, Failure> {
    if !wish.store.exists() {
        return Err(Failure::config(format!(
            "there is no store at {}",
            wish.store.display()
        )));
    }
    let _held = lock(wish.store)?;
    none_broken_off(wish.store)?;
    let inside = backup::look(wish.store)?;
    let (lengths, as_of_ms) = mark(wish.store, inside, wish, "in its place")?;
    let cut = match wish.resume {
        true => Vec::new(),
        false => cut_back(lengths, wish)?,
    };
    Ok(Restored {
        inside: Inside { as_of_ms, ..inside },
        old: None,
        cut,
    })
}

/// Refuses a store out of whose place a restore has moved the old one, and was broken off.
pub(super) fn none_broken_off(store: &Path) -> Result<(), Failure> {
    let ready = beside(store, READY);
    if !ready.exists() {
        return Ok(());
    }
    Err(Failure::config(format!(
        "a restore of {} was broken off; run `crossdock restore` again (the old store, if it was moved already, is beside it)",
        store.display()
    )))
}

/// Marks what is in doubt. Gives the lengths of growing files, and as of when the store is.
fn mark(
    file: &Path,
    inside: Inside,
    wish: &Wish<'_>,
    how: &str,
) -> Result<(Vec<(String, u64)>, i64), Failure> {
    let shown = file.display().to_string();
    let as_of_ms = wish.as_of_ms.unwrap_or(inside.as_of_ms);
    let cannot = |error: Error| failure(&shown, &error);
    let connection = rusqlite::Connection::open(file).map_err(|error| cannot(error.into()))?;
    super::migrations::migrate(&connection, &shown)?;
    let connection = Connection::Sqlite(connection);
    let lengths = (|| -> Sql<Vec<(String, u64)>> {
        let transaction = connection.sqlite().unchecked_transaction()?;
        backup::forget(&connection)?;
        // What a broker was told of it may be gone from there.
        connection.execute("UPDATE hops SET announced = NULL WHERE announced > 0", ())?;
        if !wish.resume {
            Doubt::mark(&connection, as_of_ms, wish.now_ms)?;
        }
        jump(&connection)?;
        connection.execute(
            "INSERT INTO history (at, who, what, why) VALUES (?1, ?2, 'restored', ?3)",
            params![wish.now_ms, wish.who, why(how, as_of_ms, wish)],
        )?;
        let found = lengths_in(&connection, FILES)?;
        transaction.commit()?;
        Ok(found)
    })();
    Ok((lengths.map_err(cannot)?, as_of_ms))
}

/// What the history says of it.
pub(super) fn why(how: &str, as_of_ms: i64, wish: &Wish<'_>) -> String {
    format!(
        "{how}, as of {}{}",
        jiff::Timestamp::from_millisecond(as_of_ms).unwrap_or_default(),
        if wish.resume { ", resumed" } else { "" }
    )
}

/// The lengths of growing files, as a store has them under this name.
pub(super) fn lengths_in(connection: &Connection, files: &str) -> Sql<Vec<(String, u64)>> {
    let mut statement =
        connection.prepare_cached("SELECT cursor, value FROM cursors WHERE flow = ?1")?;
    statement.query_map([files], |row| {
        let length: String = row.get(1)?;
        Ok((row.get(0)?, length.parse().unwrap_or(u64::MAX)))
    })
}

/// The lengths of growing files with those that only the old store knows: they were begun after the backup.
fn with_begun(lengths: Vec<(String, u64)>, wish: &Wish<'_>) -> Vec<(String, u64)> {
    let mut all = lengths;
    // A store that cannot be read any more has nothing to say.
    let old = backup::read_only(wish.store).map(|old| lengths_in(&old, FILES));
    for (path, _) in old.into_iter().flatten().flatten() {
        if !all.iter().any(|(known, _)| *known == path) {
            all.push((path, 0));
        }
    }
    all
}

/// Cuts growing files back to these lengths, as the engine would, and keeps what was behind that.
pub(super) fn cut_back(lengths: Vec<(String, u64)>, wish: &Wish<'_>) -> Result<Vec<Cut>, Failure> {
    let folder = wish.store.parent().unwrap_or(Path::new("."));
    let folder = folder.join(format!("after-backup-{}", stamp(wish.now_ms)));
    let mut cut = Vec::new();
    for (path, length) in lengths {
        let (file, rest) = (wish.root.join(&path), folder.join(&path));
        if disk::cut_aside(&file, length, &rest)? {
            cut.push(Cut { file, length, rest });
        }
    }
    Ok(cut)
}

/// Moves the old store aside, and the copy into its place.
fn swap(part: &Path, wish: &Wish<'_>) -> Result<Option<PathBuf>, Failure> {
    let store = wish.store;
    let ready = beside(store, READY);
    let moved = |from: &Path, to: &Path| {
        std::fs::rename(from, to).map_err(|error| disk::failure("move", from, &error))
    };
    moved(part, &ready)?;
    disk::sync_folder_of(store)?;
    let old = beside(store, &format!(".before-restore-{}", stamp(wish.now_ms)));
    if old.exists() {
        return Err(Failure::new(
            Class::Conflict,
            format!("{} exists; run the restore again", old.display()),
        ));
    }
    let mut kept = None;
    for more in ["", "-wal", "-shm"] {
        let from = beside(store, more);
        if from.exists() {
            moved(&from, &beside(&old, more))?;
            kept = Some(old.clone());
        }
    }
    disk::sync_folder_of(store)?;
    moved(&ready, store)?;
    disk::sync_folder_of(store)?;
    Ok(kept)
}

/// A time as part of a file's name: `20261121T121931Z`.
fn stamp(at_ms: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default();
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::commit::*;
    use super::super::sample::*;
    use super::super::{Options, Store};
    use super::*;

    const LATER_MS: i64 = START_MS + 60_000;

    fn silent() -> impl FnMut(u64, u64) {
        |_, _| {}
    }

    fn wish<'w>(sample: &'w Sample, root: &'w Path) -> Wish<'w> {
        Wish {
            store: sample.path(),
            root,
            as_of_ms: None,
            resume: false,
            who: "anna",
            now_ms: LATER_MS,
        }
    }

    pub(in crate::store) fn intent(sample: &Sample, run: &NewRun, effect: u8) -> Intent {
        Intent {
            effect: EffectId([effect; 16]),
            hop: HopId(1),
            run: run.run,
            flow: run.flow.clone(),
            step: Arc::from("erp"),
            item: Arc::from(""),
            request: Bytes::from_static(b"order"),
            idempotency_key: Some("key".to_owned()),
            owner: sample.store.owner(),
            at_ms: LATER_MS,
            lease_until_ms: LATER_MS + 1_000,
            generation: 0,
            guards: Arc::default(),
            take_over: false,
        }
    }

    pub(in crate::store) async fn intend(sample: &Sample, intent: Intent) -> Intended {
        let commit = Commit {
            intents: vec![intent],
            ..Commit::default()
        };
        let mut committed = sample.store.commit(commit).await.unwrap();
        committed.intents.remove(0)
    }

    pub(in crate::store) async fn settle(sample: &Sample, effect: u8, state: EffectState) {
        let outcome = Outcome {
            effect: EffectId([effect; 16]),
            state,
            at_ms: LATER_MS,
            unannounced: None,
        };
        let commit = Commit {
            outcomes: vec![outcome],
            ..Commit::default()
        };
        sample.store.commit(commit).await.unwrap();
    }

    /// A store with three orders: one whose effect is done, one that was refused, one that was not tried. Then its backup, then more work,
    /// and the backup is restored.
    async fn restored(resume: bool) -> (Sample, Vec<NewRun>, tempfile::TempDir, Restored) {
        let folder = tempfile::tempdir().unwrap();
        let mut sample = Sample::in_a_file();
        let orders: Vec<_> = (0..3).map(|n| sample.order(&n.to_string(), "1")).collect();
        sample.accept(orders.clone()).await;
        for (n, order) in orders.iter().enumerate().take(2) {
            intend(&sample, intent(&sample, order, n as u8)).await;
        }
        settle(&sample, 0, EffectState::Done(Bytes::from_static(b"201"))).await;
        settle(&sample, 1, EffectState::NotApplied).await;
        let file = folder.path().join("copy.db");
        backup::backup(sample.path(), &file, START_MS, &mut silent()).unwrap();
        let lost = sample.order("lost", "1");
        sample.accept(vec![lost]).await;
        let running = restore(&file, &wish(&sample, folder.path()), &mut silent()).unwrap_err();
        assert!(
            running.message.contains("another engine"),
            "{}",
            running.message
        );
        sample.store.shutdown().await;
        let mut wish = wish(&sample, folder.path());
        wish.resume = resume;
        let restored = restore(&file, &wish, &mut silent()).unwrap();
        sample.store = Store::open(Options::at(sample.path()), world(&sample.clock)).unwrap();
        (sample, orders, folder, restored)
    }

    #[tokio::test]
    async fn what_may_have_been_sent_after_the_backup_is_asked_for() {
        let (sample, orders, _folder, restored) = restored(false).await;
        assert_eq!((restored.inside.runs, restored.inside.hops), (3, 3));
        asks_in_doubt(&sample, &orders).await;
    }

    /// Of three orders, of which the first is done and the second was refused, the restored store has what it must have.
    pub(in crate::store) async fn asks_in_doubt(sample: &Sample, orders: &[NewRun]) {
        assert_eq!(sample.books().await.in_flight, 3);
        let done = intend(sample, intent(sample, &orders[0], 0)).await;
        assert_eq!(done, Intended::Done(Bytes::from_static(b"201")));
        for n in [1, 2] {
            let verdict = intend(sample, intent(sample, &orders[n], n as u8)).await;
            let Intended::Unknown {
                restored,
                first_at_ms,
                last_at_ms,
                ..
            } = verdict
            else {
                panic!("{verdict:?}");
            };
            assert!(
                restored && first_at_ms <= START_MS.max(LATER_MS),
                "{first_at_ms}"
            );
            assert_eq!(last_at_ms, LATER_MS);
            let mut take_over = intent(sample, &orders[n], n as u8);
            take_over.take_over = true;
            let verdict = intend(sample, take_over).await;
            assert!(matches!(verdict, Intended::Send { .. }), "{verdict:?}");
            settle(sample, n as u8, EffectState::NotApplied).await;
            let again = intend(sample, intent(sample, &orders[n], n as u8)).await;
            assert!(
                matches!(again, Intended::Send { .. }),
                "no doubt is left: {again:?}"
            );
        }
        let mut anew = intent(sample, &orders[2], 9);
        anew.generation = 1_002;
        let verdict = intend(sample, anew).await;
        assert!(
            matches!(verdict, Intended::Send { .. }),
            "a person has said so: {verdict:?}"
        );
        // A new message is in no doubt, one that descends from an old one is.
        let (new, mut child) = (sample.order("new", "1"), sample.order("child", "1"));
        child.root = orders[1].message;
        assert!(new.run.0 > 1_000_000_000, "{:?}", new.run);
        sample.accept(vec![new.clone(), child.clone()]).await;
        let verdict = intend(sample, intent(sample, &new, 20)).await;
        assert!(matches!(verdict, Intended::Send { .. }), "{verdict:?}");
        let verdict = intend(sample, intent(sample, &child, 21)).await;
        assert!(
            matches!(verdict, Intended::Unknown { restored: true, .. }),
            "{verdict:?}"
        );
    }

    #[tokio::test]
    async fn with_resume_nothing_is_in_doubt() {
        let (sample, orders, _folder, _) = restored(true).await;
        for n in [1, 2] {
            let verdict = intend(&sample, intent(&sample, &orders[n], n as u8)).await;
            assert!(matches!(verdict, Intended::Send { .. }), "{verdict:?}");
        }
    }

    #[tokio::test]
    async fn the_old_store_is_kept_and_no_number_is_given_twice() {
        let (sample, orders, _folder, restored) = restored(false).await;
        let old = super::super::reader::Reader::open(&restored.old.unwrap()).unwrap();
        assert_eq!(old.books().await.unwrap()[0].counts.accepted, 4);
        assert!(sample.store.next_hop().0 > first_hop(&orders[2]).0 + (1 << 40));
    }

    #[tokio::test]
    async fn a_restore_that_was_broken_off_is_no_empty_store() {
        let (mut sample, _, folder, _) = restored(false).await;
        sample.store.shutdown().await;
        let aside = sample.path().with_file_name("aside.db");
        std::fs::rename(sample.path(), &aside).unwrap();
        let ready = beside(sample.path(), READY);
        std::fs::copy(&aside, &ready).unwrap();
        let open = |sample: &Sample| Store::open(Options::at(sample.path()), world(&sample.clock));
        let failure = open(&sample).err().unwrap();
        assert!(
            failure.message.contains("broken off"),
            "{}",
            failure.message
        );
        let file = folder.path().join("copy.db");
        let later = Wish {
            now_ms: LATER_MS + 5_000,
            ..wish(&sample, folder.path())
        };
        restore(&file, &later, &mut silent()).unwrap();
        sample.store = open(&sample).unwrap();
        assert_eq!(sample.books().await.in_flight, 3);
    }

    #[tokio::test]
    async fn a_growing_file_is_cut_back_and_its_rest_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let sample = Sample::in_a_file();
        let path = folder.path().join("audit/web.jsonl");
        disk::make_folder(path.parent().unwrap()).unwrap();
        disk::write_atomic(&path, b"one\n").unwrap();
        let grows = async |path: &str, length: u64| {
            let progress = crate::component::Progress {
                cursor: path.to_owned(),
                from: None,
                to: Some(length.to_string()),
            };
            let commit = Commit {
                progress: Some((Arc::from(FILES), progress)),
                ..Commit::default()
            };
            sample.store.commit(commit).await.unwrap();
        };
        grows("audit/web.jsonl", 4).await;
        let file = folder.path().join("copy.db");
        backup::backup(sample.path(), &file, START_MS, &mut silent()).unwrap();
        disk::write_atomic(&path, b"one\ntwo\n").unwrap();
        grows("audit/begun.jsonl", 4).await;
        disk::write_atomic(&path.with_file_name("begun.jsonl"), b"new\n").unwrap();
        sample.store.shutdown().await;
        let restored = restore(&file, &wish(&sample, folder.path()), &mut silent()).unwrap();
        let text = |path: &Path| disk::read_text(path, 99).unwrap();
        let [web, begun] = &restored.cut[..] else {
            panic!("{:?}", restored.cut);
        };
        assert_eq!((&web.file, web.length), (&path, 4));
        assert_eq!(
            (text(&web.file), text(&web.rest)),
            ("one\n".into(), "two\n".into())
        );
        assert_eq!(
            (text(&begun.file), text(&begun.rest)),
            (String::new(), "new\n".into())
        );
    }
}
