//! `crossdock books`: where every message is, per flow and in all, and whether the sums hold.

use std::io::Write;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, reader, table, wait_for, written};
use crate::failure::Failure;
use crate::store::books::Counts;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock books
  crossdock books --json
  crossdock books --recount        count the runs again instead of trusting the running sums

received = accepted + duplicates + refused
accepted = delivered + filtered + discarded + compensated + in flight + in exceptions
Exit codes: 0 the books balance, 1 they do not")]
pub(super) struct Books {
    #[command(flatten)]
    project: ProjectArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Count the runs again; differences are shown and are findings
    #[arg(long)]
    recount: bool,
}

const COLUMNS: [&str; 11] = [
    "flow",
    "received",
    "accepted",
    "duplicates",
    "refused",
    "delivered",
    "filtered",
    "discarded",
    "compensated",
    "in flight",
    "exceptions",
];

impl Books {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        let (books, again) = wait_for(async {
            let again = if self.recount {
                reader.recount().await?
            } else {
                Vec::new()
            };
            Ok((reader.books().await?, again))
        })?;
        let mut all = Counts::default();
        for flow in &books {
            add(&mut all, &flow.counts);
        }
        let differs = self.recount && books.iter().any(|flow| !again.contains(flow));
        let balanced = books.iter().all(|flow| flow.counts.balanced()) && !differs;
        if self.json {
            let flows: Map<String, Value> = books
                .iter()
                .map(|flow| (flow.flow.to_string(), as_json(&flow.counts)))
                .collect();
            let whole = json!({ "flows": flows, "all": as_json(&all), "recounted": self.recount, "balanced": balanced });
            written(writeln!(terminal.out, "{whole}"))?;
        } else {
            let mut rows: Vec<Vec<String>> = books
                .iter()
                .map(|flow| row(&flow.flow, &flow.counts))
                .collect();
            rows.push(row("all", &all));
            written(table::columns(&mut terminal.out, &COLUMNS, &rows))?;
            let word = if balanced {
                "the books balance"
            } else {
                "THE BOOKS DO NOT BALANCE"
            };
            written(writeln!(terminal.out, "{word}"))?;
        }
        for flow in again.iter().filter(|flow| !books.contains(flow)) {
            written(writeln!(
                terminal.err,
                "recounted otherwise: {}",
                row(&flow.flow, &flow.counts).join(" ")
            ))?;
        }
        Ok(if balanced { GOOD } else { FINDINGS })
    }
}

fn add(all: &mut Counts, flow: &Counts) {
    all.received += flow.received;
    all.accepted += flow.accepted;
    all.duplicates += flow.duplicates;
    all.refused += flow.refused;
    all.delivered += flow.delivered;
    all.filtered += flow.filtered;
    all.discarded += flow.discarded;
    all.compensated += flow.compensated;
    all.in_flight += flow.in_flight;
    all.in_exceptions += flow.in_exceptions;
}

fn cells(counts: &Counts) -> [i64; 10] {
    [
        counts.received,
        counts.accepted,
        counts.duplicates,
        counts.refused,
        counts.delivered,
        counts.filtered,
        counts.discarded,
        counts.compensated,
        counts.in_flight,
        counts.in_exceptions,
    ]
}

fn row(name: &str, counts: &Counts) -> Vec<String> {
    std::iter::once(name.to_owned())
        .chain(cells(counts).map(|cell| cell.to_string()))
        .collect()
}

fn as_json(counts: &Counts) -> Value {
    let names = [
        "received",
        "accepted",
        "duplicates",
        "refused",
        "delivered",
        "filtered",
        "discarded",
        "compensated",
        "in_flight",
        "in_exceptions",
    ];
    let mut object: Map<String, Value> = names
        .into_iter()
        .map(str::to_owned)
        .zip(cells(counts).map(Value::from))
        .collect();
    object.insert("balanced".to_owned(), counts.balanced().into());
    Value::Object(object)
}
