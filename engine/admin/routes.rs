//! The one table of paths: each with the right that it needs. The router and the document are made of it, so neither has what the other has not.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, MethodRouter, get, on};
use utoipa::openapi::path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, ObjectBuilder, OpenApi, OpenApiBuilder, Paths, Ref,
    RefOr, Response, Schema, Type,
};
use utoipa::{PartialSchema, Path, ToSchema};

use super::problem::Problem;
use super::rights::{Object, Right};
use super::{Door, acts, approvals, changes, guard, read, session, shadows, stops, taps, tokens};

/// Before every path.
pub(super) const BASE: &str = "/api/v1";
/// How long reading may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a sign-in may take, with all that the provider is asked for it.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long reading everything may take: the whole audit log.
const LONG_TIMEOUT: Duration = Duration::from_secs(120);

/// A row of the table.
pub(super) struct Row {
    /// The path as people write it, below `BASE`: `/exceptions/{id}:act`.
    path: String,
    /// The method.
    method: HttpMethod,
    /// The right that is needed. A path may ask for more.
    pub(super) right: Right,
    /// What it is about.
    pub(super) reach: Reach,
    /// How long it may take, if it only reads.
    pub(super) within: Duration,
    /// Whether its answer holds a secret, which is not kept.
    pub(super) secret: bool,
    /// Whether anybody may come: nobody is known here yet.
    open: bool,
    operation: Operation,
    schemas: Vec<(String, RefOr<Schema>)>,
    answer: MethodRouter,
}

/// What a path is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Flows and what belongs to them: it looks itself which ones.
    Flows,
    /// What belongs to no flow.
    Whole,
}

impl Reach {
    pub(super) fn object(self) -> Object<'static> {
        match self {
            Reach::Flows => Object::Flows,
            Reach::Whole => Object::Whole,
        }
    }
}

