//! Two versions of a schema: do the bodies of the one keep to the other? A yes is proved; a no has a body that shows it; else it is unclear.
//! Pure; it knows nothing of who reads and who writes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::load::nearest;
use super::{Schema, Schemas};
use crate::body::Body;
use facts::{Facts, Types};
use limits::Gap;
use node::{Both, Side, Site};
use prove::Prover;
use sample::Sampler;

mod facts;
mod limits;
mod node;
mod pattern;
mod prove;
mod same;
mod sample;
mod words;

/// How many bodies are made to show a break.
const BODIES_MAX: usize = 4_000;
/// How many values are made on the way to them.
const VALUES_MAX: usize = 60_000;

/// Whether bodies of one version keep to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// All of them do: proved.
    Proved,
    /// Nobody knows: it could not be proved, and no body was found that does not.
    Unclear,
    /// Some do not: there is a body that shows it.
    Broken,
}

/// In a comparison: which bodies are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Bodies written by the old version, read by the new one.
    Backward,
    /// Bodies written by the new version, read by the old one.
    Forward,
}

/// One difference that matters.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where in bodies, such as `lines[].sku`; empty for the whole.
    pub path: String,
    /// The field below that place that came, went or became required.
    pub field: Option<String>,
    /// Whether a field became required, or no longer is.
    pub required: bool,
    /// What changed, in a few words.
    pub reason: String,
    /// The place in the new version: the schema's name and a JSON pointer.
    pub place: (String, String),
    /// A body of the one version that the other refuses, if one was found.
    pub witness: Option<String>,
}

/// How two versions of a schema differ.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Why bodies of the old version may not keep to the new one; nothing if they surely do.
    pub backward: Vec<Change>,
    /// Why bodies of the new version may not keep to the old one; nothing if they surely do.
    pub forward: Vec<Change>,
}

impl Change {
    /// The whole path of what changed, such as `lines[].sku`.
    pub fn whole_path(&self) -> String {
        match &self.field {
            None => self.path.clone(),
            Some(field) if self.path.is_empty() => field.clone(),
            Some(field) => format!("{}.{field}", self.path),
        }
    }
}

impl Comparison {
    /// Whether bodies of the one version keep to the other.
    pub fn fit(&self, direction: Direction) -> Fit {
        let changes = self.changes(direction);
        if changes.is_empty() {
            Fit::Proved
        } else if changes.iter().any(|change| change.witness.is_some()) {
            Fit::Broken
        } else {
            Fit::Unclear
        }
    }

    /// The changes of a direction.
    pub fn changes(&self, direction: Direction) -> &[Change] {
        match direction {
            Direction::Backward => &self.backward,
            Direction::Forward => &self.forward,
        }
    }

    /// The word for both directions: `full`, `backward`, `forward`, `breaking`, or `unclear`.
    pub fn word(&self) -> &'static str {
        match (self.fit(Direction::Backward), self.fit(Direction::Forward)) {
            (Fit::Proved, Fit::Proved) => "full",
            (Fit::Proved, _) => "backward",
            (_, Fit::Proved) => "forward",
            (Fit::Broken, _) | (_, Fit::Broken) => "breaking",
            _ => "unclear",
        }
    }
}

/// Compares a schema of one state with a schema of another. `None` if one of them does not exist or has mistakes.
pub fn compare(old: (&Schemas, &str), new: (&Schemas, &str)) -> Option<Comparison> {
    let sound = |(schemas, name): (&Schemas, &str)| {
        let schema = schemas.by_name.get(name)?;
        schema.validator.is_some().then(|| schema.clone())
    };
    let (old_schema, new_schema) = (sound(old)?, sound(new)?);
    let one = |narrow: (&Schemas, &str), wide: (&Schemas, &str), direction| {
        let both = Both::new(narrow.0, wide.0);
        let sub = both.root(Side::Narrow, narrow.1)?;
        let wide = both.root(Side::Wide, wide.1)?;
        let facts = Facts::of(&both, vec![sub]);
        let gaps = Prover::new(&both).prove(&facts, &wide, "");
        let (writer, reader) = match direction {
            Direction::Backward => (&old_schema, &new_schema),
            Direction::Forward => (&new_schema, &old_schema),
        };
        let mut changes = changes(gaps, direction);
        if !changes.is_empty() {
            let bodies = Sampler::new(&both, VALUES_MAX)
                .with_hints(&wide)
                .values(&facts, 0);
            show(&mut changes, &bodies, writer, reader);
        }
        Some(changes)
    };
    Some(Comparison {
        backward: one(old, new, Direction::Backward)?,
        forward: one(new, old, Direction::Forward)?,
    })
}

