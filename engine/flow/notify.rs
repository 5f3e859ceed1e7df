//! Who is told of what needs a person, as `notify` in `crossdock.yaml` says. Nothing is sent here.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::component::words::Secret;

/// Who is told, and how.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Notify {
    /// By a POST of JSON: a `text` for people, `notices` for programs.
    Webhook(Webhook),
    /// By mail.
    Mail(Mail),
}

/// Told by a POST of JSON.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// The URL; one that is a secret by itself comes from `${env:..}`.
    pub url: String,
    /// A bearer token, if the address wants one.
    pub token: Option<Secret>,
    /// Headers that are sent too.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// Told by mail.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// The mail server: `smtps://mail.example.com`, or `smtp://..` with STARTTLS, which must be there; without TLS only on this machine.
    pub smtp: String,
    /// The name to log in with.
    pub user: Option<String>,
    /// The password to log in with.
    pub password: Option<Secret>,
    /// Whom the mail is from.
    pub from: String,
    /// Whom it goes to.
    #[schemars(length(min = 1))]
    pub to: Vec<String>,
}
