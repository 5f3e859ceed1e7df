//! From what the user wrote to a verifier: the presets, and what is wrong with a rule. It verifies nothing.

use http::HeaderName;
use sha2::{Digest, Sha256};

use super::{
    Algorithm, Encoding, Key, Means, Piece, Rule, Scheme, Signature, Timestamp, Verifier, base64,
};
use crate::component::words::Secret;
use crate::component::{Build, codes};

/// What holds for signed times where nothing is said.
const TOLERANCE_MS: u64 = 300_000;

/// A scheme's details; texts as in `Rule`.
struct Details<'a> {
    headers: &'a [&'a str],
    algorithm: Algorithm,
    encoding: Encoding,
    content: &'a str,
    prefix: &'a str,
    separator: Option<&'a str>,
    timestamp_headers: &'a [&'a str],
    timestamp_prefix: Option<&'a str>,
    ids: &'a [&'a str],
    delivery: &'static [&'static str],
}

const PLAIN: Details<'static> = Details {
    headers: &[],
    algorithm: Algorithm::Sha256,
    encoding: Encoding::Base64,
    content: "{body}",
    prefix: "",
    separator: None,
    timestamp_headers: &[],
    timestamp_prefix: None,
    ids: &[],
    delivery: &[],
};

const SHOPIFY: Details<'static> = Details {
    headers: &["x-shopify-hmac-sha256"],
    delivery: &["x-shopify-webhook-id"],
    ..PLAIN
};

const WOOCOMMERCE: Details<'static> = Details {
    headers: &["x-wc-webhook-signature"],
    delivery: &["x-wc-webhook-delivery-id"],
    ..PLAIN
};

const EASYPOST: Details<'static> = Details {
    headers: &["x-hmac-signature"],
    encoding: Encoding::Hex,
    prefix: "hmac-sha256-hex=",
    ..PLAIN
};

const STRIPE: Details<'static> = Details {
    headers: &["stripe-signature"],
    encoding: Encoding::Hex,
    content: "{t}.{body}",
    prefix: "v1=",
    separator: Some(","),
    timestamp_prefix: Some("t="),
    ..PLAIN
};

const STANDARD_WEBHOOKS: Details<'static> = Details {
    headers: &["webhook-signature", "svix-signature"],
    content: "{id}.{t}.{body}",
    prefix: "v1,",
    separator: Some(" "),
    timestamp_headers: &["webhook-timestamp", "svix-timestamp"],
    ids: &["webhook-id", "svix-id"],
    delivery: &["webhook-id", "svix-id"],
    ..PLAIN
};

impl Rule {
    /// The verifier of this rule, which stands under `verify` in the config; what is wrong becomes findings.
    pub(crate) fn build(&self, cx: &mut Build<'_>) -> Option<Verifier> {
        self.report_idle_fields(cx);
        let secrets = self.secrets(cx)?;
        if self.scheme == Scheme::Bearer {
            return self.token(cx, &secrets);
        }
        let header = self.header.as_deref().map(str::to_ascii_lowercase);
        let timestamp_header = self
            .timestamp_header
            .as_deref()
            .map(str::to_ascii_lowercase);
        let id_header = self.id_header.as_deref().map(str::to_ascii_lowercase);
        let (header, time, id) = (
            one(header.as_deref()),
            one(timestamp_header.as_deref()),
            one(id_header.as_deref()),
        );
        let details = match self.scheme {
            Scheme::Shopify => SHOPIFY,
            Scheme::Woocommerce => WOOCOMMERCE,
            Scheme::Easypost => EASYPOST,
            Scheme::Stripe => STRIPE,
            Scheme::StandardWebhooks => STANDARD_WEBHOOKS,
            Scheme::Hmac | Scheme::Bearer => Details {
                headers: &header,
                algorithm: self.algorithm.unwrap_or(Algorithm::Sha256),
                encoding: self.encoding.unwrap_or(Encoding::Hex),
                content: self.content.as_deref().unwrap_or("{body}"),
                prefix: self.prefix.as_deref().unwrap_or(""),
                separator: self.separator.as_deref().filter(|text| !text.is_empty()),
                timestamp_headers: &time,
                timestamp_prefix: self.timestamp_prefix.as_deref(),
                ids: &id,
                delivery: &[],
            },
        };
        self.signature(cx, &details, &secrets)
    }

