//! What `crossdock.yaml` says: listener, store, retention, limits, defaults. Every field has a default; no file means all of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::component::common::Retry;
use crate::component::words::{Duration, Rate, Secret, Size};
use crate::flow::notify::Notify;
use crate::source::clients::Apis;
use crate::store::postgres::{SCHEMA_DEFAULT, Server};

pub mod people;

use people::{Approval, SignIn};

/// The project's settings. No file means all defaults, on loopback.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where webhooks and health checks are served. Default `127.0.0.1:8080`; port 0 takes any free port.
    pub listen: Option<String>,
    /// The certificate with which webhooks and APIs are served. Nothing here: without TLS, for a proxy that has it, or for this machine.
    pub tls: Option<ServerTls>,
    /// The admin API over the network, for those who have a token. Nothing here: it is only at the engine's socket, for the command line.
    pub admin: Option<AdminApi>,
    /// Where durable state lives.
    pub store: Store,
    /// How messages pass from step to step. Nothing here: within the engine, over the store.
    pub handoff: Handoff,
    /// How long finished things are kept.
    pub retention: Retention,
    /// How much there may be of everything.
    pub limits: Limits,
    /// What holds in every flow that says nothing else.
    pub defaults: Defaults,
    /// How bad findings of `crossdock check` are in this project, by code, each with the reason.
    pub check: BTreeMap<String, Judged>,
    /// Who may call the project's APIs (the source `api`).
    pub apis: Apis,
    /// Who is told of new issues, of systems that go down and of sources that fail: once a cause, not once a message.
    pub notify: Vec<Notify>,
    /// Which system owns an entity, or fields of it: a schema's name (without a version it holds for all of them), and a system, several, or
    /// one for each field. A flow whose messages come from another system must not send it on.
    pub authority: BTreeMap<String, Authority>,
    /// What the project requires beyond what must be right.
    pub policies: Policies,
    /// What is told to those who watch the engine. Nothing here: nothing is served and nothing is sent.
    pub telemetry: Telemetry,
}

/// What is told to those who watch the engine.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// Metrics for Prometheus and health, on a port of their own.
    pub metrics: Option<Watched>,
    /// Traces, and metrics where it says so, for a collector of OpenTelemetry.
    pub otlp: Option<Otlp>,
}

/// Which share of traces is exported where nobody says so.
pub const SAMPLE_DEFAULT: f64 = 0.1;

/// Where traces and metrics go: OTLP over HTTP, as JSON.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// The collector, such as `http://127.0.0.1:4318`; traces go to `/v1/traces` below it, metrics to `/v1/metrics`.
    pub endpoint: String,
    /// Headers of each request to it: credentials, mostly, from `${env:..}`.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// Which share of new traces is exported, from 0 to 1. A message whose sender names a trace follows the sender's choice, and what
    /// fails is always exported. Default 0.1.
    #[schemars(range(min = 0, max = 1))]
    pub sample: Option<f64>,
    /// How often the numbers that `/metrics` would say are sent, such as `60s`; at least a second. Nothing here: they are not sent.
    pub metrics: Option<Duration>,
}

/// Where metrics and health are served.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Watched {
    /// Where `/metrics` and `/healthz` are served, such as `127.0.0.1:9464`; port 0 takes any free port. Not the address at which senders
    /// reach the webhooks: who can reach this one sees the names of flows and systems, and how much goes on, without a password.
    pub listen: String,
}

/// The admin API over the network.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminApi {
    /// Host and port. Default `127.0.0.1:8081`; never those of `listen`. An address that others can reach needs `tls`.
    pub listen: Option<String>,
    /// The certificate to serve with.
    pub tls: Option<ServerTls>,
    /// An address that others can reach may be without TLS, because a proxy before it has it. Default false.
    pub plain_http: bool,
    /// How often each token and each person may ask, and twice that at once. Default `50/s`.
    pub rate: Option<Rate>,
    /// How people sign in. Nothing here: only by tokens.
    pub sign_in: Option<SignIn>,
    /// What needs a second person, at the command line too. Nothing here: nothing does.
    pub approval: Option<Approval>,
}

/// A server's certificate. The files are looked at every 10 s; a new pair that fits is used from then on.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// The file of the certificate and of those that it comes from: PEM, below the project's folder or absolute.
    pub certificate: String,
    /// The file of its private key: PEM.
    pub key: String,
}

impl AdminApi {
    /// Where it listens.
    pub fn address(&self) -> &str {
        self.listen.as_deref().unwrap_or(ADMIN_LISTEN_DEFAULT)
    }

