//! A stage whose sink appends to files. The length that a file may have is a cursor in the store: bytes are written and synced, then the
//! cursor and the ends of the hops are committed together. What lies behind the cursor after a crash was never committed, and is cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::failing;
use super::replay;
use super::stage::{Post, guarded};
use super::telemetry;
use super::turn::{self, Exchange, Finished};
use super::walk::{Ended, Walked, Walker};
use super::{Shared, Store, World};
use crate::component::{Append, Appending, Progress};
use crate::failure::{Class, Failure};
use crate::flow::plan::Plan;
use crate::handoff::Hop;
use crate::store::commit::Commit;
use crate::world::metrics::StepMeter;
use crate::world::{disk, failpoint};

/// Under this name the store keeps how long files may be, whichever flow they are of.
const FILES: &str = "@files";
/// Where a disk has its own name, below the project's folder.
const DISK: &str = ".crossdock/disk";
/// How long the stage pauses after the store has refused a commit.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Under which name the store keeps how long the files on this disk may be. A store on a server may have engines on several disks, where
/// two files of one path are two: there each disk has a name. Engines that share a disk take turns with its files.
pub(super) async fn lengths(
    store: &Store,
    root: &Path,
    world: &World,
) -> Result<Arc<str>, Failure> {
    if store.place().file().is_some() {
        return Ok(Arc::from(FILES));
    }
    let path = root.join(DISK);
    let name = format!("{:016x}", world.random.next());
    let name = disk::aside(move || disk::write_first(&path, name.as_bytes())).await?;
    Ok(Arc::from(format!(
        "{FILES}/{}",
        String::from_utf8_lossy(&name)
    )))
}

/// Cuts off what files of this disk have behind their lengths: an engine that died had written it, and what it was for may by now be written
/// by another engine, to a file of another disk. Without other engines it is written here again, and cut off by that.
pub(super) async fn cut_tails(shared: &Shared, root: &Path) -> Result<(), Failure> {
    if !shared.store.is_shared() {
        return Ok(());
    }
    let known = shared.store.cursors(&shared.lengths, "").await?;
    for (name, length) in known {
        let path = root.join(&name);
        let size = tokio::fs::metadata(&path).await.map(|data| data.len());
        let whole = length_of(Some(&length)).zip(size.ok());
        if whole.is_none_or(|(length, size)| size <= length) {
            continue;
        }
        match cut_tail(shared, &name, path.clone()).await {
            Ok(0) => {}
            Ok(tail) => tracing::info!(
                "{}: its last {tail} bytes were written and never committed; they are cut off",
                path.display()
            ),
            Err(failure) => {
                tracing::warn!("what was never committed is cut off by the next write: {failure}");
            }
        }
    }
    Ok(())
}

/// Cuts a file to its length; gives how much of it went. The length is asked for while the file is ours: who had it may have committed just now.
async fn cut_tail(shared: &Shared, name: &str, path: PathBuf) -> Result<u64, Failure> {
    let mut file = disk::aside(move || disk::Appending::open(&path)).await?;
    let known = shared.store.cursor(&shared.lengths, name).await?;
    let size = file.length();
    let Some(length) = length_of(known.as_deref()).filter(|length| *length < size) else {
        return Ok(0);
    };
    disk::aside(move || file.truncate(length)).await?;
    Ok(size - length)
}

/// The length that a cursor stands for.
fn length_of(cursor: Option<&str>) -> Option<u64> {
    cursor.and_then(|length| length.parse().ok())
}

/// A stage of one flow that appends to files.
pub(super) struct AppendStage {
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Arc<Plan>,
    pub(super) node: usize,
    pub(super) append: Arc<dyn Append>,
    pub(super) post: Post,
    pub(super) meter: StepMeter,
}

impl AppendStage {
    /// Works until it is stopped; what it has taken it finishes.
    pub(super) async fn run(self: Arc<Self>) {
        let step = self.plan.nodes[self.node].id.clone();
        loop {
            let hops = tokio::select! {
                biased;
                () = self.post.stop.cancelled() => return,
                hops = self.shared.handoff.take(self.post.at(&step), self.shared.batch_max) => hops,
            };
            for (path, lines) in self.by_file(hops).await {
                self.write(&path, lines).await;
            }
        }
    }

