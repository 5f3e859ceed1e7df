//! The source `file`: files that are dropped into a folder. It finds and claims them; `claim` reads them. It keeps nothing in memory
//! that a restart would miss.

use std::collections::HashMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;

use super::Ready;
use super::offer::{pause_or_stop, room_or_stop};
use crate::component::words::{Duration, Size};
use crate::component::{Build, Intake, Part, Source, codes};
use crate::failure::Failure;
use crate::format::{Format, FormatConfig};
use crate::world::Pending;
use crate::world::bell::{Bell, Reach};
use crate::world::inbox::{Found, Inbox, Places, is_tame, on_disk};

mod claim;
mod glob;
#[cfg(test)]
mod tests;

use claim::Claim;
use glob::Glob;

/// Takes files that are dropped into a folder. A file that has stopped growing is claimed by a rename and read once; after a crash in the
/// middle it goes on where its last messages became durable. What cannot be read becomes an exception. The headers `file-name` and
/// `file-line` say where a message comes from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// Which files: a folder, and a name in which `*` stands for any characters: `inbox/orders-*.csv`.
    pub path: String,
    /// What is in the files: `json`, `jsonl`, `csv` or `xml`, or one of them with settings.
    pub format: FormatConfig,
    /// The folder for files that are done. Default `done` in the folder that files arrive in.
    pub archive: Option<String>,
    /// The folder for files that cannot be read, each with its reason beside it. Default `failed` in the folder that files arrive in.
    pub quarantine: Option<String>,
    /// How long a file must keep its size before it is taken. Default 2s.
    pub settle: Option<Duration>,
    /// How often the folder is looked at; new files are mostly noticed earlier. Default 5s.
    pub every: Option<Duration>,
    /// How large one message may be. Default 4MB.
    pub max_body: Option<Size>,
    /// How large a file may be; a larger one is put into quarantine. Default 1GB.
    pub max_file: Option<Size>,
}

/// How large one message may be where nothing is said.
const BODY_MAX: u64 = 4 << 20;
/// How large a file may be where nothing is said.
const FILE_MAX: u64 = 1 << 30;
/// How long a file must keep its size where nothing is said.
const SETTLE_MS: u64 = 2_000;
/// How often the folder is looked at where nothing is said.
const EVERY_MS: u64 = 5_000;
/// How many files are watched at once until they have settled; more wait for the next look.
const WATCHED_MAX: usize = 10_000;

impl Part for Folder {
    type Ready = Ready;
    const EXAMPLE: &'static str = "source:
  file:
    path: inbox/orders-*.csv
    format: { csv: { delimiter: \";\" } }
    archive: inbox/done
    quarantine: inbox/failed
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let before = cx.findings.len();
        let (folder, name) = self.path.rsplit_once('/').unwrap_or((".", &self.path));
        let folder = if folder.is_empty() { "/" } else { folder };
        self.report_paths(cx, folder, name);
        let format = match self.format.ready() {
            Ok(format) => Some(format),
            Err(fault) => {
                let kind = cx
                    .node
                    .get("format")
                    .and_then(|node| node.entries().first());
                let kind = kind.map_or(String::new(), |(key, _)| key.text.clone());
                cx.error(
                    codes::BAD_VALUE,
                    &["format", &kind, fault.field],
                    fault.message,
                    fault.help,
                );
                None
            }
        };
        if self.every.is_some_and(|every| every.ms == 0) {
            cx.error(
                codes::BAD_VALUE,
                &["every"],
                "no time between two looks keeps the disk busy for nothing",
                "5s is usual",
            );
        }
        if cx.findings.len() > before {
            return None;
        }
        let within = |folder: &str, name: &str| match folder {
            "/" => format!("/{name}"),
            _ => format!("{folder}/{name}"),
        };
        Some(Ready::Runs(Arc::new(Watch {
            glob: Glob::new(name),
            archive: self
                .archive
                .clone()
                .unwrap_or_else(|| within(folder, "done")),
            quarantine: self
                .quarantine
                .clone()
                .unwrap_or_else(|| within(folder, "failed")),
            folder: folder.to_owned(),
            settle_ms: self.settle.map_or(SETTLE_MS, |settle| settle.ms),
            every_ms: self.every.map_or(EVERY_MS, |every| every.ms),
            reading: Reading {
                format: format?,
                schema: cx.accepts.map(|schema| schema.raw().clone()),
                body_max: bytes(self.max_body, BODY_MAX),
                file_max: self.max_file.map_or(FILE_MAX, |size| size.bytes),
            },
        })))
    }
}

impl Folder {
    fn report_paths(&self, cx: &mut Build<'_>, folder: &str, name: &str) {
        if name.is_empty() {
            cx.error(
                codes::BAD_VALUE,
                &["path"],
                "the path names a folder and no files",
                "add a name, such as `*.csv`",
            );
        }
        if name.starts_with('.') {
            cx.error(
                codes::BAD_VALUE,
                &["path"],
                "names that begin with a dot are for files that are still being written",
                "choose another name",
            );
        }
        if name.contains("**") || name.contains(['[', '{']) || folder.contains(['*', '?', '[', '{'])
        {
            cx.error(
                codes::BAD_VALUE,
                &["path"],
                "only `*` and `?` stand for other characters, and only in the file's name",
                "write a folder and a name, such as `inbox/orders-*.csv`; each folder is a flow of its own",
            );
        }
        let paths = [
            ("path", Some(folder)),
            ("archive", self.archive.as_deref()),
            ("quarantine", self.quarantine.as_deref()),
        ];
        for (field, path) in paths {
            if path.is_some_and(|path| !is_tame(path)) {
                cx.error(
                    codes::BAD_VALUE,
                    &[field],
                    "a path with `..` leads out of the project",
                    "write a path below the project's folder, or an absolute one",
                );
            }
        }
        for (field, path) in &paths[1..] {
            if path.is_some_and(|path| path.trim_end_matches('/') == folder) {
                cx.error(
                    codes::CONFLICTING_SETTINGS,
                    &[field],
                    "files would come back into the folder that they are taken from",
                    "choose another folder",
                );
            }
        }
    }
}

fn bytes(size: Option<Size>, default: u64) -> usize {
    usize::try_from(size.map_or(default, |size| size.bytes)).unwrap_or(usize::MAX)
}

/// How a claimed file is read.
struct Reading {
    format: Format,
    schema: Option<Value>,
    body_max: usize,
    file_max: u64,
}

/// A folder that is watched.
struct Watch {
    folder: String,
    glob: Glob,
    archive: String,
    quarantine: String,
    settle_ms: u64,
    every_ms: u64,
    reading: Reading,
}

/// A file that is still waited for.
struct Seen {
    file: Found,
    since_ms: i64,
}

impl Source for Watch {
    fn folders(&self) -> Vec<String> {
        vec![
            self.folder.clone(),
            self.archive.clone(),
            self.quarantine.clone(),
        ]
    }

