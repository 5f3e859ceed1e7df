//! Cross-reference tables: CSV with a header, the key in the first column.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, File, Findings, Place, Span};
use crate::expression::Table;
use crate::flow::codes;

/// How many mistakes of one table are told.
const FINDINGS_MAX: usize = 20;

/// Reads a table. Broken rows are told and left out, so that naming the table is no second mistake.
pub(crate) fn read(name: &str, file: &Arc<File>, findings: &mut Findings) -> Table {
    let mut table = Rows {
        file,
        findings,
        told: 0,
    };
    let open = open_quote(&file.text);
    let readable = table.readable(open);
    if readable == 0 && open.is_some() {
        return empty(name);
    }
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(&file.text.as_bytes()[..readable]);
    let mut header: Option<Vec<String>> = None;
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for record in reader.records() {
        let Ok(record) = record else { continue };
        let start = record
            .position()
            .map_or(0, |position| position.byte() as usize);
        let cells: Vec<String> = record.iter().map(str::to_owned).collect();
        let Some(columns) = &header else {
            if table.header(start, &cells) {
                header = Some(cells);
                continue;
            }
            return empty(name);
        };
        let span = table.line(start);
        if let Some(fault) = row_fault(&cells, columns.len(), &lines) {
            table.report(span, fault.0, fault.1);
        } else {
            lines.insert(cells[0].clone(), file.line_column(span.start).0);
            rows.push(cells);
        }
    }
    let Some(header) = header else {
        table.report(
            Span::default(),
            "the table is empty".to_owned(),
            "begin with a line of column names, the key first",
        );
        return empty(name);
    };
    Table::new(name, header, rows).unwrap_or_else(|_| empty(name))
}

/// Where a quoted cell begins that never ends.
fn open_quote(text: &str) -> Option<usize> {
    let mut open = None;
    let mut cell_begins = true;
    let mut bytes = text
        .trim_start_matches('\u{feff}')
        .bytes()
        .enumerate()
        .peekable();
    while let Some((at, byte)) = bytes.next() {
        if open.is_some() {
            if byte == b'"' && bytes.next_if(|(_, next)| *next == b'"').is_none() {
                open = None;
            }
            continue;
        }
        if byte == b'"' && cell_begins {
            open = Some(at);
        }
        cell_begins = matches!(byte, b',' | b'\n' | b'\r');
    }
    let skipped = text.len() - text.trim_start_matches('\u{feff}').len();
    open.map(|at| at + skipped)
}

/// What is wrong with a row, and what to do; `lines` says where the keys above stand.
fn row_fault(
    cells: &[String],
    columns: usize,
    lines: &BTreeMap<String, usize>,
) -> Option<(String, &'static str)> {
    if cells.len() != columns {
        let message = format!(
            "the row has {} cells, the header has {columns}",
            cells.len()
        );
        let help =
            "give every row as many cells as the header; put a cell with a comma in double quotes";
        return Some((message, help));
    }
    let key = cells.first()?;
    if key.trim().is_empty() {
        let message = "the row has no key: its first cell is empty".to_owned();
        return Some((message, "fill it, or remove the row"));
    }
    let first = lines.get(key)?;
    let message = format!("the key `{key}` stands twice; the first one is in line {first}");
    Some((message, "remove one of the two rows"))
}

/// A table without rows, for one that is broken.
fn empty(name: &str) -> Table {
    let columns = vec!["key".to_owned(), "value".to_owned()];
    Table::new(name, columns, Vec::new()).expect("two columns and no rows are a table")
}

struct Rows<'a> {
    file: &'a Arc<File>,
    findings: &'a mut Findings,
    told: usize,
}

