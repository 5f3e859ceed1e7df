//! JSON lines: one document a line, read and appended without looking at the others.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Broken, Document, Position, shown};
use crate::body::{Body, Item, Kind};
use crate::failure::{Class, Failure};

/// One JSON document a line.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Jsonl {
    /// How many bytes a line may have.
    #[schemars(range(min = 1))]
    pub line_bytes_max: usize,
}

impl Default for Jsonl {
    fn default() -> Jsonl {
        Jsonl {
            line_bytes_max: 8 << 20,
        }
    }
}

/// Reads a file of JSON lines.
#[derive(Debug)]
pub struct Decoder {
    config: Jsonl,
    pub(super) position: Position,
    buffer: Vec<u8>,
    /// Where the line begins that is read next.
    start: usize,
    /// How far the line end was looked for.
    seen: usize,
    finished: bool,
    over: bool,
}

impl Decoder {
    pub(super) fn new(config: Jsonl, position: Position) -> Decoder {
        Decoder {
            config,
            position,
            buffer: Vec::new(),
            start: 0,
            seen: 0,
            finished: false,
            over: false,
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        self.buffer.drain(..self.start);
        self.seen -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    pub(super) fn next(&mut self) -> Option<Result<Document, Box<Broken>>> {
        loop {
            let (line, length) = self.line()?;
            let offset = self.position.offset;
            let bytes = &self.buffer[line.clone()];
            let bytes = if offset == 0 {
                bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
            } else {
                bytes
            };
            let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            let blank = bytes.iter().all(u8::is_ascii_whitespace);
            let too_long = bytes.len() > self.config.line_bytes_max;
            let bytes = if too_long {
                shown(bytes)
            } else {
                Bytes::copy_from_slice(bytes)
            };
            self.start += length;
            self.seen = self.start;
            self.position.offset += length as u64;
            self.position.line += 1;
            if blank && !too_long {
                continue;
            }
            self.position.number += 1;
            let (number, line) = (self.position.number, self.position.line);
            let broken = |failure: Failure, bytes: &Bytes, fatal| {
                Box::new(Broken {
                    number,
                    line,
                    offset,
                    bytes: shown(bytes),
                    failure,
                    fatal,
                })
            };
            if too_long {
                self.over = true;
                self.buffer = Vec::new();
                (self.start, self.seen) = (0, 0);
                let message = format!(
                    "line {line} has more than {} bytes",
                    self.config.line_bytes_max
                );
                let failure = Failure::new(Class::TooLarge, message);
                return Some(Err(broken(failure, &bytes, true)));
            }
            let body = Body::new(bytes);
            let result = body.document().map(|_| ());
            return Some(match result {
                Ok(()) => Ok(Document {
                    body,
                    number,
                    line,
                    offset,
                }),
                Err(mut failure) => {
                    failure.message = in_file(&failure.message, line);
                    Err(broken(failure, body.bytes(), false))
                }
            });
        }
    }

    /// The next line without its end, and its length with it.
    fn line(&mut self) -> Option<(std::ops::Range<usize>, usize)> {
        let found = self.buffer[self.seen..]
            .iter()
            .position(|&byte| byte == b'\n');
        let end = match found {
            Some(found) => self.seen + found,
            None if self.buffer.len() - self.start > self.config.line_bytes_max + 3 => {
                self.buffer.len()
            }
            None if self.finished && self.start < self.buffer.len() => self.buffer.len(),
            None => {
                self.seen = self.buffer.len();
                return None;
            }
        };
        let length = end - self.start + usize::from(found.is_some());
        Some((self.start..end, length))
    }
}

/// The parser counts lines from the document; here the file's line is meant.
fn in_file(message: &str, line: u64) -> String {
    match message.strip_prefix("not JSON at line 1, ") {
        Some(rest) => format!("not JSON at line {line}, {rest}"),
        None => format!("line {line}: {message}"),
    }
}

/// A list as lines, all else as one line.
pub(super) fn encode(document: Item<'_>, out: &mut Vec<u8>) {
    if document.kind() == Kind::List {
        for item in document.items() {
            write_line(item, out);
        }
    } else {
        write_line(document, out);
    }
}

/// One document on one line. Line breaks between values are dropped; within strings JSON has none.
pub(super) fn write_line(document: Item<'_>, out: &mut Vec<u8>) {
    let json = document.json();
    if json.contains(['\n', '\r']) {
        out.extend(json.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    } else {
        out.extend_from_slice(json.as_bytes());
    }
    out.push(b'\n');
}
