//! `crossdock runs`: what ran, and one run with its whole timeline.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use super::office::Actor;
use super::{FINDINGS, GOOD, ProjectArguments, Terminal, reader, table, wait_for, written};
use crate::diagnostic::closest;
use crate::failure::Failure;
use crate::message::Names;
use crate::store::chains::Ahead;
use crate::store::runs::{RunDetail, RunFilter, RunRow, RunState};
use crate::world::World;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock runs
  crossdock runs --state in-exception --flow order-booking
  crossdock runs --key order=1001
  crossdock runs 42                  one run: timeline, requests and answers, exceptions
  crossdock runs 42 --reveal         the same, with personal data

States: in-flight, in-exception, delivered, filtered, discarded, compensated")]
pub(super) struct Runs {
    /// One run: its number, or its message's id
    run: Option<String>,
    /// Only of this flow
    #[arg(long)]
    flow: Option<String>,
    /// Only in this state
    #[arg(long, value_parser = state)]
    state: Option<RunState>,
    /// Only with this key: VALUE or NAME=VALUE
    #[arg(long)]
    key: Option<String>,
    /// At most this many, the newest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// One run: with what is personal in it, which is masked otherwise. It is written into the audit log
    #[arg(long)]
    reveal: bool,
    /// Print JSON, one run a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

impl Runs {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        if let Some(which) = &self.run {
            let Some(mut detail) = wait_for(reader.run(which))? else {
                writeln!(
                    terminal.err,
                    "crossdock: the store has no run `{which}`; `crossdock runs` lists them"
                )
                .ok();
                return Ok(FINDINGS);
            };
            let veil = wait_for(reader.veil())?;
            if self.reveal {
                Actor::here().reveal(&self.project, "runs", detail.row.run.0)?;
            } else {
                wait_for(reader.cover_run(&veil, &mut detail))?;
            }
            return self.show(&detail, terminal);
        }
        if self.reveal {
            return Err(Failure::validation("`--reveal` shows one run: name it"));
        }
        let filter = RunFilter {
            among: None,
            flow: self.flow.clone(),
            state: self.state,
            key: self.key.clone(),
            before: None,
            limit: self.limit as usize,
        };
        let mut rows = wait_for(reader.runs(filter))?;
        let veil = wait_for(reader.veil())?;
        wait_for(reader.cover_rows(&veil, &mut rows))?;
        list(&rows, self.json, terminal)
    }

    fn show(&self, detail: &RunDetail, terminal: &mut Terminal) -> Result<u8, Failure> {
        if self.json {
            written(writeln!(terminal.out, "{}", detail_json(detail)))?;
            return Ok(GOOD);
        }
        let out = &mut terminal.out;
        let row = &detail.row;
        written(writeln!(
            out,
            "run {} of {}: {}\nmessage {}\nkeys    {}",
            row.run.0,
            row.flow,
            state_of(row),
            row.message,
            keys(&row.keys)
        ))?;
        let lines = detail.trail.iter().map(|line| {
            vec![
                table::time(line.at_ms),
                line.step.clone(),
                line.what.clone(),
                line.detail.clone().unwrap_or_default(),
            ]
        });
        let first = vec![
            table::time(row.received_at_ms),
            "@accept".to_owned(),
            "accepted".to_owned(),
            String::new(),
        ];
        let lines: Vec<_> = std::iter::once(first).chain(lines).collect();
        written(writeln!(out))?;
        written(table::columns(
            out,
            &["at (UTC)", "step", "what", "detail"],
            &lines,
        ))?;
        show_what_it_did(detail, terminal)
    }
}

/// What waits, what was sent and answered, what a person must look at, and what came in.
fn show_what_it_did(detail: &RunDetail, terminal: &mut Terminal) -> Result<u8, Failure> {
    let out = &mut terminal.out;
    for hop in &detail.hops {
        let until = hop
            .due_at_ms
            .map(|due| format!(" until {}", table::time(due)))
            .unwrap_or_default();
        let attempt = match hop.attempt {
            0 => String::new(),
            attempt => format!(" for attempt {attempt}"),
        };
        let why = hop
            .last_failure
            .as_deref()
            .and_then(|why| why.lines().next());
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        written(writeln!(
            out,
            "\nwaits at {}{attempt}{until}{why}",
            hop.step
        ))?;
    }
    for effect in &detail.effects {
        written(writeln!(
            out,
            "\n{} {} ({} attempts)\n{}",
            effect.step,
            effect.standing.name(),
            effect.attempts,
            table::shown(&effect.request)
        ))?;
        if let Some(answer) = &effect.answer {
            written(writeln!(out, "answer\n{}", table::shown(answer)))?;
        }
    }
    if !detail.sagas.is_empty() {
        let rows: Vec<_> = detail
            .sagas
            .iter()
            .map(|step| {
                let undo = step.undo.as_deref().unwrap_or("none");
                let standing = step.standing.name();
                [&*step.saga, &*step.step, standing, undo]
                    .map(str::to_owned)
                    .to_vec()
            })
            .collect();
        written(writeln!(out))?;
        written(table::columns(
            out,
            &["saga", "step", "state", "undo"],
            &rows,
        ))?;
    }
    for exception in &detail.exceptions {
        written(writeln!(
            out,
            "\nexception {} at {}: {}: {}",
            exception.id.0, exception.step, exception.class, exception.message
        ))?;
    }
    if let Some(body) = &detail.body {
        written(writeln!(out, "\naccepted body\n{}", table::shown(body)))?;
    }
    Ok(GOOD)
}