    /// Groups a batch by file; messages that give no line are finished here.
    async fn by_file(&self, hops: Vec<Hop>) -> BTreeMap<String, Vec<(Hop, Bytes)>> {
        let mut files: BTreeMap<String, Vec<(Hop, Bytes)>> = BTreeMap::new();
        let mut finished = Vec::new();
        for hop in hops {
            match replay::written_before(&self.shared, &hop).await {
                Ok(false) => {}
                Ok(true) => {
                    let over = self.written_before(&hop);
                    finished.push((hop, over));
                    continue;
                }
                Err(failure) => {
                    if !self.shared.store.has_said(&failure) {
                        tracing::error!(%failure, "the store could not say what a rerun need not do; it waits");
                    }
                    self.shared.handoff.give_back(hop);
                    continue;
                }
            }
            let (node, mut line) = (self.node, None);
            let stale = match self.shared.stale(node, &hop.message).await {
                Ok(stale) => stale,
                Err(failure) => {
                    let later = self.later_or_never(&hop, failure);
                    finished.push((hop, later));
                    continue;
                }
            };
            if let Some(walked) = stale {
                let nothing = Exchange::default();
                let over = turn::over(&self.shared, &self.plan, &hop, walked, None, &nothing);
                finished.push((hop, over));
                continue;
            }
            let walked = guarded(&self.plan, node, &hop.message, |walker| {
                let prepared = match walker.takes(node, &hop.message) {
                    Ok(true) => self.append.prepare(&hop.message, &walker.context(node)),
                    Ok(false) => {
                        return Walked {
                            ended: vec![Ended::Filtered(node)],
                            ..Walked::default()
                        };
                    }
                    Err(failure) => Err(failure),
                };
                match prepared {
                    Ok(prepared) => {
                        line = Some(prepared);
                        Walked::default()
                    }
                    Err(failure) => walker.fail(node, hop.message.clone(), failure),
                }
            });
            if let Some((path, bytes)) = line {
                files.entry(path).or_default().push((hop, bytes));
                continue;
            }
            let over = turn::over(
                &self.shared,
                &self.plan,
                &hop,
                walked,
                None,
                &Exchange::default(),
            );
            finished.push((hop, over));
        }
        self.commit(finished, None).await;
        files
    }

    /// A rerun of a message that was written: no second line.
    fn written_before(&self, hop: &Hop) -> Finished {
        let walked = Walked {
            through: vec![self.node],
            ..Walker::new(&self.plan).walk(None, hop.message.clone())
        };
        let nothing = Exchange::default();
        turn::over(&self.shared, &self.plan, hop, walked, None, &nothing)
    }

    async fn write(&self, path: &str, mut lines: Vec<(Hop, Bytes)>) {
        let (began, many) = (Instant::now(), lines.len());
        let written = self.append_to(path, &mut lines).await;
        let each = began.elapsed() / u32::try_from(many.max(1)).unwrap_or(u32::MAX);
        (0..many).for_each(|_| self.meter.took(each));
        match written {
            Ok(None) => {}
            Ok(Some((progress, file))) => {
                let finished = lines.into_iter().map(|(hop, _)| {
                    let walker = Walker::new(&self.plan);
                    let mut walked = walker.walk(None, hop.message.clone());
                    walked.through.push(self.node);
                    walked
                        .milestones
                        .extend(self.plan.nodes[self.node].milestone.clone());
                    let over = turn::over(
                        &self.shared,
                        &self.plan,
                        &hop,
                        walked,
                        None,
                        &Exchange::default(),
                    );
                    (hop, over)
                });
                self.commit(finished.collect(), Some(progress)).await;
                failpoint::hit("append-committed");
                drop(file);
            }
            Err(failure) => {
                let finished = lines.into_iter().map(|(hop, _)| {
                    let over = self.later_or_never(&hop, failure.clone());
                    (hop, over)
                });
                self.commit(finished.collect(), None).await;
            }
        }
    }

