//! Looks at everything that an engine of this project needs, and says what to do: project, variables, store, listener, clock, systems, those
//! who are told. It changes nothing, sends no message, and each look has an end.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;

use crate::diagnostic::{Findings, Severity};
use crate::flow::codes::MISSING_VARIABLE;
use crate::flow::plan::Project;
use crate::flow::settings::Settings;
use crate::flow::{self, Loaded};
use crate::source;
use crate::store::reader::Place;
use crate::world::{Pending, World};

mod connections;
mod handoff;
mod machine;

/// How many mistakes of a project are shown; `crossdock check` shows all.
const MISTAKES_SHOWN: usize = 5;

/// What is looked at.
pub struct Case {
    /// The project's folder.
    pub root: PathBuf,
    /// Clock and environment.
    pub world: World,
    /// What the settings say; `None` if they cannot be read.
    pub places: Option<Places>,
    /// How long one look may take.
    pub within: Duration,
}

/// What the settings say, with defaults filled in.
pub struct Places {
    /// Where the store is.
    pub store: Place,
    /// The file beside which an engine on this machine has its door.
    pub door: PathBuf,
    /// The listener's address.
    pub listen: String,
    /// The settings.
    pub settings: Settings,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// Good.
    Ok,
    /// It works, and somebody should know.
    Warn,
    /// It does not work.
    Fail,
}

impl Word {
    /// The word on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Word::Ok => "ok",
            Word::Warn => "warn",
            Word::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// How it is.
    pub word: Word,
    /// What it is: `store`, `system erp`.
    pub name: String,
    /// What was found.
    pub found: String,
    /// What to do, where there is something to do.
    pub help: Option<String>,
}

impl Look {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Look {
        Look {
            word: Word::Ok,
            name: name.into(),
            found: found.into(),
            help: None,
        }
    }

    fn warn(name: impl Into<String>, found: impl Into<String>, help: impl Into<String>) -> Look {
        Look {
            word: Word::Warn,
            help: Some(help.into()),
            ..Look::ok(name, found)
        }
    }

    fn fail(name: impl Into<String>, found: impl Into<String>, help: impl Into<String>) -> Look {
        Look {
            word: Word::Fail,
            help: Some(help.into()),
            ..Look::ok(name, found)
        }
    }
}

/// One or several looks under way, and the name that they have if they do not end.
struct Looking<'c> {
    name: String,
    looks: Pending<'c, Vec<Look>>,
}

impl<'c> Looking<'c> {
    fn new(
        name: impl Into<String>,
        looks: impl Future<Output = Vec<Look>> + Send + 'c,
    ) -> Looking<'c> {
        Looking {
            name: name.into(),
            looks: Box::pin(looks),
        }
    }

    async fn end(self, within: Duration) -> Vec<Look> {
        let late = || {
            let found = format!("no answer within {} s", within.as_secs());
            let help = "look whether it hangs, or give it more time with --timeout";
            vec![Look::fail(self.name, found, help)]
        };
        match tokio::time::timeout(within, self.looks).await {
            Ok(looks) => looks,
            Err(_) => late(),
        }
    }
}

/// Looks at everything, all at once; the order of the answers does not depend on how long they take.
pub async fn examine(case: &Case) -> Vec<Look> {
    let loaded = flow::load(&case.root, &case.world);
    let mut all = project(&loaded);
    let mut looking = Vec::new();
    if let Some(places) = &case.places {
        looking.push(match &places.store {
            Place::File(path) => {
                Looking::new("store", machine::store(case, path, &places.settings))
            }
            Place::Server(server) => Looking::new("store", machine::server(case, server)),
        });
        looking.push(Looking::new(
            "toggles",
            machine::toggles(case, &places.store),
        ));
        let listener = machine::listener(&places.door, &places.listen);
        looking.push(Looking::new("listener", listener));
        let served = connections::served(case, &places.settings);
        looking.push(Looking::new("certificate", served));
        looking.extend(connections::told(&places.settings.notify, case.within));
    }
    if let Some(project) = &loaded.project {
        looking.extend(folders(case, project));
        looking.extend(connections::systems(case, project));
        looking.extend(connections::ends(project));
        if let Some(places) = &case.places {
            looking.extend(handoff::looks(places, project));
        }
    }
    // Whoever is asked over the network has most of the time for itself, and still says why it took so long.
    let limit = case.within + Duration::from_secs(1);
    let ends = looking.into_iter().map(|looking| looking.end(limit));
    all.extend(join_all(ends).await.into_iter().flatten());
    all
}

/// What `check` says, in a few lines, and each variable that is missing.
fn project(loaded: &Loaded) -> Vec<Look> {
    let findings: &Findings = &loaded.findings;
    let mut looks = Vec::new();
    let (mut errors, mut warnings) = (0, 0);
    for finding in findings.iter() {
        match finding.severity {
            Severity::Error => errors += 1,
            _ => warnings += 1,
        }
        if finding.code == MISSING_VARIABLE {
            let help = "set it, or put it into a file for --env-file";
            looks.push(Look::fail("variable", finding.message.clone(), help));
        }
    }
    let errors_shown = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error && finding.code != MISSING_VARIABLE)
        .take(MISTAKES_SHOWN);
    for finding in errors_shown {
        let (line, column) = finding.place.line_column();
        let found = format!(
            "{}:{line}:{column}: {}",
            finding.place.file.path, finding.message
        );
        looks.push(Look::fail("project", found, "see `crossdock check`"));
    }
    if errors > 0 {
        return looks;
    }
    let plans = loaded.project.as_ref().map_or(0, |it| it.plans.len());
    let found = format!("{plans} flows in {} files", loaded.files);
    looks.push(match warnings {
        0 => Look::ok("project", found),
        _ => Look::warn(
            "project",
            format!("{found}, {warnings} warnings"),
            "see `crossdock check`",
        ),
    });
    looks
}

/// The folders that sources read, archive and put aside in.
fn folders<'c>(case: &'c Case, project: &'c Project) -> Vec<Looking<'c>> {
    let mut looking = Vec::new();
    for plan in project.plans.values() {
        let source::Ready::Runs(source) = &plan.source else {
            continue;
        };
        for folder in source.folders() {
            let name = format!("folder of {}", plan.flow);
            let path = case.root.join(folder);
            looking.push(Looking::new(name.clone(), machine::folder(name, path)));
        }
    }
    looking
}