/// The table. A new path is a function with its description, and a row here.
fn table() -> Vec<Row> {
    use Reach::{Flows, Whole};
    use Right::{Approve, Audit, Deploy, Erase, Metadata, Note, Operate, Retry, Tokens};
    vec![
        row::<read::__path_status, _, _>(Metadata, Flows, read::status),
        row::<read::__path_flows, _, _>(Metadata, Flows, read::flows),
        row::<read::__path_flow, _, _>(Metadata, Flows, read::flow),
        row::<taps::__path_tap, _, _>(Metadata, Flows, taps::tap),
        row::<read::__path_runs, _, _>(Metadata, Flows, read::runs),
        row::<read::__path_run, _, _>(Metadata, Flows, read::run),
        row::<acts::__path_again, _, _>(Retry, Flows, acts::again),
        row::<read::__path_search, _, _>(Metadata, Flows, read::search),
        row::<read::__path_journey, _, _>(Metadata, Flows, read::journey),
        row::<read::__path_exceptions, _, _>(Metadata, Flows, read::exceptions),
        row::<read::__path_exception, _, _>(Metadata, Flows, read::exception),
        row::<acts::__path_act, _, _>(Note, Flows, acts::act),
        row::<acts::__path_act_on_one, _, _>(Note, Flows, acts::act_on_one),
        row::<read::__path_issues, _, _>(Metadata, Flows, read::issues),
        row::<read::__path_books, _, _>(Metadata, Flows, read::books),
        row::<read::__path_systems, _, _>(Metadata, Whole, read::systems),
        row::<read::__path_replays, _, _>(Metadata, Whole, read::replays),
        row::<read::__path_replay, _, _>(Metadata, Whole, read::replay),
        row::<read::__path_replay_items, _, _>(Metadata, Whole, read::replay_items),
        row::<acts::__path_list, _, _>(Operate, Flows, acts::list),
        row::<acts::__path_pause_list, _, _>(Operate, Whole, acts::pause_list),
        row::<acts::__path_resume_list, _, _>(Operate, Whole, acts::resume_list),
        row::<acts::__path_abort_list, _, _>(Operate, Whole, acts::abort_list),
        row::<read::__path_revisions, _, _>(Metadata, Whole, read::revisions),
        row::<acts::__path_reload, _, _>(Deploy, Whole, acts::reload),
        row::<acts::__path_roll_back, _, _>(Deploy, Whole, acts::roll_back),
        row::<acts::__path_lift, _, _>(Deploy, Whole, acts::lift),
        row::<stops::__path_toggles, _, _>(Metadata, Flows, stops::toggles),
        row::<stops::__path_toggle, _, _>(Operate, Flows, stops::toggle),
        row::<stops::__path_canaries, _, _>(Metadata, Whole, stops::canaries),
        row::<stops::__path_try_out, _, _>(Deploy, Whole, stops::try_out),
        row::<stops::__path_share, _, _>(Deploy, Whole, stops::share),
        row::<stops::__path_promote, _, _>(Metadata, Whole, stops::promote),
        row::<stops::__path_stop, _, _>(Operate, Whole, stops::stop),
        row::<shadows::__path_shadows, _, _>(Metadata, Whole, shadows::shadows),
        row::<shadows::__path_begin_shadow, _, _>(Deploy, Whole, shadows::begin_shadow),
        row::<shadows::__path_stop_shadow, _, _>(Operate, Whole, shadows::stop_shadow),
        row::<approvals::__path_approvals, _, _>(Metadata, Flows, approvals::approvals),
        row::<approvals::__path_approve, _, _>(Approve, Flows, approvals::approve),
        row::<approvals::__path_refuse, _, _>(Metadata, Flows, approvals::refuse),
        row::<read::__path_audit, _, _>(Audit, Whole, read::audit),
        row::<read::__path_verify, _, _>(Audit, Whole, read::verify).within(LONG_TIMEOUT),
        row::<stops::__path_erase, _, _>(Erase, Whole, stops::erase),
        row::<tokens::__path_tokens, _, _>(Tokens, Whole, tokens::tokens),
        row::<tokens::__path_create, _, _>(Tokens, Whole, tokens::create).secret(),
        row::<tokens::__path_revoke, _, _>(Tokens, Whole, tokens::revoke),
        row::<session::__path_begin, _, _>(Metadata, Flows, session::begin).open(),
        row::<session::__path_callback, _, _>(Metadata, Flows, session::callback).open(),
        row::<session::__path_session, _, _>(Metadata, Flows, session::session),
        row::<session::__path_end, _, _>(Metadata, Flows, session::end),
        row::<session::__path_sessions, _, _>(Tokens, Whole, session::sessions),
        row::<session::__path_end_all, _, _>(Tokens, Whole, session::end_all),
        row::<changes::__path_changes, _, _>(Metadata, Flows, changes::changes),
        row::<__path_openapi, _, _>(Metadata, Flows, openapi),
    ]
}

/// A row of the table: a path, by its description, and the right that it needs.
fn row<P, H, T>(right: Right, reach: Reach, answer: H) -> Row
where
    P: Path + utoipa::__dev::SchemaReferences,
    H: Handler<T, ()>,
    T: 'static,
{
    let method = P::methods().into_iter().next().unwrap_or(HttpMethod::Get);
    let mut schemas = Vec::new();
    P::schemas(&mut schemas);
    let filter = match method {
        HttpMethod::Post => MethodFilter::POST,
        _ => MethodFilter::GET,
    };
    Row {
        path: P::path(),
        method,
        right,
        reach,
        within: QUERY_TIMEOUT,
        secret: false,
        open: false,
        operation: P::operation(),
        schemas,
        answer: on(filter, answer),
    }
}

impl Row {
    fn within(mut self, within: Duration) -> Row {
        self.within = within;
        self
    }

    fn secret(mut self) -> Row {
        self.secret = true;
        self
    }

    fn open(mut self) -> Row {
        self.open = true;
        self.within(SIGN_IN_TIMEOUT)
    }

    fn is_post(&self) -> bool {
        matches!(self.method, HttpMethod::Post)
    }

    /// The path as the router writes it: a verb is a segment of its own.
    fn routed(&self) -> String {
        let path = match self.path.rsplit_once(':') {
            Some((noun, verb)) => format!("{noun}/-/{verb}"),
            None => self.path.clone(),
        };
        format!("{BASE}{path}")
    }
}

