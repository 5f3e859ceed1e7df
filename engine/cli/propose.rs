//! `crossdock new flow`: a flow between two schemas, with a mapping that is proposed from them.

use std::io::Write;
use std::path::Path;

use clap::Args;

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, absolute, written};
use crate::diagnostic::closest;
use crate::failure::Failure;
use crate::flow::workspace::{Texts, Workspace};
use crate::mapping::propose::propose;
use crate::schema::Schemas;
use crate::world::disk;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock new flow wms-shipment --from wms/shipment.v1 --to canonical/shipment.v1
  crossdock check                        shows what is still missing

Writes flows/NAME.yaml and mappings/NAME.yaml; files that exist are left alone. Fields are matched by their names, their types and where
they stand; the share behind each is how sure the guess is.
Exit codes: 0 all required fields have a guess, 1 some have none")]
pub(super) struct NewFlow {
    /// The flow's name; the mapping has the same
    name: String,
    /// The schema of the bodies that come in
    #[arg(long, value_name = "SCHEMA")]
    from: String,
    /// The schema of the bodies that go out
    #[arg(long, value_name = "SCHEMA")]
    to: String,
    #[command(flatten)]
    project: ProjectArguments,
}

impl NewFlow {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let root = absolute(&self.project.project);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let begins = self.name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !begins || !self.name.chars().all(plain) || self.name.len() > 64 {
            return Err(Failure::config(format!(
                "`{}` cannot be the name of a flow: letters, digits, `-` and `_`, at most 64",
                self.name
            )));
        }
        let flow = root.join(format!("flows/{}.yaml", self.name));
        let mapping = root.join(format!("mappings/{}.yaml", self.name));
        for path in [&flow, &mapping] {
            if path.exists() {
                let words = format!("{} exists; choose another name", path.display());
                return Err(Failure::config(words));
            }
        }
        let view = Workspace::new(&root, self.project.world()?).look(&Texts::new());
        let schemas = &view.library().schemas;
        known(schemas, &self.from)?;
        known(schemas, &self.to)?;
        let Some(proposal) = propose(schemas, &self.name, &self.from, &self.to) else {
            return Err(Failure::internal(
                "the schemas are there and cannot be read",
            ));
        };
        put(&flow, &self.flow())?;
        put(&mapping, &proposal.text)?;
        let missing = proposal.missing.len();
        written(writeln!(
            terminal.out,
            "flows/{name}.yaml and mappings/{name}.yaml are written: {} fields have a guess, {missing} required ones have none{}\nNext: crossdock check",
            proposal.found,
            if missing == 0 {
                String::new()
            } else {
                format!(": {}", proposal.missing.join(", "))
            },
            name = self.name,
        ))?;
        Ok(if missing == 0 { GOOD } else { FINDINGS })
    }

    fn flow(&self) -> String {
        let NewFlow { name, from, to, .. } = self;
        format!(
            "# yaml-language-server: $schema=../schemas/crossdock/flow.schema.json\n\
             flow: {name}\n\
             description: Takes {from} and makes {to} of it.\n\n\
             source:\n  file: {{ path: \"inbox/{name}/*.jsonl\", format: jsonl, archive: inbox/{name}/done, quarantine: inbox/{name}/failed }}\n\n\
             accepts: {from}\n\n\
             steps:\n  - id: shape\n    map: {name}\n  - id: check\n    validate: {to}\n\n\
             sinks:\n  out:\n    file: {{ path: \"outbox/{name}-{{{{@today}}}}.jsonl\", format: jsonl }}\n"
        )
    }
}

fn known(schemas: &Schemas, name: &str) -> Result<(), Failure> {
    if schemas.get(name).is_some() {
        return Ok(());
    }
    let near = closest(name, schemas.names());
    let help = near.map_or("schemas are the files below schemas/".to_owned(), |near| {
        format!("did you mean `{near}`?")
    });
    Err(Failure::config(format!(
        "there is no schema `{name}`; {help}"
    )))
}

fn put(path: &Path, text: &str) -> Result<(), Failure> {
    disk::make_folder(path.parent().unwrap_or(path))?;
    disk::write_atomic(path, text.as_bytes())
}
