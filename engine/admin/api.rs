//! What the API is asked to do: the bodies of its requests. Who asks is never in them. The command line writes them, and the paths read them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::run::again::Again;
use crate::run::desk::{Verb, Which};
use crate::run::replay::NewList;

/// What `POST /exceptions:act` takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// Which exceptions.
    pub which: Which,
    /// What is done.
    pub verb: Verb,
    /// Who does it; the engine takes it from elsewhere.
    #[serde(skip)]
    pub who: String,
    /// Only count.
    #[serde(default)]
    pub dry_run: bool,
}

/// What `POST /exceptions/{id}:act` takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActOnOne {
    /// What is done.
    pub verb: Verb,
}

/// What `POST /runs:again` takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunsAgain {
    /// The runs, at most 1,000.
    pub runs: Vec<i64>,
    /// How.
    pub how: Again,
    /// Who does it; the engine takes it from elsewhere.
    #[serde(skip)]
    pub who: String,
    /// Why.
    #[serde(default)]
    pub why: Option<String>,
    /// Only say whether it could be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What `POST /replays` takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeList {
    /// The list.
    pub list: NewList,
    /// Who does it; the engine takes it from elsewhere.
    #[serde(skip)]
    pub who: String,
    /// Only count.
    #[serde(default)]
    pub dry_run: bool,
}

/// What `POST /project:reload`, `:rollback` and `:lift` take.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// Of a rollback: to this revision, or the beginning of one; without it to the one before. Of a lift: which one.
    #[serde(default)]
    pub revision: Option<String>,
    /// Who does it; the engine takes it from elsewhere.
    #[serde(skip)]
    pub who: String,
    /// Why.
    #[serde(default)]
    pub why: Option<String>,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// What `POST /canary:share` takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryShare {
    /// How many of 10,000 keys.
    pub share: u32,
}

/// What `POST /canary:promote` and `:stop` take.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryEnd {
    /// Why.
    pub why: String,
}

/// What `POST /shadows:stop` takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShadowEnd {
    /// Why.
    pub why: String,
}

/// What `POST /tokens` takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeToken {
    /// Its name, for people and for the audit log: no other valid token has it.
    pub name: String,
    /// What it may do: `viewer`, `business`, `operator`, `engineer`, `approver`, `auditor`, `privacy`, `admin`.
    pub roles: Vec<String>,
    /// For which flows: names, with `*` for any letters. Nothing here: all, and what belongs to no flow.
    #[serde(default)]
    pub flows: Vec<String>,
    /// For how many seconds it is valid.
    pub valid_seconds: u64,
}

/// A token that was made. It is shown this once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MadeToken {
    /// Its name.
    pub name: String,
    /// The token.
    pub token: String,
    /// Until when it is valid, in milliseconds since 1970.
    pub expires_at_ms: i64,
}