    fn signature(
        &self,
        cx: &mut Build<'_>,
        details: &Details<'_>,
        secrets: &[Vec<u8>],
    ) -> Option<Verifier> {
        let before = cx.findings.len();
        if details.headers.is_empty() {
            cx.error(
                codes::CONFLICTING_SETTINGS,
                &["verify"],
                "the scheme `hmac` does not know which header has the signature",
                "add `header: X-Signature`, with the name that the sender uses",
            );
        }
        for (field, names) in [
            ("header", details.headers),
            ("timestamp_header", details.timestamp_headers),
            ("id_header", details.ids),
        ] {
            for name in names
                .iter()
                .filter(|name| HeaderName::try_from(**name).is_err())
            {
                cx.error(
                    codes::BAD_VALUE,
                    &["verify", field],
                    format!("`{name}` is no name of a header"),
                    "header names have letters, digits and hyphens",
                );
            }
        }
        let content = self.content(cx, details);
        let timestamp = match (details.timestamp_headers, details.timestamp_prefix) {
            ([], None) => Timestamp::None,
            (_, Some(prefix)) => Timestamp::Part(prefix.to_owned()),
            (names, None) => Timestamp::Headers(owned(names)),
        };
        self.report_tolerance(cx, &timestamp);
        if cx.findings.len() > before {
            return None;
        }
        let mut confidential = owned(details.headers);
        confidential.push("authorization".to_owned());
        Some(Verifier {
            means: Means::Signature(Signature {
                headers: owned(details.headers),
                encoding: details.encoding,
                prefix: details.prefix.to_owned(),
                separator: details.separator.map(str::to_owned),
                timestamp,
                ids: owned(details.ids),
                content: content?,
                tolerance_ms: self
                    .tolerance
                    .map_or(TOLERANCE_MS, |tolerance| tolerance.ms)
                    .min(i64::MAX as u64) as i64,
                keys: secrets
                    .iter()
                    .map(|secret| Key::new(details.algorithm, secret))
                    .collect(),
            }),
            delivery: details.delivery,
            confidential,
        })
    }

    fn token(&self, cx: &mut Build<'_>, secrets: &[Vec<u8>]) -> Option<Verifier> {
        let header = match &self.header {
            Some(name) => match HeaderName::try_from(name.as_str()) {
                Ok(name) => name.as_str().to_owned(),
                Err(_) => {
                    cx.error(
                        codes::BAD_VALUE,
                        &["verify", "header"],
                        format!("`{name}` is no name of a header"),
                        "header names have letters, digits and hyphens",
                    );
                    return None;
                }
            },
            None => "authorization".to_owned(),
        };
        let prefix = if header == "authorization" {
            "Bearer "
        } else {
            ""
        };
        Some(Verifier {
            confidential: vec![header.clone(), "authorization".to_owned()],
            means: Means::Token {
                header,
                prefix,
                hashes: secrets
                    .iter()
                    .map(|secret| Sha256::digest(secret).into())
                    .collect(),
            },
            delivery: &[],
        })
    }

    /// Fields that the scheme has no use for would make their author believe in something.
    fn report_idle_fields(&self, cx: &mut Build<'_>) {
        let hmac = self.scheme == Scheme::Hmac;
        let timed = hmac || matches!(self.scheme, Scheme::Stripe | Scheme::StandardWebhooks);
        let idle = [
            ("tolerance", self.tolerance.is_some() && !timed),
            (
                "header",
                self.header.is_some() && !hmac && self.scheme != Scheme::Bearer,
            ),
            ("algorithm", self.algorithm.is_some() && !hmac),
            ("encoding", self.encoding.is_some() && !hmac),
            ("content", self.content.is_some() && !hmac),
            ("prefix", self.prefix.is_some() && !hmac),
            ("separator", self.separator.is_some() && !hmac),
            ("timestamp_header", self.timestamp_header.is_some() && !hmac),
            ("timestamp_prefix", self.timestamp_prefix.is_some() && !hmac),
            ("id_header", self.id_header.is_some() && !hmac),
        ];
        for (field, _) in idle.into_iter().filter(|(_, idle)| *idle) {
            cx.error(
                codes::CONFLICTING_SETTINGS,
                &["verify", field],
                format!("this scheme settles `{field}` by itself"),
                "remove it, or use the scheme `hmac`, which has every detail spelled out",
            );
        }
    }

