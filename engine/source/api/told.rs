//! What callers of an API are told: problems by RFC 9457, their rate, and that the API is on its way out.

use http::{HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::json;

use super::RETRY_AFTER_MS;
use super::pace::Taken;
use crate::component::Verdict;
use crate::component::api::Leaving;
use crate::failure::{Class, Failure};
use crate::message::MessageId;
use crate::net::listener::Reply;

/// What becomes of a call that the engine was asked about.
pub(super) fn verdict(answer: Result<Verdict, Failure>, id: MessageId) -> Reply {
    let failure = match answer {
        Ok(Verdict::Accepted) => {
            let told = json!({ "status": "accepted", "id": id.to_string() });
            return Reply::json(StatusCode::ACCEPTED, told.to_string());
        }
        Ok(Verdict::Duplicate) => {
            let told = json!({ "status": "duplicate" });
            return Reply::json(StatusCode::ACCEPTED, told.to_string());
        }
        Ok(Verdict::Refused(failure)) => return refused(&failure),
        Err(failure) => failure,
    };
    let wait_ms = failure.retry_after_ms.unwrap_or(RETRY_AFTER_MS);
    let (status, why) = match failure.class {
        Class::Throttled => (StatusCode::TOO_MANY_REQUESTS, "the engine is full"),
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the engine takes nothing at the moment",
        ),
    };
    Reply::problem(status, &format!("{why}; send it again later")).with_retry_after_ms(wait_ms)
}

/// The body breaks the contract: where, and how. Lines that name no place stand without one.
fn refused(failure: &Failure) -> Reply {
    let status = match failure.class {
        Class::Parse => StatusCode::BAD_REQUEST,
        Class::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let lines = failure.detail.as_deref().unwrap_or_default().lines();
    let errors: Vec<_> = lines
        .map(|line| match line.split_once(": ") {
            Some((pointer, detail)) if pointer.is_empty() || pointer.starts_with('/') => {
                json!({ "pointer": format!("#{pointer}"), "detail": detail })
            }
            _ => json!({ "detail": line }),
        })
        .collect();
    let title = status.canonical_reason().unwrap_or("Problem");
    let document = json!({
        "type": "about:blank", "title": title, "status": status.as_u16(), "detail": failure.message, "errors": errors
    });
    Reply::problem_document(status, &document)
}

/// No credential, a wrong one, one that was revoked: callers are told the same.
pub(super) fn denied() -> Reply {
    let why = "a key in `X-API-Key`, or a key or token in `Authorization: Bearer`, that counts here is needed";
    Reply::problem(StatusCode::UNAUTHORIZED, why)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// Nothing can be taken now.
pub(super) fn unavailable(why: &str) -> Reply {
    Reply::problem(StatusCode::SERVICE_UNAVAILABLE, why).with_retry_after_ms(RETRY_AFTER_MS)
}

/// The client has called as often as it may.
pub(super) fn limited(pace: &Taken) -> Reply {
    let why = "you have called as often as you may; call again later";
    let reply = Reply::problem(StatusCode::TOO_MANY_REQUESTS, why);
    with_pace(reply.with_retry_after_ms(pace.wait_ms), pace)
}

/// The same reply, with what the client may (draft-ietf-httpapi-ratelimit-headers).
pub(super) fn with_pace(reply: Reply, pace: &Taken) -> Reply {
    let policy = format!(
        "\"default\";q={};w={}",
        pace.quota,
        pace.window_ms.div_ceil(1000)
    );
    let limit = format!(
        "\"default\";r={};t={}",
        pace.left,
        pace.reset_ms.div_ceil(1000)
    );
    let value = |text: &str| HeaderValue::from_str(text).expect("digits and quotes are a header");
    reply
        .with_header(HeaderName::from_static("ratelimit-policy"), value(&policy))
        .with_header(HeaderName::from_static("ratelimit"), value(&limit))
}

/// What every answer of an API says that is on its way out: `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link`.
pub(super) fn leaving(leaving: Option<&Leaving>) -> Vec<(HeaderName, HeaderValue)> {
    let Some(leaving) = leaving else {
        return Vec::new();
    };
    let since = format!("@{}", leaving.since_ms.div_euclid(1000));
    let mut all = vec![("deprecation", since)];
    all.extend(
        leaving
            .sunset_ms
            .and_then(http_date)
            .map(|day| ("sunset", day)),
    );
    let link = leaving.link.as_ref();
    all.extend(link.map(|link| ("link", format!("<{link}>; rel=\"deprecation\""))));
    all.into_iter()
        .filter_map(|(name, value)| {
            let value = HeaderValue::from_str(&value).ok()?;
            Some((HeaderName::from_static(name), value))
        })
        .collect()
}

fn http_date(ms: i64) -> Option<String> {
    let at = Timestamp::from_millisecond(ms).ok()?;
    Some(at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}
