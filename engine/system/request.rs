//! The durable form of a request and of an answer: JSON documents without secrets. They are written before and after the wire.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::body::{Body, Item, write_string};
use crate::component::Answer;
use crate::failure::Failure;

/// How many bytes of an answer's headers are kept.
const HEADERS_KEPT_MAX: usize = 4 << 10;
/// Headers of an answer that say nothing about the business, or are secret.
const HEADERS_DROPPED: &[&str] = &[
    "accept-ranges",
    "alt-svc",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-security-policy",
    "date",
    "keep-alive",
    "proxy-authenticate",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "vary",
    "www-authenticate",
    "x-powered-by",
];

/// What will be sent to a system, without credentials: those are added at the last moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sending {
    /// The method.
    pub method: Method,
    /// The path below the system's base URL, with its query.
    pub path: String,
    /// Headers, by lowercase name.
    pub headers: Vec<(String, String)>,
    /// The body, if there is one.
    pub body: Option<Bytes>,
}

/// What a system has answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// Headers by lowercase name, without secrets and without what only matters on the wire.
    pub headers: Vec<(String, String)>,
    /// The body, unpacked.
    pub body: Body,
}

impl Sending {
    /// A GET of this path.
    pub fn get(path: impl Into<String>) -> Sending {
        Sending {
            method: Method::GET,
            path: path.into(),
            headers: Vec::new(),
            body: None,
        }
    }

    /// Whether repeating it is safe by the method's own meaning: it only reads.
    pub fn reads(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    /// As it is stored: `{"method", "path", "headers", "body" | "text" | "base64"}`.
    pub fn to_document(&self) -> Bytes {
        let mut out = b"{\"method\":".to_vec();
        write_string(&mut out, self.method.as_str());
        out.extend_from_slice(b",\"path\":");
        write_string(&mut out, &self.path);
        write_headers(&mut out, &self.headers);
        let body = self.body.clone().map(Body::new);
        finish(out, body.as_ref())
    }

    /// From its stored form.
    pub fn from_document(bytes: &Bytes) -> Result<Sending, Failure> {
        let document = Body::new(bytes.clone());
        let root = document.document()?;
        let text = |name| {
            let found = root.get(name).and_then(|value| value.as_str());
            found.ok_or_else(|| Failure::internal(format!("a stored request has no {name}")))
        };
        let method = Method::from_bytes(text("method")?.as_bytes())
            .map_err(|_| Failure::internal("a stored request has no method"))?;
        Ok(Sending {
            method,
            path: text("path")?.into_owned(),
            headers: read_headers(root),
            body: read_body(root),
        })
    }
}

impl Answered {
    pub(super) fn of(status: u16, headers: &HeaderMap, body: Bytes) -> Answered {
        let mut kept = Vec::new();
        let mut size = 0;
        for (name, value) in headers {
            let Ok(value) = value.to_str() else { continue };
            size += name.as_str().len() + value.len();
            if size > HEADERS_KEPT_MAX {
                break;
            }
            if !HEADERS_DROPPED.contains(&name.as_str()) {
                kept.push((name.as_str().to_owned(), value.to_owned()));
            }
        }
        Answered {
            status,
            headers: kept,
            body: Body::new(body),
        }
    }

    /// As it is stored: `{"status", "headers", "body" | "text" | "base64"}`.
    pub fn to_document(&self) -> Answer {
        let mut out = format!("{{\"status\":{}", self.status).into_bytes();
        write_headers(&mut out, &self.headers);
        let body = (!self.body.is_empty()).then_some(&self.body);
        Answer {
            bytes: finish(out, body),
        }
    }

