//! What `admin` in `crossdock.yaml` says of people: who signs them in, which roles they have, and what needs a second one.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::AdminApi;
use crate::component::words::{Duration, Secret};
use crate::net::jwt::{Algorithm, Rules, Source, Verifier};
use crate::net::oidc::{Provider, Registered};
use crate::source::clients::Signed;

/// Where browsers come back to, below the address of the admin API.
pub const CALLBACK: &str = "/api/v1/session/callback";
/// After how long without a request a session ends, where nobody says so; and after how long at all.
const IDLE_DEFAULT_MS: u64 = 30 * 60_000;
const LASTS_DEFAULT_MS: u64 = 12 * 3_600_000;
/// How long a session may last at most.
const LASTS_MAX_MS: u64 = 7 * 86_400_000;
/// The claim that says in which groups somebody is, and the one that names them.
const GROUPS_DEFAULT: &str = "groups";
const NAME_DEFAULT: &str = "sub";

/// How people sign in to the admin API: at a provider of OpenID Connect, by the authorization code with PKCE. Tokens of the engine's own go on
/// to count.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The provider's name as it stands in its tokens (`iss`), to the letter: `https://login.example.com/realms/staff`. Where it takes what is
    /// found at `/.well-known/openid-configuration` below it.
    pub issuer: String,
    /// The name that the provider has given to this engine.
    pub client_id: String,
    /// The secret that the provider has given to it, from `${env:..}`. Nothing here: it has given none.
    pub client_secret: Option<Secret>,
    /// The address at which browsers reach the admin API, such as `https://crossdock.example.com`; https, or this machine. The provider must
    /// know it with `/api/v1/session/callback` behind it. Default: `admin.listen`.
    pub url: Option<String>,
    /// What the provider is asked for beside `openid`, such as `groups` or `email`: what its claims need.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The claim by which people are called here and in the audit log: one that the provider gives to nobody else and that people cannot
    /// change themselves, such as `email`. Default `sub`, which is sure and says little.
    pub name: Option<String>,
    /// Who has which roles.
    pub roles: RolesBy,
    /// Whom access tokens of this provider must be for (`aud`) to count here like tokens of the engine's own: another text than `client_id`.
    /// Nothing here: they do not count.
    pub audience: Option<String>,
    /// What its tokens may be signed with. Default RS256, ES256 and EdDSA.
    pub algorithms: Option<Vec<Signed>>,
    /// After how long without a request somebody must sign in again. Default 30m.
    pub idle: Option<Duration>,
    /// After how long somebody must sign in again at the latest. Default 12h, at most 7d.
    pub lasts: Option<Duration>,
}

/// Who has which roles.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolesBy {
    /// The claim of the provider's token that holds somebody's groups; one within others by dots: `realm_access.roles`. Default `groups`.
    pub claim: Option<String>,
    /// The role, or the roles, of each group. Who is in none of these groups may do nothing.
    pub map: BTreeMap<String, Granted>,
}

/// One role or several.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Granted {
    /// One role.
    One(RoleName),
    /// Several roles.
    Several(Vec<RoleName>),
}

/// What somebody may do: see docs/operating/admin-api.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// Looks.
    Viewer,
    /// Looks into messages, leaves notes, lets one go on.
    Business,
    /// Keeps it running.
    Operator,
    /// Changes the project, too.
    Engineer,
    /// Lets through what is large.
    Approver,
    /// Sees everything, and changes nothing.
    Auditor,
    /// Sees what is personal, and erases it.
    Privacy,
    /// May do everything.
    Admin,
}

impl RoleName {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            RoleName::Viewer => "viewer",
            RoleName::Business => "business",
            RoleName::Operator => "operator",
            RoleName::Engineer => "engineer",
            RoleName::Approver => "approver",
            RoleName::Auditor => "auditor",
            RoleName::Privacy => "privacy",
            RoleName::Admin => "admin",
        }
    }
}

impl Granted {
    /// All of them.
    pub fn all(&self) -> &[RoleName] {
        match self {
            Granted::One(one) => std::slice::from_ref(one),
            Granted::Several(several) => several,
        }
    }
}

impl SignIn {
    /// The provider, as browsers of people at this API are sent to it. The error says what is wrong.
    pub fn provider(&self, admin: &AdminApi) -> Result<Provider, String> {
        Provider::new(Registered {
            issuer: self.issuer.clone(),
            client_id: self.client_id.clone(),
            client_secret: self
                .client_secret
                .as_ref()
                .map(|given| given.reveal().to_owned()),
            redirect: format!("{}{CALLBACK}", self.base(admin)?),
            scopes: self.scopes.clone(),
            algorithms: self.algorithms(),
        })
    }

    /// What verifies the provider's access tokens, if they count.
    pub fn bearers(&self) -> Result<Option<Verifier>, String> {
        let Some(audience) = &self.audience else {
            return Ok(None);
        };
        if *audience == self.client_id {
            return Err(
                "with `client_id` as `audience` tokens that only say who somebody is would open the API"
                    .to_owned(),
            );
        }
        Verifier::new(Rules {
            issuer: self.issuer.clone(),
            audiences: vec![audience.clone()],
            algorithms: self.algorithms(),
            keys: Source::Discovery,
        })
        .map(Some)
    }

    fn algorithms(&self) -> Vec<Algorithm> {
        let given = self.algorithms.iter().flatten();
        given.map(|signed| signed.algorithm()).collect()
    }

