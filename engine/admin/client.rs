//! The command line's side of the door: one question, one answer. It knows paths and nothing of what is behind them.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::authenticate::AS;
use crate::failure::{Class, Failure};
use crate::net::local;

/// How large one server-sent event may be.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// A running engine, as its door is reached.
pub struct Client {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl Client {
    /// The engine that has the store in this file; `None` if none runs.
    pub async fn reach(store: &Path) -> Result<Option<Client>, Failure> {
        let Some(stream) = local::connect(store).await? else {
            return Ok(None);
        };
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| lost(&error))?;
        // It ends with the sender.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the engine ended early");
            }
        });
        Ok(Some(Client { sender }))
    }

    /// Asks for something, below `/api/v1`.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, "somebody", Bytes::new()).await
    }

    /// Asks for something in somebody's name.
    pub async fn get_as<T: DeserializeOwned>(
        &mut self,
        path: &str,
        who: &str,
    ) -> Result<T, Failure> {
        self.ask(Method::GET, path, who, Bytes::new()).await
    }

    /// Listens to server-sent events until they end: `each` gets the name and the data of one after another.
    pub async fn listen(
        mut self,
        path: &str,
        who: &str,
        each: &mut dyn FnMut(&str, &Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let answer = self.send(Method::GET, path, who, Bytes::new()).await?;
        let good = answer.status().is_success();
        let mut body = answer.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| lost(&error))?;
            text.extend_from_slice(&frame.into_data().unwrap_or_default());
            if text.len() > EVENT_BYTES_MAX {
                return Err(Failure::new(
                    Class::TooLarge,
                    "the engine answers too much at once",
                ));
            }
            while let Some(end) = text
                .windows(2)
                .position(|two| two == b"\n\n")
                .filter(|_| good)
            {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event);
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(what), Some(data)) = (field("event: "), field("data: ")) {
                    each(what, &serde_json::from_str(data).unwrap_or_default())?;
                }
            }
        }
        match good {
            true => Ok(()),
            false => Err(refused(&text)),
        }
    }

    /// Has something done in somebody's name, below `/api/v1`.
    pub async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        who: &str,
        wish: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(wish)
            .map_err(|error| Failure::internal(format!("a wish cannot be written: {error}")))?;
        self.ask(Method::POST, path, who, Bytes::from(body)).await
    }

    async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        who: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        let answer = self.send(method, path, who, body).await?;
        let good = answer.status().is_success();
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(|error| lost(&error))?
            .to_bytes();
        if good {
            return serde_json::from_slice(&body).map_err(|error| {
                Failure::internal(format!(
                    "the engine answers in another form ({error}); it is of another version, restart it"
                ))
            });
        }
        Err(refused(&body))
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        who: &str,
        body: Bytes,
    ) -> Result<http::Response<hyper::body::Incoming>, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header("host", "engine")
            .header(AS, who.as_bytes())
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::internal(format!("a wish cannot be written: {error}")))?;
        self.sender
            .send_request(request)
            .await
            .map_err(|error| lost(&error))
    }
}

/// What the engine says instead of doing it.
fn refused(body: &[u8]) -> Failure {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let class = problem["code"].as_str().and_then(Class::from_name);
    let detail = problem["detail"].as_str().unwrap_or("the engine refused");
    Failure::new(class.unwrap_or(Class::Internal), detail)
}

/// A text as one segment of a path.
pub fn segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                segment.push(char::from(byte));
            }
            other => segment.push_str(&format!("%{other:02X}")),
        }
    }
    segment
}

fn lost(error: &hyper::Error) -> Failure {
    Failure::new(
        Class::Unavailable,
        format!(
            "the engine went away in the middle ({error}); look with `crossdock exceptions` what was done"
        ),
    )
}
