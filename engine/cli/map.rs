//! `crossdock map`: a mapping or an expression on a sample, as the engine would do it.

use std::io::{BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

mod property;
mod watch;

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, batch, written};
use crate::body::Body;
use crate::component::Library;
use crate::diagnostic::{closest, render};
use crate::expression::{Expression, Scope, Tables};
use crate::failure::Failure;
use crate::flow;
use crate::mapping::Mapping;
use crate::message::{Message, MessageId};
use crate::world::disk;

/// The largest sample.
const SAMPLE_BYTES_MAX: u64 = 64 << 20;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock map storefront-order samples/storefront-order.json
  crossdock map -e 'line_items[].sku' samples/storefront-order.json
  echo '{\"a\": [1, 2]}' | crossdock map -e 'sum(a)'
  crossdock map storefront-order samples/storefront-order.json --watch
  crossdock map storefront-order --property 1000 --keeps 'sum(lines[].price) == sum(items[].unitPrice)'
  crossdock map --batch < lines.jsonl      {\"expression\": .., \"input\": ..} a line in, {\"result\": ..} or {\"error\": ..} a line out")]
pub(super) struct Map {
    /// The mapping's name (with -e: the sample)
    mapping: Option<String>,
    /// The sample, a JSON file; without it standard input
    sample: Option<PathBuf>,
    /// An expression instead of a mapping
    #[arg(short, long, value_name = "JMESPATH")]
    expression: Option<String>,
    /// Evaluate JSON lines of {"expression", "input"} from standard input
    #[arg(long, conflicts_with_all = ["mapping", "sample", "expression"])]
    batch: bool,
    /// Go on: print the result again, and what is different, whenever a file of the project or the sample changes
    #[arg(long, requires = "sample", conflicts_with_all = ["expression", "batch"])]
    watch: bool,
    #[command(flatten)]
    property: property::Property,
    /// Print the result on one line
    #[arg(long)]
    compact: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

impl Map {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        if self.batch {
            written(batch::batch(
                BufReader::new(std::io::stdin().lock()),
                &mut terminal.out,
            ))?;
            return Ok(GOOD);
        }
        match (&self.expression, &self.mapping) {
            (Some(expression), sample) => {
                if self.sample.is_some() {
                    return Err(Failure::config(
                        "with -e there is one sample: `crossdock map -e EXPRESSION SAMPLE`",
                    ));
                }
                let message = self.message(sample.as_ref().map(PathBuf::from))?;
                self.evaluate(expression, &message, terminal)
            }
            (None, Some(mapping)) if self.property.is_wanted() => {
                self.property.run(mapping, &self.project, terminal)
            }
            (None, Some(mapping)) if self.watch => {
                let sample = self.sample.clone().unwrap_or_default();
                watch::watch(mapping, &sample, &self.project, terminal)
            }
            (None, Some(mapping)) => self.apply(mapping, terminal),
            (None, None) => Err(Failure::config(
                "name a mapping, or give an expression with -e; `crossdock map --help` has examples",
            )),
        }
    }

    fn evaluate(
        &self,
        text: &str,
        message: &Message,
        terminal: &mut Terminal,
    ) -> Result<u8, Failure> {
        let expression = match Expression::compile(text) {
            Ok(expression) => expression,
            Err(faults) => {
                for fault in faults {
                    let before = text
                        .get(..fault.start)
                        .map_or(0, |before| before.chars().count());
                    let width = text
                        .get(fault.start..fault.end)
                        .map_or(1, |wrong| wrong.chars().count().max(1));
                    writeln!(
                        terminal.err,
                        "{text}\n{}{} {}",
                        " ".repeat(before),
                        "^".repeat(width),
                        fault.message
                    )
                    .ok();
                    if !fault.help.is_empty() {
                        writeln!(terminal.err, "{}", fault.help).ok();
                    }
                }
                return Ok(FINDINGS);
            }
        };
        let tables = Tables::default();
        let scope = Scope::of(message, &tables)?;
        let body = expression
            .evaluate(&scope)
            .map_err(Failure::from)?
            .to_body();
        self.print(&body, terminal)
    }

    fn apply(&self, name: &str, terminal: &mut Terminal) -> Result<u8, Failure> {
        let loaded = flow::load(&absolute(&self.project.project), &self.project.world()?);
        let Some(project) = loaded.project else {
            render::text(&loaded.findings, &mut terminal.err, terminal.color).ok();
            return Ok(UNLOADABLE);
        };
        let library = &project.library;
        let mapping = named(library, name)?;
        let message = self.message(self.sample.clone())?;
        let body = mapping.apply(&message, &library.tables)?;
        self.print(&body, terminal)?;
        let target = mapping
            .to()
            .and_then(|(to, _)| library.schemas.get(to).map(|schema| (to, schema)));
        let Some((to, schema)) = target else {
            return Ok(GOOD);
        };
        match schema.validate(body.document()?) {
            Ok(()) => Ok(GOOD),
            Err(breaches) => {
                writeln!(terminal.err, "the result breaks `{to}`:").ok();
                for breach in breaches {
                    writeln!(terminal.err, "  {}: {}", breach.path, breach.message).ok();
                }
                Ok(FINDINGS)
            }
        }
    }

    fn message(&self, sample: Option<PathBuf>) -> Result<Message, Failure> {
        let bytes = match sample {
            Some(path) if path.as_os_str() != "-" => disk::read(&path, SAMPLE_BYTES_MAX)?,
            _ => {
                let mut bytes = Vec::new();
                std::io::stdin()
                    .lock()
                    .take(SAMPLE_BYTES_MAX)
                    .read_to_end(&mut bytes)
                    .map_err(|error| {
                        Failure::parse(format!("cannot read standard input: {error}"))
                    })?;
                bytes::Bytes::from(bytes)
            }
        };
        let now_ms = self.project.world()?.clock.now_ms();
        Ok(Message::new(MessageId::default(), now_ms, Body::new(bytes)))
    }

    fn print(&self, body: &Body, terminal: &mut Terminal) -> Result<u8, Failure> {
        if self.compact {
            written(
                terminal
                    .out
                    .write_all(body.bytes())
                    .and_then(|()| terminal.out.write_all(b"\n")),
            )?;
        } else {
            let mut text = Vec::new();
            super::table::pretty(body.document()?, 0, &mut text);
            text.push(b'\n');
            written(terminal.out.write_all(&text))?;
        }
        Ok(GOOD)
    }
}

/// The mapping with this name.
fn named<'l>(library: &'l Library, name: &str) -> Result<&'l Arc<Mapping>, Failure> {
    library.mappings.get(name).ok_or_else(|| {
        let near = closest(name, library.mappings.keys().map(String::as_str));
        let help = near
            .map(|near| format!("; did you mean `{near}`?"))
            .unwrap_or_default();
        Failure::config(format!("the project has no mapping `{name}`{help}"))
    })
}
