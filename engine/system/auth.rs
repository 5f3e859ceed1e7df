//! Who we are at a system: credentials that are put on a request at the last moment. Tokens live in memory only.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::Url;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::file::ClientAuth;
use crate::body::Body;
use crate::component::words::Secret;
use crate::failure::{Class, Failure};
use crate::net::http::{Client, Deadline, Outgoing};

/// The largest answer of a token server.
const TOKEN_ANSWER_MAX: usize = 64 << 10;
/// How long a token counts as good whose server does not say.
const TOKEN_LIFE: Duration = Duration::from_secs(300);
/// How long before its end a token is replaced; at most a fifth of its life.
const TOKEN_MARGIN: Duration = Duration::from_secs(30);

/// Who we are at a system.
pub(super) enum Credentials {
    Nobody,
    /// A header that never changes.
    Header(HeaderName, Secret),
    /// A query parameter that never changes.
    Query(String, Secret),
    /// A token that is fetched.
    Tokens(Box<Tokens>),
}

impl Credentials {
    pub(super) fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Header(AUTHORIZATION, Secret::new(basic(user, password)))
    }

    pub(super) fn bearer(token: &str) -> Credentials {
        Credentials::Header(AUTHORIZATION, Secret::new(format!("Bearer {token}")))
    }

    /// Puts the credentials on a request. `refused` is the token that the system has just turned down.
    /// Gives the token that was used, if tokens are used.
    pub(super) async fn apply(
        &self,
        outgoing: &mut Outgoing,
        client: &Client,
        deadline: Deadline,
        refused: Option<&str>,
    ) -> Result<Option<String>, Failure> {
        match self {
            Credentials::Nobody => Ok(None),
            Credentials::Header(name, value) => {
                insert(&mut outgoing.headers, name.clone(), value.reveal())?;
                Ok(None)
            }
            Credentials::Query(name, value) => {
                let mut pairs = outgoing.url.query_pairs_mut();
                pairs.append_pair(name, value.reveal());
                Ok(None)
            }
            Credentials::Tokens(tokens) => {
                let token = tokens.current(client, deadline, refused).await?;
                let value = format!("Bearer {token}");
                insert(&mut outgoing.headers, AUTHORIZATION, &value)?;
                Ok(Some(token))
            }
        }
    }
}

/// Client credentials and the token that they last gave.
pub(super) struct Tokens {
    pub(super) url: Url,
    pub(super) client_id: String,
    pub(super) client_secret: Secret,
    pub(super) scope: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) client_auth: ClientAuth,
    /// Locked while a token is fetched, so that all who need one wait for the same.
    pub(super) held: Mutex<Option<Token>>,
}

pub(super) struct Token {
    value: Secret,
    /// From then on it is replaced.
    fresh_until: Instant,
    /// From then on it is of no use.
    good_until: Instant,
}

impl Tokens {
    async fn current(
        &self,
        client: &Client,
        deadline: Deadline,
        refused: Option<&str>,
    ) -> Result<String, Failure> {
        let late = || {
            let message = "no token in time: the token server is slow, or many wait for it";
            Failure::new(Class::Unavailable, message)
        };
        let mut held = tokio::time::timeout_at(deadline.at, self.held.lock())
            .await
            .map_err(|_| late())?;
        let now = Instant::now();
        if let Some(token) = &*held {
            let refused = refused.is_some_and(|refused| refused == token.value.reveal());
            if !refused && now < token.fresh_until {
                return Ok(token.value.reveal().to_owned());
            }
            if refused {
                *held = None;
            }
        }
        match self.fetch(client, deadline).await {
            Ok(token) => {
                let value = token.value.reveal().to_owned();
                *held = Some(token);
                Ok(value)
            }
            // The old one still counts: better than failing while the token server is away.
            Err(failure) => match &*held {
                Some(token) if now < token.good_until => Ok(token.value.reveal().to_owned()),
                _ => Err(failure),
            },
        }
    }

