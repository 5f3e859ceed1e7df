//! `crossdock pause`, `disable`, `drain`, `resume`: what people stop and let go on. `crossdock toggles`: what is stopped, by whom and why.

use std::io::Write;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::office::{Actor, Office};
use super::{GOOD, ProjectArguments, Terminal, reader, table, wait_for, written};
use crate::component::words::Duration;
use crate::failure::Failure;
use crate::run::toggles::{Toggled, Toggling, told};
use crate::store::toggles::{How, Target, Toggle};
use crate::world::clock::{Clock, SystemClock};

/// What is to be stopped, and for how long.
#[derive(Args)]
struct Stop {
    /// FLOW, FLOW/STEP or system:NAME; several are stopped together
    #[arg(required = true, value_name = "TARGET", value_parser = target)]
    targets: Vec<Target>,
    /// Why; the next one who looks must know
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// It goes on by itself after this time, such as 30m, 2h or 1d
    #[arg(long = "for", value_name = "DURATION", value_parser = Duration::parse, conflicts_with = "until")]
    lasts: Option<Duration>,
    /// It goes on by itself at this time, such as 2026-11-30T06:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    #[command(flatten)]
    at: At,
}

#[derive(Args)]
struct At {
    #[command(flatten)]
    project: ProjectArguments,
    #[command(flatten)]
    actor: Actor,
    /// Print JSON, one target a line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock pause orders --reason 'the ERP is moved' --for 2h     messages are accepted and wait
  crossdock pause orders/erp --reason 'doubtful tax codes'        up to this step they go on
  crossdock pause system:erp --reason 'the ERP is moved'          nothing is sent to it, by whichever flow

Senders notice nothing: messages are accepted, and wait where they are. What is under way is finished. It counts on every engine of the
store, within two seconds, and over restarts and reloads; `crossdock resume` ends it, `crossdock toggles` shows it.")]
pub(super) struct Pause {
    #[command(flatten)]
    stop: Stop,
}

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock disable orders --reason 'wrong prices in the shop'

Senders get 503 with Retry-After; polls, folders and queues are left alone. What is in flight waits, and so does what other flows hand over.")]
pub(super) struct Disable {
    #[command(flatten)]
    stop: Stop,
}

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock drain orders --reason 'the flow moves to the new engine'

Senders get 503 with Retry-After; polls, folders and queues are left alone. What is in flight is finished; what other flows hand over waits.
It is empty when `crossdock toggles` shows 0 in flight.")]
pub(super) struct Drain {
    #[command(flatten)]
    stop: Stop,
}

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock resume orders
  crossdock resume system:erp --reason 'the ERP is back'")]
pub(super) struct Resume {
    /// FLOW, FLOW/STEP or system:NAME
    #[arg(required = true, value_name = "TARGET", value_parser = target)]
    targets: Vec<Target>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    at: At,
}

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock toggles
  crossdock toggles --json

paused     what comes is accepted and waits
disabled   nothing new is accepted, and what is in flight waits
draining   nothing new is accepted, and what is in flight is finished")]
pub(super) struct Toggles {
    #[command(flatten)]
    project: ProjectArguments,
    /// Print JSON, one target a line
    #[arg(long)]
    json: bool,
}

impl Pause {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        self.stop.run(How::Paused, terminal)
    }
}

impl Disable {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        self.stop.run(How::Disabled, terminal)
    }
}

impl Drain {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        self.stop.run(How::Draining, terminal)
    }
}

impl Stop {
    fn run(&self, to: How, terminal: &mut Terminal) -> Result<u8, Failure> {
        let after = |lasts: Duration| {
            let ms = i64::try_from(lasts.ms).unwrap_or(i64::MAX / 4);
            SystemClock.now_ms().saturating_add(ms)
        };
        let wish = Toggling {
            targets: self.targets.clone(),
            to: Some(to),
            who: self.at.who()?,
            why: Some(self.reason.clone()),
            until_ms: self
                .lasts
                .map(after)
                .or_else(|| self.until.map(Timestamp::as_millisecond)),
        };
        self.at.have(wish, terminal)
    }
}

