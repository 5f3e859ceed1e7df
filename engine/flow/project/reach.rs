//! What a flow depends on: itself, and what any of its texts names, and from there on the same. A text that has a name by chance counts too:
//! then a flow is looked at, or its revision changes, once too often, never too seldom.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Parsed, named, stem};
use crate::diagnostic::File;
use crate::flow::folder::Folder;
use crate::flow::revision;
use crate::flow::workspace::Noun;
use crate::schema::{Schemas, place};
use crate::yaml::Node;

/// All that has a name, by its name. Things of several nouns may have the same one, and by mistake two of one noun.
pub(super) struct Reach<'p> {
    things: FxHashMap<String, Vec<Thing<'p>>>,
}

/// Something that has a name.
struct Thing<'p> {
    noun: Noun,
    file: &'p Arc<File>,
    /// What may be names of others.
    names: Names<'p>,
}

enum Names<'p> {
    /// The texts of a tree.
    Texts(&'p Node),
    /// A whole text.
    Text(&'p str),
    /// Just these.
    Just(Vec<String>),
}

/// What was reached: each noun with its name, and the files in which they stand.
#[derive(Default)]
pub(super) struct Reached<'p> {
    pub(super) things: BTreeSet<(Noun, String)>,
    pub(super) files: Vec<&'p Arc<File>>,
}

impl<'p> Reach<'p> {
    /// The names of a project, whether what they stand for is sound or not.
    pub(super) fn of(folder: &'p Folder, parsed: &'p Parsed, schemas: &Schemas) -> Reach<'p> {
        let mut reach = Reach {
            things: FxHashMap::default(),
        };
        let trees = [
            (Noun::Fragment, &folder.fragments, &parsed.fragments),
            (Noun::Mapping, &folder.mappings, &parsed.mappings),
            (Noun::System, &folder.systems, &parsed.systems),
        ];
        for (noun, files, sources) in trees {
            for (file, source) in files.iter().zip(sources) {
                let names = source.as_ref().map(|source| &source.node);
                let names = names.map_or(Names::Just(Vec::new()), Names::Texts);
                let name = named::name_of(noun, file, source.as_ref());
                reach.add(name, noun, file, names);
            }
        }
        // Of a flow that it hands over to, a flow knows what that one accepts.
        for (file, source) in folder.flows.iter().zip(&parsed.flows) {
            let accepts = source.as_ref().and_then(named::accepted);
            let names = Names::Just(accepts.into_iter().map(str::to_owned).collect());
            let name = named::name_of(Noun::Flow, file, source.as_ref());
            reach.add(name, Noun::Flow, file, names);
        }
        for file in &folder.expressions {
            let name = stem(&file.path, "mappings/", ".jmespath");
            reach.add(name, Noun::Mapping, file, Names::Text(&file.text));
        }
        for file in &folder.schemas {
            let name = stem(&file.path, "schemas/", ".json");
            let raw = schemas.raw(&name);
            let names = raw.map(|raw| place::references(schemas, &name, raw));
            let names = Names::Just(names.unwrap_or_default());
            reach.add(name, Noun::Schema, file, names);
        }
        for file in &folder.tables {
            let name = stem(&file.path, "tables/", ".csv");
            reach.add(name, Noun::Table, file, Names::Just(Vec::new()));
        }
        reach
    }

    fn add(&mut self, name: String, noun: Noun, file: &'p Arc<File>, names: Names<'p>) {
        let things = self.things.entry(name).or_default();
        things.push(Thing { noun, file, names });
    }

    /// What a flow, or a part of one, depends on.
    pub(super) fn from(&self, node: &Node) -> Reached<'p> {
        let mut walk = Walk {
            reach: self,
            seen: FxHashSet::default(),
            open: Vec::new(),
            reached: Reached::default(),
        };
        revision::texts(node, &mut |text| walk.open.push(text));
        walk.end()
    }
}

/// A walk from name to name.
struct Walk<'w, 'p> {
    reach: &'w Reach<'p>,
    seen: FxHashSet<&'w str>,
    open: Vec<&'w str>,
    reached: Reached<'p>,
}

impl<'p> Walk<'_, 'p> {
    fn end(mut self) -> Reached<'p> {
        while let Some(text) = self.open.pop() {
            if !self.seen.insert(text) {
                continue;
            }
            self.name(text, |_| true);
            // Expressions name tables.
            for word in text.split(|c: char| !(c.is_alphanumeric() || "_-./".contains(c))) {
                if word.len() < text.len() {
                    self.name(word, |noun| noun == Noun::Table);
                }
            }
        }
        self.reached
    }

    fn name(&mut self, name: &str, counts: impl Fn(Noun) -> bool) {
        let reach = self.reach;
        let things = reach.things.get(name).into_iter().flatten();
        for thing in things.filter(|thing| counts(thing.noun)) {
            let files = &mut self.reached.files;
            if files.iter().any(|file| Arc::ptr_eq(file, thing.file)) {
                continue;
            }
            files.push(thing.file);
            self.reached.things.insert((thing.noun, name.to_owned()));
            match &thing.names {
                Names::Texts(node) => revision::texts(node, &mut |text| self.open.push(text)),
                Names::Text(text) => self.open.push(text),
                Names::Just(names) => self.open.extend(names.iter().map(String::as_str)),
            }
        }
    }
}