/// Where a JSON pointer leads in the text of a file; the nearest value above it, if it leads nowhere.
pub fn span_of(text: &str, pointer: &str) -> Option<(usize, usize)> {
    let trimmed = text.trim_start_matches('\u{feff}');
    let before = text.len() - trimmed.len();
    let body = Body::new(trimmed.to_owned());
    let document = body.document().ok()?;
    let whole = document.json_bytes();
    let json = nearest(document, pointer).json_bytes();
    let start = json.as_ptr() as usize - whole.as_ptr() as usize;
    // What stands before the document is left out of its bytes.
    let lead = trimmed.len() - trimmed.trim_start().len();
    let start = start + before + lead;
    Some((start, start + json.len()))
}

/// The schemas that each schema refers to: the JSON pointer of the `$ref`, and the name of the schema that it leads to.
pub fn references(schemas: &Schemas) -> BTreeMap<String, Vec<(String, String)>> {
    let both = Both::of_one(schemas);
    let of = |name: &str| {
        let mut found = Vec::new();
        if let Some(root) = both.root(Side::Narrow, name) {
            root.each(&mut |node| {
                if let Some(target) = both.follow(node) {
                    let place = node.word("$ref").pointer.clone();
                    found.push((place, target.site.name.to_string()));
                }
            });
        }
        found
    };
    let names = schemas.names();
    names.map(|name| (name.to_owned(), of(name))).collect()
}

/// What kind of difference it is.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// Nothing is allowed any more.
    Never,
    /// Types that the reader does not take.
    Type(Types),
    /// A value that the reader does not take.
    Value(Value),
    /// The reader takes these values only, the writer others too.
    Values(Vec<Value>),
    /// The reader asks for a field that the writer need not set.
    Required(String),
    /// The writer has a field that the reader refuses.
    Field(String),
    /// The writer may set any field, the reader refuses those that it does not know.
    Closed,
    /// The reader describes a field of which the writer says nothing.
    Free(String),
    /// A word whose value is stricter at the reader, or that the writer does not have.
    Word {
        word: &'static str,
        narrow: Option<Value>,
        wide: Value,
    },
    /// None of the reader's alternatives fits.
    Alternatives,
    /// A word that is not understood well enough.
    Unclear(&'static str),
}

/// Gaps as changes, each told once, at its place in the new version.
fn changes(gaps: Vec<Gap>, direction: Direction) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    for gap in gaps {
        let site: &Site = match direction {
            Direction::Backward => &gap.wide,
            Direction::Forward => gap.narrow.as_deref().unwrap_or(&gap.wide),
        };
        let field = match &gap.kind {
            Kind::Required(name) | Kind::Field(name) | Kind::Free(name) => Some(name.clone()),
            _ => None,
        };
        let change = Change {
            field,
            required: matches!(gap.kind, Kind::Required(_)),
            reason: words::reason(&gap.kind, direction),
            place: (site.name.to_string(), site.pointer.clone()),
            path: gap.path,
            witness: None,
        };
        // A schema that refers to itself shows one change at ever deeper paths.
        let known = all
            .iter_mut()
            .find(|known| known.place == change.place && known.reason == change.reason);
        match known {
            Some(known) if known.path.len() > change.path.len() => *known = change,
            Some(_) => {}
            None => all.push(change),
        }
    }
    all
}

/// Looks for bodies that the writer's schema takes and the reader's refuses, and gives each to the change that it shows.
fn show(changes: &mut [Change], bodies: &[Value], writer: &Schema, reader: &Schema) {
    let mut spare: Option<String> = None;
    for body in bodies.iter().take(BODIES_MAX) {
        if changes.iter().all(|change| change.witness.is_some()) {
            return;
        }
        let text = body.to_string();
        let body = Body::new(text.clone());
        let Ok(document) = body.document() else {
            continue;
        };
        if !writer.is_valid(document) {
            continue;
        }
        let Err(breaches) = reader.validate(document) else {
            continue;
        };
        // A body that breaks in one place shows best what breaks there.
        let paths: Vec<String> = breaches
            .iter()
            .map(|breach| plain_path(&breach.path))
            .collect();
        for change in changes.iter_mut() {
            let better = change
                .witness
                .as_ref()
                .is_none_or(|known| paths.len() == 1 && known.len() > text.len());
            if better && paths.contains(&change.path) {
                change.witness = Some(text.clone());
            }
        }
        spare.get_or_insert(text);
    }
    // A body that breaks somewhere else still shows that the schemas do not fit.
    if let (Some(spare), [only]) = (spare, changes)
        && only.witness.is_none()
    {
        only.witness = Some(spare);
    }
}

/// A JSON pointer as a path of fields: `/lines/0/sku` is `lines[].sku`.
fn plain_path(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            path.push_str("[]");
            continue;
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(&part.replace("~1", "/").replace("~0", "~"));
    }
    path
}

#[cfg(test)]
mod tests;
