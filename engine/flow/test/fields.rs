//! Which fields the targets of a flow's mappings require: what its tests should look at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::diagnostic::{File, Findings};
use crate::flow::folder::Folder;
use crate::flow::plan::Project;
use crate::flow::workspace::Texts;
use crate::schema::place::At;
use crate::yaml::{self, Node};

/// How deep fields of fields are followed.
const DEPTH_MAX: usize = 6;

/// The mappings of each flow, and what their targets require.
pub(crate) struct Known<'p> {
    project: &'p Project,
    /// By flow.
    mappings: BTreeMap<String, BTreeSet<String>>,
}

impl<'p> Known<'p> {
    /// Reads which mappings the flows of a project use, their fragments included.
    pub(crate) fn read(root: &Path, project: &'p Project) -> Known<'p> {
        let mut aside = Findings::new();
        let folder = Folder::read(root, &Texts::new(), None, &mut aside);
        let mut tree = |file: &Arc<File>| yaml::parse(file, &mut aside);
        let fragments: BTreeMap<String, Node> = folder
            .fragments
            .iter()
            .filter_map(|file| {
                let node = tree(file)?;
                let name = node.get("fragment")?.as_text()?.to_owned();
                Some((name, node))
            })
            .collect();
        let mut mappings: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in &folder.flows {
            let Some(node) = tree(file) else { continue };
            let Some(name) = node.get("flow").and_then(Node::as_text) else {
                continue;
            };
            let mut found = BTreeSet::new();
            collect(&node, &fragments, project, 0, &mut found);
            mappings.insert(name.to_owned(), found);
        }
        Known { project, mappings }
    }

    /// The required fields of a flow's mappings: how they are told, and their path in the body.
    pub(crate) fn required(&self, flow: &str) -> BTreeSet<(String, String)> {
        let mut all = BTreeSet::new();
        let library = &self.project.library;
        for name in self.mappings.get(flow).into_iter().flatten() {
            let to = library.mappings.get(name).and_then(|mapping| mapping.to());
            let Some((schema, _)) = to else { continue };
            let Some(at) = At::named(&library.schemas, schema) else {
                continue;
            };
            let mut paths = Vec::new();
            fields(at, "", 0, &mut paths);
            all.extend(
                paths
                    .into_iter()
                    .map(|path| (format!("{name}: {path}"), path)),
            );
        }
        all
    }
}

fn collect(
    node: &Node,
    fragments: &BTreeMap<String, Node>,
    project: &Project,
    depth: usize,
    found: &mut BTreeSet<String>,
) {
    for item in node.items() {
        collect(item, fragments, project, depth, found);
    }
    for (key, value) in node.entries() {
        match (key.text.as_str(), value.as_text()) {
            ("map", Some(name)) if project.library.mappings.contains_key(name) => {
                found.insert(name.to_owned());
            }
            ("use", Some(name)) if depth < DEPTH_MAX => {
                if let Some(fragment) = fragments.get(name) {
                    collect(fragment, fragments, project, depth + 1, found);
                }
            }
            _ => collect(value, fragments, project, depth, found),
        }
    }
}

/// The leaves that are required, where all above them are.
fn fields(at: At<'_>, path: &str, depth: usize, found: &mut Vec<String>) {
    let required = match depth < DEPTH_MAX {
        true => at.required(),
        false => Vec::new(),
    };
    if let (true, Some(items)) = (required.is_empty() && depth < DEPTH_MAX, at.items()) {
        return fields(items, &format!("{path}[]"), depth + 1, found);
    }
    if required.is_empty() {
        if !path.is_empty() {
            found.push(path.to_owned());
        }
        return;
    }
    for name in required {
        let path = match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        match at.property(name) {
            Some(inner) => fields(inner, &path, depth + 1, found),
            None => found.push(path),
        }
    }
}
