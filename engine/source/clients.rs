//! Who may call an API: clients with keys, and clients whose tokens an issuer signs. It knows no paths, no rates and no flows.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::component::words::{Rate, Secret};
use crate::net::jwt::{Algorithm, Refusal, Rules, Source, Verifier};

/// The header that a client may send its key in, instead of `Authorization: Bearer`.
pub const KEY_HEADER: &str = "x-api-key";
/// How short a key may be: a shorter one can be guessed.
const KEY_BYTES_MIN: usize = 20;
/// How many keys there may be: all of them are looked at for each call.
const KEYS_MAX: usize = 2_000;

/// Who may call the project's APIs, and how they are shown to those who write clients.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Apis {
    /// Whether everybody may read the OpenAPI document of all APIs at `/openapi.json`. Default false.
    pub openapi: bool,
    /// The title of that document. Default: `APIs`.
    pub title: Option<String>,
    /// The address that clients use, for that document, such as `https://api.example.com`.
    pub server: Option<String>,
    /// Who signs the tokens of clients, by a name of your own.
    pub issuers: BTreeMap<String, Issuer>,
    /// The clients, by name: that is what flows, logs and `crossdock apis` call them.
    pub clients: BTreeMap<String, Client>,
}

/// Who signs tokens (JWT). Its keys come from where its own `/.well-known/openid-configuration` says, unless one of the others is given.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Its name as it stands in tokens (`iss`), to the letter: `https://login.example.com`.
    pub issuer: String,
    /// Whom tokens must be for (`aud`).
    pub audience: String,
    /// Where its key set is.
    pub jwks: Option<String>,
    /// Its key set, as text: `${file:keys.json}`.
    pub keys: Option<String>,
    /// Its only public key, PEM: `${file:key.pem}`.
    pub public_key: Option<String>,
    /// A secret that it shares with the engine, of at least 32 bytes, for HS256.
    pub secret: Option<Secret>,
    /// What tokens may be signed with. Default RS256, ES256 and EdDSA; HS256 with `secret`.
    pub algorithms: Option<Vec<Signed>>,
    /// The claim that names the client; one within others by dots. Default `client_id`, else `azp`, else `sub`.
    pub claim: Option<String>,
}

/// What tokens are signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Signed {
    /// RSA, SHA-256.
    RS256,
    /// RSA, SHA-384.
    RS384,
    /// RSA, SHA-512.
    RS512,
    /// RSA with PSS, SHA-256.
    PS256,
    /// ECDSA on P-256.
    ES256,
    /// Ed25519.
    EdDSA,
    /// HMAC with a shared secret.
    HS256,
}

/// A client of APIs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// Its keys, at least 20 characters each, any of which counts: two while one replaces the other.
    pub keys: Vec<Secret>,
    /// The SHA-256 of keys, 64 hexadecimal digits each, where the engine shall not know the keys themselves.
    pub key_hashes: Vec<String>,
    /// The tokens that are its own.
    pub token: Option<Token>,
    /// How often it may call each API. Default: what the API says.
    pub rate: Option<Rate>,
    /// Its keys and tokens count no more.
    pub revoked: bool,
}

/// Which tokens are a client's own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The name of the issuer, of those under `issuers`.
    pub issuer: String,
    /// How the issuer calls the client.
    pub client: String,
}

/// Who may call, ready to be asked.
#[derive(Default)]
pub struct Clients {
    all: Vec<Known>,
    /// The hash of a key, and whose it is.
    keys: Vec<([u8; 32], u32)>,
    issuers: Vec<Trusted>,
}

/// A client.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its name.
    pub name: Arc<str>,
    /// How often it may call each API.
    pub rate: Option<Rate>,
    revoked: bool,
}

struct Trusted {
    verifier: Verifier,
    claim: Option<String>,
    /// Who is meant by what the issuer calls them.
    clients: BTreeMap<String, usize>,
}

/// Why a caller is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It has shown nothing.
    Nothing,
    /// What it has shown does not count; why is for the log.
    Wrong(String),
    /// Nobody can say now: the issuer of its token cannot be asked.
    Unsure(String),
}

