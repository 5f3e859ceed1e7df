//! The project as it was at a revision, read from git into memory by the program `git`. It asks no other machine and changes nothing.
#![allow(
    clippy::disallowed_methods,
    reason = "one of the doors to the world: it starts `git`"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::failure::Failure;

/// How many files are read.
const FILES_MAX: usize = 10_000;
/// How many bytes all of them may have.
const BYTES_MAX: u64 = 256 << 20;

/// A folder at a revision.
pub struct Tree {
    /// The commit.
    pub commit: String,
    /// Its files, by their path below the folder.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// The files of a folder at a revision, as far as `wanted` takes their paths below the folder.
pub fn tree(folder: &Path, revision: &str, wanted: &dyn Fn(&str) -> bool) -> Result<Tree, Failure> {
    let prefix = words(folder, &["rev-parse", "--show-prefix"]).map_err(|fault| match fault {
        Fault::NoGit(failure) => failure,
        Fault::Said(words) => Failure::config(format!(
            "{} is in no git repository: {words}",
            folder.display()
        )),
    })?;
    let named = format!("{revision}^{{commit}}");
    let arguments = [
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        &named,
    ];
    let commit = words(folder, &arguments).map_err(|fault| match fault {
        Fault::NoGit(failure) => failure,
        Fault::Said(_) => Failure::config(format!(
            "git knows no revision `{revision}` here, and there is no folder of that name\nfetch it first (`git fetch origin`; in CI with the whole history, such as `fetch-depth: 0`)"
        )),
    })?;
    let at = format!("{commit}:{}", prefix.trim_end_matches('/'));
    // Without `--full-tree` git would look for the folder within the folder.
    let arguments = ["ls-tree", "-r", "-z", "-l", "--full-tree", &at];
    let listed = raw(folder, &arguments).map_err(|fault| match fault {
        Fault::NoGit(failure) => failure,
        Fault::Said(_) => Failure::config(format!(
            "at `{revision}` there was no folder {prefix}: the project was not there yet"
        )),
    })?;
    let blobs = blobs(&listed, wanted)?;
    let files = contents(folder, &blobs)?;
    Ok(Tree { commit, files })
}

/// Why git gave nothing.
enum Fault {
    /// It could not be started.
    NoGit(Failure),
    /// It said so.
    Said(String),
}

fn git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(folder)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn not_started(error: &std::io::Error) -> Failure {
    Failure::config(format!(
        "git cannot be started: {error}\ninstall git, or name a folder that holds the old state"
    ))
}

fn raw(folder: &Path, arguments: &[&str]) -> Result<Vec<u8>, Fault> {
    let done = git(folder)
        .args(arguments)
        .output()
        .map_err(|error| Fault::NoGit(not_started(&error)))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let line = said.lines().next().unwrap_or("git says nothing more");
    Err(Fault::Said(line.to_owned()))
}

fn words(folder: &Path, arguments: &[&str]) -> Result<String, Fault> {
    let bytes = raw(folder, arguments)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// The files in a listing, with the names of their contents.
fn blobs(listed: &[u8], wanted: &dyn Fn(&str) -> bool) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    let mut bytes: u64 = 0;
    for line in listed.split(|byte| *byte == 0) {
        let line = String::from_utf8_lossy(line);
        let Some((head, path)) = line.split_once('\t') else {
            continue;
        };
        let mut head = head.split_whitespace();
        let (mode, kind) = (head.next(), head.next());
        let (Some(name), Some(size)) = (head.next(), head.next()) else {
            continue;
        };
        // Links lead out of what is committed, other repositories are not fetched.
        if kind != Some("blob") || mode == Some("120000") || !wanted(path) {
            continue;
        }
        bytes = bytes.saturating_add(size.parse().unwrap_or(0));
        found.push((path.to_owned(), name.to_owned()));
        if found.len() > FILES_MAX || bytes > BYTES_MAX {
            return Err(Failure::config(format!(
                "the old state has more than {FILES_MAX} files or {} MiB",
                BYTES_MAX >> 20
            )));
        }
    }
    Ok(found)
}

/// The contents of files, by path.
fn contents(
    folder: &Path,
    blobs: &[(String, String)],
) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let mut child = git(folder)
        .args(["cat-file", "--batch"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| not_started(&error))?;
    let read = conversation(&mut child, blobs);
    let ended = child.wait();
    match (read, ended) {
        (Ok(files), Ok(_)) => Ok(files),
        (Err(error), _) | (_, Err(error)) => Err(Failure::config(format!(
            "git does not give the files of the old state: {error}"
        ))),
    }
}

fn conversation(
    child: &mut Child,
    blobs: &[(String, String)],
) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let (Some(mut asks), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(std::io::Error::other("no pipes"));
    };
    let mut answers = BufReader::new(answers);
    let mut files = BTreeMap::new();
    for (path, name) in blobs {
        // One at a time: neither side ever waits for the other with a full pipe.
        writeln!(asks, "{name}")?;
        asks.flush()?;
        let mut head = String::new();
        answers.read_line(&mut head)?;
        let size = head.split_whitespace().nth(2);
        let size: u64 = size
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| std::io::Error::other(format!("{path}: {}", head.trim())))?;
        let mut bytes = Vec::new();
        (&mut answers).take(size).read_to_end(&mut bytes)?;
        let mut end = [0];
        answers.read_exact(&mut end)?;
        files.insert(path.clone(), bytes);
    }
    drop(asks);
    Ok(files)
}
