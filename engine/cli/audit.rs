//! `crossdock audit`: who did what, and the proof that the log says so as it was written.

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, reader, table, wait_for, written};
use crate::component::words::Duration;
use crate::failure::Failure;
use crate::store::audit::{AuditFilter, AuditRow, hex};
use crate::world::clock::{Clock, SystemClock};

/// How many rows are read at once.
const PAGE: usize = 500;

#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  crossdock audit
  crossdock audit --actor anna --since 7d
  crossdock audit --action exception --target exception:7
  crossdock audit --format csv --limit 100000 > audit.csv
  crossdock audit verify
  crossdock audit verify --head 1042:9f3c..      the end that the engine's log had yesterday

Exit codes: 0 good, 1 the log is not as it was written"
)]
pub(super) struct Audit {
    #[command(subcommand)]
    act: Option<Act>,
    /// Only by this actor
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Only this action, or those that begin so: `exception`, `project.reload`
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only about this: `exception:7`, or `token`
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// Only of the last so long: `2h`, `7d`
    #[arg(long, value_name = "TIME", value_parser = Duration::parse)]
    since: Option<Duration>,
    /// At most this many, the newest first
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// How it is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    project: ProjectArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Columns
    Text,
    /// JSON, one row a line
    Json,
    /// CSV for spreadsheets: no cell of it is a formula
    Csv,
}

#[derive(Subcommand)]
enum Act {
    /// Prove that nothing in the log was changed, dropped, reordered or cut off
    Verify(Verify),
}

#[derive(Args)]
struct Verify {
    /// An end that was noted outside of the store, as the engine logs it once a day: the log must have passed it
    #[arg(long, value_name = "COUNT:HASH")]
    head: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

const COLUMNS: [&str; 8] = [
    "n", "at (UTC)", "actor", "via", "action", "target", "outcome", "reason",
];
const CSV_COLUMNS: [&str; 14] = [
    "seq",
    "at_ms",
    "actor",
    "kind",
    "via",
    "source",
    "request",
    "action",
    "target_kind",
    "target",
    "reason",
    "outcome",
    "detail",
    "hash",
];

impl Audit {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        if let Some(Act::Verify(verify)) = &self.act {
            return verify.run(terminal);
        }
        let rows = self.rows()?;
        match self.format {
            Format::Text => text(&rows, terminal)?,
            Format::Json => {
                for row in &rows {
                    written(writeln!(terminal.out, "{}", as_json(row)))?;
                }
            }
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(&mut terminal.out);
                let whole = std::iter::once(CSV_COLUMNS.map(str::to_owned).to_vec());
                for line in whole.chain(rows.iter().map(cells)) {
                    let line = line.iter().map(|cell| harmless(cell));
                    written(writer.write_record(line).map_err(std::io::Error::other))?;
                }
                written(writer.flush())?;
            }
        }
        Ok(GOOD)
    }

    fn rows(&self) -> Result<Vec<AuditRow>, Failure> {
        let reader = reader(&self.project)?;
        let now_ms = SystemClock.now_ms();
        let since = self
            .since
            .map(|since| now_ms.saturating_sub(i64::try_from(since.ms).unwrap_or(i64::MAX)));
        let limit = self.limit as usize;
        wait_for(async {
            let mut rows: Vec<AuditRow> = Vec::new();
            while rows.len() < limit {
                let filter = AuditFilter {
                    actor: self.actor.clone(),
                    action: self.action.clone(),
                    target: self.target.clone(),
                    since_ms: since,
                    before: rows.last().map(|row| row.seq),
                    limit: PAGE.min(limit - rows.len()),
                };
                let page = reader.audit(filter).await?;
                if page.is_empty() {
                    break;
                }
                rows.extend(page);
            }
            Ok(rows)
        })
    }
}

fn text(rows: &[AuditRow], terminal: &mut Terminal) -> Result<(), Failure> {
    if rows.is_empty() {
        return written(writeln!(terminal.out, "nothing was done"));
    }
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: Vec<_> = rows
        .iter()
        .map(|row| {
            let target = match row.target.is_empty() {
                true => row.target_kind.clone(),
                false => format!("{}:{}", row.target_kind, row.target),
            };
            let detail = row.reason.as_deref().or(row.detail.as_deref());
            vec![
                row.seq.to_string(),
                table::time(row.at_ms),
                row.actor.clone(),
                row.via.clone(),
                row.action.clone(),
                one_line(&target),
                row.outcome.clone(),
                one_line(detail.unwrap_or_default()),
            ]
        })
        .collect();
    written(table::columns(&mut terminal.out, &COLUMNS, &shown))
}

fn as_json(row: &AuditRow) -> serde_json::Value {
    json!({
        "seq": row.seq, "at_ms": row.at_ms, "actor": row.actor, "kind": row.kind, "via": row.via, "source": row.source,
        "request": row.request, "action": row.action, "target_kind": row.target_kind, "target": row.target, "reason": row.reason,
        "outcome": row.outcome, "detail": row.detail, "hash": hex(&row.hash),
    })
}

fn cells(row: &AuditRow) -> Vec<String> {
    let some = |text: &Option<String>| text.clone().unwrap_or_default();
    vec![
        row.seq.to_string(),
        row.at_ms.to_string(),
        row.actor.clone(),
        row.kind.clone(),
        row.via.clone(),
        some(&row.source),
        some(&row.request),
        row.action.clone(),
        row.target_kind.clone(),
        row.target.clone(),
        some(&row.reason),
        row.outcome.clone(),
        some(&row.detail),
        hex(&row.hash),
    ]
}

/// A cell that no spreadsheet takes for a formula.
fn harmless(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\0']);
    match formula {
        true => format!("'{cell}"),
        false => cell.to_owned(),
    }
}

impl Verify {
    fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        let verified = wait_for(reader.verify_audit(self.head.clone()))?;
        let head = &verified.head;
        if self.json {
            let bad = verified.bad.as_ref();
            let shown = json!({
                "sound": bad.is_none(), "count": head.count, "head": head.hash, "bad": bad.map(|bad| bad.seq), "why": bad.map(|bad| &bad.why),
            });
            written(writeln!(terminal.out, "{shown}"))?;
        } else if let Some(bad) = &verified.bad {
            written(writeln!(
                terminal.out,
                "NOT AS IT WAS WRITTEN: row {}: {}\nsound up to row {}, head {head}",
                bad.seq, bad.why, head.count
            ))?;
        } else {
            written(writeln!(
                terminal.out,
                "{} rows are as they were written, head {head}",
                head.count
            ))?;
        }
        Ok(if verified.bad.is_some() {
            FINDINGS
        } else {
            GOOD
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        for cell in ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1"] {
            assert_eq!(harmless(cell), format!("'{cell}"));
        }
        assert_eq!(harmless("anna = 1"), "anna = 1");
    }
}
