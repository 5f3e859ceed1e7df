//! What can be written at a place: keys, names, words of closed lists, fields and functions in expressions, variables of the environment.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::ask::{Ask, function_words, unquoted};
use super::cursor::{Cursor, What};
use super::keys;
use super::names::Names;
use super::position;
use super::within::{self, Spot, Within};
use crate::diagnostic::Span;
use crate::expression::functions;
use crate::flow::workspace::Noun;
use crate::yaml::Node;

/// How many proposals one answer has.
const ITEMS_MAX: usize = 300;

/// The kinds of proposals, by their numbers in the protocol.
#[derive(Clone, Copy)]
enum Icon {
    Function = 3,
    Field = 5,
    Variable = 6,
    Property = 10,
    Word = 12,
    Name = 18,
}

struct Proposals<'a> {
    ask: &'a Ask<'a>,
    /// What is replaced.
    span: Span,
    /// What is there already, in small letters.
    written: String,
    items: Vec<Value>,
    more: bool,
}

/// All that can be written at the cursor.
pub(super) fn at(ask: &Ask<'_>) -> Value {
    let cursor = ask.cursor(ask.offset);
    let text = &ask.file.text;
    let start = cursor.start.min(ask.offset);
    let before = text.get(start..ask.offset).unwrap_or_default();
    let mut all = Proposals {
        ask,
        span: Span::new(start, ask.offset),
        written: String::new(),
        items: Vec::new(),
        more: false,
    };
    if let Some(open) = before
        .rfind("${")
        .filter(|open| !before[*open..].contains('}'))
    {
        all.replace(before[open..].len());
        all.environment();
    } else if ask.takes_expression(&cursor.path) {
        all.expression(&cursor, before);
        if cursor.what == What::Key {
            all.replace(before.len());
            all.keys(&cursor);
        }
    } else {
        all.replace(before.len());
        if cursor.what == What::Key {
            all.keys(&cursor);
        }
        all.values(&cursor);
    }
    json!({ "isIncomplete": all.more, "items": all.items })
}

