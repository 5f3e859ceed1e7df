//! `crossdock catalog`: who owns what, who depends on whom, what is deprecated and still used. It prints the register; it judges nothing.

use std::collections::BTreeSet;
use std::io::Write;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, table, written};
use crate::diagnostic::closest;
use crate::failure::Failure;
use crate::flow::governance::{self, Entry, Kind, Register, Thing, picture};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock catalog                                  all there is, with owners and who uses it
  crossdock catalog canonical/order.v1               one thing: what it uses, who uses it, and where
  crossdock catalog --kind schema --owner sales-integration
  crossdock catalog --deprecated                     what is to be given up, and who still uses it
  crossdock catalog --format mermaid > catalog.mmd

Exit codes: 0 good, 1 there is no such thing, 78 the folder is no project")]
pub(super) struct Catalog {
    /// Only this: the name of a flow, mapping, schema, system, table or fragment
    name: Option<String>,
    #[command(flatten)]
    project: ProjectArguments,
    /// Only things of this kind
    #[arg(long, value_enum)]
    kind: Option<KindWord>,
    /// Only what this team or person answers for
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,
    /// Only what is deprecated, and who still uses it
    #[arg(long)]
    deprecated: bool,
    /// The form of the catalog
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table; of one thing, or of what is deprecated, every place
    Text,
    /// A list of {kind, name, owner, .., uses, used_by, flows}
    Json,
    /// A drawing for Markdown
    Mermaid,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindWord {
    Flow,
    Fragment,
    Mapping,
    Schema,
    System,
    Table,
}

impl KindWord {
    fn kind(self) -> Kind {
        match self {
            KindWord::Flow => Kind::Flow,
            KindWord::Fragment => Kind::Fragment,
            KindWord::Mapping => Kind::Mapping,
            KindWord::Schema => Kind::Schema,
            KindWord::System => Kind::System,
            KindWord::Table => Kind::Table,
        }
    }
}

impl Catalog {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let root = absolute(&self.project.project);
        if !root.is_dir() {
            let message = format!("{} is no folder; name it with --project", root.display());
            terminal.fail(&Failure::config(message));
            return Ok(UNLOADABLE);
        }
        let survey = governance::survey(&root, &self.project.world()?);
        let register = &survey.register;
        if let Some(name) = &self.name
            && !register.entries.keys().any(|thing| thing.name == *name)
        {
            let names = register.entries.keys().map(|thing| thing.name.as_str());
            let near = closest(name, names)
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default();
            terminal.fail(&Failure::config(format!(
                "the project has nothing named `{name}`{near}"
            )));
            return Ok(FINDINGS);
        }
        let shown: Vec<&Entry> = register
            .entries
            .values()
            .filter(|entry| self.takes(register, entry))
            .collect();
        match self.format {
            Format::Json => {
                let list: Vec<Value> = shown.iter().map(|entry| as_json(register, entry)).collect();
                let text = serde_json::to_string_pretty(&list)
                    .map_err(|error| Failure::internal(format!("cannot write JSON: {error}")))?;
                written(writeln!(terminal.out, "{text}"))?;
            }
            Format::Mermaid => {
                let things: BTreeSet<&Thing> = shown.iter().map(|entry| &entry.thing).collect();
                let text = picture::mermaid(register, &|thing| things.contains(thing));
                written(write!(terminal.out, "{text}"))?;
            }
            Format::Text if shown.is_empty() => {
                let what = if self.deprecated {
                    "deprecated"
                } else {
                    "of that kind"
                };
                written(writeln!(terminal.out, "nothing is {what}"))?;
            }
            Format::Text if self.name.is_some() || self.deprecated => {
                for entry in shown {
                    written(details(register, entry, &survey.today, &mut *terminal.out))?;
                }
            }
            Format::Text => written(overview(register, &shown, &mut *terminal.out))?,
        }
        Ok(GOOD)
    }

    fn takes(&self, register: &Register, entry: &Entry) -> bool {
        let named = self
            .name
            .as_ref()
            .is_none_or(|name| entry.thing.name == *name);
        let kind = self.kind.is_none_or(|kind| entry.thing.kind == kind.kind());
        let owned = self
            .owner
            .as_ref()
            .is_none_or(|owner| owners(register, entry).contains(&owner.as_str()));
        named && kind && owned && (!self.deprecated || entry.deprecated.is_some())
    }
}

/// Who answers for a thing: its own owner, else those of the flows that depend on it.
fn owners<'r>(register: &'r Register, entry: &'r Entry) -> Vec<&'r str> {
    match &entry.owner {
        Some(owner) => vec![owner],
        None => register.owners_of(&entry.thing).into_iter().collect(),
    }
}

