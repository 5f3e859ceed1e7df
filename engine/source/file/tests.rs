//! Promises of the file source: every message of a file once, whatever happens in the middle; what cannot be read is shown.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the disk themselves"
)]

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::component::Library;
use crate::net::listener::Listener;
use crate::source::fake::{self, Fake};
use crate::world::World;

const CONFIG: &str =
    "{ path: inbox/*.csv, format: csv, settle: 20ms, every: 20ms, max_body: 64KB, max_file: 1MB }";

struct Site {
    root: TempDir,
    fake: Arc<Fake>,
}

impl Site {
    fn new() -> Site {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("inbox")).unwrap();
        Site {
            root,
            fake: Fake::new(),
        }
    }

    fn drop_file(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.root.path().join("inbox").join(name), content).unwrap();
    }

    async fn start(&self, config: &str) -> (Intake, JoinHandle<Result<(), Failure>>) {
        let (ready, findings) = fake::build(&format!("file: {config}"), &Library::default());
        let Some(Ready::Runs(source)) = ready else {
            panic!("{findings:?}")
        };
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let cx = fake::intake(&self.fake, World::real(), self.root.path(), &listener);
        (cx.clone(), tokio::spawn(source.run(cx)))
    }

    /// Runs until something holds and no claim is open, then stops within a second.
    async fn run(&self, config: &str, what: &str, holds: impl Fn(&fake::State) -> bool) {
        let (cx, running) = self.start(config).await;
        self.fake
            .until(what, |state| holds(state) && state.cursors.is_empty())
            .await;
        cx.stop.cancel();
        tokio::time::timeout(Duration::from_secs(1), running)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    /// The names in a folder, without what is hidden.
    fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.path().join(folder)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter(|name| !name.starts_with('.') && name != "done" && name != "failed")
            .collect();
        names.sort();
        names
    }

    fn breaches(&self) -> Vec<String> {
        let message = |arrival: &crate::component::Arrival| {
            arrival.breach.as_ref().map(|breach| breach.message.clone())
        };
        self.fake
            .state()
            .stored
            .iter()
            .filter_map(message)
            .collect()
    }
}

fn rows(count: usize) -> String {
    let mut text = "order,qty\n".to_owned();
    for row in 1..=count {
        text += &format!("SO-{row},{row}\n");
    }
    text
}

#[tokio::test]
async fn a_file_becomes_messages_and_goes_to_the_archive() {
    let site = Site::new();
    site.drop_file("a.csv", rows(300));
    site.drop_file("b.txt", "not wanted");
    site.drop_file(".c.csv", "still being written");
    site.run(CONFIG, "all rows", |state| state.stored.len() == 300)
        .await;
    assert_eq!(site.names("inbox"), ["b.txt"]);
    assert_eq!(site.names("inbox/done"), ["a.csv"]);
    let state = site.fake.state();
    assert_eq!(
        state.stored[1].body,
        r#"{"order":"SO-2","qty":"2"}"#.as_bytes()
    );
    let headers = [
        ("file-name".to_owned(), "a.csv".to_owned()),
        ("file-line".to_owned(), "3".to_owned()),
    ];
    assert_eq!(state.stored[1].headers, headers);
    assert!(state.batches.iter().all(|&size| size <= 128));
}

#[tokio::test]
async fn the_same_name_twice_is_two_files() {
    let site = Site::new();
    for round in 1..=2 {
        site.drop_file("a.csv", rows(2));
        site.run(CONFIG, "the rows", |state| state.stored.len() == 2 * round)
            .await;
    }
    let done = site.names("inbox/done");
    assert_eq!(done.len(), 2, "{done:?}");
    assert!(done[0].starts_with("a-") && done[1] == "a.csv", "{done:?}");
}