/// Something that is wrong with the settings: the path below `apis`, what it is, and what to do.
pub type Fault = (Vec<String>, String, &'static str);

impl Clients {
    /// Makes them ready; opens nothing. What is wrong is put to `faults`, and left out.
    pub fn of(apis: &Apis, faults: &mut Vec<Fault>) -> Clients {
        let mut clients = Clients::default();
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, issuer) in &apis.issuers {
            let same = |known: &Trusted| known.verifier.issuer() == issuer.issuer;
            let verifier = match clients.issuers.iter().any(same) {
                true => Err("another issuer has this name (`iss`) too".to_owned()),
                false => issuer.verifier(),
            };
            match verifier {
                Ok(verifier) => {
                    named.insert(name, clients.issuers.len());
                    clients.issuers.push(Trusted {
                        verifier,
                        claim: issuer.claim.clone(),
                        clients: BTreeMap::new(),
                    });
                }
                Err(why) => {
                    let path = vec!["issuers".to_owned(), name.clone()];
                    faults.push((path, why, "see docs/guide/apis.md"));
                }
            }
        }
        for (name, client) in &apis.clients {
            clients.add(name, client, apis, &named, faults);
        }
        clients
    }

    fn add(
        &mut self,
        name: &str,
        client: &Client,
        apis: &Apis,
        issuers: &BTreeMap<&str, usize>,
        faults: &mut Vec<Fault>,
    ) {
        let number = self.all.len();
        let hashes = hashes(name, client, faults);
        let mut fault = |field: &str, why: String, help| {
            faults.push((path_of(name, field), why, help));
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            let why = format!("`{name}` cannot be the name of a client");
            fault("", why, "use letters, digits, `-`, `_` and `.`");
        }
        for hash in hashes {
            if self.keys.iter().any(|(known, _)| *known == hash) {
                let why = "another client has this key, or it stands here twice".to_owned();
                fault("keys", why, "give each client keys of its own");
            } else if self.keys.len() == KEYS_MAX {
                let why = format!("there are more than {KEYS_MAX} keys");
                fault("keys", why, "let clients show tokens of an issuer instead");
            } else {
                self.keys.push((hash, number as u32));
            }
        }
        if let Some(token) = &client.token {
            let issuer = issuers.get(token.issuer.as_str());
            let taken = issuer.map(|at| {
                let clients = &mut self.issuers[*at].clients;
                clients.insert(token.client.clone(), number).is_some()
            });
            let help = "name an issuer under `issuers`, and each of its clients once";
            if taken == Some(true) {
                let why = format!("another client is `{}` there too", token.client);
                fault("token", why, help);
            } else if !apis.issuers.contains_key(&token.issuer) {
                let why = format!("there is no issuer `{}`", token.issuer);
                fault("token", why, help);
            }
        } else if client.keys.is_empty() && client.key_hashes.is_empty() && !client.revoked {
            let why = format!("`{name}` has neither a key nor a token, so it cannot call");
            let help = "add `keys: [\"${env:NAME}\"]` or `token: { issuer, client }`";
            fault("", why, help);
        }
        self.all.push(Known {
            name: Arc::from(name),
            rate: client.rate,
            revoked: client.revoked,
        });
    }

    /// All clients, by name.
    pub fn all(&self) -> &[Known] {
        &self.all
    }

    /// The number of the client with this name.
    pub fn named(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|client| &*client.name == name)
    }

    /// The client that these headers are from, among those that may call. Takes as long for a key that was revoked, for one that may not
    /// call here and for one that nobody has.
    pub(crate) async fn caller(
        &self,
        headers: &HeaderMap,
        may: &[usize],
        now_ms: i64,
    ) -> Result<usize, Denied> {
        let wrong = |why: &str| Denied::Wrong(why.to_owned());
        let mut shown = headers.get_all(KEY_HEADER).iter();
        let mut bearers = headers.get_all(AUTHORIZATION).iter();
        let (shown, bearer) = match (shown.next(), bearers.next(), shown.next(), bearers.next()) {
            (Some(key), None, None, _) => (key, false),
            (None, Some(bearer), _, None) => (bearer, true),
            (None, None, ..) => return Err(Denied::Nothing),
            _ => return Err(wrong("several credentials at once")),
        };
        let shown = shown.to_str().map_err(|_| wrong("no text"))?;
        let shown = match bearer {
            false => shown,
            true => shown
                .split_at_checked(7)
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer "))
                .map(|(_, token)| token.trim())
                .ok_or_else(|| wrong("no bearer"))?,
        };
        let found = match bearer && shown.matches('.').count() == 2 {
            true => self.of_token(shown, now_ms).await?,
            false => self.of_key(shown),
        };
        let found = found.ok_or_else(|| wrong("nobody has this key"))?;
        let client = self.all.get(found).filter(|client| !client.revoked);
        match client.is_some() && may.contains(&found) {
            true => Ok(found),
            false => Err(wrong("revoked, or not one who may call here")),
        }
    }

    /// Whose key it is; looks at all of them, whichever fits.
    fn of_key(&self, key: &str) -> Option<usize> {
        let hash = hash(key);
        let mut found = (Choice::from(0), 0_u32);
        for (known, client) in &self.keys {
            let fits = known.ct_eq(&hash);
            found.1.conditional_assign(client, fits);
            found.0 |= fits;
        }
        bool::from(found.0).then_some(found.1 as usize)
    }

    async fn of_token(&self, token: &str, now_ms: i64) -> Result<Option<usize>, Denied> {
        let mut issuers = self.issuers.iter();
        let issuer = issuers.find(|issuer| issuer.verifier.concerns(token));
        let issuer = issuer.ok_or_else(|| Denied::Wrong("a token of nobody known".to_owned()))?;
        let claims = issuer.verifier.verify(token, now_ms).await;
        let claims = claims.map_err(|refusal| match refusal {
            Refusal::Bad(why) => Denied::Wrong(format!("a token: {why}")),
            Refusal::Unavailable(why) => Denied::Unsure(why),
        })?;
        let client = match &issuer.claim {
            Some(claim) => claims.text(claim),
            None => ["client_id", "azp", "sub"]
                .iter()
                .find_map(|claim| claims.text(claim)),
        };
        Ok(client.and_then(|client| issuer.clients.get(&client).copied()))
    }
}

