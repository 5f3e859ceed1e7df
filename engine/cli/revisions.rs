//! `crossdock revisions`: what ran when, by whose will; one revision's files; and what is different between two.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use clap::Args;

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, reader, run, table, wait_for, written};
use crate::admin::client::Client;
use crate::failure::{Class, Failure};
use crate::run::deploy::Revisions as Now;
use crate::run::reload::short;
use crate::store::revisions::{Deployment, Files, Kept};
use crate::world::disk;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock revisions                       what ran when, by whose will, the newest first
  crossdock revisions 3f2a                  the flows and the files of a revision
  crossdock revisions 3f2a --file flows/orders.yaml
  crossdock revisions --diff 3f2a 9b1c      what is different between two, line by line
  crossdock revisions --export 3f2a DIR     its files, into a folder that does not exist yet

Exit code of --diff: 0 the files are the same, 1 they are not")]
pub(super) struct Revisions {
    /// Of this revision: the beginning of its name is enough
    #[arg(value_name = "REVISION")]
    revision: Option<String>,
    /// Print this file as it was
    #[arg(long, value_name = "PATH", requires = "revision")]
    file: Option<String>,
    /// Compare two revisions
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"], conflicts_with = "revision")]
    diff: Option<Vec<String>>,
    /// Write the files of a revision into a folder
    #[arg(long, num_args = 2, value_names = ["REVISION", "DIR"], conflicts_with_all = ["revision", "diff"])]
    export: Option<Vec<String>>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

const COLUMNS: [&str; 7] = [
    "revision",
    "since (UTC)",
    "how",
    "who",
    "changes",
    "why",
    "",
];

impl Revisions {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        if let Some([from, to]) = self.diff.as_deref() {
            return self.differences(from, to, terminal);
        }
        if let Some([revision, folder]) = self.export.as_deref() {
            let kept = self.kept(revision)?;
            let folder = Path::new(folder);
            export(&kept.files, folder)?;
            written(writeln!(
                terminal.out,
                "{} files of revision {} in {}",
                kept.files.len(),
                short(&kept.revision),
                folder.display()
            ))?;
            return Ok(GOOD);
        }
        match &self.revision {
            Some(revision) => self.one(revision, terminal),
            None => self.list(terminal),
        }
    }

    fn kept(&self, named: &str) -> Result<Kept, Failure> {
        let reader = reader(&self.project)?;
        wait_for(async {
            let revision = reader.revision_named(named).await?;
            let kept = reader.kept(&revision).await?;
            kept.ok_or_else(|| Failure::new(Class::NotFound, "its files are not kept any more"))
        })
    }

    fn list(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        let (ran, withdrawn) = wait_for(async {
            let ran = reader.deployments(self.limit).await?;
            Ok((ran, reader.withdrawn().await?))
        })?;
        if self.json {
            for one in &ran {
                let mut line = serde_json::json!(one);
                let out = withdrawn.iter().find(|out| out.revision == one.revision);
                line["withdrawn"] = serde_json::json!(out);
                written(writeln!(terminal.out, "{line}"))?;
            }
            return Ok(GOOD);
        }
        if ran.is_empty() {
            written(writeln!(terminal.out, "nothing has run on this store yet"))?;
            return Ok(GOOD);
        }
        let row = |one: &Deployment| {
            let out = withdrawn.iter().find(|out| out.revision == one.revision);
            let out = out.map(|out| format!("withdrawn by {}", out.who));
            vec![
                short(&one.revision).to_owned(),
                table::time(one.at_ms),
                one.how.clone(),
                one.who.clone(),
                one.changes.clone(),
                one.why.clone().unwrap_or_default(),
                out.unwrap_or_default(),
            ]
        };
        let rows: Vec<_> = ran.iter().map(row).collect();
        written(table::columns(&mut terminal.out, &COLUMNS, &rows))?;
        if let Some((since_ms, why)) = self.refused()? {
            written(writeln!(
                terminal.out,
                "the files on the disk cannot be loaded since {} ({why}); `crossdock check` shows all",
                table::time(since_ms)
            ))?;
        }
        Ok(GOOD)
    }

