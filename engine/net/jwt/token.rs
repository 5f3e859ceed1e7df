//! The three parts of a token, taken apart strictly: what is not exactly as it must be is refused. Nothing is verified here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Algorithm, Refusal, TOKEN_BYTES_MAX};
use crate::body::{Body, Item, Kind};

/// The greatest time that counts as seconds since 1970: the year 5138. Greater ones are milliseconds, or nonsense.
const SECONDS_MAX: f64 = 1e11;

/// A token, taken apart.
pub(super) struct Token<'t> {
    pub(super) algorithm: Algorithm,
    /// The id of the key that it says it is signed with.
    pub(super) key: Option<String>,
    pub(super) claims: Body,
    /// Whom it says it is from.
    pub(super) issuer: Option<String>,
    /// What is signed.
    pub(super) signed: &'t [u8],
    pub(super) signature: Vec<u8>,
}

impl<'t> Token<'t> {
    pub(super) fn parse(token: &'t str) -> Result<Token<'t>, &'static str> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("it is too long");
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("it is no token")?;
        let (head, claims) = signed.split_once('.').ok_or("it is no token")?;
        if claims.contains('.') {
            return Err("it is no signed token");
        }
        let head = object(head)?;
        let root = head.document().map_err(|_| "its head is no JSON")?;
        let text = |name| match root.get(name) {
            None => Ok(None),
            Some(item) => match item.as_str() {
                Some(text) => Ok(Some(text.into_owned())),
                None => Err("its head has a value of the wrong kind"),
            },
        };
        if root.get("crit").is_some() {
            return Err("its head asks for what is not known here");
        }
        let kind = text("typ")?.map(|kind| kind.to_ascii_lowercase());
        let kind = kind
            .as_deref()
            .map(|kind| kind.trim_start_matches("application/"));
        if !matches!(kind, None | Some("jwt" | "at+jwt")) {
            return Err("it is a token of another kind");
        }
        let algorithm = text("alg")?.ok_or("its head names no algorithm")?;
        let algorithm = Algorithm::from_name(&algorithm).ok_or("its algorithm is not allowed")?;
        let key = text("kid")?;
        let claims = object(claims)?;
        let issuer = claims.document().ok().and_then(|root| {
            let issuer = root.get("iss")?.as_str()?;
            Some(issuer.into_owned())
        });
        Ok(Token {
            algorithm,
            key,
            claims,
            issuer,
            signed: signed.as_bytes(),
            signature: URL_SAFE_NO_PAD
                .decode(signature)
                .map_err(|_| "its signature is no base64url")?,
        })
    }

    pub(super) fn claim(&self, name: &str) -> Option<Item<'_>> {
        self.claims.document().ok()?.get(name)
    }

    /// A time in milliseconds since 1970. One that is no number is not as if it were not there.
    pub(super) fn time_ms(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(item) = self.claim(name) else {
            return Ok(None);
        };
        let seconds: Option<f64> = item.as_number().and_then(|number| number.parse().ok());
        match seconds {
            Some(seconds) if (0.0..SECONDS_MAX).contains(&seconds) => {
                Ok(Some((seconds * 1000.0) as i64))
            }
            _ => Err(Refusal::Bad("one of its times is no number of seconds")),
        }
    }
}

/// A part that must be a JSON object in base64url. Keys that stand there twice are refused with what is no JSON.
fn object(part: &str) -> Result<Body, &'static str> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| "a part of it is no base64url")?;
    let body = Body::new(bytes);
    match body.document() {
        Ok(root) if root.kind() == Kind::Object => {}
        _ => return Err("a part of it is no JSON object"),
    }
    Ok(body)
}
