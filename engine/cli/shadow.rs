//! `crossdock shadow`: tries another revision of the project on copies of what is accepted, without any effect, and shows what it would do
//! otherwise, field by field.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::canary::{files_of, percent};
use super::office::Actor;
use super::{
    FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, reader, run, table, wait_for, written,
};
use crate::admin::api::ShadowEnd;
use crate::admin::client::Client;
use crate::component::words::Duration;
use crate::failure::{Class, Failure};
use crate::run::canary::WHOLE;
use crate::run::reload::short;
use crate::run::shadow::{ShadowShown, Shadowing, share_told};
use crate::store::shadows::{Counts, Finding, ShadowState};

/// How many shadows are listed.
const LISTED: usize = 20;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock shadow start ../next --for 2h --reason 'new tax codes'      the project in ../next is tried on all messages
  crossdock shadow start ../next --percent 10 --flow orders --reason 'new tax codes'
  crossdock shadow start ../next --when \"customer.code == 'C1'\" --reason 'one customer first'
  crossdock shadow                                                      what it would do otherwise, field by field
  crossdock shadow stop --reason 'seen enough'

Nothing is sent: after a message has run, both revisions are worked out once more in memory, calls are answered with what was recorded, and
the requests, files and messages that they would send are compared. It takes about a tenth of one processor; what is too much for that is
not looked at, and counted. It ends by itself, and when another revision runs. What it has found is kept.

Exit codes of `crossdock shadow`, for the last shadow: 0 messages were compared, and none differs; 1 there are differences, or nothing was
compared yet (no shadow, no message, or none that could be compared)")]
pub(super) struct Shadow {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    project: ProjectArguments,
    /// Print JSON, one shadow a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Try the project in another folder on copies of what is accepted
    Start(Box<Start>),
    /// Look at nothing any more; what was found is kept
    Stop {
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        actor: Actor,
    },
}

#[derive(Args)]
struct Start {
    /// The folder of the project that is tried
    #[arg(value_name = "FOLDER")]
    candidate: PathBuf,
    /// Look at the messages of so many per cent of the keys; default: all
    #[arg(long, value_parser = percent, conflicts_with = "when")]
    percent: Option<u32>,
    /// Look at the messages for which this is true
    #[arg(long, value_name = "EXPRESSION")]
    when: Option<String>,
    /// Only this flow; may be given several times. Default: all that are other ones
    #[arg(long = "flow", value_name = "FLOW")]
    flows: Vec<String>,
    /// It ends by itself after this time, such as 30m, 2h or 1d
    #[arg(long = "for", value_name = "DURATION", value_parser = Duration::parse, default_value = "1h")]
    lasts: Duration,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    actor: Actor,
}

impl Shadow {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let Some(verb) = &self.verb else {
            return self.list(terminal);
        };
        let world = self.project.world()?;
        let shown = match verb {
            Verb::Start(start) => {
                let Some(files) = files_of(&start.candidate, &world, terminal) else {
                    return Ok(UNLOADABLE);
                };
                let wish = Shadowing {
                    files,
                    share: start.percent.unwrap_or(WHOLE),
                    when: start.when.clone(),
                    flows: start.flows.clone(),
                    for_ms: start.lasts.ms,
                    who: start.actor.name(&world),
                    why: start.reason.clone(),
                };
                self.ask("/shadows", &wish.who, &wish)?
            }
            Verb::Stop { reason, actor } => self.ask(
                "/shadows:stop",
                &actor.name(&world),
                &ShadowEnd {
                    why: reason.clone(),
                },
            )?,
        };
        self.show(&[shown], terminal)?;
        Ok(GOOD)
    }

    fn ask(
        &self,
        path: &str,
        who: &str,
        wish: &impl serde::Serialize,
    ) -> Result<ShadowShown, Failure> {
        let (_, door) = run::store_place(&self.project.project, &self.project.world()?)?;
        wait_for(async {
            let client = Client::reach(&door).await?;
            let mut client = client.ok_or_else(|| {
                Failure::new(
                    Class::Unavailable,
                    "no engine runs here; a shadow looks at what an engine accepts",
                )
            })?;
            client.post(path, who, wish).await
        })
    }

    fn list(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        let shown = wait_for(async {
            let mut shown = Vec::new();
            for shadow in reader.shadows(LISTED).await? {
                let (counts, findings) = reader.shadow_report(shadow.id).await?;
                shown.push(ShadowShown {
                    shadow,
                    counts,
                    findings,
                    not_tried: Vec::new(),
                });
            }
            Ok(shown)
        })?;
        if shown.is_empty() && !self.json {
            written(writeln!(terminal.out, "there was no shadow yet"))?;
        }
        self.show(&shown, terminal)?;
        let last = shown.first().map(|last| last.counts.values());
        let mut last = last.into_iter().flatten();
        // For scripts that let a candidate run only if it does the same: that nothing was compared says nothing.
        let all = last.try_fold(0, |same, counts| {
            (counts.different == 0).then_some(same + counts.same)
        });
        Ok(match all {
            Some(same) if same > 0 => GOOD,
            _ => FINDINGS,
        })
    }

    fn show(&self, all: &[ShadowShown], terminal: &mut Terminal) -> Result<(), Failure> {
        for (nth, shown) in all.iter().enumerate() {
            if self.json {
                written(writeln!(terminal.out, "{}", json!(shown)))?;
            } else {
                written(one(shown, nth == 0, terminal))?;
            }
        }
        Ok(())
    }
}

