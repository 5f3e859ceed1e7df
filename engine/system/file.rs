//! What a system's file says, field by field. It decides nothing; `System::parse` does.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::component::lifecycle::{Criticality, Deprecation, Version};
use crate::component::words::{Duration, Percent, Rate, Secret, Size};
use crate::failure::Class;

/// An outside system: where it is, who we are there, and how much it bears. Steps and sinks name it with `system`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemFile {
    /// The name by which flows know the system.
    #[schemars(regex(pattern = "^[a-z0-9][a-z0-9_.-]*$"), length(max = 64))]
    pub system: String,
    /// Who answers for the system: a team or an address.
    pub owner: Option<String>,
    /// What the system is, in a sentence.
    pub description: Option<String>,
    /// How much it matters when the system stands still. Default `normal`.
    pub criticality: Option<Criticality>,
    /// The version of the system's interface, for people and the catalog.
    pub version: Option<Version>,
    /// That the system is to be given up, and what takes its place.
    pub deprecated: Option<Deprecation>,
    /// How the system is reached over HTTP.
    #[schemars(required)]
    pub http: Option<Http>,
    /// Where the database is, if the system is one; instead of `http`.
    pub sql: Option<Sql>,
    /// Where the message broker is, if the system is one; instead of `http`.
    pub amqp: Option<Amqp>,
    /// How long one exchange may take. Default 10s.
    pub timeout: Option<Duration>,
    /// How much the system bears, over all flows.
    #[serde(default)]
    pub limits: Limits,
    /// When the system counts as down. Messages then wait without losing attempts, and one call after the other tries whether it is back.
    /// `never`: each message uses up its attempts, whatever becomes of the others.
    pub circuit: Option<CircuitChoice>,
    /// How often a system that refuses the credentials is tried again; until then messages wait. Default 60s.
    pub retry_auth: Option<Duration>,
    /// Which share of the calls of a minute may be repeats that fail again; ten may in any case. Further repeats wait. Default 20%.
    pub retry_budget: Option<Percent>,
    /// When the system is not to be called: day, from-to and zone, such as `Sun 02:00-04:00 America/Denver`. Days are `Mon` to `Sun`,
    /// ranges such as `Mon-Fri`, or `daily`.
    #[serde(default)]
    pub maintenance: Vec<String>,
    /// What the system means by a status: `"409": conflict`. A listed status says that the request took no effect;
    /// `ambiguous` says that nobody knows.
    #[serde(default)]
    pub failures: BTreeMap<String, ClassWord>,
}

/// Where a database is.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sql {
    /// `postgres://user:password@host:port/database` (other machines need TLS, unless `sslmode` in the URL says otherwise), or `sqlite:` and
    /// the path of a file that exists, relative to the project.
    pub url: String,
    /// Certificates of authorities that the server's must come from, PEM, such as `${file:/run/secrets/ca.pem}`. Default: those that the
    /// machine trusts.
    pub ca: Option<String>,
}

/// Where a message broker is (AMQP 0-9-1, such as RabbitMQ).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Amqp {
    /// `amqps://user:password@host:port/vhost`, or `amqp://` without TLS; several are nodes of one cluster.
    #[schemars(length(min = 1, max = 16))]
    pub urls: Vec<String>,
    /// Certificates of authorities that the broker's must come from, PEM, such as `${file:/run/secrets/ca.pem}`. Default: those that the machine
    /// trusts.
    pub ca: Option<String>,
    /// The client's certificate, with its chain, PEM. To log in with it add `?auth_mechanism=external` to the URL.
    pub certificate: Option<String>,
    /// The private key of the client's certificate, PEM.
    pub key: Option<Secret>,
}

/// How a system is reached over HTTP.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// What stands before every path: `https://erp.example.com/api`.
    pub base_url: String,
    /// Who we are there.
    pub auth: Option<Auth>,
    /// Headers of every request, such as a tenant; not for credentials.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The proxy on the way. Without it the connection is direct, whatever the environment says.
    pub proxy: Option<Proxy>,
    /// Certificates, where the machine's are not enough.
    #[serde(default)]
    pub tls: Tls,
    /// Asks for packed answers and unpacks them. Default true.
    pub gzip: Option<bool>,
    /// How the engine names itself. Default `crossdock/` and its version.
    pub user_agent: Option<String>,
    /// The header that carries idempotency keys. Default `Idempotency-Key`.
    pub idempotency_header: Option<String>,
    /// How many redirects of a GET are followed, within the same host. Default 5.
    #[schemars(range(max = 20))]
    pub redirects: Option<u8>,
}