impl Proposals<'_> {
    /// What is proposed stands instead of this many bytes before the cursor.
    fn replace(&mut self, bytes: usize) {
        self.span = Span::new(self.ask.offset - bytes, self.ask.offset);
        let text = &self.ask.file.text;
        self.written = text[self.span.start..self.span.end].to_lowercase();
    }

    fn add(&mut self, label: &str, icon: Icon, detail: &str, words: &str, insert: &str) {
        if !label.to_lowercase().contains(&self.written) {
            return;
        }
        if self.items.len() == ITEMS_MAX {
            self.more = true;
            return;
        }
        let mut item = json!({
            "label": label,
            "kind": icon as u8,
            "textEdit": { "range": position::range(self.ask.file, self.span), "newText": insert },
        });
        if !detail.is_empty() {
            item["detail"] = detail.into();
        }
        if !words.is_empty() {
            item["documentation"] = json!({ "kind": "markdown", "value": words });
        }
        self.items.push(item);
    }

    fn keys(&mut self, cursor: &Cursor) {
        let there: BTreeSet<String> = self
            .ask
            .node(&cursor.path)
            .map(Node::entries)
            .unwrap_or_default()
            .iter()
            .filter(|(key, _)| {
                !(key.span.start <= self.span.start && self.span.start <= key.span.end)
            })
            .map(|(key, _)| key.text.clone())
            .collect();
        for field in self.ask.target(&cursor.path).fields() {
            if !there.contains(field.name) {
                let needed = if field.required { ", required" } else { "" };
                let detail = format!("{}{needed}", field.at.says());
                let insert = format!("{}: ", field.name);
                let words = field.at.words().unwrap_or_default();
                self.add(field.name, Icon::Field, &detail, words, &insert);
            }
        }
        let spot = self
            .ask
            .kind
            .and_then(|kind| keys::Spot::at(kind, &cursor.path));
        for key in spot.map(|spot| spot.keys()).unwrap_or_default() {
            if !there.contains(key.name) {
                let detail = if key.required { "required" } else { "" };
                let insert = format!("{}: ", key.name);
                self.add(key.name, Icon::Property, detail, &key.words, &insert);
            }
        }
    }

    fn values(&mut self, cursor: &Cursor) {
        match self.ask.names(&cursor.path) {
            Some(Names::Declared(noun)) => self.declared(noun),
            Some(names) => {
                for name in self.ask.own_names(names) {
                    self.add(&name, Icon::Name, "", "", &name);
                }
            }
            None => {}
        }
        let Some(spot) = self
            .ask
            .kind
            .and_then(|kind| keys::Spot::at(kind, &cursor.path))
        else {
            return;
        };
        for (word, means) in spot.choices() {
            self.add(&word, Icon::Word, "", means, &word);
        }
    }

    fn declared(&mut self, noun: Noun) {
        for (name, place) in self.ask.view.declared(noun) {
            if !name.to_lowercase().contains(&self.written) {
                continue;
            }
            let words = self.ask.described(noun, &name, &place).unwrap_or_default();
            self.add(&name, Icon::Name, noun.word(), &words, &name);
        }
    }

    fn expression(&mut self, cursor: &Cursor, before: &str) {
        let ground = self.ask.ground(&cursor.path);
        let (within, partial) = within::at_end(&unquoted(before, cursor.quote), &ground);
        self.replace(partial.min(before.len()));
        match within {
            Within::Begin(spot) => {
                self.fields(&spot);
                self.functions();
                for (name, spot) in &ground.variables {
                    let label = format!("${name}");
                    let detail = spot.says().unwrap_or_default();
                    self.add(&label, Icon::Variable, &detail, "", &label);
                }
            }
            Within::Field(spot) => self.fields(&spot),
            Within::Variable(all) => {
                for (name, spot) in &all {
                    let detail = spot.says().unwrap_or_default();
                    self.add(name, Icon::Variable, &detail, "", name);
                }
            }
            Within::Text(function) => self.texts(&function),
            Within::Other => {}
        }
    }

    fn fields(&mut self, spot: &Spot<'_>) {
        for field in spot.fields() {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let insert = if field.name.chars().all(plain) {
                field.name.to_owned()
            } else {
                format!("\"{}\"", field.name)
            };
            let words = field.at.words().unwrap_or_default();
            self.add(field.name, Icon::Field, &field.at.says(), words, &insert);
        }
    }

    fn functions(&mut self) {
        for function in functions::all() {
            let insert = format!("{}(", function.name);
            let words = function_words(function);
            self.add(
                function.name,
                Icon::Function,
                &function.signature(),
                &words,
                &insert,
            );
        }
    }

    /// The first argument of a function that names something.
    fn texts(&mut self, function: &str) {
        match function {
            "lookup" | "known" => self.declared(Noun::Table),
            "key" => {
                for name in self.ask.own_names(Names::Key) {
                    self.add(&name, Icon::Name, "key", "", &name);
                }
            }
            _ => {}
        }
    }

    /// Variables of the environment that the project uses already.
    fn environment(&mut self) {
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for file in self
            .ask
            .view
            .files()
            .filter(|file| file.path.ends_with(".yaml"))
        {
            for part in file.text.split("${env:").skip(1) {
                let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = part.trim_start_matches(name).len();
                names.insert(&part[..part.len() - end]);
            }
        }
        let written = self.written.clone();
        let behind = &self.ask.file.text[self.ask.offset..];
        let close = if behind.starts_with('}') { "" } else { "}" };
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let whole = format!("${{env:{name}");
            // The name that is being written is no proposal.
            if whole.to_lowercase() != written || !close.is_empty() {
                let insert = format!("{whole}{close}");
                self.add(
                    &format!("{whole}}}"),
                    Icon::Variable,
                    "environment",
                    "",
                    &insert,
                );
            }
        }
        let insert = "${file:";
        self.add(
            insert,
            Icon::Variable,
            "the text of a file, for secrets",
            "",
            insert,
        );
    }
}