/// The router of a door.
pub(super) fn router(door: &Arc<Door>) -> Router {
    let (mut router, mut open) = (Router::new(), Router::new());
    for row in table() {
        let (path, answer) = (row.routed(), row.answer.clone());
        let is_open = row.open;
        let ruled = (Arc::new(row), door.clone());
        if is_open {
            open = open.route(&path, answer.layer(from_fn_with_state(ruled, guard::open)));
            continue;
        }
        let answer = answer.layer(from_fn_with_state(ruled, guard::guard));
        router = router.route(&path, answer);
    }
    let none = || async { Problem::not_there().into_response() };
    let other = || async {
        let detail = "this path does not take this method";
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).into_response()
    };
    router
        .fallback(none)
        .method_not_allowed_fallback(other)
        .layer(from_fn_with_state(door.clone(), guard::know))
        .merge(open.route("/healthz/live", get(live)))
        // Bodies have limits of their own, by the door through which they come.
        .layer(DefaultBodyLimit::disable())
}

/// That the process turns.
async fn live() -> axum::Json<serde_json::Value> {
    axum::Json(serde_json::json!({ "status": "live" }))
}

/// A verb behind a noun is a segment of its own for the router.
pub(super) fn routed<B>(mut request: http::Request<B>) -> http::Request<B> {
    if *request.method() != Method::POST {
        return request;
    }
    let path = request.uri().path();
    if path.contains("/-/") {
        *request.uri_mut() = Uri::from_static("/-");
        return request;
    }
    let begin = path.rfind('/').map_or(0, |at| at + 1);
    let Some((noun, verb)) = path[begin..].rsplit_once(':') else {
        return request;
    };
    let query = request.uri().query();
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("{}{noun}/-/{verb}{query}", &path[..begin]);
    if let Ok(uri) = path.parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    request
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "api",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
async fn openapi() -> axum::Json<OpenApi> {
    axum::Json(document())
}

/// What the admin API offers, as OpenAPI 3.1.
pub fn document() -> OpenApi {
    let mut paths = Paths::new();
    let mut components = ComponentsBuilder::new()
        .schema("Problem", Problem::schema())
        .security_scheme(
            "token",
            SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
        )
        .security_scheme(
            "session",
            SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description(
                "__Host-crossdock-session",
                "A browser's session; without the prefix where the API has no TLS. What changes something needs the header `Crossdock-Request`, too.",
            ))),
        );
    let mut schemas = Vec::new();
    <Problem as ToSchema>::schemas(&mut schemas);
    for row in table() {
        let path = format!("{BASE}{}", row.path);
        paths.add_path_operation(path, vec![row.method.clone()], described(&row));
        schemas.extend(row.schemas);
    }
    for (name, schema) in schemas {
        components = components.schema(name, schema);
    }
    let info = InfoBuilder::new()
        .title("Crossdock admin API")
        .version("1")
        .description(Some(
            "What operators see and do. Every answer that is no success is a problem (RFC 9457) with a `code` that stays the same.",
        ))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components.build()))
        .security(Some(
            ["token", "session"].map(|way| SecurityRequirement::new(way, [] as [&str; 0])),
        ))
        .build()
}

/// What all paths have in common.
fn described(row: &Row) -> Operation {
    let mut operation = row.operation.clone();
    let needs = match row.open {
        true => "Needs no right.".to_owned(),
        false => format!("Needs the right `{}`.", row.right.name()),
    };
    if row.open {
        operation.security = Some(Vec::new());
    }
    operation.description = Some(match operation.description.take() {
        Some(said) if !said.is_empty() => format!("{said}\n\n{needs}"),
        _ => needs,
    });
    let mut problems = vec![400, 401, 403, 404, 405, 429, 503];
    if row.is_post() {
        problems.extend([408, 409, 412, 413, 415, 422]);
        let parameters = operation.parameters.get_or_insert_default();
        parameters.push(idempotency());
    }
    for status in problems {
        let reason = StatusCode::from_u16(status).ok();
        let reason = reason.and_then(|status| status.canonical_reason());
        let mut response = Response::new(reason.unwrap_or("Problem"));
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        response
            .content
            .insert("application/problem+json".to_owned(), content);
        let responses = &mut operation.responses.responses;
        responses.insert(status.to_string(), RefOr::T(response));
    }
    operation
}

fn idempotency() -> Parameter {
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .description(Some(
            "Who asks once more with the same key within 24 h gets the first answer, and nothing is done twice.",
        ))
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(1))
                .max_length(Some(200)),
        ))
        .build()
}
