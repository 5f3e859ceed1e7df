//! `crossdock apis`: what the project offers to callers, what is on its way out, and who still calls it; and the OpenAPI document of it.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::{
    GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, reader, table, wait_for, written,
};
use crate::component::api::{Api, Calls};
use crate::diagnostic::render;
use crate::failure::Failure;
use crate::flow::{self, openapi, plan::Plan};
use crate::world::clock::{Clock, SystemClock};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock apis                       every API, and who has called it in the last 30 days
  crossdock apis --days 7 --json
  crossdock apis --openapi > openapi.json

Calls are noted once a minute. An API that is gone from the project and was called is shown with `-` as its flow")]
pub(super) struct Apis {
    #[command(flatten)]
    project: ProjectArguments,
    /// Look at the calls of so many days
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=400))]
    days: u16,
    /// Print JSON, one API and client a line
    #[arg(long)]
    json: bool,
    /// Print the OpenAPI document of all APIs instead
    #[arg(long, conflicts_with = "json")]
    openapi: bool,
}

const COLUMNS: [&str; 6] = ["api", "flow", "state", "client", "calls", "last call (UTC)"];
const DAY_MS: i64 = 86_400_000;

impl Apis {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let loaded = flow::load(&absolute(&self.project.project), &self.project.world()?);
        let Some(project) = loaded.project else {
            render::text(&loaded.findings, &mut terminal.err, false).ok();
            return Ok(UNLOADABLE);
        };
        if self.openapi {
            let document = openapi::document(&project);
            written(writeln!(terminal.out, "{document:#}"))?;
            return Ok(GOOD);
        }
        let now_ms = SystemClock.now_ms();
        let since_ms = now_ms - (i64::from(self.days) - 1) * DAY_MS;
        let calls = match reader(&self.project) {
            Ok(reader) => wait_for(reader.calls(since_ms))?,
            Err(failure) => {
                writeln!(
                    terminal.err,
                    "nobody knows who has called: {}",
                    failure.message
                )
                .ok();
                Vec::new()
            }
        };
        let apis = openapi::apis(&project);
        let lines = lines(&apis, &calls);
        if self.json {
            for line in &lines {
                written(writeln!(terminal.out, "{}", line.as_json(now_ms)))?;
            }
            return Ok(GOOD);
        }
        if lines.is_empty() {
            written(writeln!(terminal.out, "the project has no APIs"))?;
            return Ok(GOOD);
        }
        let rows: Vec<_> = lines.iter().map(|line| line.row(now_ms)).collect();
        written(table::columns(&mut terminal.out, &COLUMNS, &rows))?;
        Ok(GOOD)
    }
}

/// An API and one who has called it, if anybody has.
struct Line<'a> {
    name: String,
    api: Option<(&'a Plan, &'a Api)>,
    calls: Option<&'a Calls>,
}

/// The APIs of the project with their callers, then what was called and is gone.
fn lines<'a>(apis: &[(&'a Plan, &'a Api)], calls: &'a [Calls]) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for (plan, api) in apis {
        let name = api.name();
        let before = lines.len();
        let own = calls.iter().filter(|calls| *calls.api == name);
        lines.extend(own.map(|calls| Line {
            name: name.clone(),
            api: Some((plan, api)),
            calls: Some(calls),
        }));
        if lines.len() == before {
            lines.push(Line {
                name,
                api: Some((plan, api)),
                calls: None,
            });
        }
    }
    let is_there = |calls: &&Calls| apis.iter().any(|(_, api)| api.name() == *calls.api);
    let gone = calls.iter().filter(|calls| !is_there(calls));
    lines.extend(gone.map(|calls| Line {
        name: calls.api.to_string(),
        api: None,
        calls: Some(calls),
    }));
    lines
}

impl Line<'_> {
    fn row(&self, now_ms: i64) -> Vec<String> {
        let nothing = || "-".to_owned();
        let calls = self.calls;
        vec![
            self.name.clone(),
            self.api
                .map_or_else(nothing, |(plan, _)| plan.flow.to_string()),
            self.state(now_ms),
            calls.map_or_else(nothing, |calls| calls.client.to_string()),
            calls.map_or_else(|| "0".to_owned(), |calls| calls.count.to_string()),
            calls.map_or_else(nothing, |calls| table::time(calls.last_at_ms)),
        ]
    }

    /// Whether callers may count on it.
    fn state(&self, now_ms: i64) -> String {
        let Some((_, api)) = self.api else {
            return "gone".to_owned();
        };
        match &api.deprecated {
            None => "current".to_owned(),
            Some(leaving) => match leaving.sunset_ms {
                Some(sunset_ms) if sunset_ms <= now_ms => {
                    format!("past its sunset {}", openapi::day(sunset_ms))
                }
                Some(sunset_ms) => format!("deprecated, sunset {}", openapi::day(sunset_ms)),
                None => format!("deprecated since {}", openapi::day(leaving.since_ms)),
            },
        }
    }

    fn as_json(&self, now_ms: i64) -> serde_json::Value {
        let api = self.api;
        let leaving = api.and_then(|(_, api)| api.deprecated.as_ref());
        json!({
            "api": self.name,
            "flow": api.map(|(plan, _)| &plan.flow),
            "version": api.map(|(_, api)| &api.version),
            "state": self.state(now_ms),
            "deprecated_since": leaving.map(|leaving| openapi::day(leaving.since_ms)),
            "sunset": leaving.and_then(|leaving| leaving.sunset_ms).map(openapi::day),
            "client": self.calls.map(|calls| &calls.client),
            "calls": self.calls.map_or(0, |calls| calls.count),
            "last_call_ms": self.calls.map(|calls| calls.last_at_ms),
        })
    }
}