    fn run(self: Arc<Self>, cx: Intake) -> Pending<'static, Result<(), Failure>> {
        Box::pin(async move {
            let places = Places {
                root: cx.root.clone(),
                folder: self.folder.clone(),
                archive: self.archive.clone(),
                quarantine: self.quarantine.clone(),
                owner: cx.flow.to_string(),
            };
            let inbox = on_disk(move || Inbox::open(&places)).await?;
            let rings = Arc::new(Notify::new());
            let _bell = Bell::hang(inbox.folder(), Reach::Folder, rings.clone());
            for claim in Claim::adopt(&cx, &inbox).await? {
                if !claim.work_off(&cx, &inbox, &self.reading).await? {
                    return Ok(());
                }
            }
            let mut seen: HashMap<String, Seen> = HashMap::new();
            let mut told: Vec<String> = Vec::new();
            while room_or_stop(&cx).await {
                let settled = self.look(&cx, &inbox, &mut seen, &mut told).await?;
                for file in settled {
                    seen.remove(&file.name);
                    let Some(claim) = Claim::take(&cx, &inbox, file).await? else {
                        continue;
                    };
                    if !claim.work_off(&cx, &inbox, &self.reading).await?
                        || !room_or_stop(&cx).await
                    {
                        return Ok(());
                    }
                }
                let wait_ms = match seen.is_empty() {
                    true => self.every_ms,
                    false => self.every_ms.min(self.settle_ms.max(1)),
                };
                let goes_on = tokio::select! {
                    goes_on = pause_or_stop(&cx, wait_ms) => goes_on,
                    () = rings.notified(), if seen.is_empty() => true,
                };
                if !goes_on {
                    break;
                }
            }
            Ok(())
        })
    }
    fn alone(&self) -> bool {
        true
    }
}

impl Watch {
    /// Looks at the folder: files that have kept their size and time for long enough, by name.
    async fn look(
        &self,
        cx: &Intake,
        inbox: &Inbox,
        seen: &mut HashMap<String, Seen>,
        told: &mut Vec<String>,
    ) -> Result<Vec<Found>, Failure> {
        let (folder, glob) = (inbox.clone(), self.glob.clone());
        let listing = on_disk(move || folder.list(|name| glob.matches(name))).await?;
        if listing.odd != *told {
            for name in listing.odd.iter().filter(|name| !told.contains(name)) {
                tracing::warn!(flow = %cx.flow, name, "not a plain file: links and folders are not taken");
            }
            *told = listing.odd;
        }
        let now_ms = cx.world.clock.steady_ms();
        let mut settled = Vec::new();
        let mut still = HashMap::new();
        for file in listing.files {
            let since_ms = match seen.get(&file.name) {
                Some(known) if known.file == file => known.since_ms,
                _ => now_ms,
            };
            let waited = u64::try_from(now_ms - since_ms).unwrap_or(0);
            if waited >= self.settle_ms {
                settled.push(file);
            } else if still.len() < WATCHED_MAX {
                still.insert(file.name.clone(), Seen { file, since_ms });
            }
        }
        *seen = still;
        Ok(settled)
    }
}
