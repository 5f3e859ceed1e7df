//! The listener of those who watch an engine: `/metrics` and `/healthz`. It has a port of its own, which senders never see.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};

use super::Telemetry;
use crate::failure::Failure;
use crate::net::listener::{Limits, Listener, Receive, Received, Reply};
use crate::world::Pending;
use crate::world::metrics::text::Form;

/// How many connections there may be, and requests under way.
const CONNECTIONS_MAX: usize = 64;
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a stop waits for scrapes under way.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// The listener, from before the engine starts until after it has ended.
pub struct Watchers {
    listener: Listener,
    engine: Arc<OnceLock<Telemetry>>,
}

impl Watchers {
    /// Listens at `host:port`. There is no engine yet: nothing has started, and nothing is ready.
    pub async fn listen(address: &str) -> Result<Watchers, Failure> {
        let limits = Limits {
            connections_max: CONNECTIONS_MAX,
            requests_max: CONNECTIONS_MAX,
            answer_timeout: ANSWER_WITHIN,
            ..Limits::default()
        };
        let listener = Listener::bind_with(address, limits).await?;
        let engine = Arc::<OnceLock<Telemetry>>::default();
        listener.answer_rest(Arc::new(Doors(engine.clone())));
        Ok(Watchers { listener, engine })
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        self.listener.local_addr()
    }

    /// The engine has started.
    pub fn started(&self, engine: Telemetry) {
        self.engine.set(engine).ok();
    }

    /// Closes the port.
    pub async fn close(self) {
        self.listener.stop(STOP_WITHIN).await;
    }
}

struct Doors(Arc<OnceLock<Telemetry>>);

impl Receive for Doors {
    fn receive(&self, request: Received) -> Pending<'_, Reply> {
        Box::pin(self.answer(request))
    }

    fn body_max(&self) -> usize {
        0
    }
}

impl Doors {
    async fn answer(&self, request: Received) -> Reply {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            let reply = Reply::problem(StatusCode::METHOD_NOT_ALLOWED, "this path takes GET, HEAD");
            return reply.with_header(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        match (request.uri.path(), self.0.get()) {
            ("/metrics", Some(engine)) => {
                let accept = request.headers.get(header::ACCEPT);
                let form = Form::accepted(accept.and_then(|accept| accept.to_str().ok()));
                metrics(engine, form).await
            }
            ("/metrics", None) => said(StatusCode::SERVICE_UNAVAILABLE, "starting", &[]),
            ("/healthz/live", _) => said(StatusCode::OK, "live", &[]),
            ("/healthz/startup", None) => said(StatusCode::SERVICE_UNAVAILABLE, "starting", &[]),
            ("/healthz/startup", Some(_)) => said(StatusCode::OK, "started", &[]),
            ("/healthz/ready", engine) => {
                let causes = engine.map_or_else(|| vec!["starting".to_owned()], Telemetry::causes);
                match causes.is_empty() {
                    true => said(StatusCode::OK, "ready", &[]),
                    false => said(StatusCode::SERVICE_UNAVAILABLE, "not ready", &causes),
                }
            }
            (path, engine) => match (path.strip_prefix("/healthz/flows/"), engine) {
                (Some(flow), Some(engine)) => of_flow(engine, flow),
                (Some(_), None) => said(StatusCode::SERVICE_UNAVAILABLE, "starting", &[]),
                (None, _) => Reply::problem(
                    StatusCode::NOT_FOUND,
                    "here are /metrics, /healthz/live, /healthz/startup, /healthz/ready and /healthz/flows/FLOW",
                ),
            },
        }
    }
}

async fn metrics(engine: &Telemetry, form: Form) -> Reply {
    let text = engine.scrape(form).await;
    let reply = Reply {
        status: StatusCode::OK,
        headers: vec![(
            header::CONTENT_TYPE,
            HeaderValue::from_static(form.content_type()),
        )],
        body: text.into(),
    };
    unkept(reply)
}

fn of_flow(engine: &Telemetry, flow: &str) -> Reply {
    let Some(condition) = engine.flow(flow) else {
        return Reply::problem(StatusCode::NOT_FOUND, "there is no flow of this name");
    };
    let status = match condition.good {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    unkept(Reply::json(status, condition.document.to_string()))
}

fn said(status: StatusCode, word: &str, causes: &[String]) -> Reply {
    let document = match causes.is_empty() {
        true => serde_json::json!({ "status": word }),
        false => serde_json::json!({ "status": word, "causes": causes }),
    };
    unkept(Reply::json(status, document.to_string()))
}

fn unkept(reply: Reply) -> Reply {
    reply.with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}
