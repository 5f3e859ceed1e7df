//! Who may post to a webhook: one declarative verifier, over the raw bytes and in constant time. It does not know HTTP paths or flows.

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use schemars::JsonSchema;
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use crate::component::words::{Duration, Secret};

mod scheme;

/// How the sender of a webhook is verified.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Verify {
    /// Not at all: written out, so that nobody does it by accident.
    Off(Off),
    /// By a signature or a token.
    By(Box<Rule>),
}

/// No verification.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Off {
    /// Anybody who finds the path may post.
    None,
}

/// A scheme of signatures, its secrets, and what is particular about it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Whose scheme it is; `hmac` has every detail spelled out below.
    pub scheme: Scheme,
    /// The secret that sender and receiver share.
    pub secret: Option<Secret>,
    /// Several secrets, any of which may sign: while one replaces the other.
    pub secrets: Option<Vec<Secret>>,
    /// How old or how far ahead the signed time may be. Default 5m, where the scheme signs a time.
    pub tolerance: Option<Duration>,
    /// The header with the signature (`hmac`), or with the token (`bearer`; default `Authorization: Bearer`).
    pub header: Option<String>,
    /// The hash of `hmac`. Default sha256.
    pub algorithm: Option<Algorithm>,
    /// How the bytes of an `hmac` signature are written. Default hex.
    pub encoding: Option<Encoding>,
    /// What is signed with `hmac`: `{body}`, and before or after it `{t}` (the time), `{id}` and plain characters. Default `{body}`.
    pub content: Option<String>,
    /// What stands before each `hmac` signature, such as `sha256=` or `v1,`; signatures without it are ignored.
    pub prefix: Option<String>,
    /// What stands between several `hmac` signatures in the header, such as a space or a comma.
    pub separator: Option<String>,
    /// The header with the time, in seconds or milliseconds since 1970, that `{t}` stands for.
    pub timestamp_header: Option<String>,
    /// What stands before the time where it is one of the parts of the signature header, such as `t=`.
    pub timestamp_prefix: Option<String>,
    /// The header with the id that `{id}` stands for.
    pub id_header: Option<String>,
}

/// Whose scheme it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Shopify: `X-Shopify-Hmac-Sha256`, base64, over the body.
    Shopify,
    /// Standard Webhooks, as Svix and others send it: `webhook-id`, `webhook-timestamp`, `webhook-signature`, secrets `whsec_..`.
    StandardWebhooks,
    /// Stripe: `Stripe-Signature: t=..,v1=..`, hex, over time and body.
    Stripe,
    /// WooCommerce: `X-WC-Webhook-Signature`, base64, over the body.
    Woocommerce,
    /// EasyPost: `X-Hmac-Signature: hmac-sha256-hex=..`, over the body.
    Easypost,
    /// A token in `Authorization: Bearer`, or alone in a header of its own.
    Bearer,
    /// Any other HMAC: every detail is spelled out.
    Hmac,
}

/// The hash of an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// SHA-1: for senders that know nothing better.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// How the bytes of a signature are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Two hexadecimal digits a byte, large or small.
    Hex,
    /// Base64, with the standard or the URL alphabet, with or without padding.
    Base64,
}

/// Verifies deliveries.
pub(crate) struct Verifier {
    means: Means,
    /// Where the sender's id of a delivery stands, by the scheme.
    pub(crate) delivery: &'static [&'static str],
    /// Headers that must not be kept with a message, in lowercase.
    pub(crate) confidential: Vec<String>,
}

enum Means {
    /// A token; its hashes, so that the comparison takes the same time for every length.
    Token {
        header: String,
        prefix: &'static str,
        hashes: Vec<[u8; 32]>,
    },
    Signature(Signature),
}

/// All that there is to say about an HMAC in a header.
struct Signature {
    /// The headers that may hold it; the first that is there counts.
    headers: Vec<String>,
    encoding: Encoding,
    prefix: String,
    separator: Option<String>,
    timestamp: Timestamp,
    ids: Vec<String>,
    content: Vec<Piece>,
    tolerance_ms: i64,
    keys: Vec<Key>,
}