#[tokio::test]
async fn a_file_that_still_grows_is_left_alone() {
    let site = Site::new();
    let config = "{ path: inbox/*.csv, format: csv, settle: 150ms, every: 20ms }";
    let (cx, running) = site.start(config).await;
    let text = rows(10);
    for end in 1..=10 {
        site.drop_file("a.csv", &text[..text.len() * end / 10]);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(site.fake.state().batches.len(), 0);
    }
    site.fake
        .until("all rows", |state| state.stored.len() == 10)
        .await;
    cx.stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_commit_loses_and_doubles_nothing() {
    // Commits: claim, three batches, end, release. Each is the last one before a crash, and each is lost once with its answer.
    for crash_at in 0..=6 {
        for answer_is_lost in [false, true] {
            let site = Site::new();
            site.drop_file("a.csv", rows(300));
            {
                let mut state = site.fake.state();
                if answer_is_lost {
                    state.failing = std::iter::repeat_n(None, crash_at).collect();
                    state.lost_after = Some(crash_at);
                } else {
                    let failure = Failure::new(crate::failure::Class::Unavailable, "down");
                    let down = std::iter::repeat_n(Some(failure), 100);
                    state.failing = std::iter::repeat_n(None, crash_at).chain(down).collect();
                }
            }
            let (_, running) = site.start(CONFIG).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
            running.abort();
            assert!(running.await.is_err() || crash_at >= 6);
            site.fake.state().failing.clear();
            site.run(CONFIG, "all rows, after the crash", |state| {
                state.stored.len() == 300
            })
            .await;
            assert_eq!(
                site.names("inbox"),
                Vec::<String>::new(),
                "crash at {crash_at}"
            );
            assert_eq!(site.names("inbox/done"), ["a.csv"], "crash at {crash_at}");
            let state = site.fake.state();
            assert_eq!(
                (state.stored.len(), state.duplicates),
                (300, 0),
                "crash at {crash_at}"
            );
        }
    }
}

#[tokio::test]
async fn claimed_files_are_adopted_also_by_a_new_store() {
    let mut site = Site::new();
    site.drop_file("a.csv", rows(3));
    let (_, running) = site.start(CONFIG).await;
    let down = Failure::new(crate::failure::Class::Unavailable, "down");
    site.fake.state().failing = std::iter::once(None)
        .chain(std::iter::repeat_n(Some(down), 100))
        .collect();
    site.fake
        .until("it is claimed", |state| !state.cursors.is_empty())
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.abort();
    drop(running.await);
    assert_eq!(site.names("inbox"), Vec::<String>::new());
    site.fake = Fake::new();
    site.run(CONFIG, "all rows", |state| state.stored.len() == 3)
        .await;
    assert_eq!(site.names("inbox/done"), ["a.csv"]);
}

#[tokio::test]
async fn a_claimed_file_that_vanishes_is_shown() {
    let site = Site::new();
    site.drop_file("a.csv", rows(300));
    let down = Failure::new(crate::failure::Class::Unavailable, "down");
    site.fake.state().failing = [None, None]
        .into_iter()
        .chain(std::iter::repeat_n(Some(down), 100))
        .collect();
    let (_, running) = site.start(CONFIG).await;
    site.fake
        .until("some rows", |state| state.stored.len() == 128)
        .await;
    running.abort();
    drop(running.await);
    fs::remove_dir_all(site.root.path().join("inbox/.claimed")).unwrap();
    site.fake.state().failing.clear();
    site.run(CONFIG, "the exception", |state| state.stored.len() == 129)
        .await;
    assert_eq!(
        site.breaches(),
        ["a.csv vanished after message 128, while it was read; drop it again"]
    );
}

#[tokio::test]
async fn a_file_in_the_middle_waits_for_its_folder_while_the_flow_watches_another_one() {
    let site = Site::new();
    site.drop_file("a.csv", rows(300));
    let down = Failure::new(crate::failure::Class::Unavailable, "down");
    site.fake.state().failing = [None, None]
        .into_iter()
        .chain(std::iter::repeat_n(Some(down), 100))
        .collect();
    let (_, running) = site.start(CONFIG).await;
    site.fake
        .until("some rows", |state| state.stored.len() == 128)
        .await;
    running.abort();
    drop(running.await);
    site.fake.state().failing.clear();
    let other = site.root.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("b.csv"), rows(3)).unwrap();
    let (cx, running) = site.start(&CONFIG.replace("inbox/", "other/")).await;
    site.fake
        .until("the other file", |state| {
            state.stored.len() == 131 && state.cursors.len() == 1
        })
        .await;
    cx.stop.cancel();
    running.await.unwrap().unwrap();
    site.run(CONFIG, "the rest", |state| state.stored.len() == 303)
        .await;
    assert_eq!(site.breaches(), Vec::<String>::new());
    assert_eq!(site.names("inbox/done"), ["a.csv"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_shown_and_the_rest_goes_on() {
    let site = Site::new();
    site.drop_file(
        "1.csv",
        format!(
            "order,qty\nSO-1,1\nSO-2\nSO-3,{}\nSO-4,4\n",
            "9".repeat(70_000)
        ),
    );
    site.drop_file("2.csv", "");
    site.drop_file("3.csv", "x".repeat((1 << 20) + 1));
    std::os::unix::fs::symlink("/etc/passwd", site.root.path().join("inbox/4.csv")).unwrap();
    site.drop_file("5.csv", rows(1));
    site.run(CONFIG, "everything is told", |state| {
        state.stored.len() == 7
    })
    .await;
    let breaches = site.breaches();
    assert_eq!(breaches.len(), 4, "{breaches:?}");
    assert!(breaches[0].starts_with("1.csv line 3: "), "{breaches:?}");
    assert!(
        breaches[1].starts_with("1.csv line 4: the message has 7"),
        "{breaches:?}"
    );
    assert_eq!(breaches[2], "2.csv is empty; was it cut off?");
    assert_eq!(breaches[3], "3.csv has 1048577 bytes, the limit is 1048576");
    assert_eq!(site.names("inbox/done"), ["1.csv", "5.csv"]);
    assert_eq!(
        site.names("inbox/failed"),
        ["2.csv", "2.csv.error.txt", "3.csv", "3.csv.error.txt"]
    );
    assert_eq!(site.names("inbox"), ["4.csv"], "links stay where they are");
    let sizes: Vec<usize> = site
        .fake
        .state()
        .stored
        .iter()
        .map(|arrival| arrival.body.len())
        .collect();
    assert!(sizes.iter().all(|&size| size <= 64 << 10), "{sizes:?}");
}

#[tokio::test]
async fn a_document_that_is_broken_goes_to_quarantine() {
    let site = Site::new();
    site.drop_file("a.json", "{\"order\": ");
    site.drop_file("b.json", "{\"order\": 1.50}");
    let config =
        "{ path: inbox/*.json, format: json, settle: 0s, every: 20ms, quarantine: /tmp/never }";
    let config = config.replace("/tmp/never", site.root.path().join("bad").to_str().unwrap());
    site.run(&config, "both", |state| state.stored.len() == 2)
        .await;
    assert_eq!(site.names("bad"), ["a.json", "a.json.error.txt"]);
    let why = fs::read_to_string(site.root.path().join("bad/a.json.error.txt")).unwrap();
    assert!(why.starts_with("parse: "), "{why}");
    assert_eq!(site.breaches().len(), 1);
    assert_eq!(site.fake.bodies()[1], "{\"order\": 1.50}");
}

#[test]
fn mistakes_in_the_config_are_found() {
    for (config, expect) in [
        ("{ path: ../inbox/*.csv, format: csv }", "bad-value 1:15"),
        ("{ path: inbox/, format: csv }", "bad-value 1:15"),
        ("{ path: inbox/.a, format: csv }", "bad-value 1:15"),
        ("{ path: in*/a.csv, format: csv }", "bad-value 1:15"),
        ("{ path: inbox/**.csv, format: csv }", "bad-value 1:15"),
        (
            "{ path: in/a.csv, format: csv, archive: in }",
            "conflicting-settings 1:47",
        ),
        (
            "{ path: in/a.csv, format: csv, archive: ../x }",
            "bad-value 1:47",
        ),
        (
            "{ path: in/a.csv, format: csv, every: 0s }",
            "bad-value 1:45",
        ),
        (
            "{ path: in/a.csv, format: { csv: { delimiter: ab } } }",
            "bad-value 1:53",
        ),
    ] {
        assert_eq!(
            fake::build(&format!("file: {config}"), &Library::default()).1,
            [expect],
            "{config}"
        );
    }
}

#[tokio::test]
async fn the_bell_rings_for_new_files_and_not_for_those_who_look() {
    let site = Site::new();
    let folder = site.root.path().join("inbox");
    let rings = Arc::new(Notify::new());
    let watcher = Bell::hang(&folder, Reach::Folder, rings.clone());
    assert!(watcher.is_some());
    let rung = |within_ms| {
        let waited = tokio::time::timeout(Duration::from_millis(within_ms), rings.notified());
        async move { waited.await.is_ok() }
    };
    for _ in 0..3 {
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
    assert!(!rung(300).await, "somebody has looked, nothing has changed");
    site.drop_file("orders.csv", "a\n1\n");
    assert!(rung(5_000).await, "there is a new file");
}
