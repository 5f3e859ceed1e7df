//! From a system's file to a database: where it is, and what can be wrong with that. Nothing is opened.

use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::{Report, rules};
use crate::component::codes as common;
use crate::diagnostic::{Diagnostic, File, Findings};
use crate::net::sql::Place;
use crate::system::admission::Admission;
use crate::system::database::Database;
use crate::system::file::{Sql, SystemFile};
use crate::yaml::shape::{self, Formats};
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
        let mut found = Findings::new();
        shape::check_with(&schema(), node, file, formats, &mut found);
        let sound = !found.has_errors();
        findings.extend(found);
        let config = match serde_json::from_value::<SystemFile>(node.to_json()) {
            Ok(config) => config,
            Err(_) if !sound => return None,
            Err(error) => {
                let place = node.place(file);
                let finding = Diagnostic::error(common::BAD_VALUE, place, error.to_string());
                findings.push(finding);
                return None;
            }
        };
        let mut report = Report {
            file,
            node,
            findings,
            errors: 0,
        };
        let sql = config.sql.as_ref()?;
        let place = place(sql, root, &mut report);
        only_sql(&config, &mut report);
        let rules = rules::rules(&config, &mut report);
        if report.errors > 0 || !sound {
            return None;
        }
        let rules = rules?;
        Some(Database {
            name: Arc::from(config.system.as_str()),
            owner: config.owner.clone(),
            description: config.description.clone(),
            place: place?,
            timeout: config.timeout,
            concurrency: rules.concurrency,
            admission: Arc::new(Admission::new(&config.system, rules)),
            client: OnceLock::new(),
        })
    }
}

/// The shape of a file that says `sql`.
fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(SystemFile).to_value();
    if let Some(required) = schema["required"].as_array_mut() {
        required.retain(|name| name != "http");
    }
    schema
}

/// Reports what only a system that is reached over HTTP has.
fn only_sql(config: &SystemFile, report: &mut Report<'_>) {
    for (name, given) in [
        ("http", config.http.is_some()),
        ("failures", !config.failures.is_empty()),
    ] {
        if given {
            let message = format!("`{name}` is about HTTP, and this system is a database");
            report.conflict(&[name], &message, "remove it");
        }
    }
    if config.limits.answer.is_some() {
        let message = "`answer` is about HTTP, and this system is a database";
        report.conflict(&["limits", "answer"], message, "remove it");
    }
    if config.timeout.is_some_and(|timeout| timeout.ms == 0) {
        report.error(
            &["timeout"],
            "the timeout leaves no time",
            "write at least 1ms",
        );
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
    let scheme = sql.url.split("://").next().unwrap_or_default();
    if !["postgres", "postgresql"].contains(&scheme) {
        report.error(path, "there is no client for this URL", HELP);
        return None;
    }
    let mut config = match Config::from_str(&sql.url) {
        Ok(config) => config,
        Err(error) => {
            let cause = std::error::Error::source(&error)
                .map_or(String::new(), |cause| format!(": {cause}"));
            report.error(path, format!("the URL cannot be read{cause}"), HELP);
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
    if config.get_hosts().is_empty() {
        report.error(path, "the URL names no host", HELP);
    }
    if !sql.url.contains("sslmode=") {
        // On the way to another machine anybody could read along; who wants that says so with `sslmode`.
        let here = config.get_hosts().iter().all(is_here);
        config.ssl_mode(if here {
            SslMode::Disable
        } else {
            SslMode::Require
        });
    }
    config.application_name("crossdock");
    Some(Place::Postgres(Box::new(config), sql.ca.clone()))
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}
