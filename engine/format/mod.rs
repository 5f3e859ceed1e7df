//! Bytes <-> documents: the contract and the registry of formats. Pure.
//!
//! A [`Decoder`] is fed a file's bytes in pieces of any size and gives one document after another, with the position from which it can go
//! on after a restart. What cannot be read is a [`Broken`], with its line; the decoder goes on behind it where that is possible.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::body::{Body, Item};
use crate::failure::{Class, Failure};

pub mod csv;
pub mod json;
pub mod jsonl;
mod text;
pub mod xml;

/// How bytes and documents become each other: `csv`, or `{ csv: { delimiter: ";" } }`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum FormatConfig {
    /// A format with its defaults.
    Name(FormatName),
    /// A format with settings.
    Settings(FormatSettings),
}

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatName {
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Jsonl,
    /// Rows of separated cells.
    Csv,
    /// One XML document.
    Xml,
}

/// A format with its settings.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FormatSettings {
    /// One JSON document.
    Json(json::Json),
    /// One JSON document a line.
    Jsonl(jsonl::Jsonl),
    /// Rows of separated cells.
    Csv(csv::Csv),
    /// One XML document.
    Xml(xml::Xml),
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatFault {
    /// The setting below the format's name, such as `delimiter`.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// A format that is ready to read and write.
#[derive(Clone, Debug)]
pub enum Format {
    /// One JSON document.
    Json(json::Json),
    /// One JSON document a line.
    Jsonl(jsonl::Jsonl),
    /// Rows of separated cells.
    Csv(csv::Ready),
    /// One XML document.
    Xml(xml::Xml),
}

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its JSON.
    pub body: Body,
    /// Its number in the file, from 1.
    pub number: u64,
    /// The line on which it begins, from 1.
    pub line: u64,
    /// The byte of the file at which it begins.
    pub offset: u64,
}

/// A stretch of a file that is no document.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Its number in the file, counted with the documents.
    pub number: u64,
    /// The line on which it begins, from 1.
    pub line: u64,
    /// The byte of the file at which it begins.
    pub offset: u64,
    /// The bytes as they stand, cut at [`SHOWN_BYTES_MAX`].
    pub bytes: Bytes,
    /// What is wrong.
    pub failure: Failure,
    /// Nothing behind it can be read.
    pub fatal: bool,
}

/// How many bytes of a broken stretch are kept.
pub const SHOWN_BYTES_MAX: usize = 64 << 10;

/// How far a decoder is. A decoder made from it goes on with the bytes from `offset`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The byte behind the last document.
    pub offset: u64,
    /// How many documents were read.
    pub number: u64,
    /// How many line ends were passed.
    pub line: u64,
    /// The names of the columns, once they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The encoding that the file's first bytes tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub encoding: String,
}

/// Reads the documents of one file.
#[derive(Debug)]
pub enum Decoder {
    /// One JSON document.
    Json(json::Decoder),
    /// One JSON document a line.
    Jsonl(jsonl::Decoder),
    /// Rows of separated cells.
    Csv(Box<csv::read::Decoder>),
    /// One XML document.
    Xml(xml::Decoder),
}

impl FormatConfig {
    /// Checks the settings.
    pub fn ready(&self) -> Result<Format, FormatFault> {
        Ok(match self {
            FormatConfig::Name(FormatName::Json) => Format::Json(json::Json::default()),
            FormatConfig::Name(FormatName::Jsonl) => Format::Jsonl(jsonl::Jsonl::default()),
            FormatConfig::Name(FormatName::Csv) => Format::Csv(csv::Csv::default().ready()?),
            FormatConfig::Name(FormatName::Xml) => Format::Xml(xml::Xml::default()),
            FormatConfig::Settings(FormatSettings::Json(json)) => Format::Json(json.clone()),
            FormatConfig::Settings(FormatSettings::Jsonl(jsonl)) => Format::Jsonl(jsonl.clone()),
            FormatConfig::Settings(FormatSettings::Csv(csv)) => Format::Csv(csv.ready()?),
            FormatConfig::Settings(FormatSettings::Xml(xml)) => Format::Xml(xml.clone()),
        })
    }
}

