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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::{Attempt, Effect, Probed};
    use crate::failure::Class;
    use crate::sink::SinkKind;
    use crate::step::bench::Bench;
    use crate::system::stub::{Reply, Stub, answer};

    const ORDER: &str = r#"{"orderNumber": "SO/1", "total": 19.90}"#;

    fn sink(bench: &Bench, entry: &str) -> Arc<dyn Effect> {
        match bench.build::<SinkKind>(entry) {
            (Some(Ready::Effect(effect)), found) if found.is_empty() => effect,
            (_, found) => panic!("{entry}: {found:?}"),
        }
    }

    #[tokio::test]
    async fn a_message_becomes_a_request_and_can_be_sent_again() {
        let stub = Stub::start(|_| Reply::Bytes(answer(201, "", r#"{"id": 7}"#))).await;
        let auth = "  auth: { bearer: { token: hunter2 } }\n";
        let bench = Bench::new().system(&stub.system(auth, "")).mapping(
            "short",
            "mapping: short\nfields: { number: orderNumber, total: total }\n",
        );
        let entry = "http: { system: erp, post: '/orders?ref={{orderNumber}}', map: short, headers: { X-Ref: '{{orderNumber}}' }, idempotency_key: orderNumber }";
        let sink = sink(&bench, entry);
        let request = sink.prepare(&bench.message(ORDER), &bench.cx()).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&request.bytes),
            r#"{"method":"POST","path":"/orders?ref=SO%2F1","headers":{"content-type":"application/json","x-ref":"SO/1"},"body":{"number":"SO/1","total":19.90}}"#
        );
        assert_eq!(request.idempotency_key.as_deref(), Some("SO/1"));
        for _ in 0..2 {
            let Attempt::Applied(answer) = sink.perform(&request).await else {
                panic!("it was not applied");
            };
            let text = String::from_utf8_lossy(&answer.bytes).into_owned();
            assert_eq!(text, r#"{"status":201,"headers":{},"body":{"id": 7}}"#);
        }
        let seen = stub.seen();
        assert_eq!(seen[0].body, r#"{"number":"SO/1","total":19.90}"#);
        assert_eq!(seen[0].head, seen[1].head);
        assert!(seen[0].head.contains("idempotency-key: SO/1"));
        assert!(seen[0].head.contains("authorization: Bearer hunter2"));
    }

    #[tokio::test]
    async fn the_whole_body_is_sent_where_nothing_else_is_said() {
        let stub = Stub::start(|_| Reply::Bytes(answer(200, "", ""))).await;
        let bench = Bench::new().system(&stub.system("", ""));
        let sink = sink(
            &bench,
            "http: { system: erp, put: /x, content_type: text/csv, upsert: true }",
        );
        let request = sink.prepare(&bench.message("a,b\n"), &bench.cx()).unwrap();
        assert!(matches!(sink.perform(&request).await, Attempt::Applied(_)));
        let seen = &stub.seen()[0];
        assert_eq!(seen.body, "a,b\n");
        assert!(
            seen.head.contains("content-type: text/csv"),
            "{}",
            seen.head
        );
    }

    #[tokio::test]
    async fn a_probe_asks_whether_it_is_there() {
        let stub = Stub::start(|seen| {
            Reply::Bytes(match seen.head.split(' ').nth(1) {
                Some("/orders?ref=A") => answer(200, "", r#"{"items": [1]}"#),
                Some("/orders?ref=B") => answer(200, "", r#"{"items": []}"#),
                Some("/orders?ref=C") => answer(200, "", r#"{"items": null}"#),
                _ => answer(500, "", ""),
            })
        })
        .await;
        let bench = Bench::new().system(&stub.system("", ""));
        let entry = "http: { system: erp, post: /orders }\nprobe: { get: '/orders?ref={{n}}', applied: 'length(items) > `0`', settle: 5s }\n";
        let sink = sink(&bench, entry);
        assert_eq!(sink.promises().probe_settle_ms, Some(5_000));
        for (number, expect) in [
            ("A", "applied"),
            ("B", "absent"),
            ("C", "mapping"),
            ("D", "unavailable"),
        ] {
            let message = bench.message(&format!(r#"{{"n": "{number}"}}"#));
            let request = sink.prepare(&message, &bench.cx()).unwrap();
            let probed = match sink.probe(&message, &request).await {
                Probed::Applied(_) => "applied".to_owned(),
                Probed::Absent => "absent".to_owned(),
                Probed::Failed(failure) | Probed::Held(failure) => failure.class.to_string(),
            };
            assert_eq!(probed, expect, "{number}");
        }
    }

    #[tokio::test]
    async fn a_key_must_be_a_text() {
        let bench = Bench::new().system("system: erp\nhttp: { base_url: 'http://127.0.0.1:1' }\n");
        let sink = sink(
            &bench,
            "http: { system: erp, post: /x, idempotency_key: n }",
        );
        let class = |body: &str| {
            sink.prepare(&bench.message(body), &bench.cx())
                .unwrap_err()
                .class
        };
        assert_eq!(class("{}"), Class::Mapping);
        assert_eq!(class(r#"{"n": ""}"#), Class::Mapping);
        assert_eq!(class(r#"{"n": "a\nb"}"#), Class::Mapping);
    }
}
