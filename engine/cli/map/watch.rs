//! `crossdock map --watch`: a mapping on a sample, again whenever a file changes: the result, what is different in it, what is wrong.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::{GOOD, ProjectArguments, Terminal, absolute, table, written};
use super::SAMPLE_BYTES_MAX;
use crate::body::Body;
use crate::diagnostic::{File, Findings, render};
use crate::failure::Failure;
use crate::flow::workspace::{Noun, Texts, View, Workspace};
use crate::message::{Message, MessageId};
use crate::run::differences;
use crate::world::disk;

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_millis(300);
/// How many differences are shown.
const DIFFERENCES_MAX: usize = 50;

/// The files of a project, and the sample or why it cannot be read.
type Seen = (Vec<Arc<File>>, Result<bytes::Bytes, String>);

/// Prints until the reader is gone or the program is told to stop.
pub(super) fn watch(
    name: &str,
    sample: &Path,
    project: &ProjectArguments,
    terminal: &mut Terminal,
) -> Result<u8, Failure> {
    let world = project.world()?;
    let mut workspace = Workspace::new(&absolute(&project.project), world.clone());
    let mut before: Option<Seen> = None;
    let mut last: Option<Body> = None;
    loop {
        let view = workspace.look(&Texts::new());
        let files: Vec<Arc<File>> = view.files().cloned().collect();
        let read = disk::read(sample, SAMPLE_BYTES_MAX).map_err(|failure| failure.message);
        let same = before.as_ref().is_some_and(|(known, text)| {
            *text == read
                && known.len() == files.len()
                && known.iter().zip(&files).all(|(a, b)| Arc::ptr_eq(a, b))
        });
        if !same {
            let now_ms = world.clock.now_ms();
            let result = match &read {
                Ok(bytes) => {
                    let message =
                        Message::new(MessageId::default(), now_ms, Body::new(bytes.clone()));
                    apply(name, &view, &message, terminal)?
                }
                Err(why) => {
                    written(writeln!(terminal.out, "{why}"))?;
                    None
                }
            };
            if let Some(result) = result {
                show(&result, last.as_ref(), terminal)?;
                last = Some(result);
            }
            written(writeln!(terminal.out, "--- {}", table::time(now_ms)))?;
            if terminal.out.flush().is_err() {
                return Ok(GOOD);
            }
            before = Some((files, read));
        }
        std::thread::sleep(PERIOD);
    }
}

/// What the mapping makes of the message; what is wrong is printed.
fn apply(
    name: &str,
    view: &View,
    message: &Message,
    terminal: &mut Terminal,
) -> Result<Option<Body>, Failure> {
    findings(name, view, terminal)?;
    let library = view.library();
    let Some(mapping) = library.mappings.get(name) else {
        if !library.broken.mappings.contains(name) {
            let failure = super::named(library, name).err();
            let words = failure.map_or(String::new(), |failure| failure.message);
            written(writeln!(terminal.out, "{words}"))?;
        }
        return Ok(None);
    };
    let body = match mapping.apply(message, &library.tables) {
        Ok(body) => body,
        Err(failure) => {
            written(writeln!(terminal.out, "fails: {failure}"))?;
            return Ok(None);
        }
    };
    let target = mapping.to().and_then(|(to, _)| library.schemas.get(to));
    if let Some(schema) = target
        && let Err(breaches) = schema.validate(body.document()?)
    {
        written(writeln!(
            terminal.out,
            "the result breaks `{}`:",
            schema.name()
        ))?;
        for breach in breaches {
            written(writeln!(terminal.out, "  {breach}"))?;
        }
    }
    Ok(Some(body))
}

/// The findings about the mapping's file, and about schemas and tables.
fn findings(name: &str, view: &View, terminal: &mut Terminal) -> Result<(), Failure> {
    let own = view
        .declaration(Noun::Mapping, name)
        .map(|place| place.file.path.clone());
    let mut shown = Findings::new();
    for finding in view.findings.iter() {
        let path = &finding.place.file.path;
        let about = own.as_ref() == Some(path)
            // A mapping that is no YAML declares nothing.
            || (own.is_none() && path.starts_with("mappings/"))
            || path.starts_with("schemas/")
            || path.starts_with("tables/");
        if about {
            shown.push(finding.clone());
        }
    }
    written(render::text(&shown, &mut terminal.out, terminal.color))
}

fn show(body: &Body, last: Option<&Body>, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut text = Vec::new();
    table::pretty(body.document()?, 0, &mut text);
    text.push(b'\n');
    written(terminal.out.write_all(&text))?;
    let Some(last) = last else {
        return Ok(());
    };
    let differences = differences::between(last.bytes(), body.bytes());
    if differences.is_empty() {
        return written(writeln!(terminal.out, "the same as before"));
    }
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
    for one in differences.iter().take(DIFFERENCES_MAX) {
        let (was, is) = (shown(&one.was), shown(&one.is));
        written(writeln!(
            terminal.out,
            "different: {}: {was} -> {is}",
            one.path
        ))?;
    }
    let more = differences.len().saturating_sub(DIFFERENCES_MAX);
    if more > 0 {
        written(writeln!(terminal.out, "and {more} more"))?;
    }
    Ok(())
}
