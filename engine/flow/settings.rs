//! What `crossdock.yaml` says: listener, store, retention, limits, defaults. Every field has a default; no file means all of them.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::component::common::Retry;
use crate::component::words::{Duration, Size};
use crate::flow::notify::Notify;

/// The project's settings. No file means all defaults, on loopback.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where webhooks and health checks are served. Default `127.0.0.1:8080`; port 0 takes any free port.
    pub listen: Option<String>,
    /// Where durable state lives.
    pub store: Store,
    /// How long finished things are kept.
    pub retention: Retention,
    /// How much there may be of everything.
    pub limits: Limits,
    /// What holds in every flow that says nothing else.
    pub defaults: Defaults,
    /// Who is told of new issues, of systems that go down and of sources that fail: once a cause, not once a message.
    pub notify: Vec<Notify>,
}

/// Where durable state lives.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// An SQLite database on a local disk.
    pub sqlite: Sqlite,
}

/// An SQLite database on a local disk.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sqlite {
    /// The file, below the project's folder or absolute. Default `.crossdock/store.db`.
    pub path: Option<String>,
}

/// How long finished things are kept. What is in flight or in exception is kept regardless.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Runs, their timeline and their effects. Default 30d.
    pub runs: Option<Duration>,
    /// Bodies of finished runs; after that a run cannot be replayed. Default 7d.
    pub bodies: Option<Duration>,
    /// Resolved and discarded exceptions. Default 90d.
    pub exceptions: Option<Duration>,
}

/// How much there may be of everything.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// How many messages may be worked on at once before sources are slowed down; those that wait for a retry, for their turn, or for a
    /// system that is down do not count. A fifth is kept for flows of high criticality, where there are any. Default 20000.
    #[schemars(range(min = 1))]
    pub in_flight: Option<u32>,
    /// How many of them one flow may have, so that a slow system slows its own flows only. Default half of `in_flight`, or all of it for the
    /// only flow.
    #[schemars(range(min = 1))]
    pub flow_in_flight: Option<u32>,
    /// How many messages of one flow may wait in the store, whatever for, before its source is slowed down. Default 200000.
    #[schemars(range(min = 1))]
    pub backlog: Option<u32>,
    /// How many messages one commit may take. Default 128.
    #[schemars(range(min = 1, max = 1024))]
    pub batch: Option<u32>,
    /// How long a stop may take to finish what has begun. Default 20s.
    pub drain: Option<Duration>,
    /// How much must be free on the disk of the store. With less nothing is accepted (503), and what is in flight goes on. Default 256MB.
    pub disk_free: Option<Size>,
}

/// What holds in every flow that says nothing else.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// How often and when failed attempts are repeated.
    pub retry: Option<Retry>,
    /// How long one attempt may take, where neither step nor system says so. Default 10s.
    pub timeout: Option<Duration>,
}
