//! The sink `http`: sends messages to a system.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::words::{Duration, ExpressionText, TemplateText};
use crate::component::{Build, Part};
use crate::system::ask::Wanted;

/// Sends the message to a system over HTTP: the whole body, unless there is `map` or `body`. An answer of 2xx means delivered.
///
/// Where an answer does not come, nobody knows whether the request took effect. With `idempotency_key` it is sent again as long as the
/// system keeps the key, with `upsert` at any time; with a `probe` beside the sink the system is asked first; else a person must look.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The system.
    pub system: String,
    /// The path of a POST request.
    pub post: Option<TemplateText>,
    /// The path of a PUT request.
    pub put: Option<TemplateText>,
    /// The path of a PATCH request.
    pub patch: Option<TemplateText>,
    /// The path of a GET request, for systems that take data in the query.
    pub get: Option<TemplateText>,
    /// The path of a DELETE request.
    pub delete: Option<TemplateText>,
    /// The mapping that makes the request's body.
    pub map: Option<String>,
    /// The request's body, as an expression.
    pub body: Option<ExpressionText>,
    /// The media type of the request's body. Default `application/json`.
    pub content_type: Option<String>,
    /// More headers of the request; not for credentials.
    #[serde(default)]
    pub headers: BTreeMap<String, TemplateText>,
    /// A text by which the system recognises a repeat, such as the order's number.
    pub idempotency_key: Option<ExpressionText>,
    /// How long the system keeps idempotency keys after it saw them first. Default 24h.
    pub kept: Option<Duration>,
    /// Sending the same request twice is as good as once: it creates or replaces under an id of ours. Default false.
    #[serde(default)]
    pub upsert: bool,
}

impl Part for Http {
    type Ready = Ready;
    const EXAMPLE: &'static str = "erp:
  http: { system: erp, post: /sales-orders, map: erp-sales-order, idempotency_key: orderNumber, kept: 24h }
  retry: { attempts: 10, first: 1s, factor: 2, most: 5m }
  probe: { get: \"/sales-orders?ref={{orderNumber}}\", applied: \"length(items) > `0`\" }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let ask = Wanted {
            system: &self.system,
            verbs: &[
                ("post", &self.post),
                ("put", &self.put),
                ("patch", &self.patch),
                ("get", &self.get),
                ("delete", &self.delete),
            ],
            headers: &self.headers,
            map: self.map.as_deref(),
            body: self.body.as_ref(),
            content_type: self.content_type.as_deref(),
            idempotency_key: self.idempotency_key.as_ref(),
            kept: self.kept,
            upsert: self.upsert,
        }
        .build(cx)?;
        Some(Ready::Effect(Arc::new(ask)))
    }
}
