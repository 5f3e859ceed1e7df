//! Who holds a JSON Web Token: signature, issuer, audience and times, by fixed rules for each issuer. It knows no roles, no flows and no paths.
//!
//! Whatever a token says of itself is judged by the rules, never followed: `jwk`, `jku`, `x5u` and `x5c` in its head are not read, the
//! algorithm must be one that the issuer is allowed, and the key decides what may be verified with it.

use std::sync::Arc;
use std::time::Duration;

use crate::body::{Body, Item, Kind};

pub(super) mod jwks;
mod keys;
#[cfg(test)]
mod tests;
mod token;

use jwks::Ring;
use keys::Key;
use token::Token;

/// How many bytes a token may have.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// How far the clocks of issuer and engine may be apart.
pub const SKEW: Duration = Duration::from_secs(60);
/// How many keys of an issuer are kept.
const KEYS_MAX: usize = 64;

/// What holds for the tokens of one issuer.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What `iss` must be, to the letter.
    pub issuer: String,
    /// What `aud` must hold one of; at least one.
    pub audiences: Vec<String>,
    /// What tokens may be signed with; nothing: RS256, ES256 and EdDSA, or HS256 where there is a shared secret.
    pub algorithms: Vec<Algorithm>,
    /// Where the issuer's keys are.
    pub keys: Source,
}

/// Where the keys of an issuer are.
#[derive(Clone)]
pub enum Source {
    /// Where the issuer's own `/.well-known/openid-configuration` says.
    Discovery,
    /// At this URL, as a JSON Web Key Set.
    Url(String),
    /// A JSON Web Key Set.
    Set(String),
    /// One public key, PEM.
    Pem(String),
    /// A secret that issuer and engine share, for HS256.
    Secret(Vec<u8>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Discovery => f.write_str("Discovery"),
            Source::Url(url) => write!(f, "Url({url})"),
            Source::Set(_) => f.write_str("Set"),
            Source::Pem(_) => f.write_str("Pem"),
            Source::Secret(_) => f.write_str("Secret(***)"),
        }
    }
}

/// What tokens are signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    Rs256,
    /// RSA, PKCS #1 v1.5, SHA-384.
    Rs384,
    /// RSA, PKCS #1 v1.5, SHA-512.
    Rs512,
    /// RSA, PSS, SHA-256.
    Ps256,
    /// ECDSA on P-256, SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// HMAC, SHA-256, with a shared secret.
    Hs256,
}

impl Algorithm {
    /// The algorithm with this name of JOSE. `none` is no algorithm.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        Some(match name {
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "ES256" => Algorithm::Es256,
            "EdDSA" | "Ed25519" => Algorithm::EdDsa,
            "HS256" => Algorithm::Hs256,
            _ => return None,
        })
    }
}

/// Verifies the tokens of one issuer. Keys that come from a URL are fetched when they are first needed, and kept.
pub struct Verifier {
    rules: Rules,
    ring: Arc<Ring>,
}

/// What a token says that was verified.
#[derive(Clone, Debug)]
pub struct Claims {
    document: Body,
    /// When it ends, in milliseconds since 1970.
    pub expires_at_ms: i64,
}

/// Why a token does not count. It is for the log; the one who sent it is told that it does not count, and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token: what is wrong with it.
    Bad(&'static str),
    /// The issuer's keys cannot be had: nothing is known about the token.
    Unavailable(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Bad(why) => f.write_str(why),
            Refusal::Unavailable(why) => f.write_str(why),
        }
    }
}