fn one(shown: &ShadowShown, whole: bool, terminal: &mut Terminal) -> std::io::Result<()> {
    let shadow = &shown.shadow;
    let out = &mut terminal.out;
    let until = match shadow.state {
        ShadowState::Running => format!(", until {} UTC", table::time(shadow.until_ms)),
        ShadowState::Ended => String::new(),
    };
    writeln!(
        out,
        "shadow {} of revision {} beside {}: {}, {}{until}",
        shadow.id,
        short(&shadow.revision),
        short(&shadow.base),
        shadow.state.name(),
        share_told(shadow)
    )?;
    writeln!(
        out,
        "  begun {} UTC by {}: {}",
        table::time(shadow.at_ms),
        shadow.who,
        shadow.why
    )?;
    if let (Some(at_ms), Some(by), Some(why)) =
        (shadow.ended_at_ms, &shadow.ended_by, &shadow.ended_why)
    {
        writeln!(out, "  ended {} UTC by {by}: {why}", table::time(at_ms))?;
    }
    for flow in shadow.terms.flows.keys() {
        let counts = shown.counts.get(flow).cloned().unwrap_or_default();
        writeln!(out, "  {flow}: {}", counted(&counts))?;
    }
    for other in &shown.not_tried {
        writeln!(out, "  not tried: {other}; that comes when it runs")?;
    }
    if whole && !shown.findings.is_empty() {
        let rows: Vec<Vec<String>> = shown.findings.iter().map(row).collect();
        let headings = ["MESSAGES", "FLOW / STEP", "WHAT", "FIELD", "EXAMPLE"];
        table::columns(out, &headings, &rows)?;
    }
    Ok(())
}

fn counted(counts: &Counts) -> String {
    let mut told = format!(
        "{} compared, {} same, {} different",
        counts.compared, counts.same, counts.different
    );
    if counts.fails > 0 {
        told.push_str(&format!(" ({} fail)", counts.fails));
    }
    if counts.not_comparable > 0 {
        told.push_str(&format!(", {} not comparable", counts.not_comparable));
    }
    for (why, many) in &counts.skipped {
        told.push_str(&format!("; {many} not looked at: {why}"));
    }
    told
}

fn row(finding: &Finding) -> Vec<String> {
    let what = match &*finding.what {
        "scale" => "written otherwise",
        "more" => "sends more",
        "less" => "sends less",
        "not_comparable" => "not comparable",
        what => what,
    };
    let example = finding.examples.first().map(|example| {
        let key = example.keys.values().next();
        let key = key.map_or_else(String::new, |key| format!("{}, ", plain(key)));
        let side = |value: &Option<String>| value.as_deref().map_or("nothing".to_owned(), plain);
        format!(
            "{key}run {}: {} -> {}",
            example.run,
            side(&example.was),
            side(&example.becomes)
        )
    });
    vec![
        finding.many.to_string(),
        format!("{} / {}", finding.flow, finding.step),
        what.to_owned(),
        plain(&finding.path),
        example.unwrap_or_default(),
    ]
}

/// A text from outside, without what moves a cursor.
fn plain(text: &str) -> String {
    let letters = text.chars().map(|letter| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    });
    letters.collect()
}
