//! The sink `file`: messages become lines of growing files, or whole files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use http::Method;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use super::Ready;
use crate::component::words::TemplateText;
use crate::component::{
    Answer, Append, Appending, Attempt, Build, Context, Effect, Part, Probed, Promises, Request,
    codes,
};
use crate::failure::Failure;
use crate::format::{Format, FormatConfig};
use crate::message::Message;
use crate::system::request::Sending;
use crate::template::{Escape, Template};
use crate::world::Pending;
use crate::world::disk;

/// How long writing a whole file may take.
const REPLACE_TIMEOUT_MS: u64 = 60_000;
/// How many whole files are written at once.
const REPLACE_CONCURRENCY: usize = 8;
/// How long a path may be once its template is filled in.
const PATH_BYTES_MAX: usize = 1_024;

/// Writes messages to files below the project's folder. A message is in its file exactly once, whatever happens in between: what a crash
/// left half written is cut off.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The file's path below the project's folder: `audit/{{@today}}.jsonl`. A value cannot leave its place: `/` in it is written as `%2F`.
    pub path: TemplateText,
    /// What a message looks like in the file.
    pub format: FormatConfig,
    /// Whether a message is added to the file, or is the whole file. Default `append` for `jsonl` and `csv`, else `replace`.
    pub mode: Option<Mode>,
}

/// Whether a message is added to the file, or is the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Added at the end, as a line.
    Append,
    /// The whole file; one that is there is replaced.
    Replace,
}

impl Part for File {
    type Ready = Ready;
    const EXAMPLE: &'static str = "audit:
  file: { path: \"audit/orders-{{@today}}.jsonl\", format: jsonl }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let format = match self.format.ready() {
            Ok(format) => Some(format),
            Err(fault) => {
                cx.format_fault(&["format"], fault);
                None
            }
        };
        if let Some(why) = wrong(&self.path.0) {
            let help = "name a file below the project's folder, such as `outbox/orders.jsonl`";
            cx.error(codes::BAD_VALUE, &["path"], why, help);
            return None;
        }
        let path = cx.template(&["path"], &self.path.0);
        let format = format?;
        let by_line = if format.is_by_line() {
            Mode::Append
        } else {
            Mode::Replace
        };
        let mode = self.mode.unwrap_or(by_line);
        if mode == Mode::Append && !format.is_by_line() {
            let message = format!(
                "`{}` documents cannot follow each other in one file",
                format.name()
            );
            let help =
                "use `jsonl` or `csv`, or `mode: replace` with a path of its own for each message";
            cx.error(codes::CONFLICTING_SETTINGS, &["mode"], message, help);
            return None;
        }
        if mode == Mode::Append && !format.writes_lines() {
            let message = "the columns of a file that grows must be known before its first row";
            let help = "name them: `format: { csv: { columns: [order, total] } }`";
            cx.error(codes::CONFLICTING_SETTINGS, &["format"], message, help);
            return None;
        }
        let file = Arc::new(Writing {
            root: cx.library.root.clone(),
            path: path?,
            format,
        });
        Some(match mode {
            Mode::Append => Ready::Append(file),
            Mode::Replace => Ready::Effect(file),
        })
    }
}

/// Why a path cannot be one below the project's folder.
fn wrong(path: &str) -> Option<String> {
    if path.is_empty() || path.ends_with('/') {
        return Some("the path names no file".to_owned());
    }
    if Path::new(path).is_absolute() || path.starts_with('\\') {
        return Some("the path is absolute".to_owned());
    }
    if path.contains('\0') {
        return Some("the path has a NUL character".to_owned());
    }
    let climbs = path.split(['/', '\\']).any(|part| part == "..");
    climbs.then(|| "the path climbs out of the project's folder".to_owned())
}

struct Writing {
    root: PathBuf,
    path: Template,
    format: Format,
}

impl Writing {
    /// The path below the project's folder.
    fn path(&self, message: &Message) -> Result<String, Failure> {
        let path = self.path.render(message, Escape::FileName)?;
        let why = wrong(&path).or_else(|| {
            let long = path.len() > PATH_BYTES_MAX;
            long.then(|| format!("the path is longer than {PATH_BYTES_MAX} bytes"))
        });
        match why {
            Some(why) => Err(Failure::mapping(format!("{why}: `{path}`"))),
            None => Ok(plain(&path)),
        }
    }
}

/// The one spelling of a path, so that `./a//b` and `a/b` are one file with one length.
fn plain(path: &str) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    parts.join("/")
}

