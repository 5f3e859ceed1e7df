//! A question about a place in a file: what stands there, what could, what it means, where it is declared.

use std::sync::Arc;

use serde_json::{Value, json};

use super::cursor::{self, Cursor, Part, What};
use super::keys::{self, Kind};
use super::names::{self, Names};
use super::position;
use super::within::{self, Ground, Spot, Within};
use super::{ground, target};
use crate::diagnostic::{File, Findings, Place, Span};
use crate::expression::functions;
use crate::flow::workspace::{Noun, View};
use crate::schema::place::At;
use crate::yaml::{self, Node};

/// A place in a file that is open, in a project as it was last looked at.
pub(super) struct Ask<'a> {
    pub(super) view: &'a View,
    pub(super) file: &'a Arc<File>,
    pub(super) offset: usize,
    pub(super) kind: Option<Kind>,
    /// The file's tree, as far as it can be read; else what it was when it last could.
    tree: Option<Node>,
}

impl<'a> Ask<'a> {
    /// A place in a file.
    pub(super) fn at(view: &'a View, file: &'a Arc<File>, offset: usize) -> Ask<'a> {
        let kind = Kind::of(&file.path);
        let tree = kind.and_then(|_| {
            let now = yaml::read(file, &mut Findings::new()).node;
            now.or_else(|| view.tree(&file.path).cloned())
        });
        Ask {
            view,
            file,
            offset,
            kind,
            tree,
        }
    }

    /// Where the cursor is, with the text up to `offset`.
    pub(super) fn cursor(&self, offset: usize) -> Cursor {
        if self.kind.is_none() {
            return Cursor {
                path: Vec::new(),
                what: What::Value,
                start: 0,
                quote: None,
            };
        }
        cursor::at(&self.file.text, offset)
    }

    /// Whether the file is one expression.
    pub(super) fn is_expression(&self) -> bool {
        self.file.path.ends_with(".jmespath")
    }

    /// Whether an expression stands at the end of this way.
    pub(super) fn takes_expression(&self, path: &[Part]) -> bool {
        let spot = self.kind.and_then(|kind| keys::Spot::at(kind, path));
        self.is_expression() || spot.is_some_and(|spot| spot.takes_expression())
    }

    /// What is known where the expression at the end of this way stands.
    pub(super) fn ground(&self, path: &[Part]) -> Ground<'a> {
        match (self.kind, &self.tree) {
            (Some(kind), Some(tree)) => ground::at(self.view, kind, tree, path),
            _ => Ground::default(),
        }
    }

    /// What the target's schema says of the field at the end of this way.
    pub(super) fn target(&self, path: &[Part]) -> Spot<'a> {
        match (self.kind, &self.tree) {
            (Some(Kind::Mapping), Some(tree)) => target::at(self.view, tree, path),
            _ => Spot::default(),
        }
    }

    /// The node at the end of this way.
    pub(super) fn node(&self, path: &[Part]) -> Option<&Node> {
        let parts: Vec<String> = path.iter().map(Part::text).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.tree.as_ref()?.find(&parts)
    }

    /// What the value at the end of this way names.
    pub(super) fn names(&self, path: &[Part]) -> Option<Names> {
        names::at(self.kind?, path)
    }

    /// What of the same file has a name of this kind.
    pub(super) fn own_names(&self, names: Names) -> Vec<String> {
        let Some(tree) = &self.tree else {
            return Vec::new();
        };
        let entries = |key: &str| {
            let entries = tree.get(key).map(Node::entries).unwrap_or_default();
            entries.iter().map(|(key, _)| key.text.clone()).collect()
        };
        match names {
            Names::Sink => entries("sinks"),
            Names::Key => entries("keys"),
            Names::Declared(_) => Vec::new(),
        }
    }

    /// The word at the cursor that is part of an expression, and where it ends.
    fn word(&self) -> (usize, usize) {
        let text = &self.file.text;
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let before = &text[..self.offset];
        let start = before.trim_end_matches(name).len();
        let behind = &text[self.offset..];
        let end = text.len() - behind.trim_start_matches(name).len();
        (start, end)
    }

    /// The name at the cursor, and its bytes: what stands between blanks, quotes and brackets.
    fn name(&self, from: usize) -> (&'a str, Span) {
        let text = &self.file.text;
        let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '}' | ']' | '"' | '\'');
        let behind = &text[self.offset..];
        let end = self.offset + behind.find(ends).unwrap_or(behind.len());
        let start = from.min(end);
        let name = text.get(start..end).unwrap_or_default();
        (name, Span::new(start, end))
    }

    /// The words for what stands at the cursor, and its range.
    pub(super) fn hover(&self) -> Option<Value> {
        let (start, end) = self.word();
        let cursor = self.cursor(end);
        if self.takes_expression(&cursor.path) && cursor.start <= start && end > start {
            let words = self.hover_expression(&cursor, start, end);
            if let Some(words) = words {
                return Some(self.shown(words, Span::new(start, end)));
            }
        }
        if cursor.what == What::Key {
            let (_, end) = self.key_end(end);
            let key = self.file.text.get(cursor.start..end)?.to_owned();
            let mut path = cursor.path.clone();
            path.push(Part::Key(key.clone()));
            if let Some(words) = self.hover_key(&key, &path) {
                return Some(self.shown(words, Span::new(cursor.start, end)));
            }
        }
        let (name, span) = self.name(cursor.start);
        if let Some(words) = self.hover_name(name, &cursor.path) {
            return Some(self.shown(words, span));
        }
        let spot = keys::Spot::at(self.kind?, &cursor.path)?;
        let choice = spot.choices().into_iter().find(|(word, _)| word == name);
        let (word, means) = choice.filter(|(_, means)| !means.is_empty())?;
        Some(self.shown(format!("`{word}`: {means}"), span))
    }

    /// Where the key that goes on behind `from` ends.
    fn key_end(&self, from: usize) -> (usize, usize) {
        let behind = &self.file.text[from..];
        let ends = |c: char| c.is_whitespace() || matches!(c, ':' | '"' | '\'' | ',' | '}');
        (from, from + behind.find(ends).unwrap_or(behind.len()))
    }

    fn shown(&self, words: String, span: Span) -> Value {
        json!({
            "contents": { "kind": "markdown", "value": words },
            "range": position::range(self.file, span),
        })
    }

    fn hover_expression(&self, cursor: &Cursor, start: usize, end: usize) -> Option<String> {
        let text = &self.file.text;
        let word = text.get(start..end)?;
        let before = text.get(cursor.start..end)?;
        if text[end..].starts_with('(')
            && let Some(function) = functions::find(word)
        {
            let mut words = function_words(function);
            if let Some(gives) = self.inferred(start, false) {
                words.push_str(&format!("\n\nHere it gives {gives}"));
            }
            return Some(words);
        }
        let ground = self.ground(&cursor.path);
        if text[..start].ends_with('$') {
            let says = self
                .inferred(start - 1, false)
                .or_else(|| ground.variables.get(word)?.says())
                .unwrap_or_else(|| "nothing is known of it".to_owned());
            return Some(format!("`${word}`: {says}"));
        }
        let spot = within::value(&unquoted(before, cursor.quote), &ground);
        let says = self.inferred(start, false).or_else(|| spot.says())?;
        let mut words = format!("`{word}`: {says}");
        if let Some(more) = spot.places.iter().find_map(|at| at.words()) {
            words.push_str(&format!("\n\n{more}"));
        }
        Some(words)
    }

    /// The type at a byte, as `check` follows it from contract to contract; nothing where the project was not looked at with this text.
    fn inferred(&self, at: usize, whole: bool) -> Option<String> {
        let seen = self.view.file(&self.file.path)?;
        let (_, words) = (seen.text == self.file.text)
            .then(|| self.view.type_at(&self.file.path, at, whole))??;
        Some(words)
    }

    fn hover_key(&self, key: &str, path: &[Part]) -> Option<String> {
        let target = self.target(path);
        if let Some(says) = target.says() {
            let mut words = format!("`{key}`: {says}");
            if let Some(more) = target.places.iter().find_map(|at| at.words()) {
                words.push_str(&format!("\n\n{more}"));
            }
            let value = self.node(path).filter(|value| value.as_text().is_some());
            if let Some(gets) = value.and_then(|value| self.inferred(value.span.start, true)) {
                words.push_str(&format!("\n\nIt gets {gets}"));
            }
            return Some(words);
        }
        let spot = keys::Spot::at(self.kind?, path)?;
        let mut words = format!("**{key}**\n\n{}", spot.words()?);
        if let Some(example) = spot.example() {
            words.push_str(&format!(
                "\n\nExample:\n\n```yaml\n{}\n```",
                example.trim_end()
            ));
        }
        Some(words)
    }

    fn hover_name(&self, name: &str, path: &[Part]) -> Option<String> {
        let Names::Declared(noun) = self.names(path)? else {
            return None;
        };
        let place = self.view.declaration(noun, name)?;
        let mut words = format!("{} `{name}`, {}", noun.word(), place.file.path);
        if let Some(more) = self.described(noun, name, &place) {
            words.push_str(&format!("\n\n{more}"));
        }
        Some(words)
    }

    /// What a declared thing is, in its own words.
    pub(super) fn described(&self, noun: Noun, name: &str, place: &Place) -> Option<String> {
        let library = self.view.library();
        let tree = self.view.tree(&place.file.path);
        let said = |key: &str| Some(tree?.get(key)?.as_text()?.to_owned());
        match noun {
            Noun::Mapping => {
                let ends = [("from", said("from")), ("to", said("to"))];
                let ends: Vec<String> = ends
                    .into_iter()
                    .filter_map(|(word, name)| Some(format!("{word} `{}`", name?)))
                    .collect();
                let all = [ends.join(" "), said("description").unwrap_or_default()];
                Some(all.join("\n\n").trim().to_owned()).filter(|words| !words.is_empty())
            }
            Noun::Schema => At::named(&library.schemas, name)?
                .words()
                .map(str::to_owned),
            Noun::System => said("description").or_else(|| {
                let url = tree?.find(&["http", "base_url"])?;
                Some(format!("`{}`", url.as_text()?))
            }),
            Noun::Table => {
                let table = library.tables.get(name)?;
                Some(format!("columns: {}", table.columns().join(", ")))
            }
            Noun::Flow | Noun::Fragment => said("description"),
        }
    }

    /// Where what stands at the cursor is declared.
    pub(super) fn definition(&self) -> Option<Place> {
        let cursor = self.cursor(self.offset);
        if self.takes_expression(&cursor.path) {
            let before = self.file.text.get(cursor.start..self.offset)?;
            let (within, _) = within::at_end(before, &Ground::default());
            if let Within::Text(function) = within
                && matches!(function.as_str(), "lookup" | "known")
            {
                let start = self.file.text[..self.offset].rfind('\'')? + 1;
                let (name, _) = self.name(start);
                return self.view.declaration(Noun::Table, name);
            }
            return None;
        }
        let (name, _) = self.name(cursor.start);
        let entry = |key: &str| {
            let (key, _) = self.tree.as_ref()?.get(key)?.entry(name)?;
            Some(Place {
                file: self.file.clone(),
                span: key.span,
            })
        };
        match self.names(&cursor.path)? {
            Names::Declared(noun) => self.view.declaration(noun, name),
            Names::Sink => entry("sinks"),
            Names::Key => entry("keys"),
        }
    }
}

/// An expression's text as it is without its quotes.
pub(super) fn unquoted(text: &str, quote: Option<char>) -> String {
    match quote {
        Some('\'') => text.replace("''", "'"),
        Some(_) => text.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => text.to_owned(),
    }
}

/// What a function is, for people.
pub(super) fn function_words(function: &functions::Function) -> String {
    let (expression, document, result) = function.example;
    let on = match document {
        "null" => String::new(),
        document => format!(" on `{document}`"),
    };
    format!(
        "```\n{}\n```\n\n{}\n\nExample: ``{expression}``{on} gives `{result}`",
        function.signature(),
        function.doc
    )
}
