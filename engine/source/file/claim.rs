//! One claimed file: a cursor that says how far it is durable, and the work from there to its end. It does not look for files.
//!
//! In this order, so that a crash between any two of them loses and doubles nothing: the cursor is committed; the file is renamed; each
//! batch of messages is committed with the place behind it; the end is committed; the file is put away; the cursor is removed.

use serde::{Deserialize, Serialize};

use super::Reading;
use crate::component::{Arrival, Batch, Intake, Progress};
use crate::failure::{Class, Failure};
use crate::format::{Broken, Decoder, Document, Position};
use crate::source::offer::{Offered, offer};
use crate::world::failpoint;
use crate::world::inbox::{Found, Inbox, on_disk};

/// What every cursor of a claim begins with.
const PREFIX: &str = "file:";
/// How many messages are committed at once.
const BATCH_MAX: usize = 128;
/// How many bytes of messages are committed at once, as soon as there are more.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How many bytes are read at once.
const CHUNK: usize = 256 << 10;
/// How much of a message that is too large is kept for the person who looks at it.
const SHOWN_MAX: usize = 64 << 10;

/// What a claim's cursor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// The folder in which it was found, below the project's; empty in claims of programs that did not note it.
    #[serde(default)]
    folder: String,
    /// The file's name.
    name: String,
    /// Its length when it was claimed.
    size: u64,
    /// When it had been written, in milliseconds since 1970.
    modified_ms: i64,
    /// Behind the last message that is durable.
    position: Position,
    /// All that it holds is durable; what is left is to put it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<End>,
}

/// How a file ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum End {
    /// It was read to its end.
    Done,
    /// It cannot be read, for this reason.
    Unreadable(String),
}

/// A file that this source has taken.
pub(super) struct Claim {
    id: String,
    state: State,
    /// The cursor's text, as far as this source knows.
    known: Option<String>,
}

/// How a step of the work ended.
enum Step {
    /// Go on.
    On,
    /// The source must stop.
    Stop,
    /// The cursor is elsewhere: another engine, or an answer that was lost.
    Moved,
}

/// The folder that a source watches, below the project's where it is there: the project may lie elsewhere tomorrow.
fn folder_of(cx: &Intake, inbox: &Inbox) -> String {
    let folder = inbox.folder();
    let below = folder.strip_prefix(&cx.root).unwrap_or(folder);
    below.display().to_string()
}

impl Claim {
    /// Claims a settled file. `None` if it is gone, or if the source must stop.
    pub(super) async fn take(
        cx: &Intake,
        inbox: &Inbox,
        file: Found,
    ) -> Result<Option<Claim>, Failure> {
        let now_ms = cx.world.clock.now_ms().max(0);
        let id = format!("{now_ms:012x}{:08x}", cx.world.random.next() & 0xFFFF_FFFF);
        let mut claim = Claim {
            id,
            state: State {
                folder: folder_of(cx, inbox),
                name: file.name,
                size: file.size,
                modified_ms: file.modified_ms,
                position: Position::default(),
                end: None,
            },
            known: None,
        };
        match claim
            .commit(cx, Vec::new(), Some(claim.state.clone()))
            .await?
        {
            Step::On => {}
            Step::Stop => return Ok(None),
            // Nobody else knows this name: it was committed and the answer was lost.
            Step::Moved => claim.known = cx.accept.cursor(&claim.cursor()).await?,
        }
        failpoint::hit("file-claim-committed");
        if claim.rename(inbox).await? {
            failpoint::hit("file-renamed");
            return Ok(Some(claim));
        }
        tracing::info!(flow = %cx.flow, name = claim.state.name, "the file was gone before it could be claimed");
        claim.commit(cx, Vec::new(), None).await?;
        Ok(None)
    }

    /// The claims that an earlier start has left: those with a cursor, and files without one (the store was made anew).
    pub(super) async fn adopt(cx: &Intake, inbox: &Inbox) -> Result<Vec<Claim>, Failure> {
        let here = folder_of(cx, inbox);
        let mut claims = Vec::new();
        for (cursor, text) in cx.accept.cursors(PREFIX).await? {
            let id = cursor.strip_prefix(PREFIX).unwrap_or(&cursor).to_owned();
            let state: State = serde_json::from_str(&text).map_err(|error| {
                Failure::new(
                    Class::Config,
                    format!("the cursor {cursor} cannot be read: {error}"),
                )
            })?;
            if !state.folder.is_empty() && state.folder != here {
                tracing::error!(
                    flow = %cx.flow,
                    "{} of the folder {} is read as far as message {}, and the flow now watches {here}; the rest is read when it watches that folder again",
                    state.name,
                    state.folder,
                    state.position.number
                );
                continue;
            }
            claims.push(Claim {
                id,
                state,
                known: Some(text),
            });
        }
        let folder = inbox.clone();
        let files = on_disk(move || folder.claims()).await?;
        for (id, name) in files {
            if claims.iter().any(|claim| claim.id == id) {
                continue;
            }
            let (folder, claimed, file) = (inbox.clone(), id.clone(), name.clone());
            let Some(found) = on_disk(move || folder.find_claimed(&claimed, &file)).await? else {
                continue;
            };
            let state = State {
                folder: here.clone(),
                name,
                size: found.size,
                modified_ms: found.modified_ms,
                position: Position::default(),
                end: None,
            };
            let mut claim = Claim {
                id,
                state,
                known: None,
            };
            if let Step::On = claim
                .commit(cx, Vec::new(), Some(claim.state.clone()))
                .await?
            {
                claims.push(claim);
            }
        }
        claims.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(claims)
    }

