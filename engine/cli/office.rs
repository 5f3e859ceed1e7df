//! Where the commands that change something go: to the engine that runs on the store, or to the store itself if none does.

use clap::Args;

use super::{ProjectArguments, absolute, run};
use crate::admin::api::{Act, MakeList, RunsAgain};
use crate::admin::client::Client;
use crate::failure::Failure;
use crate::flow;
use crate::run::again::Receipt;
use crate::run::desk::{Desk, Report, Verb, Which};
use crate::run::replay::Listed;
use crate::store::postgres::begin::Use;
use crate::store::reader::{Place, Reader};
use crate::store::replays::ReplayState;
use crate::store::{Options, Store};
use crate::world::World;

/// Who acts.
#[derive(Args, Clone)]
pub(super) struct Actor {
    /// In whose name; default: the user who runs this
    #[arg(long = "as", value_name = "NAME", env = "CROSSDOCK_AS")]
    name: Option<String>,
}

impl Actor {
    pub(super) fn name(&self, world: &World) -> String {
        self.name
            .clone()
            .or_else(|| world.env.get("USER"))
            .or_else(|| world.env.get("LOGNAME"))
            .unwrap_or_else(|| "somebody".to_owned())
    }
}

/// The engine's desk, or one of our own.
pub(super) enum Office {
    Engine(Box<Client>),
    Store(Box<Desk>),
}

impl Office {
    /// The engine that runs on this machine; without one, the store is opened. Nobody else can open one in a file meanwhile.
    pub(super) async fn open(project: &ProjectArguments) -> Result<Office, Failure> {
        let world = project.world()?;
        let (place, door) = run::store_place(&project.project, &world)?;
        if place.file().is_none_or(|path| !path.exists()) {
            // The same words as for commands that only look.
            Reader::at(&place)?;
        }
        if let Some(client) = Client::reach(&door).await? {
            return Ok(Office::Engine(Box::new(client)));
        }
        // Beside engines that share the store; what is let go on is announced by them.
        let sharing = match place {
            Place::File(_) => Use::Alone,
            Place::Server(_) => Use::Shared,
        };
        let options = Options {
            sharing,
            announces: sharing == Use::Shared,
            ..Options::of(place)
        };
        let store = Store::open(options, world.clone())?;
        let loaded = flow::load(&absolute(&project.project), &world);
        Ok(Office::Store(Box::new(Desk::of_store(
            store,
            loaded.project,
            world,
        ))))
    }

    /// Does a verb about exceptions.
    pub(super) async fn act(
        &mut self,
        which: Which,
        verb: Verb,
        who: String,
        dry_run: bool,
    ) -> Result<Report, Failure> {
        match self {
            Office::Engine(client) => {
                let wish = Act {
                    which,
                    verb,
                    who,
                    dry_run,
                };
                client.post("/exceptions:act", &wish).await
            }
            Office::Store(desk) => desk.act(&which, &verb, &who, dry_run).await,
        }
    }

    /// Does runs again.
    pub(super) async fn again(&mut self, wish: RunsAgain) -> Result<Vec<Receipt>, Failure> {
        match self {
            Office::Engine(client) => client.post("/runs:again", &wish).await,
            Office::Store(desk) => {
                let why = wish.why.as_deref();
                desk.again(&wish.runs, &wish.how, &wish.who, why, wish.dry_run)
                    .await
            }
        }
    }

    /// Freezes a filter into a list.
    pub(super) async fn list(&mut self, wish: MakeList) -> Result<Listed, Failure> {
        match self {
            Office::Engine(client) => client.post("/replays", &wish).await,
            Office::Store(desk) => desk.list(&wish.list, &wish.who, wish.dry_run).await,
        }
    }

    /// Pauses a list, lets it go on, or ends it.
    pub(super) async fn turn_list(&mut self, id: i64, to: ReplayState) -> Result<bool, Failure> {
        let word = match to {
            ReplayState::Paused => "pause",
            ReplayState::Running => "resume",
            ReplayState::Aborted | ReplayState::Finished => "abort",
        };
        match self {
            Office::Engine(client) => {
                let path = format!("/replays/{id}:{word}");
                client.post(&path, &serde_json::json!({})).await
            }
            Office::Store(desk) => desk.turn_list(id, to).await,
        }
    }

    /// Whether an engine runs.
    pub(super) fn engine_runs(&self) -> bool {
        matches!(self, Office::Engine(_))
    }

    /// Lets go of the store, if it was opened here.
    pub(super) async fn close(self) {
        if let Office::Store(desk) = self {
            desk.store().shutdown().await;
        }
    }
}
