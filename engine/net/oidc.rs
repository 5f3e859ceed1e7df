//! Sign-in of people by OpenID Connect: where a browser is sent, and what the code that it comes back with is worth. The authorization code
//! with PKCE, and nothing else. It knows no roles, no sessions and no paths.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method};
use reqwest::Url;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Mutex;

use super::http::{Client, Deadline, Options, Outgoing};
use super::jwt::{Algorithm, Claims, Refusal, Rules, Source, Verifier, jwks};
use crate::body::Body;
use crate::world::random::Random;

/// How long the provider's document counts without another look.
const FRESH_MS: i64 = 10 * 60_000;
/// How long after a look that failed there is no other.
const AGAIN_MS: i64 = 6_000;
/// How long one exchange with the provider may take.
const EXCHANGE: Duration = Duration::from_secs(5);
/// How many bytes the provider may answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// How long a code and an error may be that a browser brings.
const CODE_BYTES_MAX: usize = 2_048;
/// The scope without which it is no sign-in.
const OPENID: &str = "openid";

/// What the provider has been told about us, and we about it.
pub struct Registered {
    /// Its name, as it stands in its tokens.
    pub issuer: String,
    /// The name that it has given us.
    pub client_id: String,
    /// The secret that it has given us, if it has.
    pub client_secret: Option<String>,
    /// Where browsers come back to.
    pub redirect: String,
    /// What is asked for beside `openid`.
    pub scopes: Vec<String>,
    /// What its tokens may be signed with; empty: as everywhere.
    pub algorithms: Vec<Algorithm>,
}

/// A provider of OpenID Connect.
pub struct Provider {
    registered: Registered,
    directory: Arc<Directory>,
    verifier: Verifier,
}

/// The document in which the provider says where it takes what.
struct Directory {
    issuer: String,
    document: Url,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    places: Option<Arc<Places>>,
    at_ms: i64,
    failed_ms: Option<i64>,
}

/// Where the provider takes what.
struct Places {
    authorize: Url,
    token: Url,
    /// Whether it wants the secret in the body: it says so, and does not take it in the head.
    in_body: bool,
}

/// One sign-in that is under way. The browser keeps it, and nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Comes back with the code: it was this browser that was sent.
    pub state: String,
    /// Comes back within the token: it was made for this sign-in.
    pub nonce: String,
    /// Who has it may redeem the code.
    pub verifier: String,
}

/// Why nobody is signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The provider cannot be asked now.
    Away(String),
    /// What came back does not count.
    Wrong(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Away(why) | Refused::Wrong(why) => f.write_str(why),
        }
    }
}

impl Attempt {
    /// A new one: each part has 256 random bits.
    pub fn new(random: &dyn Random) -> Attempt {
        Attempt {
            state: secret(random),
            nonce: secret(random),
            verifier: secret(random),
        }
    }
}