    /// Works the file off and puts it away. False if the source must stop.
    pub(super) async fn work_off(
        mut self,
        cx: &Intake,
        inbox: &Inbox,
        reading: &Reading,
    ) -> Result<bool, Failure> {
        loop {
            let step = match self.state.end.clone() {
                None => self.read(cx, inbox, reading).await?,
                Some(end) => {
                    failpoint::hit("file-before-archive");
                    self.put_away(inbox, end).await?;
                    failpoint::hit("file-archived");
                    self.commit(cx, Vec::new(), None).await?
                }
            };
            match step {
                Step::On if self.known.is_none() => return Ok(true),
                Step::On => {}
                Step::Stop => return Ok(false),
                Step::Moved => {
                    self.known = cx.accept.cursor(&self.cursor()).await?;
                    let Some(text) = &self.known else {
                        return Ok(true);
                    };
                    self.state = serde_json::from_str(text).map_err(|error| {
                        Failure::internal(format!("the cursor of a claim: {error}"))
                    })?;
                }
            }
        }
    }

    /// Reads on from the last durable place to the end.
    async fn read(
        &mut self,
        cx: &Intake,
        inbox: &Inbox,
        reading: &Reading,
    ) -> Result<Step, Failure> {
        let found = match self.find(inbox).await {
            Ok(Some(found)) => found,
            Ok(None) if self.rename(inbox).await? => return Ok(Step::On),
            Ok(None) if self.state.position.number == 0 => {
                tracing::warn!(flow = %cx.flow, name = self.state.name, "a file that was to be claimed is gone");
                return self.commit(cx, Vec::new(), None).await;
            }
            Ok(None) => {
                let number = self.state.position.number;
                let message = format!(
                    "{} vanished after message {number}, while it was read; drop it again",
                    self.state.name
                );
                return self
                    .give_up(cx, Failure::new(Class::NotFound, message))
                    .await;
            }
            Err(failure) => return self.give_up(cx, failure).await,
        };
        if found.size == 0 {
            let message = format!("{} is empty; was it cut off?", self.state.name);
            return self.give_up(cx, Failure::parse(message)).await;
        }
        if found.size > reading.file_max {
            let message = format!(
                "{} has {} bytes, the limit is {}",
                self.state.name, found.size, reading.file_max
            );
            return self
                .give_up(cx, Failure::new(Class::TooLarge, message))
                .await;
        }
        let mut decoder = reading
            .format
            .decoder(reading.schema.as_ref(), self.state.position.clone());
        let mut offset = self.state.position.offset;
        loop {
            let (folder, id, name) = (inbox.clone(), self.id.clone(), self.state.name.clone());
            let chunk = match on_disk(move || folder.read(&id, &name, offset, CHUNK)).await {
                Ok(chunk) => chunk,
                Err(failure) if matches!(failure.class, Class::Forbidden | Class::NotFound) => {
                    return self.give_up(cx, failure).await;
                }
                Err(failure) => return Err(failure),
            };
            let last = chunk.is_empty();
            if last {
                decoder.finish();
            } else {
                offset += chunk.len() as u64;
                decoder.feed(&chunk);
            }
            match self.hand_over(cx, reading, &mut decoder, last).await? {
                Step::On if last || self.state.end.is_some() => return Ok(Step::On),
                Step::On => {}
                other => return Ok(other),
            }
        }
    }

