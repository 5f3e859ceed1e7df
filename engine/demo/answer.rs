//! What the stand-in ERP says: whole answers, and answers that are broken off in the middle. It decides nothing.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use serde_json::{Value, json};

/// How long the first half of an answer has to reach the caller.
const FIRST_HALF: Duration = Duration::from_millis(20);

/// Ends the connection without an answer, or without the rest of it.
#[derive(Debug)]
pub(crate) struct HangUp;

impl std::fmt::Display for HangUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the stand-in hangs up")
    }
}

impl std::error::Error for HangUp {}

/// An answer.
pub(crate) type Answer = Response<Spoken>;

/// The body of an answer: all of it, or its first half and then the end of the connection.
pub(crate) struct Spoken {
    length: u64,
    left: Option<Bytes>,
    breaks: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Body for Spoken {
    type Data = Bytes;
    type Error = HangUp;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HangUp>>> {
        if let Some(bytes) = self.left.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match &mut self.breaks {
            None => Poll::Ready(None),
            Some(pause) => pause.as_mut().poll(cx).map(|()| Some(Err(HangUp))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_none() && self.breaks.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// A whole answer.
pub(crate) fn answer(status: StatusCode, body: &Value) -> Answer {
    let bytes = Bytes::from(body.to_string());
    let mut answer = Response::new(Spoken {
        length: bytes.len() as u64,
        left: Some(bytes),
        breaks: None,
    });
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    answer
}

/// An answer that promises this body and gives the first half of it.
pub(crate) fn broken_off(status: StatusCode, body: &Value) -> Answer {
    let mut answer = answer(status, body);
    let spoken = answer.body_mut();
    spoken.left = spoken
        .left
        .take()
        .map(|bytes| bytes.slice(..bytes.len() / 2));
    spoken.breaks = Some(Box::pin(tokio::time::sleep(FIRST_HALF)));
    answer
}

/// An answer that says what is wrong.
pub(crate) fn problem(status: StatusCode, title: &str) -> Answer {
    answer(status, &json!({"status": status.as_u16(), "title": title}))
}