impl Format {
    /// The name in YAML.
    pub fn name(&self) -> &'static str {
        match self {
            Format::Json(_) => "json",
            Format::Jsonl(_) => "jsonl",
            Format::Csv(_) => "csv",
            Format::Xml(_) => "xml",
        }
    }

    /// The media type, for headers.
    pub fn media_type(&self) -> &'static str {
        match self {
            Format::Json(_) => "application/json",
            Format::Jsonl(_) => "application/x-ndjson",
            Format::Csv(_) => "text/csv",
            Format::Xml(_) => "application/xml",
        }
    }

    /// Whether a decoder can go on in the middle of a file, and documents can be appended to one.
    pub fn is_by_line(&self) -> bool {
        matches!(self, Format::Jsonl(_) | Format::Csv(_))
    }

    /// Whether one document after another can be written without seeing the others first: a `csv` needs `columns`.
    pub fn writes_lines(&self) -> bool {
        match self {
            Format::Csv(csv) => csv.has_columns(),
            _ => true,
        }
    }

    /// A decoder for the bytes of a file from `position.offset` on. With a JSON Schema, cells become what its properties say.
    pub fn decoder(&self, schema: Option<&Value>, position: Position) -> Decoder {
        match self {
            Format::Json(json) => Decoder::Json(json::Decoder::new(json.clone(), position)),
            Format::Jsonl(jsonl) => Decoder::Jsonl(jsonl::Decoder::new(jsonl.clone(), position)),
            Format::Csv(csv) => Decoder::Csv(Box::new(csv::read::Decoder::new(
                csv.clone(),
                schema,
                position,
            ))),
            Format::Xml(xml) => Decoder::Xml(xml::Decoder::new(xml.clone(), position)),
        }
    }

    /// The whole of some bytes as one JSON document: of `jsonl` and `csv` a list. The first thing that cannot be read is the failure.
    pub fn decode(&self, bytes: &[u8], schema: Option<&Value>) -> Result<Bytes, Failure> {
        let mut decoder = self.decoder(schema, Position::default());
        decoder.feed(bytes);
        decoder.finish();
        let list = self.is_by_line() || matches!(self, Format::Json(json) if json.each);
        let mut out = Vec::with_capacity(bytes.len() + 16);
        let mut count = 0;
        while let Some(next) = decoder.next_document() {
            let document = next.map_err(|broken| broken.failure)?;
            if !list {
                return Ok(document.body.bytes().clone());
            }
            out.push(if count == 0 { b'[' } else { b',' });
            out.extend_from_slice(document.body.bytes());
            count += 1;
        }
        match (list, count) {
            (false, _) => return Err(Failure::parse("there is no document")),
            (true, 0) => out.push(b'['),
            (true, _) => {}
        }
        out.push(b']');
        Ok(Bytes::from(out))
    }

    /// A whole document as bytes: of `jsonl` and `csv`, a list is one line an item, with a header.
    pub fn encode(&self, document: Item<'_>) -> Result<Bytes, Failure> {
        let mut out = Vec::new();
        match self {
            Format::Json(_) => return Ok(document.to_bytes()),
            Format::Jsonl(_) => jsonl::encode(document, &mut out),
            Format::Csv(csv) => csv.encode(document, &mut out)?,
            Format::Xml(xml) => xml.encode(document, &mut out)?,
        }
        Ok(Bytes::from(out))
    }

    /// What a file begins with, where documents are appended: the header of a `csv` with `columns`.
    pub fn header(&self) -> Result<Bytes, Failure> {
        let mut out = Vec::new();
        if let Format::Csv(csv) = self {
            csv.write_header(&mut out)?;
        }
        Ok(Bytes::from(out))
    }

    /// One document as it is appended to a file, with its line end. A `csv` needs `columns`.
    pub fn line(&self, document: Item<'_>) -> Result<Bytes, Failure> {
        let mut out = Vec::new();
        match self {
            Format::Json(_) | Format::Jsonl(_) => jsonl::write_line(document, &mut out),
            Format::Csv(csv) => csv.write_row(document, &mut out)?,
            Format::Xml(xml) => {
                xml.encode(document, &mut out)?;
                out.push(b'\n');
            }
        }
        Ok(Bytes::from(out))
    }
}

impl Decoder {
    /// Gives the decoder more of the file. Call [`Decoder::next_document`] until it gives nothing before feeding more: what is fed is kept.
    pub fn feed(&mut self, bytes: &[u8]) {
        match self {
            Decoder::Json(decoder) => decoder.whole.feed(bytes),
            Decoder::Jsonl(decoder) => decoder.feed(bytes),
            Decoder::Csv(decoder) => decoder.feed(bytes),
            Decoder::Xml(decoder) => decoder.whole.feed(bytes),
        }
    }

    /// Says that the file ends here.
    pub fn finish(&mut self) {
        match self {
            Decoder::Json(decoder) => decoder.whole.finished = true,
            Decoder::Jsonl(decoder) => decoder.finish(),
            Decoder::Csv(decoder) => decoder.finish(),
            Decoder::Xml(decoder) => decoder.whole.finished = true,
        }
    }

    /// The next document, or what is none; nothing if more bytes are needed, or at the end.
    pub fn next_document(&mut self) -> Option<Result<Document, Box<Broken>>> {
        match self {
            Decoder::Json(decoder) => decoder.next(),
            Decoder::Jsonl(decoder) => decoder.next(),
            Decoder::Csv(decoder) => decoder.next(),
            Decoder::Xml(decoder) => decoder.next(),
        }
    }

    /// Behind the last document that was given. Formats that are not read by line stay at the beginning until all is read.
    pub fn position(&self) -> Position {
        match self {
            Decoder::Json(decoder) => decoder.position.clone(),
            Decoder::Jsonl(decoder) => decoder.position.clone(),
            Decoder::Csv(decoder) => decoder.position.clone(),
            Decoder::Xml(decoder) => decoder.position.clone(),
        }
    }
}

/// The bytes of a file that is read as a whole, up to a limit.
#[derive(Debug)]
struct Whole {
    bytes: Vec<u8>,
    bytes_max: usize,
    over: bool,
    finished: bool,
}

impl Whole {
    fn new(bytes_max: usize) -> Whole {
        Whole {
            bytes: Vec::new(),
            bytes_max,
            over: false,
            finished: false,
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if self.over || self.bytes.len() + bytes.len() > self.bytes_max {
            self.over = true;
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// All bytes, once; nothing before the end of the file. Fails as soon as there are too many.
    fn take(&mut self) -> Option<Result<Vec<u8>, Failure>> {
        if self.over {
            let message = format!("the file has more than {} bytes", self.bytes_max);
            return Some(Err(Failure::new(Class::TooLarge, message)));
        }
        self.finished.then(|| Ok(std::mem::take(&mut self.bytes)))
    }
}

/// A whole file that cannot be read.
fn broken_file(failure: Failure, bytes: &[u8]) -> Box<Broken> {
    Box::new(Broken {
        number: 1,
        line: 1,
        offset: 0,
        bytes: shown(bytes),
        failure,
        fatal: true,
    })
}

fn shown(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)])
}

#[cfg(test)]
mod tests;