    /// Commits what the decoder has; at the end of the file also that.
    async fn hand_over(
        &mut self,
        cx: &Intake,
        reading: &Reading,
        decoder: &mut Decoder,
        last: bool,
    ) -> Result<Step, Failure> {
        loop {
            let (mut arrivals, mut bytes, mut fatal) = (Vec::new(), 0, None);
            let mut more = true;
            while arrivals.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX && fatal.is_none() {
                let Some(next) = decoder.next_document() else {
                    more = false;
                    break;
                };
                let arrival = match next {
                    Ok(document) => self.arrival(document, reading.body_max),
                    Err(broken) => {
                        fatal = broken.fatal.then(|| broken.failure.to_string());
                        self.breach(*broken)
                    }
                };
                bytes += arrival.body.len();
                arrivals.push(arrival);
            }
            let end = match fatal {
                Some(why) => Some(End::Unreadable(why)),
                None if last && !more => Some(End::Done),
                None => None,
            };
            if arrivals.is_empty() && end.is_none() {
                return Ok(Step::On);
            }
            let ended = end.is_some();
            let state = State {
                position: decoder.position(),
                end,
                ..self.state.clone()
            };
            let step = self.commit(cx, arrivals, Some(state)).await?;
            failpoint::hit("file-batch-committed");
            match step {
                Step::On if ended || !more => return Ok(Step::On),
                Step::On => {}
                other => return Ok(other),
            }
        }
    }

    /// The file cannot be read: an exception says so, and it will be put into quarantine.
    async fn give_up(&mut self, cx: &Intake, failure: Failure) -> Result<Step, Failure> {
        let why = failure.to_string();
        let arrival = Arrival {
            headers: vec![("file-name".to_owned(), self.state.name.clone())],
            identity: Some(format!("file:{}:unreadable", self.id)),
            breach: Some(failure),
            ..Arrival::default()
        };
        let state = State {
            end: Some(End::Unreadable(why)),
            ..self.state.clone()
        };
        self.commit(cx, vec![arrival], Some(state)).await
    }

    async fn put_away(&self, inbox: &Inbox, end: End) -> Result<(), Failure> {
        let (folder, id, name) = (inbox.clone(), self.id.clone(), self.state.name.clone());
        on_disk(move || match end {
            End::Done => folder.archive(&id, &name),
            End::Unreadable(why) => folder.quarantine(&id, &name, &why),
        })
        .await
    }

    async fn find(&self, inbox: &Inbox) -> Result<Option<Found>, Failure> {
        let (folder, id, name) = (inbox.clone(), self.id.clone(), self.state.name.clone());
        on_disk(move || folder.find_claimed(&id, &name)).await
    }

    /// Takes the file out of the folder, if it is there as it was when it was claimed.
    async fn rename(&self, inbox: &Inbox) -> Result<bool, Failure> {
        let (folder, id, state) = (inbox.clone(), self.id.clone(), self.state.clone());
        on_disk(move || {
            let same = folder.find(&state.name)?.is_some_and(|found| {
                found.size == state.size && found.modified_ms == state.modified_ms
            });
            Ok(same && folder.claim(&id, &state.name)?)
        })
        .await
    }

    /// Commits messages and where the claim is now; `None` ends the claim.
    async fn commit(
        &mut self,
        cx: &Intake,
        arrivals: Vec<Arrival>,
        state: Option<State>,
    ) -> Result<Step, Failure> {
        let to = match &state {
            Some(state) => Some(
                serde_json::to_string(state)
                    .map_err(|error| Failure::internal(format!("a claim's state: {error}")))?,
            ),
            None => None,
        };
        let progress = Progress {
            cursor: self.cursor(),
            from: self.known.clone(),
            to: to.clone(),
        };
        let batch = Batch {
            arrivals,
            progress: Some(progress),
        };
        match offer(cx, batch).await? {
            Offered::Durable => {
                self.known = to;
                if let Some(state) = state {
                    self.state = state;
                }
                Ok(Step::On)
            }
            Offered::Stopped => Ok(Step::Stop),
            Offered::Moved => Ok(Step::Moved),
        }
    }

    fn cursor(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    fn arrival(&self, document: Document, body_max: usize) -> Arrival {
        let bytes = document.body.bytes().clone();
        let mut arrival = Arrival {
            headers: self.headers(document.line),
            identity: Some(format!("file:{}:{}", self.id, document.number)),
            ..Arrival::default()
        };
        if bytes.len() > body_max {
            let message = format!(
                "{} line {}: the message has {} bytes, the limit is {body_max}",
                self.state.name,
                document.line,
                bytes.len()
            );
            arrival.breach = Some(Failure::new(Class::TooLarge, message));
            arrival.body = bytes.slice(..SHOWN_MAX.min(bytes.len()));
        } else {
            arrival.body = bytes;
        }
        arrival
    }

    fn breach(&self, broken: Broken) -> Arrival {
        let mut failure = broken.failure;
        failure.message = format!(
            "{} line {}: {}",
            self.state.name, broken.line, failure.message
        );
        Arrival {
            body: broken.bytes,
            headers: self.headers(broken.line),
            identity: Some(format!("file:{}:{}", self.id, broken.number)),
            breach: Some(failure),
            ..Arrival::default()
        }
    }

    fn headers(&self, line: u64) -> Vec<(String, String)> {
        vec![
            ("file-name".to_owned(), self.state.name.clone()),
            ("file-line".to_owned(), line.to_string()),
        ]
    }
}
