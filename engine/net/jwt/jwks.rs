//! The keys of an issuer as they are now: given once, or fetched when they are needed, kept, and fetched again when they have changed.
//! However many tokens come, the issuer is asked at most once a minute.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::header::{ACCEPT, HeaderValue};
use http::{HeaderMap, Method};
use reqwest::Url;
use tokio::sync::Mutex;

use super::keys::{Key, set};
use super::{Refusal, Rules, Source};
use crate::body::Body;
use crate::net::http::{Client, Deadline, Options, Outgoing};

/// How long keys count without a look whether they are still those.
const FRESH_MS: i64 = 10 * 60_000;
/// How long keys count that can no longer be fetched.
const STALE_MS: i64 = 24 * 3_600_000;
/// How long after a fetch there is no other, whatever tokens say; after one that failed, if there are no keys at all.
const AGAIN_MS: i64 = 60_000;
const AGAIN_FAILED_MS: i64 = 5_000;
/// How long a fetch may take, with connection and discovery.
const FETCH: Duration = Duration::from_secs(5);
/// How many bytes an issuer may answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// The keys of one issuer.
pub(super) struct Ring {
    from: From,
    held: RwLock<Held>,
    /// When the issuer was asked last, in milliseconds since 1970. Held while it is asked, so that all wait for the same answer.
    asked: Mutex<Option<i64>>,
}

enum From {
    /// They never change.
    Given,
    /// A key set, or a document that says where it is and that must be this issuer's.
    Url(Url),
    Discovery(Url, String),
}

#[derive(Clone, Default)]
struct Held {
    keys: Arc<Vec<Key>>,
    at_ms: i64,
}

impl Ring {
    pub(super) fn new(rules: &Rules) -> Result<Ring, String> {
        let mut keys = Vec::new();
        let from = match &rules.keys {
            Source::Discovery => {
                let base = rules.issuer.trim_end_matches('/');
                let url = url(&format!("{base}/.well-known/openid-configuration"))?;
                From::Discovery(url, rules.issuer.clone())
            }
            Source::Url(text) => From::Url(url(text)?),
            Source::Set(text) => {
                keys = set(text.as_bytes())?;
                From::Given
            }
            Source::Pem(pem) => {
                keys.push(Key::pem(pem)?);
                From::Given
            }
            Source::Secret(secret) => {
                keys.push(Key::secret(secret)?);
                From::Given
            }
        };
        let keys = Arc::new(keys);
        Ok(Ring {
            from,
            held: RwLock::new(Held { keys, at_ms: 0 }),
            asked: Mutex::new(None),
        })
    }

    /// The keys; fetched if they are old, or if none of them is the one that is looked for.
    pub(super) async fn keys(
        self: &Arc<Self>,
        now_ms: i64,
        fits: &(dyn Fn(&Key) -> bool + Sync),
    ) -> Result<Arc<Vec<Key>>, Refusal> {
        let held = self.held();
        if matches!(self.from, From::Given) || is_good(&held, now_ms, fits) {
            return Ok(held.keys);
        }
        let (ring, known) = (self.clone(), held.keys);
        // On its own: a caller that goes away must not leave the others without an answer.
        let refreshed = tokio::spawn(async move { ring.refresh(now_ms, &known).await });
        let refreshed = refreshed
            .await
            .unwrap_or_else(|_| Err("the keys could not be fetched".to_owned()));
        let held = self.held();
        match refreshed {
            Err(why) if held.keys.is_empty() || now_ms - held.at_ms > STALE_MS => {
                Err(Refusal::Unavailable(why))
            }
            _ => Ok(held.keys),
        }
    }

    /// Fetches the keys, unless others than those that are known have come meanwhile, or it was tried a moment ago.
    async fn refresh(&self, now_ms: i64, known: &Arc<Vec<Key>>) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        let held = self.held();
        if !Arc::ptr_eq(&held.keys, known) {
            return Ok(());
        }
        let pause_ms = match held.keys.is_empty() {
            true => AGAIN_FAILED_MS,
            false => AGAIN_MS,
        };
        if asked.is_some_and(|at_ms| (now_ms - at_ms).abs() < pause_ms) {
            return Err("the issuer's keys could not be fetched a moment ago".to_owned());
        }
        *asked = Some(now_ms);
        let keys = self.fetch().await.inspect_err(|why| {
            tracing::warn!(why, "an issuer's keys cannot be fetched");
        })?;
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        *held = Held {
            keys: Arc::new(keys),
            at_ms: now_ms,
        };
        Ok(())
    }

    fn held(&self) -> Held {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let deadline = Deadline::after(FETCH);
        let client = Client::new(Options {
            authorities: None,
            identity: None,
            trust_any: false,
            proxy: None,
            gzip: true,
            user_agent: concat!("crossdock/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect: FETCH / 2,
        })?;
        let at = match &self.from {
            From::Given => return Err("these keys are fetched from nowhere".to_owned()),
            From::Url(url) => url.clone(),
            From::Discovery(document, issuer) => {
                let answer = Body::new(get(&client, document, deadline).await?);
                let root = answer
                    .document()
                    .map_err(|_| format!("{document} is no JSON"))?;
                let text = |name: &str| Some(root.get(name)?.as_str()?.into_owned());
                if text("issuer").as_ref() != Some(issuer) {
                    return Err(format!("{document} is of another issuer"));
                }
                url(&text("jwks_uri").ok_or_else(|| format!("{document} has no jwks_uri"))?)?
            }
        };
        let answer = get(&client, &at, deadline).await?;
        set(&answer).map_err(|why| format!("{at}: {why}"))
    }
}

fn is_good(held: &Held, now_ms: i64, fits: &(dyn Fn(&Key) -> bool + Sync)) -> bool {
    (now_ms - held.at_ms).abs() < FRESH_MS && held.keys.iter().any(fits)
}

/// A URL that keys may come from: nobody on the way may change them.
pub(in crate::net) fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("`{text}` is no URL: {error}"))?;
    let here = crate::net::is_here(url.host_str().unwrap_or_default());
    match url.scheme() {
        "https" => Ok(url),
        "http" if here => Ok(url),
        _ => Err(format!(
            "keys from `{text}` could be anybody's: it must be https"
        )),
    }
}

pub(in crate::net) async fn get(
    client: &Client,
    url: &Url,
    deadline: Deadline,
) -> Result<bytes::Bytes, String> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let outgoing = Outgoing {
        method: Method::GET,
        url: url.clone(),
        headers,
        body: None,
    };
    let answer = client
        .exchange(outgoing, ANSWER_BYTES_MAX, deadline)
        .await
        .map_err(|trouble| format!("{url}: {}", trouble.message))?;
    match answer.status {
        200 => Ok(answer.body),
        status => Err(format!("{url} answers {status}")),
    }
}