    /// Writes and syncs; gives the cursor's move that makes it count, and the file, to be held until that is committed. Lines of hops that
    /// somebody else has ended are taken out; `None` if no line is left.
    async fn append_to(
        &self,
        path: &str,
        lines: &mut Vec<(Hop, Bytes)>,
    ) -> Result<Option<(Progress, Box<dyn Appending>)>, Failure> {
        let mut file = self.append.open(path).await?;
        self.remove_strays(lines).await?;
        if lines.is_empty() {
            return Ok(None);
        }
        let known = self.shared.store.cursor(&self.shared.lengths, path).await?;
        if let Some(length) = length_of(known.as_deref()) {
            file.cut(length).await?;
        }
        let from = Some(file.length().to_string());
        if known != from {
            // A file that is new to the store, or was moved away: without this a crash after the write would leave what it wrote.
            let begin = Progress {
                cursor: path.to_owned(),
                from: known,
                to: from.clone(),
            };
            let commit = Commit {
                progress: Some((self.shared.lengths.clone(), begin)),
                ..Commit::default()
            };
            self.shared.commit(commit).await?;
            failpoint::hit("append-cursor-committed");
        }
        failpoint::hit("append-before-write");
        let mut bytes = BytesMut::with_capacity(lines.iter().map(|(_, line)| line.len()).sum());
        for (_, line) in &*lines {
            bytes.extend_from_slice(line);
        }
        file.write(bytes.freeze()).await?;
        failpoint::hit("append-written");
        let progress = Progress {
            cursor: path.to_owned(),
            from,
            to: Some(file.length().to_string()),
        };
        Ok(Some((progress, file)))
    }

    /// Lines cannot be taken back once they are committed, so the store is asked before they are written, while the file is held: a hop
    /// that was handed over twice is written once.
    async fn remove_strays(&self, lines: &mut Vec<(Hop, Bytes)>) -> Result<(), Failure> {
        let hops = lines.iter().map(|(hop, _)| (hop.hop, hop.fence)).collect();
        let there = self.shared.store.hops_there(hops).await?;
        let mut seen = BTreeSet::new();
        let mut there = there.into_iter();
        lines.retain(|(hop, _)| {
            let stays = there.next().unwrap_or(false) && seen.insert(hop.hop);
            if !stays {
                self.shared.settled(hop.hop, false, Vec::new());
            }
            stays
        });
        Ok(())
    }

    fn later_or_never(&self, hop: &Hop, failure: Failure) -> Finished {
        let retry = &self.plan.nodes[self.node].retry;
        let retried = failure.class.retried_by_default() && hop.attempt < retry.attempts;
        if !retried {
            let walked = Walker::new(&self.plan).fail(self.node, hop.message.clone(), failure);
            return turn::over(
                &self.shared,
                &self.plan,
                hop,
                walked,
                None,
                &Exchange::default(),
            );
        }
        let wait_ms =
            failing::wait_ms(retry, hop.attempt + 1, &failure, &*self.shared.world.random);
        let due_ms =
            self.shared.world.clock.now_ms() + i64::try_from(wait_ms).unwrap_or(i64::MAX / 4);
        turn::wait(
            &self.shared,
            &self.plan,
            hop,
            due_ms,
            hop.attempt + 1,
            failure,
            None,
        )
    }

    async fn commit(&self, finished: Vec<(Hop, Finished)>, progress: Option<Progress>) {
        if finished.is_empty() {
            return;
        }
        let mut commit = Commit {
            progress: progress.map(|progress| (self.shared.lengths.clone(), progress)),
            ..Commit::default()
        };
        let mut ends = Vec::with_capacity(finished.len());
        for (_, finished) in &finished {
            self.shared.settling(&finished.end);
            ends.push(telemetry::Ended::of(&finished.end));
            commit.ends.push(finished.end.clone());
        }
        match self.shared.commit(commit).await {
            Ok(committed) => {
                let (meters, world) = (&self.shared.meters, &self.shared.world);
                meters.lasted(world, &committed, finished.iter().map(|(hop, _)| hop));
                for (nth, (hop, finished)) in finished.into_iter().enumerate() {
                    let applied = committed.ends.get(nth).copied().unwrap_or(false);
                    if applied {
                        ends[nth].count(&self.meter);
                        self.shared.tracer.worked(&hop, &ends[nth]);
                    }
                    self.shared.settled_as(applied, finished);
                }
            }
            Err(failure) => {
                let class = if failure.class == Class::Conflict {
                    "another writer moved the file's cursor"
                } else {
                    "the store refused a commit"
                };
                if !self.shared.store.has_said(&failure) {
                    tracing::error!(%failure, "{class}; what was written is cut off and written again");
                }
                for (hop, _) in finished.into_iter().rev() {
                    self.shared.handoff.give_back(hop);
                }
                self.shared.world.clock.sleep(STORE_PAUSE).await;
            }
        }
    }
}