    async fn fetch(&self, client: &Client, deadline: Deadline) -> Result<Token, Failure> {
        let asked_at = Instant::now();
        let answer = client
            .exchange(self.request()?, TOKEN_ANSWER_MAX, deadline)
            .await
            .map_err(|trouble| {
                let message = format!("no token from {}: {}", self.place(), trouble.message);
                Failure::new(Class::Unavailable, message)
            })?;
        if !(200..300).contains(&answer.status) {
            let class = match answer.status {
                429 => Class::Throttled,
                400..=499 => Class::Auth,
                _ => Class::Unavailable,
            };
            let told = reason(&answer.body);
            let message = format!(
                "{} gave no token: status {}{told}; check client_id, client_secret and scope",
                self.place(),
                answer.status
            );
            return Err(Failure::new(class, message));
        }
        let (value, life) = read_token(answer.body).ok_or_else(|| {
            let message = format!(
                "{} answered without a bearer token in access_token",
                self.place()
            );
            Failure::new(Class::Auth, message)
        })?;
        Ok(Token {
            value: Secret::new(value),
            fresh_until: asked_at + life.saturating_sub(TOKEN_MARGIN.min(life / 5)),
            good_until: asked_at + life,
        })
    }

    fn request(&self) -> Result<Outgoing, Failure> {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        form.extend(self.audience.as_deref().map(|whom| ("audience", whom)));
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        match self.client_auth {
            ClientAuth::Basic => {
                // RFC 6749, 2.3.1: both are form-encoded before they are joined.
                let user = encoded(&self.client_id);
                let password = encoded(self.client_secret.reveal());
                insert(&mut headers, AUTHORIZATION, &basic(&user, &password))?;
            }
            ClientAuth::Body => {
                form.push(("client_id", &self.client_id));
                form.push(("client_secret", self.client_secret.reveal()));
            }
        }
        let form: Vec<String> = form
            .into_iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        Ok(Outgoing {
            method: Method::POST,
            url: self.url.clone(),
            headers,
            body: Some(Bytes::from(form.join("&"))),
        })
    }

    fn place(&self) -> String {
        format!(
            "the token server {}",
            self.url.origin().ascii_serialization()
        )
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), Failure> {
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        let message =
            format!("the credentials have characters that the header {name} cannot carry");
        Failure::new(Class::Config, message)
    })?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Encodes for a form or a query: letters, digits and `-._~` stay.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The OAuth 2.0 error code of an answer, a closed word that holds no secret.
fn reason(body: &Bytes) -> String {
    let body = Body::new(body.clone());
    let code = body.document().ok().and_then(|root| {
        let code = root.get("error")?.as_str()?.into_owned();
        let plain = code.len() <= 64 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        plain.then_some(code)
    });
    code.map(|code| format!(", {code}")).unwrap_or_default()
}

fn read_token(bytes: Bytes) -> Option<(String, Duration)> {
    let body = Body::new(bytes);
    let root = body.document().ok()?;
    let kind = root.get("token_type").and_then(|kind| kind.as_str());
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return None;
    }
    let value = root.get("access_token")?.as_str()?.into_owned();
    let seconds = root.get("expires_in").and_then(|life| match life.as_str() {
        Some(text) => text.parse::<f64>().ok(),
        None => life.as_number()?.parse::<f64>().ok(),
    });
    let life = match seconds {
        Some(seconds) if seconds.is_finite() && seconds > 0.0 => {
            Duration::from_secs_f64(seconds.min(1e8))
        }
        Some(_) => Duration::ZERO,
        None => TOKEN_LIFE,
    };
    (!value.is_empty()).then_some((value, life))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_answers_are_read() {
        let read = |text: &'static str| read_token(Bytes::from_static(text.as_bytes()));
        assert_eq!(
            read(r#"{"access_token": "a", "token_type": "Bearer", "expires_in": 60}"#),
            Some(("a".to_owned(), Duration::from_secs(60)))
        );
        assert_eq!(
            read(r#"{"access_token": "a", "expires_in": "90"}"#),
            Some(("a".to_owned(), Duration::from_secs(90)))
        );
        assert_eq!(
            read(r#"{"access_token": "a"}"#),
            Some(("a".to_owned(), TOKEN_LIFE))
        );
        assert_eq!(read(r#"{"access_token": "a", "token_type": "mac"}"#), None);
        assert_eq!(read(r#"{"access_token": ""}"#), None);
        assert_eq!(read("<html>"), None);
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(encoded("a b&c=ü"), "a%20b%26c%3D%C3%BC");
    }
}