enum Timestamp {
    None,
    Headers(Vec<String>),
    /// A part of the signature header, after this prefix.
    Part(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Body,
    Time,
    Id,
}

/// A secret, ready to sign.
#[derive(Clone)]
enum Key {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha512(Hmac<Sha512>),
}

/// Why a delivery is turned away. The sender is told this and no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A header is not there, or not text.
    Missing(String),
    /// A signature or a time cannot be read.
    Malformed(&'static str),
    /// No secret gives any of the signatures.
    Forged,
    /// The signature is right and the signed time is too old or ahead.
    Stale,
}

/// How many signatures of one delivery are looked at.
const SIGNATURES_MAX: usize = 16;

impl Refusal {
    /// One sentence for the sender.
    pub(crate) fn detail(&self) -> String {
        match self {
            Refusal::Missing(header) => format!("the header `{header}` is missing"),
            Refusal::Malformed(what) => format!("the {what} cannot be read"),
            Refusal::Forged => "no secret fits the signature".to_owned(),
            Refusal::Stale => "the signed time is too old or too far ahead".to_owned(),
        }
    }
}

impl Verifier {
    /// Whether the delivery comes from one who has a secret.
    pub(crate) fn verify(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now_ms: i64,
    ) -> Result<(), Refusal> {
        match &self.means {
            Means::Token {
                header,
                prefix,
                hashes,
            } => token(headers, header, prefix, hashes),
            Means::Signature(signature) => signature.verify(headers, body, now_ms),
        }
    }
}

fn token(
    headers: &HeaderMap,
    header: &str,
    prefix: &str,
    hashes: &[[u8; 32]],
) -> Result<(), Refusal> {
    let missing = || Refusal::Missing(header.to_owned());
    let value = text(headers, header).ok_or_else(missing)?;
    let (scheme, token) = value.split_at_checked(prefix.len()).ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case(prefix) {
        return Err(Refusal::Malformed("authorization"));
    }
    let hash: [u8; 32] = Sha256::digest(token.trim().as_bytes()).into();
    let fits = hashes.iter().fold(subtle::Choice::from(0), |fits, known| {
        fits | known.ct_eq(&hash)
    });
    if fits.into() {
        Ok(())
    } else {
        Err(Refusal::Forged)
    }
}

impl Signature {
    fn verify(&self, headers: &HeaderMap, body: &[u8], now_ms: i64) -> Result<(), Refusal> {
        let value = self
            .headers
            .iter()
            .find_map(|name| text(headers, name))
            .ok_or_else(|| Refusal::Missing(self.headers[0].clone()))?;
        let parts: Vec<&str> = match &self.separator {
            Some(separator) => value.split(separator.as_str()).map(str::trim).collect(),
            None => vec![value.trim()],
        };
        let signatures: Vec<Vec<u8>> = parts
            .iter()
            .filter_map(|part| part.strip_prefix(self.prefix.as_str()))
            .take(SIGNATURES_MAX)
            .filter_map(|signature| decode(self.encoding, signature))
            .collect();
        if signatures.is_empty() {
            return Err(Refusal::Malformed("signature"));
        }
        let time = self.time(headers, &parts)?;
        let id = match self.ids.first() {
            Some(first) => self
                .ids
                .iter()
                .find_map(|name| text(headers, name))
                .ok_or_else(|| Refusal::Missing(first.clone()))?,
            None => "",
        };
        let fits = self.keys.iter().fold(subtle::Choice::from(0), |fits, key| {
            let signed = self.sign(key, time, id, body);
            signatures
                .iter()
                .fold(fits, |fits, signature| fits | signed.ct_eq(signature))
        });
        if !bool::from(fits) {
            return Err(Refusal::Forged);
        }
        self.fresh(time, now_ms)
    }

    /// The time as it was sent; empty if the scheme has none.
    fn time<'h>(&self, headers: &'h HeaderMap, parts: &[&'h str]) -> Result<&'h str, Refusal> {
        match &self.timestamp {
            Timestamp::None => Ok(""),
            Timestamp::Headers(names) => names
                .iter()
                .find_map(|name| text(headers, name))
                .ok_or_else(|| Refusal::Missing(names[0].clone())),
            Timestamp::Part(prefix) => parts
                .iter()
                .find_map(|part| part.strip_prefix(prefix.as_str()))
                .ok_or(Refusal::Malformed("time")),
        }
    }

    fn fresh(&self, time: &str, now_ms: i64) -> Result<(), Refusal> {
        if matches!(self.timestamp, Timestamp::None) {
            return Ok(());
        }
        let sent: i64 = time.parse().map_err(|_| Refusal::Malformed("time"))?;
        // Seconds stay below this for thousands of years, milliseconds have been above it since 1973.
        let sent_ms = if sent.abs() < 100_000_000_000 {
            sent * 1000
        } else {
            sent
        };
        if now_ms.abs_diff(sent_ms) > self.tolerance_ms.unsigned_abs() {
            return Err(Refusal::Stale);
        }
        Ok(())
    }

    fn sign(&self, key: &Key, time: &str, id: &str, body: &[u8]) -> Vec<u8> {
        let pieces = self.content.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_bytes(),
            Piece::Body => body,
            Piece::Time => time.as_bytes(),
            Piece::Id => id.as_bytes(),
        });
        match key.clone() {
            Key::Sha1(mac) => finish(mac, pieces),
            Key::Sha256(mac) => finish(mac, pieces),
            Key::Sha512(mac) => finish(mac, pieces),
        }
    }
}

fn finish<'p, M: Mac>(mut mac: M, pieces: impl Iterator<Item = &'p [u8]>) -> Vec<u8> {
    for piece in pieces {
        mac.update(piece);
    }
    mac.finalize().into_bytes().to_vec()
}

impl Key {
    fn new(algorithm: Algorithm, secret: &[u8]) -> Key {
        const ANY: &str = "HMAC takes keys of any length";
        match algorithm {
            Algorithm::Sha1 => Key::Sha1(Hmac::new_from_slice(secret).expect(ANY)),
            Algorithm::Sha256 => Key::Sha256(Hmac::new_from_slice(secret).expect(ANY)),
            Algorithm::Sha512 => Key::Sha512(Hmac::new_from_slice(secret).expect(ANY)),
        }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The bytes of a signature.
fn decode(encoding: Encoding, text: &str) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Hex => hex(text),
        Encoding::Base64 => base64(text),
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok())
        .collect()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    use ::base64::Engine;
    use ::base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    let text = text.trim_end_matches('=');
    STANDARD_NO_PAD
        .decode(text)
        .or_else(|_| URL_SAFE_NO_PAD.decode(text))
        .ok()
}

#[cfg(test)]
mod tests;