/// Who we are at a system.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Auth {
    /// A user and a password with every request.
    Basic(Basic),
    /// A token with every request.
    Bearer(Bearer),
    /// A key in a header or in the query of every request.
    ApiKey(ApiKey),
    /// Tokens by OAuth 2.0 client credentials, fetched and refreshed by the engine.
    Oauth2(OAuth2),
}

/// A user and a password.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// A token that does not change.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bearer {
    /// The token.
    pub token: Secret,
}

/// A key in a header or in the query: exactly one of `header` and `query`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// The header that takes the key, such as `X-API-Key`.
    pub header: Option<String>,
    /// The query parameter that takes the key.
    pub query: Option<String>,
    /// The key.
    pub value: Secret,
}

/// OAuth 2.0 client credentials.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuth2 {
    /// Where tokens are fetched.
    pub token_url: String,
    /// The client.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// The scopes, separated by spaces.
    pub scope: Option<String>,
    /// Whom the token is for, where the server wants to know.
    pub audience: Option<String>,
    /// How the client proves itself. Default `basic`.
    #[serde(default)]
    pub client_auth: ClientAuth,
}

/// How an OAuth 2.0 client proves itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// With HTTP basic authentication.
    #[default]
    Basic,
    /// With fields of the form.
    Body,
}

/// A proxy on the way to a system.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// `http://`, `https://` or `socks5h://`, host and port.
    pub url: String,
    /// The user, if the proxy wants one.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
}

/// Certificates of a connection; all are PEM texts, usually from `${file:/run/secrets/..}`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Trust these authorities instead of the machine's.
    pub ca: Option<String>,
    /// The client's certificate, with its chain.
    pub client_cert: Option<String>,
    /// The private key of the client's certificate.
    pub client_key: Option<Secret>,
    /// Trusts whoever answers: anybody on the way can read and change everything. Default false.
    #[serde(default)]
    pub dangerously_accept_any_certificate: bool,
}

/// How much a system bears, over all flows.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// How many requests in a time: `20/s`. Default: as many as there are.
    pub rate: Option<Rate>,
    /// How many requests may come at once after a quiet time. Default: those of one second, at least 1.
    #[schemars(range(min = 1))]
    pub burst: Option<u32>,
    /// How many requests may be under way at once. Default 16.
    #[schemars(range(min = 1, max = 1000))]
    pub concurrency: Option<u32>,
    /// The largest answer, after unpacking. Default 8MB.
    pub answer: Option<Size>,
}

/// When a system counts as down, or `never`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum CircuitChoice {
    /// Never: each message uses up its attempts, whatever becomes of the others.
    Never(Never),
    /// By this rule.
    Rule(CircuitRule),
}

/// The word for a circuit that never opens.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Never {
    /// It never opens.
    Never,
}

/// When a system counts as down: too many of its calls time out, do not reach it, or are answered with 5xx.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CircuitRule {
    /// The calls that count: those of the last so long. Default 60s.
    pub window: Option<Duration>,
    /// Fewer calls than this say nothing. Default 10.
    #[schemars(range(min = 1, max = 10000))]
    pub least: Option<u32>,
    /// From this share of failed calls on the system counts as down. Default 50%.
    pub failures: Option<Percent>,
    /// How long nothing is sent the first time; after each try that fails twice as long. Default 30s.
    pub open: Option<Duration>,
    /// The longest time without a try. Default 10m.
    pub most: Option<Duration>,
}

/// The name of a failure class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassWord(pub Class);

impl JsonSchema for ClassWord {
    fn schema_name() -> Cow<'static, str> {
        "Class".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = Class::ALL.map(Class::name);
        json_schema!({ "type": "string", "enum": names, "description": "The name of a failure class." })
    }
}

impl<'de> Deserialize<'de> for ClassWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Class::from_name(&text)
            .map(ClassWord)
            .ok_or_else(|| de::Error::custom(format!("`{text}` is no failure class")))
    }
}