    /// Whether others would reach it without TLS, as far as the address tells.
    pub fn is_open(&self) -> bool {
        let address = self.address();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = match host.parse::<std::net::IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host == "localhost",
        };
        !loopback && self.tls.is_none() && !self.plain_http
    }
}

/// Where webhooks are served where nobody says so.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:8080";
/// Where the admin API listens where nobody says so.
const ADMIN_LISTEN_DEFAULT: &str = "127.0.0.1:8081";

/// Which system owns an entity.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Authority {
    /// One system owns all of it.
    One(String),
    /// Each of these systems may write it.
    Several(Vec<String>),
    /// By field: a path such as `lines.sku`, or `*` for all others; and a system, or several.
    Fields(BTreeMap<String, Owners>),
}

/// One system or several.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Owners {
    /// One system.
    One(String),
    /// Several systems.
    Several(Vec<String>),
}

impl Authority {
    /// The owners of what a path leads to: of the nearest field above it, and of all fields below it. The path of the field is given too, empty
    /// for the whole.
    pub fn owners_of(&self, path: &str) -> Vec<(String, Vec<String>)> {
        let fields = match self {
            Authority::One(one) => return vec![(String::new(), vec![one.clone()])],
            Authority::Several(several) => return vec![(String::new(), several.clone())],
            Authority::Fields(fields) => fields,
        };
        let list = |owners: &Owners| match owners {
            Owners::One(one) => vec![one.clone()],
            Owners::Several(several) => several.clone(),
        };
        let within = |inner: &str, outer: &str| {
            inner == outer
                || inner
                    .strip_prefix(outer)
                    .is_some_and(|rest| rest.starts_with('.'))
        };
        let named = || {
            let named = fields.iter().filter(|(field, _)| *field != "*");
            named.map(|(field, owners)| (field.replace("[]", ""), owners))
        };
        let above = named()
            .filter(|(field, _)| within(path, field))
            .max_by_key(|(field, _)| field.len());
        let below =
            named().filter(|(field, _)| path.is_empty() || (within(field, path) && field != path));
        let mut all: Vec<(String, Vec<String>)> = below
            .chain(above.clone())
            .map(|(field, owners)| (field, list(owners)))
            .collect();
        if above.is_none()
            && let Some(others) = fields.get("*")
        {
            all.push((path.to_owned(), list(others)));
        }
        all
    }
}

/// What a project requires beyond what must be right: for each policy `error` or `warning`, or `{ level, except }`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policies {
    /// Every flow and every system has an `owner`.
    pub owner: Option<Policy>,
    /// Every flow that takes bodies from outside says with `accepts` which.
    pub contracts: Option<Policy>,
    /// Every effect on the outside can be repeated safely: an idempotency key, a probe, or a method that is safe to repeat.
    pub effects: Option<Policy>,
    /// No system on another machine is reached without TLS.
    pub plain_http: Option<Policy>,
    /// Nothing that looks like a credential stands in a file, also not in fields that are not known to be secret.
    pub secrets: Option<Policy>,
    /// Nothing that is deprecated is used, but by what is deprecated itself.
    pub deprecated: Option<Policy>,
}

/// How much a policy weighs, and what it does not hold for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Policy {
    /// For everything.
    Level(Level),
    /// With exceptions.
    Rule(PolicyRule),
}

/// How much a policy weighs, and what it does not hold for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// How much it weighs.
    pub level: Level,
    /// What it does not hold for.
    #[serde(default)]
    pub except: Vec<Exception>,
}

/// Something that a policy does not hold for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// The name of a flow, a fragment, a system or a schema.
    pub name: String,
    /// Why, in a sentence.
    #[schemars(length(min = 1))]
    pub reason: String,
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The project cannot be loaded.
    Error,
    /// It is told, and the project runs.
    Warning,
}

impl Policies {
    /// The names of all policies.
    pub const NAMES: [&'static str; 6] = [
        "owner",
        "contracts",
        "effects",
        "plain_http",
        "secrets",
        "deprecated",
    ];

    /// What the project says about a policy.
    pub fn named(&self, name: &str) -> Option<&Policy> {
        match name {
            "owner" => self.owner.as_ref(),
            "contracts" => self.contracts.as_ref(),
            "effects" => self.effects.as_ref(),
            "plain_http" => self.plain_http.as_ref(),
            "secrets" => self.secrets.as_ref(),
            "deprecated" => self.deprecated.as_ref(),
            _ => None,
        }
    }

    /// Whether the project says anything.
    pub fn any(&self) -> bool {
        Policies::NAMES
            .iter()
            .any(|name| self.named(name).is_some())
    }
}

impl Policy {
    /// How much it weighs.
    pub fn level(&self) -> Level {
        match self {
            Policy::Level(level) => *level,
            Policy::Rule(rule) => rule.level,
        }
    }

