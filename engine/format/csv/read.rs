//! Rows of a file -> documents, one object a row. What is wrong with a row is told with its line, and the next row is read.

use std::borrow::Cow;

use bytes::Bytes;
use encoding_rs::{Encoding, UTF_16BE};
use serde_json::Value;

use super::frame::{Frame, Row, Signs};
use super::{Empty, Ready, Type, encoding_of, text, twin, type_of};
use crate::body::{Body, write_string};
use crate::failure::{Class, Failure};
use crate::format::{Broken, Document, Position, shown};

/// Reads a CSV file.
#[derive(Debug)]
pub struct Decoder {
    ready: Ready,
    schema: Option<Value>,
    pub(crate) position: Position,
    encoding: &'static Encoding,
    types: Vec<Type>,
    buffer: Vec<u8>,
    start: usize,
    frame: Frame,
    finished: bool,
    /// The first bytes were looked at.
    begun: bool,
    /// The header was read, or there is none.
    headed: bool,
    over: bool,
}

impl Decoder {
    pub(crate) fn new(ready: Ready, schema: Option<&Value>, position: Position) -> Decoder {
        let encoding = if position.encoding.is_empty() {
            ready.encoding
        } else {
            encoding_of(&position.encoding)
        };
        let mut decoder = Decoder {
            schema: schema.cloned(),
            encoding,
            types: Vec::new(),
            buffer: Vec::new(),
            start: 0,
            frame: Frame::new(),
            finished: false,
            begun: position.offset > 0,
            headed: !ready.config.header || position.offset > 0 && !position.columns.is_empty(),
            over: false,
            position,
            ready,
        };
        if decoder.position.columns.is_empty() && !decoder.ready.config.columns.is_empty() {
            decoder.position.columns = decoder.ready.config.columns.clone();
        }
        decoder.learn_types();
        decoder
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }

    pub(crate) fn next(&mut self) -> Option<Result<Document, Box<Broken>>> {
        if self.over || !self.begin() {
            return None;
        }
        loop {
            let rest = &self.buffer[self.start..];
            let Some(row) = self.frame.find(rest, self.signs(), self.finished) else {
                return self.too_long();
            };
            let (offset, line) = (self.position.offset, self.position.line + 1);
            let bytes = Bytes::copy_from_slice(&rest[..row.length]);
            self.start += row.taken;
            self.position.offset += row.taken as u64;
            self.position.line += row.lines;
            if row.is_blank {
                continue;
            }
            if !self.headed {
                self.headed = true;
                match self.header(&bytes, line, row) {
                    Ok(()) => continue,
                    Err(failure) => return Some(Err(self.fatal(failure, &bytes, offset, line))),
                }
            }
            self.position.number += 1;
            let number = self.position.number;
            let result = self.row(&bytes, line, row);
            return Some(match result {
                Ok(json) => Ok(Document {
                    body: Body::new(json),
                    number,
                    line,
                    offset,
                }),
                Err(failure) => Err(Box::new(Broken {
                    number,
                    line,
                    offset,
                    bytes: shown(&bytes),
                    failure,
                    fatal: row.is_open,
                })),
            });
        }
    }

    /// Looks at the first bytes of the file; false until there are enough of them.
    fn begin(&mut self) -> bool {
        if self.begun {
            return true;
        }
        if self.buffer.len() < 3 && !self.finished {
            return false;
        }
        self.begun = true;
        if let Some((encoding, length)) = text::marked(&self.buffer) {
            self.encoding = encoding;
            encoding.name().clone_into(&mut self.position.encoding);
            self.start = length;
            self.position.offset = length as u64;
        }
        true
    }

    fn signs(&self) -> Signs {
        Signs {
            delimiter: self.ready.delimiter,
            quote: self.ready.quote,
            comment: self.ready.comment,
            wide: text::is_wide(self.encoding).then_some(self.encoding == UTF_16BE),
        }
    }