impl Verifier {
    /// A verifier by these rules; the error says what is wrong with them. It opens no connection yet.
    pub fn new(mut rules: Rules) -> Result<Verifier, String> {
        let shared = matches!(rules.keys, Source::Secret(_));
        if rules.issuer.is_empty() {
            return Err("the issuer has no name".to_owned());
        }
        if rules.audiences.is_empty() || rules.audiences.iter().any(String::is_empty) {
            return Err("without an audience tokens for others would count here".to_owned());
        }
        if rules.algorithms.is_empty() {
            rules.algorithms = match shared {
                true => vec![Algorithm::Hs256],
                false => vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa],
            };
        }
        if rules
            .algorithms
            .iter()
            .any(|algorithm| (*algorithm == Algorithm::Hs256) != shared)
        {
            return Err(match shared {
                true => "a shared secret verifies HS256 and nothing else",
                false => "HS256 needs a shared `secret`; with a public key everybody could sign",
            }
            .to_owned());
        }
        let ring = Arc::new(Ring::new(&rules)?);
        Ok(Verifier { rules, ring })
    }

    /// The name of the issuer.
    pub fn issuer(&self) -> &str {
        &self.rules.issuer
    }

    /// Whether a token says that it is from this issuer. Nothing is verified.
    pub fn concerns(&self, token: &str) -> bool {
        Token::parse(token).is_ok_and(|token| token.issuer.as_ref() == Some(&self.rules.issuer))
    }

    /// Verifies a token at this time, in milliseconds since 1970. May fetch the issuer's keys, for at most a few seconds.
    pub async fn verify(&self, token: &str, now_ms: i64) -> Result<Claims, Refusal> {
        let token = Token::parse(token).map_err(Refusal::Bad)?;
        // What is cheap to see comes before what a stranger could make us fetch.
        let expires_at_ms = self.about(&token, now_ms)?;
        if !self.rules.algorithms.contains(&token.algorithm) {
            return Err(Refusal::Bad("its algorithm is not allowed"));
        }
        let fits = |key: &Key| {
            key.fits(token.algorithm)
                && (token.key.is_none() || key.id.is_none() || key.id == token.key)
        };
        let keys = self.ring.keys(now_ms, &fits).await?;
        let mut fitting = keys.iter().filter(|key| fits(key)).peekable();
        if fitting.peek().is_none() {
            return Err(Refusal::Bad("no key of the issuer fits it"));
        }
        if !fitting.any(|key| key.verifies(token.algorithm, token.signed, &token.signature)) {
            return Err(Refusal::Bad("its signature is wrong"));
        }
        Ok(Claims {
            document: token.claims,
            expires_at_ms,
        })
    }

    /// Whom it is from, whom it is for, and when it counts; gives when it ends.
    fn about(&self, token: &Token<'_>, now_ms: i64) -> Result<i64, Refusal> {
        let bad = |why| Err(Refusal::Bad(why));
        if token.issuer.as_ref() != Some(&self.rules.issuer) {
            return bad("it is from another issuer");
        }
        let Some(audience) = token.claim("aud") else {
            return bad("it has no audience");
        };
        let audiences = texts(audience).ok_or(Refusal::Bad("its audience is no text"))?;
        if !audiences
            .iter()
            .any(|one| self.rules.audiences.contains(one))
        {
            return bad("it is for another audience");
        }
        let skew_ms = SKEW.as_millis() as i64;
        let Some(expires_at_ms) = token.time_ms("exp")? else {
            return bad("it has no end");
        };
        if expires_at_ms + skew_ms <= now_ms {
            return bad("it has expired");
        }
        for (name, why) in [
            ("nbf", "it does not count yet"),
            ("iat", "it was issued in the future"),
        ] {
            if token
                .time_ms(name)?
                .is_some_and(|from_ms| from_ms > now_ms + skew_ms)
            {
                return bad(why);
            }
        }
        Ok(expires_at_ms)
    }
}

impl Claims {
    /// The claim with this name, if it is a text: `sub`, `client_id`, `https://example.com/tenant`. One within others is named by dots:
    /// `act.sub`.
    pub fn text(&self, name: &str) -> Option<String> {
        Some(self.find(name)?.as_str()?.into_owned())
    }

    /// Whether a claim is true or false; `None` if it is neither.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.find(name)?.as_bool()
    }

    /// The texts of a claim: of a list all, of a text its words (`scope`). Nothing if it is neither.
    pub fn list(&self, name: &str) -> Vec<String> {
        let Some(item) = self.find(name) else {
            return Vec::new();
        };
        match item.as_str() {
            Some(words) => words.split_ascii_whitespace().map(str::to_owned).collect(),
            None => texts(item).unwrap_or_default(),
        }
    }

    fn find(&self, name: &str) -> Option<Item<'_>> {
        let root = self.document.document().ok()?;
        root.get(name).or_else(|| {
            name.split('.')
                .try_fold(root, |item, segment| item.get(segment))
        })
    }
}

/// A text, or a list of nothing but texts.
fn texts(item: Item<'_>) -> Option<Vec<String>> {
    match item.kind() {
        Kind::List => item
            .items()
            .map(|item| item.as_str().map(|text| text.into_owned()))
            .collect(),
        _ => Some(vec![item.as_str()?.into_owned()]),
    }
}
