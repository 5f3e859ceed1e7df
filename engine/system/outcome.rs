//! What an answer, or its absence, says about a request: took effect, surely did not, or nobody knows. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use jiff::fmt::rfc2822;

use super::request::Sending;
use crate::failure::{Class, Failure};
use crate::net::http::{Incoming, Trouble, TroubleKind};

/// How much of an answer a failure shows.
const SHOWN_CHARS: usize = 2_000;
/// The longest wish to wait that is believed.
const RETRY_AFTER_MS_MAX: u64 = 24 * 3_600_000;

/// That a request did not do what it should.
#[derive(Debug)]
pub(super) enum Miss {
    /// It surely took no effect, or a repeat is harmless.
    NotApplied(Failure),
    /// Nobody knows.
    Unknown(Failure),
}

/// What all verdicts about one request share.
pub(super) struct Asked<'a> {
    pub(super) system: &'a str,
    pub(super) sending: &'a Sending,
    /// A repeat is harmless: what is unknown is then as good as not applied.
    pub(super) safe: bool,
    /// What the system means by a status.
    pub(super) declared: &'a BTreeMap<u16, Class>,
}

impl Asked<'_> {
    /// The verdict of a whole answer. `now_ms` dates wishes to wait where the answer has no date of its own.
    pub(super) fn answered(&self, answer: &Incoming, now_ms: i64) -> Result<(), Miss> {
        let status = answer.status;
        if (200..300).contains(&status) {
            return Ok(());
        }
        let retry_after_ms = retry_after(&answer.headers, now_ms);
        let (class, sure) = self.meaning(status, retry_after_ms.is_some());
        let about = format!(
            "{} answered {status} to {}{}",
            self.system,
            self.request(),
            advice(status, class)
        );
        let mut failure = if sure || self.safe {
            Failure::new(class, about)
        } else {
            Failure::new(
                Class::Ambiguous,
                format!("{about}; nobody knows whether it took effect"),
            )
        };
        failure.detail = shown(&answer.body);
        failure.retry_after_ms = retry_after_ms;
        Err(self.miss(sure, failure))
    }

    /// The verdict where no whole answer came.
    pub(super) fn troubled(&self, trouble: &Trouble) -> Miss {
        let status = trouble
            .status
            .map(|status| format!(" after status {status}"))
            .unwrap_or_default();
        let about = format!(
            "{}: {}{status}, {}",
            self.system,
            trouble.message,
            self.request()
        );
        let class = match trouble.kind {
            TroubleKind::Request => Class::Config,
            TroubleKind::Identity => Class::Auth,
            TroubleKind::Connect | TroubleKind::Broken => Class::Unavailable,
            TroubleKind::Timeout => Class::Timeout,
            TroubleKind::TooLarge => Class::TooLarge,
            TroubleKind::Undecodable => Class::Parse,
        };
        let sure = trouble.kind.nothing_left();
        if sure || self.safe {
            self.miss(sure, Failure::new(class, about))
        } else {
            let about = format!("{about}; nobody knows whether it took effect");
            self.miss(false, Failure::new(Class::Ambiguous, about))
        }
    }

    fn miss(&self, sure: bool, failure: Failure) -> Miss {
        if sure || self.safe {
            Miss::NotApplied(failure)
        } else {
            Miss::Unknown(failure)
        }
    }

    fn request(&self) -> String {
        let path: String = self.sending.path.chars().take(200).collect();
        format!("{} {path}", self.sending.method)
    }

    /// The class of a status, and whether it says that the request took no effect.
    fn meaning(&self, status: u16, wishes_to_wait: bool) -> (Class, bool) {
        if let Some(class) = self.declared.get(&status) {
            let class = match class {
                Class::Ambiguous if self.safe => Class::Unavailable,
                class => *class,
            };
            return (class, class != Class::Ambiguous);
        }
        match status {
            401 | 407 => (Class::Auth, true),
            403 | 451 => (Class::Forbidden, true),
            404 | 410 => (Class::NotFound, true),
            405 | 406 | 415 | 501 | 505 => (Class::Config, true),
            408 => (Class::Timeout, true),
            409 | 412 | 423 => (Class::Conflict, true),
            413 | 414 | 431 => (Class::TooLarge, true),
            421 | 425 => (Class::Unavailable, true),
            429 => (Class::Throttled, true),
            400..=499 => (Class::Validation, true),
            503 => (Class::Unavailable, wishes_to_wait),
            504 => (Class::Timeout, false),
            500..=599 => (Class::Unavailable, false),
            // Redirects that are not followed, and what HTTP does not know.
            _ => (Class::Config, false),
        }
    }
}