    /// Scheme, host and port at which browsers reach the admin API, without a slash at its end.
    pub fn base(&self, admin: &AdminApi) -> Result<String, String> {
        let text = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => {
                let scheme = if admin.tls.is_some() { "https" } else { "http" };
                format!("{scheme}://{}", admin.address())
            }
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("`{text}` is no URL: write `https://` and a host"))?;
        let host = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, _)) => host,
            None => rest.split(':').next().unwrap_or(rest),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if host.is_empty() || !rest.chars().all(plain) {
            return Err(format!(
                "`{text}` must be scheme, host and port, without a path: cookies and the provider go by it"
            ));
        }
        if rest.ends_with(":0") || matches!(host, "0.0.0.0" | "::") {
            return Err(format!(
                "browsers cannot come back to `{text}`: say with `url` where they reach the admin API"
            ));
        }
        match scheme {
            "https" => Ok(text),
            "http" if crate::net::is_here(host) => Ok(text),
            _ => Err(format!(
                "whoever signs in at `{text}` would be overheard: it must be https"
            )),
        }
    }

    /// The claim that holds somebody's groups.
    pub fn groups(&self) -> &str {
        self.roles.claim.as_deref().unwrap_or(GROUPS_DEFAULT)
    }

    /// The claim that names somebody.
    pub fn named_by(&self) -> &str {
        self.name.as_deref().unwrap_or(NAME_DEFAULT)
    }

    /// After how many milliseconds without a request a session ends, and after how many at all.
    pub fn ends(&self) -> (i64, i64) {
        let ms = |given: Option<Duration>, default: u64| {
            let ms = given.map_or(default, |given| given.ms).min(LASTS_MAX_MS);
            i64::try_from(ms).unwrap_or(i64::MAX)
        };
        (
            ms(self.idle, IDLE_DEFAULT_MS),
            ms(self.lasts, LASTS_DEFAULT_MS),
        )
    }

    /// What is wrong, if something is: the field, and why.
    pub fn fault(&self, admin: &AdminApi) -> Result<(), (&'static str, String)> {
        self.base(admin).map_err(|why| ("url", why))?;
        self.bearers().map_err(|why| ("audience", why))?;
        self.provider(admin).map_err(|why| ("issuer", why))?;
        let plain =
            |scope: &String| !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.scopes.iter().all(plain) {
            return Err(("scopes", "a scope is a word of ASCII".to_owned()));
        }
        if self
            .roles
            .map
            .values()
            .all(|granted| granted.all().is_empty())
        {
            let why = "nobody has a role, so nobody who signs in may do anything";
            return Err(("roles", why.to_owned()));
        }
        let long = |given: Option<Duration>| {
            given.is_some_and(|given| given.ms > LASTS_MAX_MS || given.ms < 1_000)
        };
        if long(self.idle) || long(self.lasts) {
            let why = "a session lasts from a second to 7 days".to_owned();
            return Err((if long(self.idle) { "idle" } else { "lasts" }, why));
        }
        Ok(())
    }
}

/// What needs a second person.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Acts on more exceptions or runs than this wait until somebody else approves them: retries, discards and what else ends or repeats
    /// something. Notes and assignments do not.
    pub above: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign_in(more: &str) -> SignIn {
        let text = format!(
            r#"{{"issuer": "https://login.example.com", "client_id": "crossdock", "roles": {{"map": {{"ops": "operator", "lead": ["operator", "approver"]}}}}{more}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn at(listen: &str) -> AdminApi {
        AdminApi {
            listen: Some(listen.to_owned()),
            ..AdminApi::default()
        }
    }

    #[test]
    fn browsers_come_back_over_tls_or_on_this_machine() {
        let plain = sign_in("");
        assert_eq!(
            plain.base(&at("127.0.0.1:8081")).unwrap(),
            "http://127.0.0.1:8081"
        );
        let named = sign_in(r#", "url": "https://ops.example.com/""#);
        assert_eq!(
            named.base(&at("0.0.0.0:8081")).unwrap(),
            "https://ops.example.com"
        );
        for (more, listen) in [
            ("", "0.0.0.0:8081"),
            ("", "127.0.0.1:0"),
            ("", "ops.example.com:8081"),
            (r#", "url": "http://ops.example.com""#, "127.0.0.1:8081"),
            (r#", "url": "https://ops.example.com/a""#, "127.0.0.1:8081"),
            (
                r#", "url": "https://user@ops.example.com""#,
                "127.0.0.1:8081",
            ),
            (r#", "url": "ops.example.com""#, "127.0.0.1:8081"),
        ] {
            let fault = sign_in(more).fault(&at(listen)).unwrap_err();
            assert_eq!(fault.0, "url", "{more} {listen}: {fault:?}");
        }
    }

    #[test]
    fn what_would_let_in_too_many_is_told() {
        let fault = |more: &str| sign_in(more).fault(&at("127.0.0.1:8081"));
        assert_eq!(fault(""), Ok(()));
        assert_eq!(
            fault(r#", "audience": "crossdock""#).unwrap_err().0,
            "audience"
        );
        assert_eq!(
            fault(r#", "algorithms": ["HS256"]"#).unwrap_err().0,
            "issuer"
        );
        assert_eq!(fault(r#", "scopes": ["a b"]"#).unwrap_err().0, "scopes");
        let mut nobody = sign_in("");
        nobody.roles.map.clear();
        assert_eq!(nobody.fault(&at("127.0.0.1:8081")).unwrap_err().0, "roles");
        let lead = &sign_in("").roles.map["lead"];
        assert_eq!(lead.all(), [RoleName::Operator, RoleName::Approver]);
    }
}