    /// Nothing, unless the row that goes on has more bytes than a row may have.
    fn too_long(&mut self) -> Option<Result<Document, Box<Broken>>> {
        let rest = &self.buffer[self.start..];
        let most = self.ready.config.row_bytes_max;
        if rest.len() <= most {
            return None;
        }
        let line = self.position.line + 1;
        let why = if self.frame.is_quoted() {
            "; a quote in it is not closed"
        } else {
            ""
        };
        let message = format!("the row at line {line} has more than {most} bytes{why}");
        let bytes = shown(rest);
        let failure = Failure::new(Class::TooLarge, message);
        let offset = self.position.offset;
        Some(Err(self.fatal(failure, &bytes, offset, line)))
    }

    fn fatal(&mut self, failure: Failure, bytes: &[u8], offset: u64, line: u64) -> Box<Broken> {
        self.over = true;
        self.buffer = Vec::new();
        self.start = 0;
        Box::new(Broken {
            number: self.position.number + 1,
            line,
            offset,
            bytes: shown(bytes),
            failure,
            fatal: true,
        })
    }

    fn header(&mut self, bytes: &[u8], line: u64, row: Row) -> Result<(), Failure> {
        let names = self.cells(bytes, line, row)?;
        if !self.ready.config.columns.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
        if let Some(at) = names.iter().position(String::is_empty) {
            return Err(Failure::parse(format!(
                "line {line}: column {} of the header has no name",
                at + 1
            )));
        }
        if let Some((at, name)) = twin(&names) {
            return Err(Failure::parse(format!(
                "line {line}: the header names `{}` twice, again in column {}",
                cut(name),
                at + 1
            )));
        }
        self.position.columns = names;
        self.learn_types();
        Ok(())
    }

    fn learn_types(&mut self) {
        self.types = self
            .position
            .columns
            .iter()
            .map(|column| type_of(self.schema.as_ref(), column))
            .collect();
    }

    fn row(&self, bytes: &[u8], line: u64, row: Row) -> Result<Vec<u8>, Failure> {
        if row.length > self.ready.config.row_bytes_max {
            let most = self.ready.config.row_bytes_max;
            let message = format!("the row at line {line} has more than {most} bytes");
            return Err(Failure::new(Class::TooLarge, message));
        }
        let cells = self.cells(bytes, line, row)?;
        let columns = &self.position.columns;
        if cells.len() != columns.len() {
            return Err(Failure::parse(format!(
                "line {line} has {} cells, expected {}",
                cells.len(),
                columns.len()
            )));
        }
        let mut out = Vec::with_capacity(bytes.len() * 2 + columns.len() * 8);
        out.push(b'{');
        for ((name, kind), cell) in columns.iter().zip(&self.types).zip(&cells) {
            let cell = if self.ready.config.trim {
                cell.trim()
            } else {
                cell
            };
            if cell.is_empty() && self.ready.config.empty == Empty::Absent {
                continue;
            }
            if out.len() > 1 {
                out.push(b',');
            }
            write_string(&mut out, name);
            out.push(b':');
            if cell.is_empty() && self.ready.config.empty == Empty::Null {
                out.extend_from_slice(b"null");
            } else {
                self.write_cell(cell, *kind, &mut out);
            }
        }
        out.push(b'}');
        Ok(out)
    }

    /// A cell as its column's type; as a text where it is none of that type, so that the schema says what is wrong with it.
    fn write_cell(&self, cell: &str, kind: Type, out: &mut Vec<u8>) {
        let plain = cell.trim();
        match kind {
            Type::Text => write_string(out, cell),
            Type::Bool => match plain.to_ascii_lowercase().as_str() {
                "true" | "1" => out.extend_from_slice(b"true"),
                "false" | "0" => out.extend_from_slice(b"false"),
                _ => write_string(out, cell),
            },
            Type::Number => match number(plain, self.ready.config.decimal_comma) {
                Some(number) => out.extend_from_slice(number.as_bytes()),
                None => write_string(out, cell),
            },
        }
    }

