//! People who sign in: the provider that knows them, the roles that their groups have here, and the cookies that their browsers show. What a
//! cookie or a token of the provider is worth is decided here; the paths are elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::problem::Problem;
use super::rights::Role;
use super::throttle::Throttle;
use crate::failure::Failure;
use crate::flow::settings::AdminApi;
use crate::flow::settings::people::SignIn;
use crate::net::jwt::{Claims, Verifier};
use crate::net::oidc::Provider;

/// The header without which a browser's cookie does nothing but read: a page from elsewhere cannot send it.
pub(super) const OWN: &str = "crossdock-request";
/// How many steps of sign-ins may come from an address at once, and then a second.
const SIGN_INS: (f64, f64) = (100.0, 2.0);
/// How long a name may be, in bytes.
const NAME_BYTES_MAX: usize = 200;
/// How many groups of somebody are looked at.
const GROUPS_MAX: usize = 2_000;
/// What stands before the name of a cookie that no other host and no plain connection can set.
const HOST: &str = "__Host-";

/// How people sign in at this API.
pub struct People {
    pub(super) provider: Provider,
    pub(super) bearers: Option<Verifier>,
    /// The claim of somebody's groups, and what those may do.
    pub(super) groups: String,
    map: BTreeMap<String, Vec<Role>>,
    /// The claim that names somebody.
    named_by: String,
    /// Scheme, host and port.
    base: String,
    pub(super) idle_ms: i64,
    pub(super) lasts_ms: i64,
    pub(super) sign_ins: Throttle,
}

/// Who somebody is, as the provider says.
pub(super) struct Person {
    /// What the provider calls them; it never changes.
    pub(super) subject: String,
    /// What people call them.
    pub(super) name: String,
    /// Those of their groups that mean something here.
    pub(super) groups: Vec<String>,
}

/// A cookie of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cookie {
    /// Somebody is signed in.
    Session,
    /// Somebody is about to sign in.
    SignIn,
}

impl People {
    /// Ready to let people sign in, if the settings say how. It opens no connection.
    ///
    /// Fails with class `config` if the settings are none that can work.
    pub fn of(admin: &AdminApi) -> Result<Option<People>, Failure> {
        let Some(given) = &admin.sign_in else {
            return Ok(None);
        };
        let wrong = |why: String| Failure::config(format!("`admin.sign_in`: {why}"));
        given.fault(admin).map_err(|(_, why)| wrong(why))?;
        let (idle_ms, lasts_ms) = given.ends();
        Ok(Some(People {
            provider: given.provider(admin).map_err(wrong)?,
            bearers: given.bearers().map_err(wrong)?,
            groups: given.groups().to_owned(),
            map: roles(given),
            named_by: given.named_by().to_owned(),
            base: given.base(admin).map_err(wrong)?,
            idle_ms,
            lasts_ms,
            sign_ins: Throttle::new(SIGN_INS.0, SIGN_INS.1),
        }))
    }

    /// What these groups may do here.
    pub(super) fn roles(&self, groups: &[String]) -> Vec<Role> {
        let mut roles = Vec::new();
        for role in groups
            .iter()
            .filter_map(|group| self.map.get(group))
            .flatten()
        {
            if !roles.contains(role) {
                roles.push(*role);
            }
        }
        roles
    }

    /// What the provider calls somebody, whatever people call them.
    pub(super) fn behind(&self, subject: &str) -> Arc<str> {
        Arc::from(format!("{} {subject}", self.provider.issuer()))
    }