    /// From its stored form.
    pub fn from_document(answer: &Answer) -> Result<Answered, Failure> {
        let document = Body::new(answer.bytes.clone());
        let root = document.document()?;
        let status = root
            .get("status")
            .and_then(|status| status.as_number()?.parse().ok())
            .ok_or_else(|| Failure::internal("a stored answer has no status"))?;
        Ok(Answered {
            status,
            headers: read_headers(root),
            body: Body::new(read_body(root).unwrap_or_default()),
        })
    }
}

fn write_headers(out: &mut Vec<u8>, headers: &[(String, String)]) {
    out.extend_from_slice(b",\"headers\":{");
    let mut written: Vec<&str> = Vec::new();
    for (name, value) in headers {
        if written.contains(&name.as_str()) {
            continue;
        }
        if !written.is_empty() {
            out.push(b',');
        }
        write_string(out, name);
        out.push(b':');
        let all: Vec<&str> = headers
            .iter()
            .filter(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
            .collect();
        if all.len() > 1 {
            write_string(out, &all.join(", "));
        } else {
            write_string(out, value);
        }
        written.push(name);
    }
    out.push(b'}');
}

fn read_headers(root: Item<'_>) -> Vec<(String, String)> {
    let entries = root.get("headers").map(Item::entries);
    entries
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            Some((name.as_str()?.into_owned(), value.as_str()?.into_owned()))
        })
        .collect()
}

/// Ends a document with the body: as JSON where it is JSON to the last byte and fits one level deeper, else as text, else as base64.
fn finish(mut out: Vec<u8>, body: Option<&Body>) -> Bytes {
    let Some(body) = body else {
        out.push(b'}');
        return Bytes::from(out);
    };
    let exact = body
        .document()
        .is_ok_and(|root| root.json().len() == body.len());
    if exact {
        let mut whole = out.clone();
        whole.extend_from_slice(b",\"body\":");
        whole.extend_from_slice(body.bytes());
        whole.push(b'}');
        let whole = Bytes::from(whole);
        if Body::new(whole.clone()).document().is_ok() {
            return whole;
        }
    }
    match std::str::from_utf8(body.bytes()) {
        Ok(text) => {
            out.extend_from_slice(b",\"text\":");
            write_string(&mut out, text);
        }
        Err(_) => {
            out.extend_from_slice(b",\"base64\":");
            write_string(&mut out, &STANDARD.encode(body.bytes()));
        }
    }
    out.push(b'}');
    Bytes::from(out)
}

fn read_body(root: Item<'_>) -> Option<Bytes> {
    if let Some(body) = root.get("body") {
        return Some(body.to_bytes());
    }
    if let Some(text) = root.get("text").and_then(Item::as_str) {
        return Some(Bytes::from(text.into_owned()));
    }
    let coded = root.get("base64").and_then(Item::as_str)?;
    STANDARD.decode(coded.as_bytes()).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: Option<&[u8]>, expect: &str) {
        let sending = Sending {
            method: Method::POST,
            path: "/a?b=\"c\"".to_owned(),
            headers: vec![("x-a".to_owned(), "1".to_owned())],
            body: body.map(Bytes::copy_from_slice),
        };
        let stored = sending.to_document();
        let text = String::from_utf8_lossy(&stored).into_owned();
        assert!(text.ends_with(expect), "{text}");
        assert_eq!(Sending::from_document(&stored).unwrap(), sending);
    }

    #[test]
    fn requests_are_stored_to_the_byte() {
        check(None, r#""headers":{"x-a":"1"}}"#);
        check(
            Some(br#"{"price": 19.90, "n": 9007199254740993}"#),
            r#","body":{"price": 19.90, "n": 9007199254740993}}"#,
        );
        check(Some(b" {\"a\": 1}\n"), r#","text":" {\"a\": 1}\n"}"#);
        check(Some(b"a,b\r\n"), r#","text":"a,b\r\n"}"#);
        check(Some(b"\xff\x00"), r#","base64":"/wA="}"#);
        check(Some(b""), r#","text":""}"#);
        let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
        check(Some(deep.as_bytes()), "\"}");
    }

    #[test]
    fn answers_keep_what_matters() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            ("set-cookie", "session=secret"),
            ("location", "/orders/1"),
            ("date", "today"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let answered = Answered::of(201, &headers, Bytes::from_static(b"{\"id\":1}"));
        let stored = answered.to_document();
        assert_eq!(
            String::from_utf8_lossy(&stored.bytes),
            r#"{"status":201,"headers":{"content-type":"application/json","location":"/orders/1"},"body":{"id":1}}"#
        );
        assert_eq!(Answered::from_document(&stored).unwrap(), answered);
        let empty = Answered::of(204, &HeaderMap::new(), Bytes::new());
        assert_eq!(
            String::from_utf8_lossy(&empty.to_document().bytes),
            r#"{"status":204,"headers":{}}"#
        );
    }
}