/// Runs as rows.
pub(super) fn list(runs: &[RunRow], as_json: bool, terminal: &mut Terminal) -> Result<u8, Failure> {
    if as_json {
        for run in runs {
            written(writeln!(terminal.out, "{}", row_json(run)))?;
        }
        return Ok(GOOD);
    }
    if runs.is_empty() {
        written(writeln!(terminal.out, "no runs"))?;
        return Ok(GOOD);
    }
    let now_ms = World::real().clock.now_ms();
    let rows: Vec<_> = runs
        .iter()
        .map(|run| {
            let age = table::age(now_ms - run.received_at_ms);
            vec![
                run.run.0.to_string(),
                table::time(run.received_at_ms),
                age,
                run.flow.to_string(),
                state_of(run),
                keys(&run.keys),
            ]
        })
        .collect();
    written(table::columns(
        &mut terminal.out,
        &["run", "accepted (UTC)", "age", "flow", "state", "keys"],
        &rows,
    ))?;
    Ok(GOOD)
}

/// Where a run is, and whom it waits for.
fn state_of(run: &RunRow) -> String {
    match &run.waits_for {
        None if run.erased_at_ms.is_some() => format!("{}, erased", run.state.name()),
        Some(ahead) => format!("{}, {}", run.state.name(), turn(ahead)),
        None => run.state.name().to_owned(),
    }
}

/// Whose turn it is before this one's.
pub(super) fn turn(ahead: &Ahead) -> String {
    format!("waits for run {} ({})", ahead.run.0, ahead.key)
}

/// Keys as `name=value`, in one cell.
pub(super) fn keys(keys: &Names) -> String {
    keys.iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn row_json(run: &RunRow) -> Value {
    json!({
        "run": run.run.0,
        "message": run.message.to_string(),
        "root": run.root.to_string(),
        "flow": run.flow,
        "revision": run.revision,
        "received_at_ms": run.received_at_ms,
        "ended_at_ms": run.ended_at_ms,
        "erased_at_ms": run.erased_at_ms,
        "state": run.state.name(),
        "waits_for": run.waits_for.as_ref().map(|ahead| json!({ "run": ahead.run.0, "key": ahead.key })),
        "keys": run.keys,
    })
}

fn detail_json(detail: &RunDetail) -> Value {
    let mut whole = row_json(&detail.row);
    let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
    whole["body"] = json!(detail.body.as_ref().map(text));
    whole["trail"] = detail
        .trail
        .iter()
        .map(|line| json!({ "at_ms": line.at_ms, "step": line.step, "what": line.what, "detail": line.detail, "hash": line.hash }))
        .collect();
    whole["effects"] = detail
        .effects
        .iter()
        .map(|effect| {
            json!({ "step": effect.step, "item": effect.item, "standing": effect.standing.name(), "attempts": effect.attempts,
                "idempotency_key": effect.idempotency_key, "request": text(&effect.request), "answer": effect.answer.as_ref().map(text) })
        })
        .collect();
    whole["sagas"] = detail
        .sagas
        .iter()
        .map(|step| json!({ "saga": step.saga, "step": step.step, "state": step.standing.name(), "undo": step.undo }))
        .collect();
    whole["exceptions"] = detail
        .exceptions
        .iter()
        .map(crate::admin::shown::exception)
        .collect();
    whole["hops"] = detail
        .hops
        .iter()
        .map(|hop| json!({ "flow": hop.flow, "step": hop.step, "attempt": hop.attempt, "due_at_ms": hop.due_at_ms }))
        .collect();
    whole
}

fn state(name: &str) -> Result<RunState, String> {
    RunState::from_name(name).ok_or_else(|| {
        let names = RunState::ALL.map(RunState::name);
        match closest(name, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("one of: {}", names.join(", ")),
        }
    })
}
