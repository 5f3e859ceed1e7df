//! JSON: one document, or the items of one list. Not for files of one document a line; that is `jsonl`.

use std::collections::VecDeque;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Broken, Document, Position, Whole, broken_file};
use crate::body::{Body, Kind};

/// One JSON document.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Json {
    /// Take the items of a list one by one.
    pub each: bool,
    /// How many bytes a file may have.
    #[schemars(range(min = 1))]
    pub bytes_max: usize,
}

impl Default for Json {
    fn default() -> Json {
        Json {
            each: false,
            bytes_max: 16 << 20,
        }
    }
}

/// Reads a JSON file.
#[derive(Debug)]
pub struct Decoder {
    config: Json,
    pub(super) whole: Whole,
    pub(super) position: Position,
    ready: VecDeque<Document>,
    done: bool,
}

impl Decoder {
    pub(super) fn new(config: Json, position: Position) -> Decoder {
        Decoder {
            whole: Whole::new(config.bytes_max),
            config,
            position,
            ready: VecDeque::new(),
            done: false,
        }
    }

    pub(super) fn next(&mut self) -> Option<Result<Document, Box<Broken>>> {
        if !self.done {
            let taken = self.whole.take()?;
            self.done = true;
            let bytes = match taken {
                Ok(bytes) => bytes,
                Err(failure) => return Some(Err(broken_file(failure, b""))),
            };
            let length = bytes.len() as u64;
            if let Err(broken) = self.read(bytes) {
                return Some(Err(broken));
            }
            // Within the file there is no place to go on from: a repeat skips as many documents as were read.
            let skip = usize::try_from(self.position.number).unwrap_or(usize::MAX);
            self.ready.drain(..skip.min(self.ready.len()));
            if self.ready.is_empty() {
                self.position.offset = length;
            }
        }
        let document = self.ready.pop_front()?;
        self.position.number = document.number;
        Some(Ok(document))
    }

    fn read(&mut self, mut bytes: Vec<u8>) -> Result<(), Box<Broken>> {
        if bytes.starts_with(b"\xEF\xBB\xBF") {
            bytes.drain(..3);
        }
        let body = Body::new(Bytes::from(bytes));
        let root = match body.document() {
            Ok(root) => root,
            Err(failure) => return Err(broken_file(failure, body.bytes())),
        };
        let document = |body: Body, number: usize| Document {
            body,
            number: number as u64 + 1,
            line: 1,
            offset: 0,
        };
        if self.config.each && root.kind() == Kind::List {
            self.ready = root
                .items()
                .enumerate()
                .map(|(at, item)| document(Body::new(item.to_bytes()), at))
                .collect();
        } else {
            self.ready.push_back(document(body.clone(), 0));
        }
        Ok(())
    }
}