impl Resume {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let wish = Toggling {
            targets: self.targets.clone(),
            to: None,
            who: self.at.who()?,
            why: self.reason.clone(),
            until_ms: None,
        };
        self.at.have(wish, terminal)
    }
}

impl At {
    fn who(&self) -> Result<String, Failure> {
        Ok(self.actor.name(&self.project.world()?))
    }

    fn have(&self, wish: Toggling, terminal: &mut Terminal) -> Result<u8, Failure> {
        let (done, engine) = wait_for(async {
            let mut office = Office::open(&self.project).await?;
            let engine = office.engine_runs();
            let done = office.toggle(wish).await;
            office.close().await;
            Ok((done?, engine))
        })?;
        for one in &done {
            if self.json {
                written(writeln!(terminal.out, "{}", json!(one)))?;
                continue;
            }
            written(writeln!(terminal.out, "{}", sentence(one)))?;
        }
        if !engine {
            let note = "no engine runs here: it counts from the next start on, and on other engines of the store at once";
            writeln!(terminal.err, "crossdock: {note}").ok();
        }
        Ok(GOOD)
    }
}

/// What became of a target, and what that means for messages.
fn sentence(one: &Toggled) -> String {
    let target = &one.target;
    let many = match one.waiting {
        1 => "1 message is".to_owned(),
        many => format!("{many} messages are"),
    };
    match (&one.now, &one.before) {
        (None, None) => format!("{target} was not stopped"),
        (None, Some(before)) => format!(
            "{target} goes on; it was {} since {} UTC. {many} in flight there",
            before.how.name(),
            table::time(before.since_ms)
        ),
        (Some(now), _) => {
            let means = match now.how {
                How::Paused => "what comes is accepted and waits",
                How::Disabled => "nothing new is accepted, and what is in flight waits",
                How::Draining => "nothing new is accepted, and what is in flight is finished",
            };
            format!("{target} is {}. {means}; {many} in flight there", told(now))
        }
    }
}

impl Toggles {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        let now_ms = SystemClock.now_ms();
        let shown = wait_for(async {
            let mut shown = Vec::new();
            for toggle in reader.toggles().await? {
                if !toggle.is_over(now_ms) {
                    let waiting = reader.standing_at(toggle.target.clone()).await?;
                    shown.push((toggle, waiting));
                }
            }
            Ok(shown)
        })?;
        if self.json {
            for (toggle, waiting) in &shown {
                let mut line = json!(toggle);
                line["in_flight"] = json!(waiting);
                written(writeln!(terminal.out, "{line}"))?;
            }
            return Ok(GOOD);
        }
        if shown.is_empty() {
            written(writeln!(terminal.out, "nothing is stopped"))?;
            return Ok(GOOD);
        }
        let rows: Vec<_> = shown
            .iter()
            .map(|(toggle, many)| row(toggle, *many))
            .collect();
        let columns = [
            "target",
            "state",
            "since (UTC)",
            "until (UTC)",
            "in flight",
            "by",
            "reason",
        ];
        written(table::columns(&mut terminal.out, &columns, &rows))?;
        Ok(GOOD)
    }
}

fn row(toggle: &Toggle, in_flight: u64) -> Vec<String> {
    vec![
        toggle.target.to_string(),
        toggle.how.name().to_owned(),
        table::time(toggle.since_ms),
        toggle.until_ms.map_or_else(|| "-".to_owned(), table::time),
        in_flight.to_string(),
        toggle.who.clone(),
        toggle.why.clone(),
    ]
}

fn target(text: &str) -> Result<Target, String> {
    Target::try_from(text.to_owned())
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is no time; write one with its zone, such as 2026-11-30T06:00Z")
    })
}