    /// What it does not hold for.
    pub fn exceptions(&self) -> &[Exception] {
        match self {
            Policy::Level(_) => &[],
            Policy::Rule(rule) => &rule.except,
        }
    }
}

/// How bad a finding is in this project.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// How bad it is. What keeps a project from running cannot be lowered.
    pub severity: Judgement,
    /// Why, for whoever reads this later.
    pub reason: String,
}

/// How bad a finding is in this project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// The project does not load.
    Error,
    /// Worth a look.
    Warning,
    /// It is not told.
    Off,
}

/// Where durable state lives.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// An SQLite database on a local disk: what holds where nothing is said.
    pub sqlite: Sqlite,
    /// A schema of a PostgreSQL server, instead of a file.
    pub postgres: Option<Postgres>,
}

/// A schema of a PostgreSQL server. The first start makes it, if the user may.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// `postgres://user:password@host:port/database`, usually from `${env:DATABASE_URL}`. Other machines need TLS, unless `sslmode` in the URL
    /// says otherwise.
    pub url: String,
    /// The schema: lowercase letters, digits and `_`. Default `crossdock`.
    pub schema: Option<String>,
    /// Certificates of authorities that the server's must come from, PEM, such as `${file:/run/secrets/ca.pem}`. Default: those that the
    /// machine trusts.
    pub ca: Option<String>,
}

impl Postgres {
    /// The server; the error says what is wrong with what was given.
    pub fn server(&self) -> Result<Server, String> {
        let schema = self.schema.as_deref().unwrap_or(SCHEMA_DEFAULT);
        Server::new(&self.url, schema, self.ca.as_deref())
    }
}

/// An SQLite database on a local disk.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sqlite {
    /// The file, below the project's folder or absolute. Default `.crossdock/store.db`.
    pub path: Option<String>,
}

/// How messages pass from step to step. Nothing here: within the engine, over the store.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Handoff {
    /// Over a RabbitMQ broker, so that several engines share the work. The store stays the truth: a broker that is lost costs time, no message.
    pub rabbitmq: Option<Rabbitmq>,
}

/// A RabbitMQ broker between the steps.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rabbitmq {
    /// Where it is: `amqp://USER:PASSWORD@HOST:5672/VHOST`, or `amqps://`; the nodes of a cluster one after the other. They hold credentials,
    /// so they come from `${env:..}`.
    #[schemars(length(min = 1, max = 16))]
    pub urls: Vec<String>,
    /// What the names of exchanges and queues begin with: one name for the engines that share a store, another for others on the same broker.
    /// Default `crossdock1`.
    pub name: Option<String>,
    /// How large a message with its headers may be to travel over the broker; of a larger one only the number does. Default 64KB.
    pub body_max: Option<Size>,
    /// The certificates that the broker is trusted by, if not the machine's: PEM, `${file:certs/ca.pem}`.
    pub ca: Option<String>,
    /// The client's own certificate chain, where the broker asks for one: PEM.
    pub certificate: Option<String>,
    /// The private key of `certificate`: PEM.
    pub key: Option<Secret>,
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
    /// system that is down do not count. A fifth is kept for flows of high criticality, where there are any, and a twentieth is shared out
    /// among all flows, so that each can work on a few messages whatever others do. Default 20000.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(authority: &str, path: &str) -> Vec<(String, String)> {
        let authority: Authority = serde_json::from_str(authority).unwrap();
        let found = authority.owners_of(path).into_iter();
        found
            .map(|(field, owners)| (field, owners.join("+")))
            .collect()
    }

    #[test]
    fn the_nearest_field_says_who_owns_and_a_whole_has_all_owners() {
        let pair = |field: &str, owners: &str| (field.to_owned(), owners.to_owned());
        assert_eq!(owners(r#""erp""#, "a.b"), [pair("", "erp")]);
        assert_eq!(owners(r#"["erp", "shop"]"#, ""), [pair("", "erp+shop")]);
        let fields =
            r#"{"lines[].price": ["erp", "shop"], "lines": "shop", "status": "erp", "*": "crm"}"#;
        assert_eq!(
            owners(fields, "lines.price.amount"),
            [pair("lines.price", "erp+shop")]
        );
        assert_eq!(owners(fields, "lines.sku"), [pair("lines", "shop")]);
        assert_eq!(owners(fields, "note"), [pair("note", "crm")]);
        assert_eq!(
            owners(fields, "lines"),
            [pair("lines.price", "erp+shop"), pair("lines", "shop")]
        );
        assert_eq!(owners(fields, "").len(), 4);
        assert_eq!(owners(r#"{"status": "erp"}"#, "note"), []);
    }
}