    /// Who it is that the provider speaks of; the error says what it leaves out.
    pub(super) fn person(&self, claims: &Claims) -> Result<Person, String> {
        let subject = claims.text("sub").filter(|subject| !subject.is_empty());
        let subject = subject.ok_or("the provider does not say who it is (`sub`)")?;
        let name = match self.named_by.as_str() {
            "sub" => subject.clone(),
            // An address that nobody has looked at may be somebody else's.
            "email" if is_unverified(claims) => {
                return Err(
                    "the provider has not verified the address (`email_verified`)".to_owned(),
                );
            }
            claim => claims
                .text(claim)
                .ok_or_else(|| format!("the provider does not say the name (`{claim}`)"))?,
        };
        let fits = |text: &str| {
            !text.trim().is_empty()
                && text.len() <= NAME_BYTES_MAX
                && !text.chars().any(char::is_control)
        };
        if !fits(&subject) || !fits(&name) {
            return Err("the provider says a name that cannot be one".to_owned());
        }
        // A text is one group, whatever stands in it; a list is several.
        let said = match claims.text(&self.groups) {
            Some(one) => vec![one],
            None => claims.list(&self.groups),
        };
        let groups = said.into_iter().take(GROUPS_MAX);
        Ok(Person {
            subject,
            name,
            groups: groups
                .filter(|group| self.map.contains_key(group))
                .collect(),
        })
    }

    /// That somebody is known, and may do nothing.
    pub(super) fn nothing_for(&self, name: &str) -> Problem {
        let detail = format!(
            "you are known as `{name}`, and none of your groups (the claim `{}`) has a role here; whoever keeps crossdock.yaml gives one under `admin.sign_in.roles.map`, or whoever keeps the groups puts you into one of: {}",
            self.groups,
            self.map.keys().cloned().collect::<Vec<_>>().join(", ")
        );
        Problem::new(StatusCode::FORBIDDEN, "no_role", detail)
            .help("ask for a group that has a role here, and sign in again")
    }

    fn is_secure(&self) -> bool {
        self.base.starts_with("https://")
    }

    fn cookie_name(&self, cookie: Cookie) -> String {
        let host = if self.is_secure() { HOST } else { "" };
        let name = match cookie {
            Cookie::Session => "crossdock-session",
            Cookie::SignIn => "crossdock-sign-in",
        };
        format!("{host}{name}")
    }

    /// What a browser shows under the name of a cookie. Shown twice it counts for nothing.
    pub(super) fn shown<'h>(&self, headers: &'h HeaderMap, cookie: Cookie) -> Option<&'h str> {
        let name = self.cookie_name(cookie);
        let all = headers.get_all(header::COOKIE).iter();
        let all = all.filter_map(|value| value.to_str().ok());
        let mut found = all
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| value);
        match (found.next(), found.next()) {
            (Some(value), None) if !value.is_empty() => Some(value),
            _ => None,
        }
    }

    /// The header that gives a cookie to a browser, for so many seconds; 0 takes it away.
    pub(super) fn given(&self, cookie: Cookie, value: &str, seconds: i64) -> Option<HeaderValue> {
        let secure = if self.is_secure() { "; Secure" } else { "" };
        let name = self.cookie_name(cookie);
        let text =
            format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}");
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Whether a request with a cookie comes from a page of ours: a browser sends the cookie whoever has made the request. Reading is free:
    /// pages from elsewhere do not get to see answers.
    pub(super) fn is_own(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        if matches!(*method, Method::GET | Method::HEAD) {
            return Ok(());
        }
        let same = |origin: &HeaderValue| origin.as_bytes() == self.base.as_bytes();
        let from_here = headers.get_all(header::ORIGIN).iter().all(same);
        if from_here && headers.contains_key(OWN) {
            return Ok(());
        }
        let detail = "a request by a browser's session that changes something needs the header `Crossdock-Request`, and comes from a page of this API's own address";
        Err(
            Problem::new(StatusCode::FORBIDDEN, "foreign_request", detail).help(
                "send `Crossdock-Request: 1`; if the address is right, check `admin.sign_in.url`",
            ),
        )
    }
}

/// Whether the provider says that it has not looked at the address. Some write it as a text.
fn is_unverified(claims: &Claims) -> bool {
    let said = claims.text("email_verified");
    let as_text = said.is_some_and(|said| said.trim().eq_ignore_ascii_case("false"));
    as_text || claims.flag("email_verified") == Some(false)
}

fn roles(given: &SignIn) -> BTreeMap<String, Vec<Role>> {
    let map = given.roles.map.iter();
    map.map(|(group, granted)| {
        let names = granted.all().iter();
        let roles = names.filter_map(|role| Role::from_name(role.name()));
        (group.clone(), roles.collect())
    })
    .collect()
}