    /// What the engine says of the files on its disk, if one runs here and they cannot be loaded.
    fn refused(&self) -> Result<Option<(i64, String)>, Failure> {
        let world = self.project.world()?;
        let (_, door) = run::store_place(&self.project.project, &world)?;
        wait_for(async {
            let Some(mut client) = Client::reach(&door).await? else {
                return Ok(None);
            };
            let now: Now = client.get("/revisions").await?;
            Ok(now.refused)
        })
    }

    fn one(&self, named: &str, terminal: &mut Terminal) -> Result<u8, Failure> {
        let kept = self.kept(named)?;
        if let Some(path) = &self.file {
            let text = kept.files.get(path).ok_or_else(|| {
                Failure::new(
                    Class::NotFound,
                    format!("revision {} has no file `{path}`", short(&kept.revision)),
                )
            })?;
            written(terminal.out.write_all(text))?;
            return Ok(GOOD);
        }
        if self.json {
            let files: Vec<&String> = kept.files.keys().collect();
            let shown = serde_json::json!({
                "revision": &*kept.revision, "flows": kept.flows, "files": files,
            });
            written(writeln!(terminal.out, "{shown}"))?;
            return Ok(GOOD);
        }
        written(writeln!(terminal.out, "revision {}", kept.revision))?;
        for (flow, revision) in &kept.flows {
            written(writeln!(terminal.out, "  flow {flow}  {}", short(revision)))?;
        }
        for (path, text) in &kept.files {
            written(writeln!(terminal.out, "  {path}  {} bytes", text.len()))?;
        }
        Ok(GOOD)
    }

    fn differences(&self, from: &str, to: &str, terminal: &mut Terminal) -> Result<u8, Failure> {
        let (from, to) = (self.kept(from)?.files, self.kept(to)?.files);
        let text = unified(&from, &to);
        written(terminal.out.write_all(text.as_bytes()))?;
        Ok(if text.is_empty() { GOOD } else { FINDINGS })
    }
}

/// Writes files into a folder that does not exist yet.
fn export(files: &Files, folder: &Path) -> Result<(), Failure> {
    if folder.exists() {
        return Err(Failure::new(
            Class::Conflict,
            format!("{} exists; name a folder that does not", folder.display()),
        ));
    }
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(folder) = path.parent() {
            disk::make_folder(folder)?;
        }
        disk::write_atomic(&path, text)?;
    }
    Ok(())
}

/// What is different between two sets of files, as `diff -u` writes it.
fn unified(from: &Files, to: &Files) -> String {
    let paths: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let mut all = String::new();
    for path in paths {
        let text = |files: &Files| {
            let bytes = files.get(path);
            bytes.map_or_else(String::new, |bytes| {
                String::from_utf8_lossy(bytes).into_owned()
            })
        };
        let (before, after) = (text(from), text(to));
        if before == after {
            continue;
        }
        let name = |files: &Files, side: &str| match files.contains_key(path) {
            true => format!("{side}/{path}"),
            false => "/dev/null".to_owned(),
        };
        let diff = similar::TextDiff::from_lines(&before, &after);
        let mut shown = diff.unified_diff();
        let shown = shown.header(&name(from, "a"), &name(to, "b"));
        all.push_str(&shown.to_string());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_different_is_shown_line_by_line() {
        let files = |orders: Option<&str>| -> Files {
            let same = [("crossdock.yaml".to_owned(), "limits: {}\n".into())];
            let orders =
                orders.map(|text| ("flows/orders.yaml".to_owned(), text.to_owned().into()));
            same.into_iter().chain(orders).collect()
        };
        let (one, two) = (
            files(Some("flow: orders\nkeys: 1\n")),
            files(Some("flow: orders\nkeys: 2\n")),
        );
        assert_eq!(unified(&one, &one), "");
        let text = unified(&one, &two);
        assert!(
            text.contains("--- a/flows/orders.yaml\n+++ b/flows/orders.yaml\n"),
            "{text}"
        );
        assert!(
            text.contains(" flow: orders\n-keys: 1\n+keys: 2\n"),
            "{text}"
        );
        let gone = unified(&one, &files(None));
        assert!(gone.contains("+++ /dev/null\n"), "{gone}");
    }
}
