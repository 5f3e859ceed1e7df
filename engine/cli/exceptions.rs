//! `crossdock exceptions`: what waits for a person, by cause or one by one, one with its full context, and what can be done about it.

use std::io::Write;

use clap::Args;

use super::office::Actor;
use super::{FINDINGS, GOOD, ProjectArguments, Terminal, reader, runs, table, wait_for, written};
use crate::admin::shown;
use crate::failure::{Class, Failure};
use crate::store::exceptions::{
    ExceptionDetail, ExceptionFilter, ExceptionId, ExceptionRow, ExceptionState,
};
use crate::store::reader::Reader;
use crate::world::World;

mod acts;

#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  crossdock exceptions                       what waits, the newest first
  crossdock exceptions --issues              one line a cause
  crossdock exceptions --class ambiguous
  crossdock exceptions 7                     one: bodies, request, answer, what was done, history
  crossdock exceptions 7 --reveal            the same, with personal data
  crossdock exceptions retry --issue 3f2a    all with the same cause go on
  crossdock exceptions discard 7 --reason 'cancelled by phone'

States: open, assigned, snoozed, resolved, discarded"
)]
pub(super) struct Exceptions {
    #[command(subcommand)]
    act: Option<acts::Acts>,
    #[command(flatten)]
    list: List,
}

#[derive(Args)]
struct List {
    /// One exception, by its number
    exception: Option<i64>,
    /// One line for all exceptions with the same cause
    #[arg(long, conflicts_with = "exception")]
    issues: bool,
    /// Only with this cause: the issue's fingerprint, or its beginning
    #[arg(long, value_name = "FINGERPRINT")]
    issue: Option<String>,
    /// Only of this flow
    #[arg(long)]
    flow: Option<String>,
    /// Only of this failure class
    #[arg(long, value_parser = class)]
    class: Option<Class>,
    /// Only at this step
    #[arg(long)]
    step: Option<String>,
    /// Only of runs with this key: VALUE or NAME=VALUE
    #[arg(long)]
    key: Option<String>,
    /// Only in this state
    #[arg(long, value_parser = state)]
    state: Option<ExceptionState>,
    /// Only what this person has taken
    #[arg(long)]
    owner: Option<String>,
    /// Resolved and discarded ones too
    #[arg(long)]
    all: bool,
    /// At most this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// One exception: with what is personal in it, which is masked otherwise. It is written into the audit log
    #[arg(long, requires = "exception")]
    reveal: bool,
    /// Print JSON, one a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

impl Exceptions {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let list = &self.list;
        if let Some(act) = &self.act {
            return act.run(terminal);
        }
        if let Some(id) = list.exception {
            return show(id, (list.json, list.reveal), &list.project, terminal);
        }
        let reader = reader(&list.project)?;
        if list.issues {
            return list.issues(&reader, terminal);
        }
        let filter = ExceptionFilter {
            flow: list.flow.clone(),
            class: list.class,
            state: list.state,
            settled: list.all,
            fingerprint: list.issue.clone(),
            step: list.step.clone(),
            key: list.key.clone(),
            owner: list.owner.clone(),
            limit: list.limit as usize,
            ..ExceptionFilter::default()
        };
        list.rows(&wait_for(reader.exceptions(filter))?, terminal)
    }
}

impl List {
    fn rows(&self, rows: &[ExceptionRow], terminal: &mut Terminal) -> Result<u8, Failure> {
        if self.json {
            for row in rows {
                written(writeln!(terminal.out, "{}", shown::exception(row)))?;
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
                    standing(row),
                    row.message.clone(),
                ]
            })
            .collect();
        written(table::columns(
            &mut terminal.out,
            &[
                "id", "age", "run", "flow", "step", "class", "state", "message",
            ],
            &cells,
        ))?;
        Ok(GOOD)
    }

    fn issues(&self, reader: &Reader, terminal: &mut Terminal) -> Result<u8, Failure> {
        let issues = wait_for(reader.issues())?;
        let now_ms = World::real().clock.now_ms();
        let wanted: Vec<_> = issues
            .into_iter()
            .filter(|issue| self.flow.as_deref().is_none_or(|flow| flow == &*issue.flow))
            .filter(|issue| self.class.is_none_or(|class| class == issue.class))
            .filter(|issue| {
                let begins = |wanted: &str| issue.fingerprint.starts_with(wanted);
                self.issue.as_deref().is_none_or(begins)
            })
            .take(self.limit as usize)
            .collect();
        if self.json {
            for issue in &wanted {
                written(writeln!(terminal.out, "{}", shown::issue(issue)))?;
            }
            return Ok(GOOD);
        }
        if wanted.is_empty() {
            written(writeln!(terminal.out, "nothing waits for a person"))?;
            return Ok(GOOD);
        }
        let rows: Vec<_> = wanted
            .into_iter()
            .map(|issue| {
                vec![
                    issue.fingerprint,
                    issue.open.to_string(),
                    issue.flow.to_string(),
                    issue.step.to_string(),
                    issue.class.to_string(),
                    table::age(now_ms - issue.first_at_ms),
                    table::age(now_ms - issue.last_at_ms),
                    issue.owners.join(" "),
                    issue.newest.0.to_string(),
                    issue.message,
                ]
            })
            .collect();
        written(table::columns(
            &mut terminal.out,
            &[
                "issue", "open", "flow", "step", "class", "first", "last", "owner", "newest",
                "message",
            ],
            &rows,
        ))?;
        Ok(GOOD)
    }
}