impl Issuer {
    /// A verifier for its tokens; the error says what is wrong. Opens no connection.
    pub fn verifier(&self) -> Result<Verifier, String> {
        let mut given = Vec::new();
        given.extend(self.jwks.clone().map(Source::Url));
        given.extend(self.keys.clone().map(Source::Set));
        given.extend(self.public_key.clone().map(Source::Pem));
        let secret = self.secret.as_ref();
        given.extend(secret.map(|secret| Source::Secret(secret.reveal().into())));
        if given.len() > 1 {
            return Err(
                "several of `jwks`, `keys`, `public_key` and `secret` are given".to_owned(),
            );
        }
        let algorithms = self.algorithms.iter().flatten();
        Verifier::new(Rules {
            issuer: self.issuer.clone(),
            audiences: vec![self.audience.clone()],
            algorithms: algorithms.map(|signed| signed.algorithm()).collect(),
            keys: given.pop().unwrap_or(Source::Discovery),
        })
    }
}

impl Signed {
    /// What it is called where it is verified.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Signed::RS256 => Algorithm::Rs256,
            Signed::RS384 => Algorithm::Rs384,
            Signed::RS512 => Algorithm::Rs512,
            Signed::PS256 => Algorithm::Ps256,
            Signed::ES256 => Algorithm::Es256,
            Signed::EdDSA => Algorithm::EdDsa,
            Signed::HS256 => Algorithm::Hs256,
        }
    }
}

/// The hashes of a client's keys.
fn hashes(name: &str, client: &Client, faults: &mut Vec<Fault>) -> Vec<[u8; 32]> {
    let mut hashes = Vec::new();
    for key in client.keys.iter().map(Secret::reveal) {
        if key.len() < KEY_BYTES_MIN {
            let why = format!("a key has fewer than {KEY_BYTES_MIN} characters");
            let help = "make one with `openssl rand -base64 32`";
            faults.push((path_of(name, "keys"), why, help));
        }
        hashes.push(hash(key));
    }
    for text in &client.key_hashes {
        let Some(hash) = unhex(text) else {
            let why = "this is no SHA-256: it must have 64 hexadecimal digits".to_owned();
            let help = "write what `printf %s KEY | sha256sum` prints";
            faults.push((path_of(name, "key_hashes"), why, help));
            continue;
        };
        hashes.push(hash);
    }
    hashes
}

fn path_of(client: &str, field: &str) -> Vec<String> {
    ["clients", client, field].map(str::to_owned).to_vec()
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}
