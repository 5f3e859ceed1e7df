//! CSV: rows of separated cells, with a header or with columns from the settings, typed by a schema. Broken rows are told with their line.

use encoding_rs::{Encoding, UTF_8};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{FormatFault, text};
use crate::body::{Item, Kind};
use crate::failure::Failure;

mod frame;
pub mod read;

/// Rows of separated cells.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Csv {
    /// What stands between cells: one character, or `tab`.
    pub delimiter: String,
    /// What stands around cells that hold delimiters or line ends: one character, or nothing at all.
    pub quote: String,
    /// Whether the first row names the columns; with `columns` given, it is read and passed over.
    pub header: bool,
    /// The names of the columns, where the file does not name them or others are wanted.
    pub columns: Vec<String>,
    /// Lines that begin with this character are passed over.
    pub comment: Option<String>,
    /// The encoding, such as `windows-1252`; a byte order mark in the file wins.
    pub encoding: String,
    /// What an empty cell becomes.
    pub empty: Empty,
    /// Whether spaces around cells are dropped.
    pub trim: bool,
    /// Whether numbers are written with a decimal comma.
    pub decimal_comma: bool,
    /// How many bytes a row may have.
    #[schemars(range(min = 1))]
    pub row_bytes_max: usize,
    /// How written lines end.
    pub line_end: LineEnd,
    /// Whether written texts that a spreadsheet would run as a formula get a `'` before them.
    pub disarm_formulas: bool,
}

/// What an empty cell becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Empty {
    /// The field is left out.
    Absent,
    /// The field is null.
    Null,
    /// The field is an empty text.
    Text,
}

/// How a line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineEnd {
    /// A line feed.
    Lf,
    /// A carriage return and a line feed.
    Crlf,
}

impl Default for Csv {
    fn default() -> Csv {
        Csv {
            delimiter: ",".to_owned(),
            quote: "\"".to_owned(),
            header: true,
            columns: Vec::new(),
            comment: None,
            encoding: "utf-8".to_owned(),
            empty: Empty::Absent,
            trim: false,
            decimal_comma: false,
            row_bytes_max: 1 << 20,
            line_end: LineEnd::Lf,
            disarm_formulas: false,
        }
    }
}

/// Settings that were checked.
#[derive(Clone, Debug)]
pub struct Ready {
    config: Csv,
    delimiter: u8,
    quote: Option<u8>,
    comment: Option<u8>,
    encoding: &'static Encoding,
}

impl Csv {
    /// Checks the settings.
    pub(super) fn ready(&self) -> Result<Ready, FormatFault> {
        let delimiter = match self.delimiter.as_str() {
            "tab" => b'\t',
            other => sign(other, "delimiter")?,
        };
        let quote = match self.quote.as_str() {
            "" => None,
            other => Some(sign(other, "quote")?),
        };
        let comment = match &self.comment {
            None => None,
            Some(other) => Some(sign(other, "comment")?),
        };
        if quote == Some(delimiter) {
            return Err(FormatFault {
                field: "quote",
                message: "the quote and the delimiter are the same character".to_owned(),
                help: "choose another character for one of them".to_owned(),
            });
        }
        let encoding = text::named(&self.encoding).ok_or_else(|| FormatFault {
            field: "encoding",
            message: format!("the encoding `{}` is not known", self.encoding),
            help: "use a name such as utf-8, windows-1252, iso-8859-15 or utf-16le".to_owned(),
        })?;
        if let Some((at, name)) = twin(&self.columns) {
            return Err(FormatFault {
                field: "columns",
                message: format!("column {} has the name `{name}` of another one", at + 1),
                help: "give each column a name of its own".to_owned(),
            });
        }
        if self.columns.is_empty() && !self.header {
            return Err(FormatFault {
                field: "header",
                message: "without a header, nothing names the columns".to_owned(),
                help: "list their names in `columns`".to_owned(),
            });
        }
        Ok(Ready {
            config: self.clone(),
            delimiter,
            quote,
            comment,
            encoding,
        })
    }
}

fn sign(text: &str, field: &'static str) -> Result<u8, FormatFault> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0) => Ok(*byte),
        _ => Err(FormatFault {
            field,
            message: format!("`{field}` must be one plain character, found `{text}`"),
            help: "use a character such as `;`".to_owned(),
        }),
    }
}

/// The first name that stands twice.
fn twin(names: &[String]) -> Option<(usize, &str)> {
    let mut seen = rustc_hash::FxHashSet::default();
    names
        .iter()
        .enumerate()
        .find(|(_, name)| !seen.insert(name.as_str()))
        .map(|(at, name)| (at, name.as_str()))
}

impl Ready {
    /// The names of the columns, if the settings give them.
    pub fn columns(&self) -> &[String] {
        &self.config.columns
    }