impl Rows<'_> {
    /// How many bytes can be read: a quote without an end takes in all that follows, the rows before it are read.
    fn readable(&mut self, open: Option<usize>) -> usize {
        let text = &self.file.text;
        let Some(at) = open else { return text.len() };
        let message = "the cell that begins here with `\"` is not closed".to_owned();
        let help = "add the closing `\"`; a quote inside of a quoted cell is written twice";
        let end = text[..at].rfind(['\r', '\n']).map_or(0, |end| end + 1);
        self.report(Span::new(at, at + 1), message, help);
        end
    }

    fn header(&mut self, start: usize, columns: &[String]) -> bool {
        let span = self.line(start);
        if columns.len() < 2 {
            let help = if columns
                .iter()
                .any(|column| column.contains([';', '\t', '|']))
            {
                "separate the columns with commas"
            } else {
                "name the key's column first, then at least one column of values"
            };
            self.report(
                span,
                "a table needs a key column and a value column".to_owned(),
                help,
            );
            return false;
        }
        for (at, column) in columns.iter().enumerate() {
            let message = if column.trim().is_empty() {
                format!("column {} has no name", at + 1)
            } else if columns[..at].contains(column) {
                format!("the column `{column}` stands twice")
            } else {
                continue;
            };
            let place = self.cell(span, columns, at);
            self.report(place, message, "give every column a name of its own");
            return false;
        }
        true
    }

    /// Where a cell of the header stands, if the line holds no quotes.
    fn cell(&self, line: Span, columns: &[String], at: usize) -> Span {
        let before: usize = columns[..at].iter().map(|column| column.len() + 1).sum();
        let start = line.start + before;
        let span = Span::new(start, start + columns[at].len());
        match self.file.text.get(span.start..span.end) {
            Some(text) if text == columns[at] => span,
            _ => line,
        }
    }

    /// The line that begins at or behind a byte; blank lines are passed over.
    fn line(&self, start: usize) -> Span {
        let text = &self.file.text;
        let rest = text.get(start..).unwrap_or_default();
        let skipped = rest.len() - rest.trim_start_matches(['\r', '\n', '\u{feff}']).len();
        let start = start + skipped;
        let length = text[start..]
            .find(['\r', '\n'])
            .unwrap_or(text.len() - start);
        Span::new(start, start + length)
    }

    fn report(&mut self, span: Span, message: String, help: &str) {
        self.told += 1;
        if self.told > FINDINGS_MAX {
            return;
        }
        let place = Place {
            file: self.file.clone(),
            span,
        };
        self.findings
            .push(Diagnostic::error(codes::BAD_TABLE, place, message).help(help));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        let file = File::new("tables/a.csv", text);
        let mut findings = Findings::new();
        let table = read("a", &file, &mut findings);
        let found: Vec<String> = findings
            .iter()
            .map(|finding| {
                let (line, column) = finding.place.line_column();
                format!("{line}:{column} {}", finding.message)
            })
            .collect();
        let found = if found.is_empty() {
            format!("{} rows", table.len())
        } else {
            found.join("; ")
        };
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn rows_are_read_and_mistakes_have_their_line() {
        check("k,v\na,1\n\n\"b,c\",2\n", "2 rows");
        check("\u{feff}k,v\r\na,1\r\n", "1 rows");
        check("k,v\ra,1\rb,2\r", "2 rows");
        check(
            "k,v\na,1\nb\nc,3,4\n",
            "3:1 the row has 1 cells, the header has 2; 4:1 the row has 3 cells, the header has 2",
        );
        check(
            "k,v\na,1\n\na,2\n",
            "4:1 the key `a` stands twice; the first one is in line 2",
        );
        check(
            "k,v\n,1\n",
            "2:1 the row has no key: its first cell is empty",
        );
        check(
            "k;v\na;1\n",
            "1:1 a table needs a key column and a value column",
        );
        check("k,v,v\n", "1:5 the column `v` stands twice");
        check("", "1:1 the table is empty");
        check(
            "k,v\na,1\nb,\"2\nc,3\n",
            "3:3 the cell that begins here with `\"` is not closed",
        );
        check(
            "\"k,v\n",
            "1:1 the cell that begins here with `\"` is not closed",
        );
        check("k,v\n5\" pipe,\"a \"\"b\"\"\nc\"\n", "1 rows");
    }
}