fn overview(register: &Register, shown: &[&Entry], out: &mut dyn Write) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|entry| {
            let owner = match &entry.owner {
                Some(owner) => owner.clone(),
                // Not its own: those who would notice.
                None => {
                    let owners = owners(register, entry).join(", ");
                    if owners.is_empty() {
                        "-".to_owned()
                    } else {
                        format!("({owners})")
                    }
                }
            };
            let flows = register.flows_of(&entry.thing).len();
            vec![
                entry.thing.kind.name().to_owned(),
                entry.thing.name.clone(),
                owner,
                entry.criticality.clone().unwrap_or_default(),
                entry.version.clone().unwrap_or_default(),
                distinct(entry.uses.iter().map(|used| &used.thing)).to_string(),
                distinct(
                    register
                        .users(&entry.thing)
                        .iter()
                        .map(|(user, _)| &user.thing),
                )
                .to_string(),
                flows.to_string(),
                if entry.deprecated.is_some() {
                    "deprecated"
                } else {
                    ""
                }
                .to_owned(),
            ]
        })
        .collect();
    let headings = [
        "kind",
        "name",
        "owner",
        "criticality",
        "version",
        "uses",
        "used by",
        "flows",
        "",
    ];
    table::columns(out, &headings, &rows)
}

fn distinct<'t>(things: impl Iterator<Item = &'t Thing>) -> usize {
    things.collect::<BTreeSet<_>>().len()
}

fn details(
    register: &Register,
    entry: &Entry,
    today: &str,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    writeln!(out, "{}", entry.thing)?;
    let (line, _) = entry.place.line_column();
    writeln!(out, "  in {}:{line}", entry.place.file.path)?;
    let origins: Vec<&str> = match entry.thing.kind {
        Kind::Flow => register.origins_of(&entry.thing.name).into_iter().collect(),
        _ => Vec::new(),
    };
    let deprecated = entry.deprecated.as_ref().map(|deprecated| {
        let over = if deprecated.is_over(today) {
            "; its last day is past"
        } else {
            ""
        };
        format!("{}{over}", deprecated.words())
    });
    for (word, value) in [
        ("is", entry.description.clone()),
        ("owner", entry.owner.clone()),
        ("criticality", entry.criticality.clone()),
        ("version", entry.version.clone()),
        ("origin", (!origins.is_empty()).then(|| origins.join(", "))),
        ("state", deprecated),
    ] {
        if let Some(value) = value {
            writeln!(out, "  {word}: {value}")?;
        }
    }
    let of = |file: &str, line: usize| format!("{file}:{line}");
    for used in &entry.uses {
        let (line, _) = used.place.line_column();
        let place = of(&used.place.file.path, line);
        writeln!(out, "  uses {} ({}, {place})", used.thing, used.by)?;
    }
    let users = register.users(&entry.thing);
    for (user, used) in &users {
        let (line, _) = used.place.line_column();
        let place = of(&used.place.file.path, line);
        let owner = user.owner.as_deref().map(|owner| format!(", {owner}"));
        let owner = owner.unwrap_or_default();
        writeln!(
            out,
            "  used by {} ({}, {place}{owner})",
            user.thing, used.by
        )?;
    }
    if users.is_empty() && entry.thing.kind != Kind::Flow {
        writeln!(out, "  used by nothing")?;
    }
    Ok(())
}

fn as_json(register: &Register, entry: &Entry) -> Value {
    let (line, column) = entry.place.line_column();
    let used = |thing: &Thing, by: &str, place: &crate::diagnostic::Place| {
        let (line, column) = place.line_column();
        json!({ "kind": thing.kind.name(), "name": thing.name, "by": by, "file": place.file.path, "line": line, "column": column })
    };
    let uses: Vec<Value> = entry
        .uses
        .iter()
        .map(|one| used(&one.thing, &one.by, &one.place))
        .collect();
    let used_by: Vec<Value> = register
        .users(&entry.thing)
        .iter()
        .map(|(user, one)| used(&user.thing, &one.by, &one.place))
        .collect();
    let mut value = json!({
        "kind": entry.thing.kind.name(),
        "name": entry.thing.name,
        "file": entry.place.file.path,
        "line": line,
        "column": column,
        "owner": entry.owner,
        "owners": owners(register, entry),
        "uses": uses,
        "used_by": used_by,
        "flows": register.flows_of(&entry.thing),
    });
    let optional = [
        ("description", &entry.description),
        ("criticality", &entry.criticality),
        ("version", &entry.version),
        ("source", &entry.source),
    ];
    for (name, text) in optional {
        if let Some(text) = text {
            value[name] = json!(text);
        }
    }
    if entry.thing.kind == Kind::Flow {
        value["origins"] = json!(register.origins_of(&entry.thing.name));
    }
    if let Some(deprecated) = &entry.deprecated {
        value["deprecated"] = json!(deprecated);
    }
    value
}
