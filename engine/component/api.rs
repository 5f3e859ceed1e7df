//! What an API offers to its callers, and who has called it: words that the source, the store and the OpenAPI document share.

use std::sync::Arc;

use super::words::Rate;

/// One operation that callers may ask for.
#[derive(Clone, Debug)]
pub struct Api {
    /// The method, such as `POST`.
    pub method: &'static str,
    /// Where it is served, with its version: `/v2/orders`.
    pub path: String,
    /// Its version: `v2`.
    pub version: String,
    /// The names of those who may call it; nothing: everybody.
    pub clients: Option<Vec<Arc<str>>>,
    /// How often a client may call it that has no rate of its own.
    pub rate: Rate,
    /// How many bytes a body may have.
    pub body_max: usize,
    /// That it is on its way out.
    pub deprecated: Option<Leaving>,
    /// The headers that are kept with a message.
    pub headers: Vec<String>,
}

/// That an API is on its way out.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// Since when it should no longer be used, in milliseconds since 1970.
    pub since_ms: i64,
    /// From when on it may be gone.
    pub sunset_ms: Option<i64>,
    /// Where callers read what to do.
    pub link: Option<String>,
}

/// How often a client has called an API since that was noted last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// The API, as method and path: `POST /v2/orders`.
    pub api: Arc<str>,
    /// The client.
    pub client: Arc<str>,
    /// How often.
    pub count: u64,
    /// When last, in milliseconds since 1970.
    pub last_at_ms: i64,
}

impl Api {
    /// Method and path.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}
