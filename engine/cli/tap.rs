//! `crossdock tap FLOW`: messages as they pass, masked, until there were enough or the time is over.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use super::office::Actor;
use super::{FINDINGS, GOOD, ProjectArguments, Terminal, run, table, wait_for, written};
use crate::admin::client::{Client, segment};
use crate::component::words::Duration;
use crate::failure::{Class, Failure};
use crate::run::tap::WHOLE;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock tap orders                          the next 10 messages, for a minute at most
  crossdock tap orders --step canonical         only what the step `canonical` makes
  crossdock tap orders --sample 5% --limit 100 --for 10m
  crossdock tap orders --json | jq .body

What is personal is masked; `crossdock runs RUN --reveal` shows one run. Nothing waits for a tap: what it does not take in time it loses, and it
says how much. A tap needs a running engine, shows what this engine works on, and is written into the audit log.
Exit codes: 0 something has passed, 1 nothing has")]
pub(super) struct Tap {
    /// The flow
    flow: String,
    /// Only behind this step or sink
    #[arg(long)]
    step: Option<String>,
    /// Show at most so many
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// Show for at most so long: 30s, 5m; 10m at most
    #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = Duration::parse)]
    time: Duration,
    /// Only so many per cent of the messages; each is shown at all its steps, or at none
    #[arg(long, value_name = "PERCENT", default_value = "100%", value_parser = share)]
    sample: u32,
    /// Print JSON, one message a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    actor: Actor,
    #[command(flatten)]
    project: ProjectArguments,
}

impl Tap {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let world = self.project.world()?;
        let (_, door) = run::store_place(&self.project.project, &world)?;
        let who = self.actor.name(&world);
        let seconds = self.time.ms.div_ceil(1_000);
        let mut path = format!(
            "/flows/{}/tap?limit={}&seconds={seconds}&share={}",
            segment(&self.flow),
            self.limit,
            self.sample
        );
        if let Some(step) = &self.step {
            path.push_str(&format!("&step={}", segment(step)));
        }
        let mut shown = 0_u64;
        wait_for(async {
            let client = Client::reach(&door).await?;
            let Some(client) = client else {
                return Err(Failure::new(
                    Class::Unavailable,
                    "no engine runs on this store; `crossdock run` starts one, and `crossdock runs` shows what has run",
                ));
            };
            let mut each = |what: &str, data: &Value| {
                shown += u64::from(what == "passed");
                self.show(what, data, terminal)
            };
            client.listen(&path, &who, &mut each).await
        })?;
        Ok(if shown > 0 { GOOD } else { FINDINGS })
    }

    fn show(&self, what: &str, data: &Value, terminal: &mut Terminal) -> Result<(), Failure> {
        match what {
            "passed" if self.json => written(writeln!(terminal.out, "{data}"))?,
            "passed" => self.pass(data, terminal)?,
            "lost" => {
                let lost = &data["lost"];
                writeln!(terminal.err, "{lost} were lost: this was too slow for them").ok();
            }
            "end" => {
                let why = match data["why"].as_str() {
                    Some("limit") => format!("{} were shown; `--limit` shows more", self.limit),
                    Some("time") => format!("{} are over; `--for` looks longer", self.time),
                    other => other.unwrap_or("it has ended").to_owned(),
                };
                writeln!(terminal.err, "crossdock: {why}").ok();
            }
            _ => {}
        }
        written(terminal.out.flush())
    }

    fn pass(&self, data: &Value, terminal: &mut Terminal) -> Result<(), Failure> {
        let keys = data["keys"].as_object().into_iter().flatten();
        let keys: Vec<String> = keys
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        written(writeln!(
            terminal.out,
            "{}  {} {}  run {}  {}",
            table::time(data["at_ms"].as_i64().unwrap_or_default()),
            data["step"].as_str().unwrap_or_default(),
            data["what"].as_str().unwrap_or_default(),
            data["run"],
            keys.join(" ")
        ))?;
        if let Some(body) = data["body"].as_str() {
            let body = bytes::Bytes::copy_from_slice(body.as_bytes());
            written(writeln!(terminal.out, "{}", table::shown(&body)))?;
        }
        Ok(())
    }
}

fn share(text: &str) -> Result<u32, String> {
    let number: f64 = text
        .trim_end_matches('%')
        .parse()
        .map_err(|_| format!("`{text}` is no number"))?;
    let share = (number * f64::from(WHOLE) / 100.0).round();
    match (1.0..=f64::from(WHOLE)).contains(&share) {
        true => Ok(share as u32),
        false => Err(format!("{text} is not between 0.01% and 100%")),
    }
}