    /// The cells of a row.
    fn cells(&self, bytes: &[u8], line: u64, row: Row) -> Result<Vec<String>, Failure> {
        if row.is_open {
            return Err(Failure::parse(format!(
                "line {line}: a quote is not closed before the end of the file"
            )));
        }
        let Some(text) = text::decode(self.encoding, bytes) else {
            return Err(Failure::parse(format!(
                "line {line} is not text in {}",
                self.encoding.name()
            )));
        };
        if text.contains('\0') {
            return Err(Failure::parse(format!(
                "line {line} has a NUL character; the encoding may be another one than {}",
                self.encoding.name()
            )));
        }
        split(&text, self.ready.delimiter, self.ready.quote)
            .map_err(|why| Failure::parse(format!("line {line}: {why}")))
    }
}

/// The cells of a row's text, without quotes.
fn split(text: &str, delimiter: u8, quote: Option<u8>) -> Result<Vec<String>, String> {
    let delimiter = delimiter as char;
    let mut cells = Vec::new();
    let mut rest = text;
    loop {
        let quoted = quote
            .map(char::from)
            .filter(|quote| rest.starts_with(*quote));
        let (cell, behind): (Cow<'_, str>, &str) = match quoted {
            Some(quote) => {
                let (cell, behind) = unquoted(&rest[1..], quote);
                let gap = behind.find(delimiter).unwrap_or(behind.len());
                if !behind[..gap].trim().is_empty() {
                    return Err(format!(
                        "text follows behind the closing quote of cell {}",
                        cells.len() + 1
                    ));
                }
                (Cow::Owned(cell), &behind[gap..])
            }
            None => {
                let end = rest.find(delimiter).unwrap_or(rest.len());
                (Cow::Borrowed(&rest[..end]), &rest[end..])
            }
        };
        cells.push(cell.into_owned());
        match behind.strip_prefix(delimiter) {
            Some(next) => rest = next,
            None => return Ok(cells),
        }
    }
}

/// The inside of a quoted cell, and what follows behind its closing quote.
fn unquoted(text: &str, quote: char) -> (String, &str) {
    let mut cell = String::new();
    let mut rest = text;
    loop {
        let Some(end) = rest.find(quote) else {
            cell.push_str(rest);
            return (cell, "");
        };
        cell.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(quote) {
            Some(next) => {
                cell.push(quote);
                rest = next;
            }
            None => return (cell, rest),
        }
    }
}

/// A number as JSON writes it; its digits stay as they are, but for zeros and a plus sign that JSON does not take.
fn number(text: &str, decimal_comma: bool) -> Option<Cow<'_, str>> {
    let mut text = Cow::Borrowed(text);
    if decimal_comma && text.contains(',') {
        if text.contains('.') {
            return None;
        }
        text = Cow::Owned(text.replace(',', "."));
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(&text)),
    };
    let mantissa_end = digits.find(['e', 'E']).unwrap_or(digits.len());
    let (mantissa, exponent) = digits.split_at(mantissa_end);
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let fraction_fits =
        fraction.is_none_or(|fraction| !fraction.is_empty() && all_digits(fraction));
    let exponent_fits = exponent.is_empty() || {
        let digits = exponent[1..].trim_start_matches(['+', '-']);
        !digits.is_empty() && all_digits(digits) && exponent.len() - digits.len() <= 2
    };
    if !all_digits(whole)
        || (whole.is_empty() && fraction.is_none())
        || !fraction_fits
        || !exponent_fits
    {
        return None;
    }
    let trimmed = whole.trim_start_matches('0');
    let trimmed = if trimmed.is_empty() { "0" } else { trimmed };
    if trimmed == whole && !text.starts_with('+') {
        return Some(text);
    }
    let fraction = fraction.map_or(String::new(), |fraction| format!(".{fraction}"));
    Some(Cow::Owned(format!("{sign}{trimmed}{fraction}{exponent}")))
}

fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}
