//! A finding about a file: code, place, message, help. Rendered as text, JSON, SARIF or GitHub annotations. Not for messages in flight.

use std::fmt;
use std::sync::Arc;

pub mod render;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth a look; the project runs.
    Warning,
    /// The project cannot be loaded.
    Error,
}

impl Severity {
    /// The word on the screen and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// What kind of mistake it is. Each code has a page in the reference and a bad project under `tests/golden`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code {
    /// Lowercase words with hyphens: `unknown-field`.
    pub name: &'static str,
    /// One sentence for the reference: what it means.
    pub meaning: &'static str,
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A file of the project: its path as the user knows it, and its text.
#[derive(Debug)]
pub struct File {
    /// The path below the project's folder, with `/`.
    pub path: String,
    /// The whole text.
    pub text: String,
    line_starts: Vec<usize>,
}

impl File {
    /// A file with this path and text.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Arc<File> {
        let text = text.into();
        let mut line_starts = vec![0];
        line_starts.extend(
            text.bytes()
                .enumerate()
                .filter(|(_, byte)| *byte == b'\n')
                .map(|(at, _)| at + 1),
        );
        Arc::new(File {
            path: path.into(),
            text,
            line_starts,
        })
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.line_starts.partition_point(|&start| start <= offset);
        let start = self.line_starts[line - 1];
        let before = self.text.get(start..offset).unwrap_or_default();
        let before = before.trim_start_matches('\u{feff}');
        (line, before.chars().count() + 1)
    }

    /// The byte where a line (from 1) begins; the end of the text for lines past it.
    pub fn line_start(&self, line: usize) -> usize {
        self.line_starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(self.text.len())
    }
}

/// A stretch of bytes in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// After the last byte.
    pub end: usize,
}

impl Span {
    /// The stretch from `start` to before `end`.
    pub fn new(start: usize, end: usize) -> Span {
        Span {
            start,
            end: end.max(start),
        }
    }
}

/// A stretch in a named file.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub file: Arc<File>,
    /// The stretch.
    pub span: Span,
}

impl Place {
    /// Line and column of the first byte, both from 1.
    pub fn line_column(&self) -> (usize, usize) {
        self.file.line_column(self.span.start)
    }
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// The kind of mistake.
    pub code: Code,
    /// Error or warning.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What; no full stop, no blame.
    pub message: String,
    /// What to do; empty if there is nothing to say.
    pub help: String,
    /// A body that shows the mistake, as JSON: the contract allows it, and it breaks the rule. Empty if the finding needs none.
    pub witness: String,
    /// Other places that belong to it, each with a few words ("used from here").
    pub related: Vec<(Place, String)>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(code: Code, place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            severity: Severity::Error,
            place,
            message: message.into(),
            help: String::new(),
            witness: String::new(),
            related: Vec::new(),
        }
    }

    /// A warning at a place.
    pub fn warning(code: Code, place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::error(code, place, message)
        }
    }

    /// The same finding with one line of help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = help.into();
        self
    }

    /// The same finding with a body that shows it.
    #[must_use]
    pub fn witness(mut self, body: impl Into<String>) -> Diagnostic {
        self.witness = body.into();
        self
    }

    /// The same finding with another place that belongs to it.
    #[must_use]
    pub fn related(mut self, place: Place, words: impl Into<String>) -> Diagnostic {
        self.related.push((place, words.into()));
        self
    }
}

/// All findings of one check, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Diagnostic>,
}

impl Findings {
    /// No findings yet.
    pub fn new() -> Findings {
        Findings::default()
    }

    /// Adds one; the same code at the same place with the same message is kept once.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        let known = self.list.iter().any(|known| {
            known.code == diagnostic.code
                && known.place.span == diagnostic.place.span
                && known.place.file.path == diagnostic.place.file.path
                && known.message == diagnostic.message
        });
        if !known {
            self.list.push(diagnostic);
        }
    }

    /// Adds all of another check.
    pub fn extend(&mut self, other: Findings) {
        for diagnostic in other.list {
            self.push(diagnostic);
        }
    }

    /// Whether any finding is an error.
    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// How many findings are errors.
    pub fn errors(&self) -> usize {
        self.list
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .count()
    }

    /// How many findings are warnings.
    pub fn warnings(&self) -> usize {
        self.list.len() - self.errors()
    }

    /// The findings, by file, then by place.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut all: Vec<_> = self.list.iter().collect();
        all.sort_by(|a, b| {
            (&a.place.file.path, a.place.span.start, a.code.name).cmp(&(
                &b.place.file.path,
                b.place.span.start,
                b.code.name,
            ))
        });
        all
    }

    /// The findings as found.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// The candidate closest to `word`, if one is close enough to be meant: for "did you mean".
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 1 + word.chars().count() / 4;
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(far, candidate)| *far <= limit && *far < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters must be added, removed, changed or swapped to turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let file = File::new("a.yaml", "ä: 1\nb: 2\n");
        assert_eq!(file.line_column(0), (1, 1));
        assert_eq!(file.line_column(2), (1, 2));
        assert_eq!(file.line_column(6), (2, 1));
        assert_eq!(file.line_column(999), (3, 1));
        assert_eq!(File::new("a.yaml", "\u{feff}a: 1").line_column(3), (1, 1));
    }

    #[test]
    fn did_you_mean_finds_near_words_only() {
        assert_eq!(
            closest("validat", ["map", "validate", "filter"]),
            Some("validate")
        );
        assert_eq!(closest("mpa", ["map", "set"]), Some("map"));
        assert_eq!(closest("zebra", ["map", "set"]), None);
    }
}
