//! What the API says when it does not do what was asked: a problem by RFC 9457 with a code that stays the same. The only place that knows
//! which failure has which status.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::rights::Refusal;
use crate::failure::{Class, Failure};

/// Why something was not done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: `code` tells problems apart.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// Which problem it is; it stays the same over versions.
    code: &'static str,
    /// What happened, for people.
    detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'static str>,
    /// After how many seconds it may be tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        Problem {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Problem"),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            help: None,
            retry_after: None,
        }
    }

    /// The request cannot be read.
    pub(super) fn unreadable(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
            .help("`/api/v1/openapi.json` says what each path takes")
    }

    /// What is asked for is not there, or not for them.
    pub(super) fn not_there() -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is nothing of this name here",
        )
    }

    /// The same, with what to do.
    pub(super) fn help(mut self, help: &'static str) -> Problem {
        self.help = Some(help);
        self
    }

    /// The same, to be tried again after so many seconds.
    pub(super) fn after(mut self, seconds: u64) -> Problem {
        self.retry_after = Some(seconds.max(1));
        self
    }

    /// Which problem it is.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        let status = status(failure.class);
        let problem = Problem::new(status, failure.class.name(), failure.message);
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => problem.after(1),
            _ => problem,
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        match refusal {
            Refusal::NotThere => Problem::not_there(),
            Refusal::Right(right) => Problem::new(
                StatusCode::FORBIDDEN,
                "no_right",
                format!("this needs the right `{}`", right.name()),
            )
            .help("ask an admin for a token with a role that has it"),
            Refusal::Scope => Problem::new(
                StatusCode::FORBIDDEN,
                "no_right",
                "this concerns all flows, and the token is for some",
            )
            .help("ask an admin for a token without `flows`"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        (status, headers, body).into_response()
    }
}

/// The status that a failure has in the API.
fn status(class: Class) -> StatusCode {
    match class {
        Class::Validation | Class::Parse | Class::Mapping | Class::Config => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Class::NotFound => StatusCode::NOT_FOUND,
        Class::Conflict | Class::Duplicate => StatusCode::CONFLICT,
        Class::Forbidden | Class::Auth => StatusCode::FORBIDDEN,
        Class::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Class::Throttled => StatusCode::TOO_MANY_REQUESTS,
        Class::Unavailable | Class::Timeout => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