impl Append for Writing {
    fn prepare(&self, message: &Message, _: &Context<'_>) -> Result<(String, Bytes), Failure> {
        let line = self.format.line(message.body.document()?)?;
        Ok((self.path(message)?, line))
    }

    fn open<'a>(&'a self, path: &'a str) -> Pending<'a, Result<Box<dyn Appending>, Failure>> {
        Box::pin(async move {
            let path = self.root.join(path);
            let turn = turn(&path).lock_owned().await;
            let file = disk::aside(move || disk::Appending::open(&path)).await?;
            let lines: Box<dyn Appending> = Box::new(Lines {
                length: file.length(),
                file: Some(file),
                header: self.format.header()?,
                _turn: turn,
            });
            Ok(lines)
        })
    }
}

/// Whose turn it is to append to a file: one for each path in the process.
fn turn(path: &Path) -> Arc<Turn<()>> {
    static TURNS: OnceLock<Mutex<HashMap<PathBuf, Weak<Turn<()>>>>> = OnceLock::new();
    let turns = TURNS.get_or_init(Mutex::default);
    let mut turns = turns.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(turn) = turns.get(path).and_then(Weak::upgrade) {
        return turn;
    }
    turns.retain(|_, turn| turn.strong_count() > 0);
    let turn = Arc::new(Turn::new(()));
    turns.insert(path.to_owned(), Arc::downgrade(&turn));
    turn
}

/// A growing file that begins with a header. The file goes before the turn does.
struct Lines {
    length: u64,
    /// Away only while something is written, and after a loss of the thread that wrote.
    file: Option<disk::Appending>,
    header: Bytes,
    _turn: OwnedMutexGuard<()>,
}

impl Lines {
    /// Does something to the file on a thread that may block.
    async fn aside(
        &mut self,
        work: impl FnOnce(&mut disk::Appending) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let Some(mut file) = self.file.take() else {
            return Err(Failure::internal("the file was lost while it was written"));
        };
        let (file, done) = disk::aside(move || {
            let done = work(&mut file);
            Ok((file, done))
        })
        .await?;
        self.length = file.length();
        self.file = Some(file);
        done
    }
}

impl Appending for Lines {
    fn length(&self) -> u64 {
        self.length
    }

    fn cut(&mut self, length: u64) -> Pending<'_, Result<(), Failure>> {
        Box::pin(self.aside(move |file| file.truncate(length)))
    }

    fn write<'a>(&'a mut self, bytes: Bytes) -> Pending<'a, Result<(), Failure>> {
        let bytes = if self.length == 0 && !self.header.is_empty() {
            Bytes::from([&self.header[..], &bytes[..]].concat())
        } else {
            bytes
        };
        Box::pin(self.aside(move |file| file.append(&bytes)))
    }
}

impl Effect for Writing {
    fn promises(&self) -> Promises {
        Promises {
            safe: true,
            kept_ms: None,
            probe_settle_ms: None,
            timeout_ms: REPLACE_TIMEOUT_MS,
            concurrency: REPLACE_CONCURRENCY,
        }
    }

    fn prepare(&self, message: &Message, _: &Context<'_>) -> Result<Request, Failure> {
        let sending = Sending {
            method: Method::PUT,
            path: self.path(message)?,
            headers: Vec::new(),
            body: Some(self.format.encode(message.body.document()?)?),
        };
        Ok(Request {
            bytes: sending.to_document(),
            idempotency_key: None,
        })
    }

    fn perform<'a>(&'a self, request: &'a Request) -> Pending<'a, Attempt> {
        Box::pin(async move {
            let written = async {
                let sending = Sending::from_document(&request.bytes)?;
                let bytes = sending.body.unwrap_or_default();
                let length = bytes.len();
                let path = self.root.join(&sending.path);
                disk::aside(move || {
                    if let Some(folder) = path.parent() {
                        disk::make_folder(folder)?;
                    }
                    disk::write_atomic(&path, &bytes)
                })
                .await?;
                Ok(length)
            };
            match written.await {
                Ok(length) => Attempt::Applied(Answer {
                    bytes: Bytes::from(format!("{{\"written\":{length}}}")),
                }),
                Err(failure) => Attempt::NotApplied(failure),
            }
        })
    }

    fn probe<'a>(&'a self, _: &'a Message, _: &'a Request) -> Pending<'a, Probed> {
        let failure = Failure::internal("a file is written again, not asked for");
        Box::pin(std::future::ready(Probed::Failed(failure)))
    }

    fn finish(&self, message: Message, _: &Answer, _: &Context<'_>) -> Result<Message, Failure> {
        Ok(message)
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "tests look at the disk themselves"
)]
mod tests {
    use super::*;
    use crate::failure::Class;
    use crate::sink::SinkKind;
    use crate::step::bench::Bench;

