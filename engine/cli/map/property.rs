//! `crossdock map --property`: a mapping on bodies made up of its source's schema.

use std::io::Write;

use clap::Args;

use super::super::{
    FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, table, written,
};
use crate::body::Body;
use crate::diagnostic::render;
use crate::failure::Failure;
use crate::flow;
use crate::mapping::property::{Broken, Counterexample, Keeps, Trial};

#[derive(Args)]
pub(in crate::cli) struct Property {
    /// Try so many bodies made up of the source's schema: the mapping must not fail, and what it makes must keep to the target's schema
    #[arg(long = "property", value_name = "N", conflicts_with_all = ["expression", "batch", "sample", "watch"],
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    count: Option<u64>,
    /// What must be kept: an expression over the source, `==`, an expression over the target; may be repeated
    #[arg(long, value_name = "A == B", requires = "count")]
    keeps: Vec<String>,
    /// Make up the same bodies as an earlier run
    #[arg(long, requires = "count")]
    seed: Option<u64>,
}

impl Property {
    /// Whether it is asked for.
    pub(super) fn is_wanted(&self) -> bool {
        self.count.is_some()
    }

    pub(super) fn run(
        &self,
        name: &str,
        project: &ProjectArguments,
        terminal: &mut Terminal,
    ) -> Result<u8, Failure> {
        let world = project.world()?;
        let loaded = flow::load(&absolute(&project.project), &world);
        let Some(project) = loaded.project else {
            render::text(&loaded.findings, &mut terminal.err, terminal.color).ok();
            return Ok(UNLOADABLE);
        };
        let library = &project.library;
        let mapping = super::named(library, name)?;
        let keeps: Result<Vec<Keeps>, Failure> =
            self.keeps.iter().map(|text| Keeps::parse(text)).collect();
        let keeps = keeps?;
        let trial = Trial {
            mapping,
            schemas: &library.schemas,
            tables: &library.tables,
            keeps: &keeps,
            now_ms: world.clock.now_ms(),
        };
        let count = self.count.unwrap_or(1);
        let seed = self.seed.unwrap_or_else(|| world.random.next() >> 32);
        let found = trial.run(count, seed)?;
        let Some(found) = found else {
            let from = mapping.from().map_or("", |(from, _)| from);
            let mut kept = vec!["never fails".to_owned()];
            kept.extend(mapping.to().map(|(to, _)| format!("keeps to `{to}`")));
            kept.extend(keeps.iter().map(|keeps| format!("keeps {}", keeps.text())));
            written(writeln!(
                terminal.out,
                "{name} on {count} bodies of `{from}`, seed {seed}: {}",
                kept.join(", ")
            ))?;
            return Ok(GOOD);
        };
        self.tell(name, &found, seed, terminal)?;
        Ok(FINDINGS)
    }

    fn tell(
        &self,
        name: &str,
        found: &Counterexample,
        seed: u64,
        terminal: &mut Terminal,
    ) -> Result<(), Failure> {
        let out = &mut terminal.out;
        let why = match &found.broken {
            Broken::Fails(failure) => format!("it fails: {failure}"),
            Broken::Breaches(breaches) => format!(
                "what it makes breaks the target's schema:\n  {}",
                breaches.join("\n  ")
            ),
            Broken::Differs {
                keeps,
                source,
                target,
            } => format!("it does not keep {keeps}: {source} comes in, {target} goes out"),
        };
        written(writeln!(
            out,
            "{name}, body {} of seed {seed}, made as small as was found:\n{}",
            found.number,
            indented(&found.body)
        ))?;
        if let Some(made) = &found.made {
            written(writeln!(out, "becomes\n{}", indented(made)))?;
        }
        written(writeln!(
            out,
            "{why}\nagain with: crossdock map {name} --property {} --seed {seed}{}",
            found.number,
            self.keeps
                .iter()
                .map(|keeps| format!(" --keeps '{keeps}'"))
                .collect::<String>()
        ))
    }
}

fn indented(body: &Body) -> String {
    let mut text = Vec::new();
    if let Ok(item) = body.document() {
        table::pretty(item, 0, &mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}