/// The path to which a browser goes after its sign-in: one of this API's own address, whatever was asked for.
pub(super) fn landing(asked: Option<&str>, default: &str) -> String {
    let own = |path: &&str| {
        path.len() <= 512
            && path.starts_with('/')
            && !path.starts_with("//")
            && path
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    asked.filter(own).unwrap_or(default).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::settings::people::RoleName;

    fn people(url: &str) -> People {
        let text = format!(
            r#"{{"sign_in": {{"issuer": "https://login.example.com", "client_id": "crossdock", "url": "{url}",
              "roles": {{"map": {{"ops": ["operator", "viewer"], "lead": ["operator", "approver"]}}}}}}}}"#
        );
        let admin: AdminApi = serde_json::from_str(&text).unwrap();
        People::of(&admin).unwrap().unwrap()
    }

    fn with(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_settings_know_every_role() {
        for role in Role::ALL {
            let name: RoleName = serde_json::from_value(role.name().into()).unwrap();
            assert_eq!(name.name(), role.name());
        }
    }

    #[test]
    fn groups_give_their_roles_and_others_none() {
        let people = people("https://ops.example.com");
        let of = |groups: &[&str]| {
            people.roles(
                &groups
                    .iter()
                    .map(|group| (*group).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            of(&["ops", "lead"]),
            [Role::Operator, Role::Viewer, Role::Approver]
        );
        assert!(of(&["admin", ""]).is_empty());
    }

    #[test]
    fn nobody_is_sent_elsewhere() {
        let to = |asked| landing(Some(asked), "/");
        assert_eq!(to("/flows/orders?a=1#b"), "/flows/orders?a=1#b");
        for foreign in [
            "https://evil.example",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/a\r\nset-cookie: x=1",
            "/\tx",
            "evil",
            "",
            "javascript:alert(1)",
        ] {
            assert_eq!(to(foreign), "/", "{foreign}");
        }
        assert_eq!(landing(Some(&format!("/{}", "a".repeat(600))), "/"), "/");
        assert_eq!(landing(None, "/x"), "/x");
    }

    #[test]
    fn cookies_are_for_this_host_alone_and_shown_once() {
        let people = people("https://ops.example.com");
        let given = people.given(Cookie::Session, "abc", 60).unwrap();
        assert_eq!(
            given.to_str().unwrap(),
            "__Host-crossdock-session=abc; Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure"
        );
        let shown = |headers: &HeaderMap| people.shown(headers, Cookie::Session).map(str::to_owned);
        let one = with(&[("cookie", "a=b; __Host-crossdock-session=abc")]);
        assert_eq!(shown(&one).as_deref(), Some("abc"));
        let plain = with(&[("cookie", "crossdock-session=abc")]);
        assert_eq!(shown(&plain), None);
        let twice = with(&[
            ("cookie", "__Host-crossdock-session=abc"),
            ("cookie", "__Host-crossdock-session=def"),
        ]);
        assert_eq!(shown(&twice), None);
    }

    #[test]
    fn acts_by_a_cookie_come_from_pages_of_our_own() {
        let people = people("https://ops.example.com");
        let own = |method: Method, pairs: &[(&'static str, &str)]| {
            people.is_own(&method, &with(pairs)).is_ok()
        };
        let (mark, here) = ((OWN, "1"), ("origin", "https://ops.example.com"));
        assert!(own(Method::GET, &[]) && own(Method::POST, &[mark]));
        assert!(own(Method::POST, &[mark, here]));
        assert!(!own(Method::POST, &[]) && !own(Method::POST, &[here]));
        for foreign in ["https://evil.example", "null", "http://ops.example.com"] {
            assert!(
                !own(Method::POST, &[mark, ("origin", foreign)]),
                "{foreign}"
            );
            assert!(
                !own(Method::POST, &[mark, here, ("origin", foreign)]),
                "{foreign}"
            );
        }
    }
}
