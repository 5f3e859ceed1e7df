//! What an editor has open, and the answers to what it asks. It waits for nothing and writes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::ask::Ask;
use super::{complete, findings, position, symbols};
use crate::diagnostic::{File, Findings};
use crate::flow::workspace::{Texts, View};
use crate::yaml;

/// How many files may be open at once.
const OPEN_MAX: usize = 2_000;
/// How many bytes a file may have for more than findings.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// A file that is open.
struct Document {
    uri: String,
    version: Value,
    file: Arc<File>,
}

/// What an editor has open.
pub(super) struct Session {
    root: PathBuf,
    documents: BTreeMap<String, Document>,
    /// What was told last, by the file's path.
    told: BTreeMap<String, Vec<Value>>,
}

/// What the files were when the project was looked at.
pub(super) struct Snapshot {
    pub(super) texts: Texts,
    versions: BTreeMap<String, Value>,
}

impl Session {
    /// Nothing open, in the project of this folder.
    pub(super) fn new(root: PathBuf) -> Session {
        Session {
            root,
            documents: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// The project's folder.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The unsaved texts, as they are now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let documents = self.documents.iter();
        Snapshot {
            texts: documents
                .clone()
                .map(|(path, document)| (path.clone(), document.file.text.clone()))
                .collect(),
            versions: documents
                .map(|(path, document)| (path.clone(), document.version.clone()))
                .collect(),
        }
    }

    /// A file was opened. False if it is none of the project's.
    pub(super) fn open(&mut self, parameters: &Value) -> bool {
        let document = &parameters["textDocument"];
        let (Some(uri), Some(text)) = (document["uri"].as_str(), document["text"].as_str()) else {
            return false;
        };
        let Some(path) = self.below(uri) else {
            return false;
        };
        if self.documents.len() == OPEN_MAX && !self.documents.contains_key(&path) {
            return false;
        }
        let opened = Document {
            uri: uri.to_owned(),
            version: document["version"].clone(),
            file: File::new(path.clone(), text),
        };
        self.documents.insert(path, opened);
        true
    }

    /// A file was changed. False if it is not open.
    pub(super) fn change(&mut self, parameters: &Value) -> bool {
        let document = &parameters["textDocument"];
        let path = document["uri"].as_str().and_then(|uri| self.below(uri));
        let Some(open) = path.and_then(|path| self.documents.get_mut(&path)) else {
            return false;
        };
        open.version = document["version"].clone();
        let changes = parameters["contentChanges"].as_array();
        for change in changes.into_iter().flatten() {
            let Some(text) = change["text"].as_str() else {
                continue;
            };
            let text = match change.get("range") {
                Some(range) => {
                    let start = position::offset(&open.file, &range["start"]);
                    let end = position::offset(&open.file, &range["end"]).max(start);
                    let whole = &open.file.text;
                    format!("{}{text}{}", &whole[..start], &whole[end..])
                }
                None => text.to_owned(),
            };
            open.file = File::new(open.file.path.clone(), text);
        }
        true
    }

    /// A file was closed: what is on the disk counts again.
    pub(super) fn close(&mut self, parameters: &Value) -> bool {
        let path = parameters["textDocument"]["uri"]
            .as_str()
            .and_then(|uri| self.below(uri));
        path.is_some_and(|path| self.documents.remove(&path).is_some())
    }

    /// What is to be told of findings: of each file where they are others than before.
    pub(super) fn publish(&mut self, view: &View, snapshot: &Snapshot) -> Vec<Value> {
        let now = findings::by_file(view, &self.root);
        let gone = self.told.keys().filter(|path| !now.contains_key(*path));
        let mut all: Vec<Value> = gone
            .map(|path| self.published(path, &[], snapshot))
            .collect();
        for (path, list) in &now {
            if self.told.get(path) != Some(list) {
                all.push(self.published(path, list, snapshot));
            }
        }
        self.told = now;
        all
    }

    fn published(&self, path: &str, list: &[Value], snapshot: &Snapshot) -> Value {
        let open = self.documents.get(path);
        let uri = open.map_or_else(
            || position::uri(&self.root.join(path)),
            |open| open.uri.clone(),
        );
        let mut parameters = json!({ "uri": uri, "diagnostics": list });
        if let Some(version) = snapshot.versions.get(path).filter(|_| open.is_some()) {
            parameters["version"] = version.clone();
        }
        parameters
    }

    /// The answer to a question; `None` if there is no such question.
    pub(super) fn answer(&self, method: &str, parameters: &Value, view: &View) -> Option<Value> {
        let file = parameters["textDocument"]["uri"]
            .as_str()
            .and_then(|uri| Some((uri, self.documents.get(&self.below(uri)?)?)))
            .filter(|(_, open)| open.file.text.len() <= TEXT_BYTES_MAX);
        let file = file.map(|(uri, open)| (uri, &open.file));
        Some(match (method, file) {
            ("textDocument/completion", Some((_, file))) => {
                complete::at(&ask(view, file, parameters))
            }
            ("textDocument/hover", Some((_, file))) => {
                ask(view, file, parameters).hover().unwrap_or_default()
            }
            ("textDocument/definition", Some((_, file))) => {
                let place = ask(view, file, parameters).definition();
                place.map_or(Value::Null, |place| position::location(&self.root, &place))
            }
            ("textDocument/documentSymbol", Some((_, file))) => {
                let tree = yaml::read(file, &mut Findings::new()).node;
                let yaml = file.path.ends_with(".yaml");
                let tree = tree.filter(|_| yaml);
                tree.map_or_else(|| json!([]), |tree| symbols::of(file, &tree).into())
            }
            ("textDocument/codeAction", Some((uri, file))) => {
                findings::fixes(view, &self.root, file, uri, &parameters["range"]).into()
            }
            (
                "textDocument/completion"
                | "textDocument/hover"
                | "textDocument/definition"
                | "textDocument/documentSymbol"
                | "textDocument/codeAction",
                None,
            ) => Value::Null,
            _ => return None,
        })
    }

    /// The path below the project's folder.
    fn below(&self, uri: &str) -> Option<String> {
        let path = position::path(uri)?;
        let below = path.strip_prefix(&self.root).ok()?;
        Some(below.to_string_lossy().replace('\\', "/"))
    }
}

/// The question about the position that the parameters name.
fn ask<'a>(view: &'a View, file: &'a Arc<File>, parameters: &Value) -> Ask<'a> {
    let offset = position::offset(file, &parameters["position"]);
    Ask::at(view, file, offset)
}
