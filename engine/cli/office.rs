//! Where the commands that change something go: to the engine that runs on the store, or to the store itself if none does.

use clap::Args;

use super::{ProjectArguments, absolute, run, wait_for};
use crate::admin::api::{Act, Deploy, MadeToken, MakeList, MakeToken, RunsAgain};
use crate::admin::approvals::Decides;
use crate::admin::client::{Client, segment};
use crate::admin::tokens;
use crate::failure::Failure;
use crate::flow;
use crate::run::again::Receipt;
use crate::run::deploy::Deployed;
use crate::run::desk::{Desk, Report, Verb, Which};
use crate::run::privacy::Erasing;
use crate::run::replay::Listed;
use crate::run::toggles::{Toggled, Toggling};
use crate::store::approvals::Approval;
use crate::store::audit::Acting;
use crate::store::erasure::Erased;
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
    /// The user who runs this, where nobody can say otherwise.
    pub(super) fn here() -> Actor {
        Actor { name: None }
    }

    pub(super) fn name(&self, world: &World) -> String {
        self.name
            .clone()
            .or_else(|| world.env.get("CROSSDOCK_AS"))
            .or_else(|| world.env.get("USER"))
            .or_else(|| world.env.get("LOGNAME"))
            .unwrap_or_else(|| "somebody".to_owned())
    }
}

impl Actor {
    /// Has it written down that this person sees what is personal of `runs` or `exceptions`, before they do.
    pub(super) fn reveal(
        &self,
        project: &ProjectArguments,
        noun: &'static str,
        which: i64,
    ) -> Result<(), Failure> {
        let who = self.name(&project.world()?);
        wait_for(async {
            let mut office = Office::open(project).await?;
            let told = office.reveal(noun, which, &who).await;
            office.close().await;
            told
        })
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
                client.post("/exceptions:act", &wish.who, &wish).await
            }
            Office::Store(desk) => {
                let desk = desk.of(Acting::user(&who));
                desk.act(&which, &verb, &who, dry_run).await
            }
        }
    }

    /// Does runs again.
    pub(super) async fn again(&mut self, wish: RunsAgain) -> Result<Vec<Receipt>, Failure> {
        match self {
            Office::Engine(client) => client.post("/runs:again", &wish.who, &wish).await,
            Office::Store(desk) => {
                let why = wish.why.as_deref();
                let desk = desk.of(Acting::user(&wish.who));
                desk.again(&wish.runs, &wish.how, &wish.who, why, wish.dry_run)
                    .await
            }
        }
    }

    /// Freezes a filter into a list.
    pub(super) async fn list(&mut self, wish: MakeList) -> Result<Listed, Failure> {
        match self {
            Office::Engine(client) => client.post("/replays", &wish.who, &wish).await,
            Office::Store(desk) => {
                let desk = desk.of(Acting::user(&wish.who));
                desk.list(&wish.list, &wish.who, wish.dry_run).await
            }
        }
    }

    /// Pauses a list, lets it go on, or ends it.
    pub(super) async fn turn_list(
        &mut self,
        id: i64,
        to: ReplayState,
        who: &str,
    ) -> Result<bool, Failure> {
        let word = match to {
            ReplayState::Paused => "pause",
            ReplayState::Running => "resume",
            ReplayState::Aborted | ReplayState::Finished => "abort",
        };
        match self {
            Office::Engine(client) => {
                let path = format!("/replays/{id}:{word}");
                client.post(&path, who, &serde_json::json!({})).await
            }
            Office::Store(desk) => desk.of(Acting::user(who)).turn_list(id, to).await,
        }
    }

    /// Withdraws what runs in favour of another revision.
    pub(super) async fn roll_back(&mut self, wish: Deploy) -> Result<Deployed, Failure> {
        match self {
            Office::Engine(client) => client.post("/project:rollback", &wish.who, &wish).await,
            Office::Store(desk) => {
                let why = wish.why.unwrap_or_default();
                let desk = desk.of(Acting::user(&wish.who));
                desk.roll_back(wish.revision.as_deref(), &wish.who, &why, wish.dry_run)
                    .await
            }
        }
    }

    /// Lets a revision run again that was withdrawn.
    pub(super) async fn lift(&mut self, wish: Deploy) -> Result<Deployed, Failure> {
        match self {
            Office::Engine(client) => client.post("/project:lift", &wish.who, &wish).await,
            Office::Store(desk) => {
                let which = wish.revision.unwrap_or_default();
                let desk = desk.of(Acting::user(&wish.who));
                desk.lift(&which, &wish.who, wish.why.as_deref()).await
            }
        }
    }

    /// Stops targets, or lets them go on.
    pub(super) async fn toggle(&mut self, wish: Toggling) -> Result<Vec<Toggled>, Failure> {
        match self {
            Office::Engine(client) => client.post("/toggles", &wish.who, &wish).await,
            Office::Store(desk) => desk.of(Acting::user(&wish.who)).toggle(&wish).await,
        }
    }

    /// Approves what waits for a second person, or refuses it.
    pub(super) async fn decide_approval(
        &mut self,
        id: i64,
        approves: bool,
        why: Option<String>,
        who: &str,
    ) -> Result<Approval, Failure> {
        match self {
            Office::Engine(client) => {
                let word = if approves { "approve" } else { "refuse" };
                let path = format!("/approvals/{id}:{word}");
                client.post(&path, who, &Decides { why }).await
            }
            Office::Store(desk) => {
                let desk = desk.of(Acting::user(who));
                match approves {
                    true => desk.approve(id, who, why.as_deref()).await,
                    false => desk.refuse(id, who, &why.unwrap_or_default()).await,
                }
            }
        }
    }

    /// Erases what ended messages with a key hold.
    pub(super) async fn erase(&mut self, wish: Erasing) -> Result<Erased, Failure> {
        match self {
            Office::Engine(client) => client.post("/personal:erase", &wish.who, &wish).await,
            Office::Store(desk) => desk.of(Acting::user(&wish.who)).erase(&wish).await,
        }
    }

    /// Somebody sees what is personal of a run or an exception.
    async fn reveal(&mut self, noun: &'static str, which: i64, who: &str) -> Result<(), Failure> {
        match self {
            Office::Engine(client) => {
                // What it answers is read here from the store.
                let path = format!("/{noun}/{which}?reveal=true");
                client
                    .get_as::<serde_json::Value>(&path, who)
                    .await
                    .map(drop)
            }
            Office::Store(desk) => {
                let kind = match noun {
                    "exceptions" => "exception",
                    _ => "run",
                };
                desk.of(Acting::user(who)).reveals(kind, which, "").await
            }
        }
    }

    /// Makes a token.
    pub(super) async fn make_token(
        &mut self,
        wish: &MakeToken,
        who: &str,
    ) -> Result<MadeToken, Failure> {
        match self {
            Office::Engine(client) => client.post("/tokens", who, wish).await,
            Office::Store(desk) => tokens::make(&desk.of(Acting::user(who)), wish, who).await,
        }
    }

    /// Revokes a token.
    pub(super) async fn revoke_token(&mut self, name: &str, who: &str) -> Result<(), Failure> {
        match self {
            Office::Engine(client) => {
                let path = format!("/tokens/{}:revoke", segment(name));
                let _: bool = client.post(&path, who, &serde_json::json!({})).await?;
                Ok(())
            }
            Office::Store(desk) => tokens::end(&desk.of(Acting::user(who)), name).await,
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