    /// A list of objects as rows under a header, an object as one row. Without `columns`, the first object's keys are the columns.
    pub(super) fn encode(&self, document: Item<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
        let rows: Vec<Item<'_>> = match document.kind() {
            Kind::List => document.items().collect(),
            _ => vec![document],
        };
        let named: Vec<String> = rows
            .first()
            .map(|row| {
                row.entries()
                    .map(|(key, _)| key.as_str().unwrap_or_default().into_owned())
                    .collect()
            })
            .unwrap_or_default();
        let columns = if self.config.columns.is_empty() {
            &named
        } else {
            &self.config.columns
        };
        if self.config.header {
            self.write_names(columns, out)?;
        }
        for row in rows {
            self.write_cells(columns, row, out)?;
        }
        Ok(())
    }

    /// The header, if there is one and the columns are known.
    pub(super) fn write_header(&self, out: &mut Vec<u8>) -> Result<(), Failure> {
        if self.config.header && !self.config.columns.is_empty() {
            self.write_names(&self.config.columns, out)?;
        }
        Ok(())
    }

    /// Whether the settings name the columns.
    pub(super) fn has_columns(&self) -> bool {
        !self.config.columns.is_empty()
    }

    /// One object as a row of the columns in the settings.
    pub(super) fn write_row(&self, document: Item<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
        if self.config.columns.is_empty() {
            return Err(Failure::config("a csv that is appended to needs `columns`"));
        }
        self.write_cells(&self.config.columns, document, out)
    }

    fn write_names(&self, names: &[String], out: &mut Vec<u8>) -> Result<(), Failure> {
        let mut line = String::new();
        for (at, name) in names.iter().enumerate() {
            self.separate(at, &mut line);
            self.write_text(name, &mut line)?;
        }
        self.write_line(&line, out)
    }

    fn write_cells(
        &self,
        columns: &[String],
        row: Item<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        if row.kind() != Kind::Object {
            return Err(Failure::mapping("a csv row needs an object"));
        }
        let unknown = row
            .entries()
            .map(|(key, _)| key.as_str().unwrap_or_default())
            .find(|key| !columns.iter().any(|column| column == key));
        if let Some(key) = unknown.filter(|_| !row.is_empty() && self.config.columns.is_empty()) {
            return Err(Failure::mapping(format!(
                "the field `{key}` is in no column: the first row's fields are the columns"
            ))
            .with_detail("list all columns in the format's `columns`"));
        }
        let mut line = String::new();
        for (at, column) in columns.iter().enumerate() {
            self.separate(at, &mut line);
            let Some(cell) = row.get(column) else {
                continue;
            };
            match cell.kind() {
                Kind::Null => {}
                Kind::Number if self.config.decimal_comma => {
                    self.write_text(&cell.raw().replace('.', ","), &mut line)?;
                }
                Kind::Bool | Kind::Number => line.push_str(cell.raw()),
                Kind::String => {
                    let text = cell.as_str().unwrap_or_default();
                    if self.config.disarm_formulas
                        && text.starts_with(['=', '+', '-', '@', '\t', '\r'])
                    {
                        self.write_text(&format!("'{text}"), &mut line)?;
                    } else {
                        self.write_text(&text, &mut line)?;
                    }
                }
                Kind::List | Kind::Object => self.write_text(cell.json(), &mut line)?,
            }
        }
        self.write_line(&line, out)
    }

    fn separate(&self, at: usize, line: &mut String) {
        if at > 0 {
            line.push(self.delimiter as char);
        }
    }

    fn write_text(&self, text: &str, line: &mut String) -> Result<(), Failure> {
        let signs = [Some(self.delimiter), self.quote]
            .into_iter()
            .flatten()
            .any(|sign| text.contains(sign as char));
        let first = line.is_empty()
            && self
                .comment
                .is_some_and(|sign| text.starts_with(sign as char));
        let spaces = text.trim() != text;
        // A row of one empty cell would be read as no row at all.
        if !(signs || first || spaces || text.contains(['\n', '\r'])) {
            line.push_str(text);
            return Ok(());
        }
        let Some(quote) = self.quote.map(char::from) else {
            if signs || first || text.contains(['\n', '\r']) {
                return Err(Failure::mapping(
                    "a cell holds a delimiter or a line end, and the format has no quote",
                ));
            }
            line.push_str(text);
            return Ok(());
        };
        line.push(quote);
        for character in text.chars() {
            if character == quote {
                line.push(quote);
            }
            line.push(character);
        }
        line.push(quote);
        Ok(())
    }

    fn write_line(&self, line: &str, out: &mut Vec<u8>) -> Result<(), Failure> {
        if text::is_wide(self.encoding) {
            return Err(Failure::config(format!(
                "csv is not written in {}; use utf-8",
                self.encoding.name()
            )));
        }
        let line = if line.is_empty() && self.quote.is_some() {
            "\"\""
        } else {
            line
        };
        text::encode(self.encoding, line, out)?;
        out.extend_from_slice(match self.config.line_end {
            LineEnd::Lf => b"\n",
            LineEnd::Crlf => b"\r\n",
        });
        Ok(())
    }
}

/// What the cells of a column become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Number,
    Bool,
}

/// What a schema says of a column; a text where it says nothing.
fn type_of(schema: Option<&Value>, column: &str) -> Type {
    let Some(root) = schema else {
        return Type::Text;
    };
    let property = resolved(root, root)
        .get("properties")
        .and_then(|properties| properties.get(column))
        .map(|property| resolved(root, property));
    let types: Vec<String> = match property.and_then(|property| property.get("type")) {
        Some(Value::String(name)) => vec![name.clone()],
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    };
    let has = |name: &str| types.iter().any(|known| known == name);
    if has("string") {
        Type::Text
    } else if has("integer") || has("number") {
        Type::Number
    } else if has("boolean") {
        Type::Bool
    } else {
        Type::Text
    }
}

/// The schema itself, or the one in the same file that it refers to.
fn resolved<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
    for _ in 0..16 {
        let pointer = schema.get("$ref").and_then(Value::as_str);
        match pointer.and_then(|pointer| root.pointer(pointer.strip_prefix('#')?)) {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

/// The encoding of a file whose settings say nothing else.
fn encoding_of(name: &str) -> &'static Encoding {
    text::named(name).unwrap_or(UTF_8)
}
