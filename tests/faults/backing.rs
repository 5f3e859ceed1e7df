//! What stands behind the engines of a scenario where it is not a file of their own: a schema of a database server, and queues of a broker.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crossdock::demo::books;
use crossdock::demo::cluster::Cluster;
use crossdock::store::reader::Reader;

use crate::support::Sandbox;
use crate::support::broker::Broker;
use crate::support::postgres::{self, Postgres};

/// A broker and a database server.
pub struct Services {
    /// The broker.
    pub broker: Broker,
    /// The database server.
    pub postgres: Postgres,
}

impl Services {
    /// Starts both at the same time.
    pub fn start() -> Result<Services, String> {
        std::thread::scope(|scope| {
            let broker = scope.spawn(Broker::start);
            let postgres = Postgres::start();
            let broker = broker.join().map_err(|_| "starting a broker broke")?;
            Ok(Services {
                broker: broker?,
                postgres: postgres?,
            })
        })
    }

    /// Those that scenarios share which do them no harm. They end with the tests.
    pub fn shared() -> Result<&'static Services, String> {
        static SHARED: OnceLock<Result<Services, String>> = OnceLock::new();
        let services = SHARED.get_or_init(Services::start);
        services.as_ref().map_err(Clone::clone)
    }
}

/// A schema and queues that are one rig's own.
#[derive(Clone, Debug)]
pub struct Backing(Cluster);

impl Backing {
    /// New ones on these servers.
    pub fn on(services: &Services) -> Backing {
        static NTH: AtomicU64 = AtomicU64::new(1);
        let nth = NTH.fetch_add(1, Ordering::Relaxed);
        Backing(Cluster {
            postgres: Some(services.postgres.url("postgres")),
            rabbitmq: Some(services.broker.url()),
            name: format!("rig{nth}"),
        })
    }

    /// The same, but the engines reach the broker at this URL.
    pub fn over(mut self, broker: String) -> Backing {
        self.0.rabbitmq = Some(broker);
        self
    }

    /// What the schema is called, and the names of queues begin with.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Writes into a project's settings where the store is and how messages are handed over.
    pub fn settle(&self, project: &Path) -> Result<(), String> {
        self.0.settle(project)
    }

    /// Puts a project without settings of its own on it.
    pub fn under(&self, mut sandbox: Sandbox) -> Result<Sandbox, String> {
        self.settle(sandbox.root())?;
        for (name, value) in self.environment() {
            sandbox = sandbox.variable(name, &value);
        }
        Ok(sandbox)
    }

    /// What an engine needs in its environment.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.0.environment()
    }

    /// The engines' books.
    pub fn books(&self) -> Result<Reader, String> {
        books::open_server(&self.database(), &self.0.name)
    }

    /// What a statement gives in the schema, a row a line: asked past the engine.
    pub fn sql(&self, statement: &str) -> Result<String, String> {
        postgres::sql(&self.database(), &self.0.name, statement)
    }

    fn database(&self) -> String {
        self.0.postgres.clone().unwrap_or_default()
    }
}