    fn bench(folder: &Path) -> Bench {
        let mut bench = Bench::new();
        bench.library.root = folder.to_owned();
        bench
    }

    fn finds(entry: &str, expect: &[&str]) {
        let (ready, found) = Bench::new().build::<SinkKind>(entry);
        assert_eq!(found, expect, "{entry}");
        assert_eq!(ready.is_some(), expect.is_empty(), "{entry}");
    }

    async fn append(bench: &Bench, entry: &str, bodies: &[&str]) -> Result<(), Failure> {
        let (Some(Ready::Append(sink)), _) = bench.build::<SinkKind>(entry) else {
            panic!("{entry} does not append");
        };
        for body in bodies {
            let (path, line) = sink.prepare(&bench.message(body), &bench.cx())?;
            let mut file = sink.open(&path).await?;
            file.write(line).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn lines_are_added_and_a_header_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let bench = bench(folder.path());
        let jsonl = "file: { path: \"audit/{{channel}}.jsonl\", format: jsonl }";
        let web = [r#"{"channel": "web", "n": 1.50}"#, r#"{"channel": "web"}"#];
        append(&bench, jsonl, &web).await.unwrap();
        let text = std::fs::read_to_string(folder.path().join("audit/web.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("1.50"));
        let csv = "file: { path: out.csv, format: { csv: { columns: [a, b] } } }";
        append(&bench, csv, &[r#"{"a": "1", "b": "x,y"}"#, r#"{"a": "2"}"#])
            .await
            .unwrap();
        let text = std::fs::read_to_string(folder.path().join("out.csv")).unwrap();
        assert_eq!(text.replace('\r', ""), "a,b\n1,\"x,y\"\n2,\n");
    }

    #[tokio::test]
    async fn values_do_not_leave_their_place_in_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let bench = bench(&folder.path().join("project"));
        let entry = "file: { path: \"{{name}}.jsonl\", format: jsonl }";
        let result = append(&bench, entry, &[r#"{"name": "../../etc/x"}"#]).await;
        assert!(result.is_ok_and(|()| !folder.path().join("etc").exists()));
        let failure = append(
            &bench,
            "file: { path: \"a/{{name}}\", format: jsonl }",
            &[r#"{"name": ".."}"#],
        )
        .await;
        assert_eq!(failure.unwrap_err().class, Class::Mapping);
    }

    #[test]
    fn a_file_has_one_name_however_its_path_is_written() {
        let bench = Bench::new();
        for path in ["a/b.jsonl", "./a/b.jsonl", "a//b.jsonl", "a/./b.jsonl"] {
            let entry = format!("file: {{ path: {path}, format: jsonl }}");
            let (Some(Ready::Append(sink)), _) = bench.build::<SinkKind>(&entry) else {
                panic!("{entry} does not append");
            };
            let (named, _) = sink.prepare(&bench.message("{}"), &bench.cx()).unwrap();
            assert_eq!(named, "a/b.jsonl");
        }
    }

    #[tokio::test]
    async fn a_whole_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let bench = bench(folder.path());
        let entry = "file: { path: \"orders/{{n}}.json\", format: json }";
        let (Some(Ready::Effect(sink)), _) = bench.build::<SinkKind>(entry) else {
            panic!("it does not replace");
        };
        assert!(sink.promises().safe);
        let request = sink
            .prepare(&bench.message(r#"{"n": 7}"#), &bench.cx())
            .unwrap();
        assert!(matches!(sink.perform(&request).await, Attempt::Applied(_)));
        assert!(matches!(sink.perform(&request).await, Attempt::Applied(_)));
        let text = std::fs::read_to_string(folder.path().join("orders/7.json")).unwrap();
        assert_eq!(text, r#"{"n": 7}"#);
    }

    #[test]
    fn mistakes_are_found() {
        finds(
            "file: { path: /etc/passwd, format: jsonl }",
            &["bad-value:1:15"],
        );
        finds(
            "file: { path: a/../../b, format: jsonl }",
            &["bad-value:1:15"],
        );
        finds("file: { path: a/, format: jsonl }", &["bad-value:1:15"]);
        finds(
            "file: { path: a.json, format: json, mode: append }",
            &["conflicting-settings:1:43"],
        );
        finds(
            "file: { path: a.csv, format: csv }",
            &["conflicting-settings:1:30"],
        );
    }
}