fn advice(status: u16, class: Class) -> &'static str {
    match (status, class) {
        (300..=399, _) => "; redirects are followed for GET only, within the same host",
        (_, Class::Auth) => "; check the system's auth",
        (_, Class::Forbidden) => "; the credentials do not allow it",
        _ => "",
    }
}

/// The beginning of an answer, for the person who repairs it.
fn shown(body: &Bytes) -> Option<String> {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN_CHARS)]);
    let text: String = text.trim().chars().take(SHOWN_CHARS).collect();
    (!text.is_empty()).then_some(text)
}

/// `Retry-After`: seconds, or a date, measured by the answer's own clock where it tells it.
fn retry_after(headers: &HeaderMap, now_ms: i64) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(seconds.saturating_mul(1_000).min(RETRY_AFTER_MS_MAX));
    }
    let at = date_ms(text)?;
    let now = headers
        .get(DATE)
        .and_then(|date| date_ms(date.to_str().ok()?))
        .unwrap_or(now_ms);
    let wait = u64::try_from(at.saturating_sub(now)).unwrap_or(0);
    Some(wait.min(RETRY_AFTER_MS_MAX))
}

fn date_ms(text: &str) -> Option<i64> {
    let date = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(date.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, headers: &[(&'static str, &str)], safe: bool) -> (String, Option<u64>) {
        let declared = BTreeMap::from([(418, Class::Conflict), (500, Class::Unavailable)]);
        let asked = Asked {
            system: "erp",
            sending: &Sending::get("/x"),
            safe,
            declared: &declared,
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let answer = Incoming {
            status,
            headers: map,
            body: Bytes::from_static(b"why"),
        };
        match asked.answered(&answer, 0) {
            Ok(()) => ("applied".to_owned(), None),
            Err(Miss::NotApplied(failure)) => {
                (format!("not: {}", failure.class), failure.retry_after_ms)
            }
            Err(Miss::Unknown(failure)) => {
                (format!("?: {}", failure.class), failure.retry_after_ms)
            }
        }
    }

    #[test]
    fn every_status_has_a_meaning() {
        for (status, unsafe_told, safe_told) in [
            (200, "applied", "applied"),
            (204, "applied", "applied"),
            (302, "?: ambiguous", "not: config"),
            (400, "not: validation", "not: validation"),
            (401, "not: auth", "not: auth"),
            (403, "not: forbidden", "not: forbidden"),
            (404, "not: not_found", "not: not_found"),
            (408, "not: timeout", "not: timeout"),
            (409, "not: conflict", "not: conflict"),
            (410, "not: not_found", "not: not_found"),
            (413, "not: too_large", "not: too_large"),
            (415, "not: config", "not: config"),
            (418, "not: conflict", "not: conflict"),
            (422, "not: validation", "not: validation"),
            (429, "not: throttled", "not: throttled"),
            (500, "not: unavailable", "not: unavailable"),
            (501, "not: config", "not: config"),
            (502, "?: ambiguous", "not: unavailable"),
            (503, "?: ambiguous", "not: unavailable"),
            (504, "?: ambiguous", "not: timeout"),
            (505, "not: config", "not: config"),
        ] {
            assert_eq!(told(status, &[], false).0, unsafe_told, "{status}");
            assert_eq!(told(status, &[], true).0, safe_told, "{status} safe");
        }
        let wait = told(503, &[("retry-after", "7")], false);
        assert_eq!(wait, ("not: unavailable".to_owned(), Some(7_000)));
    }

    #[test]
    fn wishes_to_wait_are_seconds_or_dates() {
        let wait = |headers: &[(&'static str, &str)]| told(429, headers, false).1;
        assert_eq!(wait(&[("retry-after", "120")]), Some(120_000));
        assert_eq!(wait(&[("retry-after", "soon")]), None);
        let date = ("retry-after", "Wed, 21 Oct 2015 07:28:10 GMT");
        assert_eq!(
            wait(&[date, ("date", "Wed, 21 Oct 2015 07:28:00 GMT")]),
            Some(10_000)
        );
        assert_eq!(
            wait(&[("retry-after", "Thu, 01 Jan 1970 00:00:05 GMT")]),
            Some(5_000)
        );
        assert_eq!(
            wait(&[("retry-after", "99999999999")]),
            Some(RETRY_AFTER_MS_MAX)
        );
    }
}
