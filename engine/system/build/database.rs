//! From a system's file to a database: where it is, and what can be wrong with that. Nothing is opened.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::{Report, read, rules};
use crate::diagnostic::{File, Findings};
use crate::net::sql::Place;
use crate::system::admission::Admission;
use crate::system::database::Database;
use crate::system::file::Sql;
use crate::yaml::shape::Formats;
use crate::yaml::{Node, Style};

impl Database {
    /// Checks a system's file that says `sql`, and makes the database of it. Relative paths of files are relative to `root`.
    pub fn parse(
        file: &Arc<File>,
        node: &Node,
        root: &Path,
        formats: &dyn Formats,
        findings: &mut Findings,
    ) -> Option<Database> {
        let (config, sound) = read(file, node, formats, findings)?;
        let mut report = Report {
            file,
            node,
            findings,
            errors: 0,
        };
        let sql = config.sql.as_ref()?;
        let place = place(sql, root, &mut report);
        rules::only("sql", "a database", &config, &mut report);
        let rules = rules::rules(&config, &mut report);
        if report.errors > 0 || !sound {
            return None;
        }
        let rules = rules?;
        Some(Database {
            name: Arc::from(config.system.as_str()),
            place: place?,
            timeout: config.timeout,
            concurrency: rules.concurrency,
            admission: Arc::new(Admission::new(&config.system, rules)),
            client: OnceLock::new(),
        })
    }
}

const HELP: &str = "write `postgres://user@host/database`, or `sqlite:` and a path";

fn place(sql: &Sql, root: &Path, report: &mut Report<'_>) -> Option<Place> {
    let path = &["sql", "url"];
    if let Some(file) = sql.url.strip_prefix("sqlite:") {
        let file = file.trim_start_matches("//");
        if file.is_empty() || file.starts_with(':') || file.contains('?') {
            report.error(path, "this names no database file", HELP);
            return None;
        }
        if sql.ca.is_some() {
            let message = "a file has no certificate";
            report.conflict(&["sql", "ca"], message, "remove it");
        }
        return Some(Place::Sqlite(root.join(file)));
    }
    let config = match crate::net::sql::server(&sql.url) {
        Ok(config) => config,
        Err(message) => {
            report.error(path, message, HELP);
            return None;
        }
    };
    let written = report.at(path).data.clone();
    if config.get_password().is_some()
        && matches!(written, crate::yaml::Data::Text(text) if text.style != Style::Variable)
    {
        let help = "take the URL from `${env:NAME}` or `${file:/run/secrets/name}`";
        report.error(path, "the password stands in the file itself", help);
    }
    Some(Place::Postgres(Box::new(config), sql.ca.clone()))
}