/// A text of 256 random bits.
pub fn secret(random: &dyn Random) -> String {
    let mut bytes = Vec::with_capacity(32);
    for _ in 0..4 {
        bytes.extend(random.next().to_le_bytes());
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether two texts are the same, in a time that tells nothing.
pub fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

impl Provider {
    /// A provider by what is registered; the error says what is wrong with it. It opens no connection.
    pub fn new(registered: Registered) -> Result<Provider, String> {
        let base = registered.issuer.trim_end_matches('/');
        let document = jwks::url(&format!("{base}/.well-known/openid-configuration"))?;
        if registered.client_id.is_empty() {
            return Err("`client_id` is empty".to_owned());
        }
        let verifier = Verifier::new(Rules {
            issuer: registered.issuer.clone(),
            audiences: vec![registered.client_id.clone()],
            algorithms: registered.algorithms.clone(),
            keys: Source::Discovery,
        })?;
        Ok(Provider {
            directory: Arc::new(Directory {
                issuer: registered.issuer.clone(),
                document,
                known: Mutex::default(),
            }),
            registered,
            verifier,
        })
    }

    /// Its name.
    pub fn issuer(&self) -> &str {
        &self.registered.issuer
    }

    /// Where a browser is sent to sign in.
    pub async fn address(&self, attempt: &Attempt, now_ms: i64) -> Result<Url, Refused> {
        let places = self.directory.ready(now_ms).await?;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(attempt.verifier.as_bytes()));
        let mut scope = OPENID.to_owned();
        for more in &self.registered.scopes {
            scope.push(' ');
            scope.push_str(more);
        }
        let mut url = places.authorize.clone();
        url.query_pairs_mut().extend_pairs([
            ("response_type", "code"),
            ("client_id", &self.registered.client_id),
            ("redirect_uri", &self.registered.redirect),
            ("scope", &scope),
            ("state", &attempt.state),
            ("nonce", &attempt.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        Ok(url)
    }

    /// What the provider says of whom this code is for. The code counts once, and only with its attempt.
    pub async fn redeem(
        &self,
        code: &str,
        attempt: &Attempt,
        now_ms: i64,
    ) -> Result<Claims, Refused> {
        let wrong = |why: &str| Refused::Wrong(why.to_owned());
        if code.is_empty() || code.len() > CODE_BYTES_MAX {
            return Err(wrong("the code is no code"));
        }
        let places = self.directory.ready(now_ms).await?;
        let token = self.exchange(&places, code, attempt).await?;
        let claims = self.verifier.verify(&token, now_ms).await;
        let claims = claims.map_err(|refusal| match refusal {
            Refusal::Bad(why) => Refused::Wrong(format!("the provider's token: {why}")),
            Refusal::Unavailable(why) => Refused::Away(why),
        })?;
        let nonce = claims.text("nonce").unwrap_or_default();
        if !same(&nonce, &attempt.nonce) {
            return Err(wrong("the provider's token is for another sign-in"));
        }
        match claims.text("azp") {
            Some(party) if party != self.registered.client_id => {
                Err(wrong("the provider's token was made for another client"))
            }
            None if claims.list("aud").len() > 1 => Err(wrong(
                "the provider's token is for several, and does not say for whom",
            )),
            _ => Ok(claims),
        }
    }

    /// Gives the code, and gets the token that says who it is.
    async fn exchange(
        &self,
        places: &Places,
        code: &str,
        attempt: &Attempt,
    ) -> Result<String, Refused> {
        let us = &self.registered;
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &us.redirect),
            ("code_verifier", &attempt.verifier),
        ];
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, form);
        match &us.client_secret {
            Some(secret) if !places.in_body => {
                let pair = format!("{}:{}", encoded(&us.client_id), encoded(secret));
                let basic = format!("Basic {}", STANDARD.encode(pair));
                let mut basic = HeaderValue::from_str(&basic)
                    .map_err(|_| Refused::Wrong("the secret cannot be sent".to_owned()))?;
                basic.set_sensitive(true);
                headers.insert(AUTHORIZATION, basic);
            }
            secret => {
                fields.push(("client_id", &us.client_id));
                fields.extend(
                    secret
                        .iter()
                        .map(|secret| ("client_secret", secret.as_str())),
                );
            }
        }
        let outgoing = Outgoing {
            method: Method::POST,
            url: places.token.clone(),
            headers,
            body: Some(Bytes::from(pairs(&fields))),
        };
        let deadline = Deadline::after(EXCHANGE);
        let answer = client()
            .map_err(Refused::Away)?
            .exchange(outgoing, ANSWER_BYTES_MAX, deadline)
            .await
            .map_err(|trouble| Refused::Away(format!("{}: {}", places.token, trouble.message)))?;
        let body = Body::new(answer.body);
        let text = |name: &str| {
            let root = body.document().ok()?;
            Some(root.get(name)?.as_str()?.into_owned())
        };
        match answer.status {
            200 => text("id_token").ok_or_else(|| {
                Refused::Wrong("the provider's answer has no `id_token`".to_owned())
            }),
            // What the provider says is for the log, and may be anything.
            400..=499 => {
                let error = text("error").filter(|error| is_plain(error));
                let error = error.unwrap_or_else(|| answer.status.to_string());
                Err(Refused::Wrong(format!(
                    "the provider refuses the code: {error}"
                )))
            }
            status => Err(Refused::Away(format!("{} answers {status}", places.token))),
        }
    }
}

impl Directory {
    /// Where the provider takes what.
    async fn ready(self: &Arc<Self>, now_ms: i64) -> Result<Arc<Places>, Refused> {
        let directory = self.clone();
        // On its own: a caller that goes away must not leave the others without an answer.
        let asked = tokio::spawn(async move { directory.places(now_ms).await });
        let broken = |_| Err(Refused::Away("the provider could not be asked".to_owned()));
        asked.await.unwrap_or_else(broken)
    }

    /// Where it takes what: asked when it is first needed, and again after a while. What was known goes on to count where it cannot be asked.
    async fn places(&self, now_ms: i64) -> Result<Arc<Places>, Refused> {
        // Held while it is asked, so that all wait for the same answer.
        let mut known = self.known.lock().await;
        if let Some(places) = &known.places
            && (now_ms - known.at_ms).abs() < FRESH_MS
        {
            return Ok(places.clone());
        }
        let lately = |failed_ms: i64| (now_ms - failed_ms).abs() < AGAIN_MS;
        if known.failed_ms.is_some_and(lately) {
            let away = || Refused::Away("the provider could not be asked a moment ago".to_owned());
            return known.places.clone().ok_or_else(away);
        }
        let began = Instant::now();
        let asked = self.ask().await;
        // As late as it is by now: who has waited meanwhile must not ask once more, one after the other.
        let took_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
        match asked {
            Ok(places) => {
                let places = Arc::new(places);
                *known = Known {
                    places: Some(places.clone()),
                    at_ms: now_ms,
                    failed_ms: None,
                };
                Ok(places)
            }
            Err(why) => {
                tracing::warn!(why, "the provider that people sign in with cannot be asked");
                known.failed_ms = Some(now_ms.saturating_add(took_ms));
                known.places.clone().ok_or(Refused::Away(why))
            }
        }
    }

    async fn ask(&self) -> Result<Places, String> {
        let at = &self.document;
        let answer = jwks::get(&client()?, at, Deadline::after(EXCHANGE)).await?;
        let answer = Body::new(answer);
        let root = answer.document().map_err(|_| format!("{at} is no JSON"))?;
        let text = |name: &str| Some(root.get(name)?.as_str()?.into_owned());
        if text("issuer").as_ref() != Some(&self.issuer) {
            return Err(format!("{at} is of another issuer"));
        }
        let place = |name: &str| {
            let found = text(name).ok_or_else(|| format!("{at} has no {name}"))?;
            jwks::url(&found)
        };
        let ways: Vec<String> = root
            .get("token_endpoint_auth_methods_supported")
            .map(|ways| {
                ways.items()
                    .filter_map(|way| Some(way.as_str()?.into_owned()))
                    .collect()
            })
            .unwrap_or_default();
        let has = |way: &str| ways.iter().any(|known| known == way);
        Ok(Places {
            authorize: place("authorization_endpoint")?,
            token: place("token_endpoint")?,
            in_body: has("client_secret_post") && !has("client_secret_basic"),
        })
    }
}

fn client() -> Result<Client, String> {
    Client::new(Options {
        authorities: None,
        identity: None,
        trust_any: false,
        proxy: None,
        gzip: true,
        user_agent: concat!("crossdock/", env!("CARGO_PKG_VERSION")).to_owned(),
        connect: EXCHANGE / 2,
    })
}

/// Names and values as forms have them.
fn pairs(fields: &[(&str, &str)]) -> String {
    let fields = fields.iter();
    let fields: Vec<String> = fields
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    fields.join("&")
}

/// A text in which nothing means anything to a form, a URL or a header.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// Whether a word from outside may stand in the log as it is.
pub fn is_plain(word: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
    !word.is_empty() && word.len() <= 64 && word.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::random::SeededRandom;

    fn registered(issuer: &str) -> Registered {
        Registered {
            issuer: issuer.to_owned(),
            client_id: "crossdock".to_owned(),
            client_secret: None,
            redirect: "http://127.0.0.1:8081/api/v1/session/callback".to_owned(),
            scopes: Vec::new(),
            algorithms: Vec::new(),
        }
    }

    #[test]
    fn a_provider_is_reached_over_tls_or_on_this_machine() {
        assert!(Provider::new(registered("https://login.example.com/realms/a/")).is_ok());
        assert!(Provider::new(registered("http://127.0.0.1:9000")).is_ok());
        for wrong in ["http://login.example.com", "login.example.com", ""] {
            assert!(Provider::new(registered(wrong)).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_provider_that_hangs_is_asked_once_for_all_who_wait() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let hangs = tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                taken.push(stream);
                // It counts how often it was asked, and answers nobody.
                if taken.len() > 1 {
                    return;
                }
            }
        });
        let provider = Provider::new(registered(&issuer)).unwrap();
        let attempt = Attempt::new(&SeededRandom::new(1));
        let asks = (0..4).map(|_| provider.address(&attempt, 1_000_000));
        for asked in futures_util::future::join_all(asks).await {
            assert!(matches!(asked, Err(Refused::Away(_))), "{asked:?}");
        }
        assert!(!hangs.is_finished());
        hangs.abort();
    }

    #[test]
    fn an_attempt_is_of_random_texts_and_what_is_sent_means_itself() {
        let random = SeededRandom::new(1);
        let (one, other) = (Attempt::new(&random), Attempt::new(&random));
        assert!(one.state.len() == 43 && one.state != one.nonce && one != other);
        assert!(same("a", "a") && !same("a", "b") && !same("a", "aa"));
        let sent = pairs(&[("code", "a&b=c +/\u{e9}")]);
        assert_eq!(sent, "code=a%26b%3Dc%20%2B%2F%C3%A9");
        assert!(is_plain("invalid_grant") && !is_plain("a\nb") && !is_plain(""));
    }

    #[tokio::test]
    async fn a_provider_that_is_away_is_told_and_not_asked_each_time() {
        let provider = Provider::new(registered("http://127.0.0.1:1")).unwrap();
        let attempt = Attempt::new(&SeededRandom::new(1));
        let first = provider.address(&attempt, 1_000_000).await.unwrap_err();
        let again = provider.address(&attempt, 1_000_500).await.unwrap_err();
        assert!(
            matches!(&first, Refused::Away(why) if why.contains("127.0.0.1:1")),
            "{first}"
        );
        assert!(
            matches!(&again, Refused::Away(why) if why.contains("a moment ago")),
            "{again}"
        );
    }
}