    fn report_tolerance(&self, cx: &mut Build<'_>, timestamp: &Timestamp) {
        match (self.tolerance, timestamp) {
            (Some(_), Timestamp::None) if self.scheme == Scheme::Hmac => cx.error(
                codes::CONFLICTING_SETTINGS,
                &["verify", "tolerance"],
                "`tolerance` needs a signed time",
                "name its place with `timestamp_header` or `timestamp_prefix`, and put `{t}` into `content`",
            ),
            (Some(tolerance), _) if tolerance.ms == 0 => cx.error(
                codes::BAD_VALUE,
                &["verify", "tolerance"],
                "a tolerance of nothing turns every delivery away",
                "5m is usual",
            ),
            _ => {}
        }
    }

    /// What is signed, with what it needs.
    fn content(&self, cx: &mut Build<'_>, details: &Details<'_>) -> Option<Vec<Piece>> {
        let place = &["verify", "content"];
        let pieces = match pieces(details.content) {
            Ok(pieces) => pieces,
            Err(odd) => {
                cx.error(
                    codes::BAD_VALUE,
                    place,
                    format!("`{odd}` means nothing in the signed content"),
                    "known are `{body}`, `{t}` and `{id}`",
                );
                return None;
            }
        };
        let has_time = !details.timestamp_headers.is_empty() || details.timestamp_prefix.is_some();
        let wrong = [
            (
                !pieces.contains(&Piece::Body),
                "the body is not signed",
                "put `{body}` into `content`",
            ),
            (
                pieces.contains(&Piece::Time) != has_time,
                "`{t}` in `content` and the place of the time need each other",
                "a time that is not signed proves nothing; use both, or neither",
            ),
            (
                pieces.contains(&Piece::Id) == details.ids.is_empty(),
                "`{id}` in `content` and `id_header` need each other",
                "use both, or neither",
            ),
        ];
        for (_, message, help) in wrong.iter().filter(|(wrong, ..)| *wrong) {
            cx.error(codes::CONFLICTING_SETTINGS, place, *message, *help);
        }
        Some(pieces)
    }

    /// The keys' bytes; `None` after a finding.
    fn secrets(&self, cx: &mut Build<'_>) -> Option<Vec<Vec<u8>>> {
        let (place, secrets): (&str, Vec<&Secret>) = match (&self.secret, &self.secrets) {
            (Some(secret), None) => ("secret", vec![secret]),
            (None, Some(secrets)) if !secrets.is_empty() => ("secrets", secrets.iter().collect()),
            _ => {
                cx.error(
                    codes::CONFLICTING_SETTINGS,
                    &["verify"],
                    "a scheme takes `secret`, or `secrets` with at least one",
                    "add `secret: \"${env:NAME}\"`",
                );
                return None;
            }
        };
        let mut keys = Vec::new();
        for (at, secret) in secrets.into_iter().enumerate() {
            let index = at.to_string();
            let path: &[&str] = &["verify", place, &index];
            let path = if place == "secret" { &path[..2] } else { path };
            match self.key(secret.reveal()) {
                Ok(key) => keys.push(key),
                Err((message, help)) => {
                    cx.error(codes::BAD_VALUE, path, message, help);
                    return None;
                }
            }
        }
        Some(keys)
    }

    fn key(&self, secret: &str) -> Result<Vec<u8>, (&'static str, &'static str)> {
        if secret.trim().is_empty() {
            return Err((
                "the secret is empty: anybody could sign",
                "set the variable that it comes from",
            ));
        }
        match self.scheme {
            Scheme::StandardWebhooks => base64(secret.strip_prefix("whsec_").unwrap_or(secret))
                .filter(|key| !key.is_empty())
                .ok_or((
                    "the secret is not base64",
                    "secrets of Standard Webhooks are `whsec_` and base64; copy the whole of it",
                )),
            Scheme::Easypost if !secret.is_ascii() => Err((
                "the secret has characters outside ASCII",
                "EasyPost normalises those before it signs; choose a secret of letters and digits",
            )),
            _ => Ok(secret.as_bytes().to_vec()),
        }
    }
}

fn one(name: Option<&str>) -> Vec<&str> {
    name.into_iter().collect()
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The pieces of a signed content, or the part that means nothing.
fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let close = rest[open..]
            .find('}')
            .map_or(rest.len(), |at| open + at + 1);
        if open > 0 {
            pieces.push(Piece::Text(rest[..open].to_owned()));
        }
        pieces.push(match &rest[open..close] {
            "{body}" => Piece::Body,
            "{t}" => Piece::Time,
            "{id}" => Piece::Id,
            odd => return Err(odd.to_owned()),
        });
        rest = &rest[close..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}