/// One exception with its full context.
fn show(
    id: i64,
    (as_json, reveal): (bool, bool),
    project: &ProjectArguments,
    terminal: &mut Terminal,
) -> Result<u8, Failure> {
    let reader = reader(project)?;
    let Some(mut detail) = wait_for(reader.exception(ExceptionId(id)))? else {
        writeln!(
            terminal.err,
            "crossdock: there is no exception {id}; `crossdock exceptions --all` lists them"
        )
        .ok();
        return Ok(FINDINGS);
    };
    if reveal {
        Actor::here().reveal(project, "exceptions", id)?;
    } else {
        let veil = wait_for(reader.veil())?;
        wait_for(reader.cover_exception(&veil, &mut detail))?;
    }
    if as_json {
        let whole = shown::whole_exception(&detail);
        written(writeln!(terminal.out, "{whole}"))?;
        return Ok(GOOD);
    }
    print(&detail, terminal)?;
    Ok(GOOD)
}

fn print(detail: &ExceptionDetail, terminal: &mut Terminal) -> Result<(), Failure> {
    let (row, out) = (&detail.row, &mut terminal.out);
    written(writeln!(
        out,
        "exception {} ({})\n{} / {}: {}: {}\nrun {}, message {}, {} attempts, opened {} UTC, issue {}\nkeys {}",
        row.id.0,
        standing(row),
        row.flow,
        row.step,
        row.class,
        row.message,
        row.run.0,
        row.at,
        row.attempts,
        table::time(row.opened_at_ms),
        row.fingerprint,
        runs::keys(&detail.keys),
    ))?;
    if let Some(more) = &row.detail {
        written(writeln!(out, "\n{more}"))?;
    }
    let accepted = detail.accepted.as_ref().filter(|_| !detail.runs_body);
    let parts = [
        ("accepted body", accepted),
        ("body at the step", detail.body.as_ref()),
        ("request", detail.request.as_ref()),
        ("answer", detail.answer.as_ref()),
    ];
    for (name, bytes) in parts {
        if let Some(bytes) = bytes {
            written(writeln!(out, "\n{name}\n{}", table::shown(bytes)))?;
        }
    }
    done_already(detail, out)?;
    history(detail, out)
}

/// What was done outside, whatever becomes of the exception.
fn done_already(detail: &ExceptionDetail, out: &mut dyn Write) -> Result<(), Failure> {
    if !detail.effects.is_empty() {
        written(writeln!(out, "\nwhat was done already"))?;
    }
    for effect in &detail.effects {
        let item = if effect.item.is_empty() {
            String::new()
        } else {
            format!(" [{}]", effect.item)
        };
        written(writeln!(
            out,
            "  {}{item} {}, {} attempts, last {} UTC",
            effect.step,
            effect.standing.name(),
            effect.attempts,
            table::time(effect.last_at_ms)
        ))?;
    }
    Ok(())
}

/// Who did what about it.
fn history(detail: &ExceptionDetail, out: &mut dyn Write) -> Result<(), Failure> {
    if !detail.history.is_empty() {
        written(writeln!(out, "\nhistory"))?;
    }
    for line in &detail.history {
        let why = line.why.as_ref().map(|why| format!(": {why}"));
        written(writeln!(
            out,
            "  {} UTC  {}  {}{}",
            table::time(line.at_ms),
            line.who,
            line.what,
            why.unwrap_or_default()
        ))?;
        if let Some(body) = &line.body {
            written(writeln!(out, "{}", table::shown(body)))?;
        }
    }
    Ok(())
}

/// The state in a cell: with who has it, until when, or how it was settled.
fn standing(row: &ExceptionRow) -> String {
    let state = row.state.name();
    match row.state {
        ExceptionState::Assigned => format!("{state} {}", row.owner.as_deref().unwrap_or("")),
        ExceptionState::Snoozed => match row.snoozed_until_ms {
            Some(until_ms) => format!("{state} until {}", table::time(until_ms)),
            None => state.to_owned(),
        },
        ExceptionState::Resolved => match &row.how {
            Some(how) => format!("{state} {how}"),
            None => state.to_owned(),
        },
        ExceptionState::Open | ExceptionState::Discarded => state.to_owned(),
    }
}

fn class(name: &str) -> Result<Class, String> {
    Class::from_name(name)
        .ok_or_else(|| format!("one of: {}", Class::ALL.map(Class::name).join(", ")))
}

fn state(name: &str) -> Result<ExceptionState, String> {
    ExceptionState::from_name(name).ok_or_else(|| {
        let names = ExceptionState::ALL.map(ExceptionState::name);
        format!("one of: {}", names.join(", "))
    })
}
