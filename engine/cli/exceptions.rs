//! `crossdock exceptions`: what waits for a person, by cause or one by one, and one with its full context.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, reader, table, wait_for, written};
use crate::failure::{Class, Failure};
use crate::store::exceptions::{
    ExceptionDetail, ExceptionFilter, ExceptionId, ExceptionRow, ExceptionState,
};
use crate::store::reader::Reader;
use crate::world::World;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock exceptions                       what is open, the newest first
  crossdock exceptions --issues              one line a cause
  crossdock exceptions --class ambiguous
  crossdock exceptions 7                     one: body, request, answer, attempts")]
pub(super) struct Exceptions {
    /// One exception, by its number
    exception: Option<i64>,
    /// One line for all exceptions with the same cause
    #[arg(long, conflicts_with = "exception")]
    issues: bool,
    /// Only of this flow
    #[arg(long)]
    flow: Option<String>,
    /// Only of this failure class
    #[arg(long, value_parser = class)]
    class: Option<Class>,
    /// Resolved and discarded ones too
    #[arg(long)]
    all: bool,
    /// At most this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Print JSON, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

impl Exceptions {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        if let Some(id) = self.exception {
            let Some(detail) = wait_for(reader.exception(ExceptionId(id)))? else {
                writeln!(
                    terminal.err,
                    "crossdock: there is no exception {id}; `crossdock exceptions --all` lists them"
                )
                .ok();
                return Ok(FINDINGS);
            };
            return self.show(&detail, terminal);
        }
        if self.issues {
            return self.list_issues(&reader, terminal);
        }
        let filter = ExceptionFilter {
            flow: self.flow.clone(),
            class: self.class,
            state: (!self.all).then_some(ExceptionState::Open),
            fingerprint: None,
            before: None,
            limit: self.limit as usize,
        };
        self.list(&wait_for(reader.exceptions(filter))?, terminal)
    }

    fn list(&self, rows: &[ExceptionRow], terminal: &mut Terminal) -> Result<u8, Failure> {
        if self.json {
            for row in rows {
                written(writeln!(terminal.out, "{}", row_json(row)))?;
            }
            return Ok(GOOD);
        }
        if rows.is_empty() {
            written(writeln!(terminal.out, "nothing waits for a person"))?;
            return Ok(GOOD);
        }
        let now_ms = World::real().clock.now_ms();
        let cells: Vec<_> = rows
            .iter()
            .map(|row| {
                vec![
                    row.id.0.to_string(),
                    table::age(now_ms - row.opened_at_ms),
                    row.run.0.to_string(),
                    row.flow.to_string(),
                    row.step.to_string(),
                    row.class.to_string(),
                    row.message.clone(),
                ]
            })
            .collect();
        written(table::columns(
            &mut terminal.out,
            &["id", "age", "run", "flow", "step", "class", "message"],
            &cells,
        ))?;
        Ok(GOOD)
    }

    fn list_issues(&self, reader: &Reader, terminal: &mut Terminal) -> Result<u8, Failure> {
        let issues = wait_for(reader.issues())?;
        let now_ms = World::real().clock.now_ms();
        let wanted = issues.into_iter().filter(|issue| {
            (self.all || issue.open > 0)
                && self.flow.as_deref().is_none_or(|flow| flow == &*issue.flow)
                && self.class.is_none_or(|class| class == issue.class)
        });
        let rows: Vec<_> = wanted
            .take(self.limit as usize)
            .map(|issue| {
                vec![
                    issue.open.to_string(),
                    issue.flow.to_string(),
                    issue.step.to_string(),
                    issue.class.to_string(),
                    table::age(now_ms - issue.first_at_ms),
                    issue.newest.0.to_string(),
                    issue.message,
                ]
            })
            .collect();
        written(table::columns(
            &mut terminal.out,
            &[
                "open", "flow", "step", "class", "since", "newest", "message",
            ],
            &rows,
        ))?;
        Ok(GOOD)
    }

    fn show(&self, detail: &ExceptionDetail, terminal: &mut Terminal) -> Result<u8, Failure> {
        let row = &detail.row;
        let parts = [
            ("body at the step", &detail.body),
            ("request", &detail.request),
            ("answer", &detail.answer),
        ];
        if self.json {
            let mut whole = row_json(row);
            for (name, bytes) in parts {
                whole[name] = json!(bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes)));
            }
            written(writeln!(terminal.out, "{whole}"))?;
            return Ok(GOOD);
        }
        written(writeln!(
            terminal.out,
            "exception {} ({})\n{} / {}: {}: {}\nrun {}, message {}, {} attempts, opened {} UTC, cause {}",
            row.id.0,
            row.state.name(),
            row.flow,
            row.step,
            row.class,
            row.message,
            row.run.0,
            row.at,
            row.attempts,
            table::time(row.opened_at_ms),
            row.fingerprint,
        ))?;
        if let Some(more) = &row.detail {
            written(writeln!(terminal.out, "\n{more}"))?;
        }
        for (name, bytes) in parts {
            if let Some(bytes) = bytes {
                written(writeln!(terminal.out, "\n{name}\n{}", table::shown(bytes)))?;
            }
        }
        Ok(GOOD)
    }
}

/// An exception for scripts.
pub(super) fn row_json(row: &ExceptionRow) -> Value {
    json!({
        "id": row.id.0,
        "run": row.run.0,
        "flow": row.flow,
        "step": row.step,
        "class": row.class.name(),
        "message": row.message,
        "detail": row.detail,
        "fingerprint": row.fingerprint,
        "attempts": row.attempts,
        "state": row.state.name(),
        "opened_at_ms": row.opened_at_ms,
        "message_id": row.at.to_string(),
    })
}

fn class(name: &str) -> Result<Class, String> {
    Class::from_name(name)
        .ok_or_else(|| format!("one of: {}", Class::ALL.map(Class::name).join(", ")))
}
