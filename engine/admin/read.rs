//! What the API shows: each path reads the store or the running project, and leaves out what is not theirs who ask.

use axum::Json;
use axum::http::HeaderName;
use axum::http::header;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::asker::{Asked, Asker, Page, Paged, Within, cut};
use super::problem::Problem;
use super::rights::{Object, Right};
use super::views::{
    Audited, Books, Cause, Exception, Flow, Item, Replay, Run, System, WholeException, WholeRun,
};
use crate::failure::Class;
use crate::run::deploy::Revisions;
use crate::store::audit::AuditFilter;
use crate::store::commit::RunId;
use crate::store::exceptions::{ExceptionFilter, ExceptionId, ExceptionState};
use crate::store::replays::ReplayId;
use crate::store::runs::{RunFilter, RunState};

/// How many deployments and lists are shown.
const DEPLOYMENTS: usize = 100;
const LISTS: usize = 1_000;

type Answer<T> = Result<Json<T>, Problem>;

/// What runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// The program's version.
    version: &'static str,
    /// The project's revision.
    revision: Option<String>,
    /// The process.
    process: u32,
    /// Who asks.
    actor: String,
    /// What they may do.
    roles: Vec<&'static str>,
    /// For which flows.
    flows: Vec<String>,
}

/// What runs, and who asks.
#[utoipa::path(get, path = "/status", tag = "engine", responses((status = 200, description = "The engine", body = Status)))]
pub(super) async fn status(asker: Asker) -> Answer<Status> {
    let roles = asker.actor.roles.iter();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        revision: asker.desk.revision().map(|revision| revision.to_string()),
        process: std::process::id(),
        actor: asker.who().to_owned(),
        roles: roles.map(|role| role.name()).collect(),
        flows: asker.actor.flows.to_vec(),
    }))
}

fn all_flows(asker: &Asker) -> Vec<Flow> {
    let plans = asker.desk.plans().into_iter();
    plans
        .filter(|plan| asker.sees(&plan.flow))
        .map(|plan| Flow {
            flow: plan.flow.to_string(),
            revision: plan.revision.to_string(),
            description: plan.description.clone(),
            source: plan.source_kind.to_owned(),
            steps: plan.nodes.iter().map(|node| node.id.to_string()).collect(),
        })
        .collect()
}

/// The flows of the project that runs.
#[utoipa::path(get, path = "/flows", tag = "flows", params(Paged), responses((status = 200, description = "Flows, by name", body = Page<Flow>)))]
pub(super) async fn flows(asker: Asker, Asked(paged): Asked<Paged>) -> Answer<Page<Flow>> {
    Ok(Json(Page::of_all(&paged, all_flows(&asker))?))
}

/// One flow.
#[utoipa::path(get, path = "/flows/{flow}", tag = "flows", params(("flow" = String, Path, description = "The flow")),
    responses((status = 200, description = "The flow", body = Flow)))]
pub(super) async fn flow(asker: Asker, Within(name): Within<String>) -> Answer<Flow> {
    asker.may(Right::Metadata, Object::Flow(&name))?;
    let mut flows = all_flows(&asker).into_iter();
    let found = flows.find(|flow| flow.flow == name);
    found.map(Json).ok_or_else(Problem::not_there)
}

/// Which runs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RunsQuery {
    /// Of this flow.
    flow: Option<String>,
    /// In this state: `in-flight`, `in-exception`, `delivered`, `filtered`, `discarded`, `compensated`, `superseded`.
    state: Option<String>,
    /// With this key: `SO-1001`, or `order=SO-1001`.
    key: Option<String>,
    /// How many at most. Default 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Runs, the newest first.
#[utoipa::path(get, path = "/runs", tag = "runs", params(RunsQuery), responses((status = 200, description = "Runs", body = Page<Run>)))]
pub(super) async fn runs(asker: Asker, Asked(query): Asked<RunsQuery>) -> Answer<Page<Run>> {
    let cut = cut(query.limit, query.cursor.as_deref())?;
    if asker.asks_for_others(query.flow.as_deref()) {
        return Ok(Json(Page::empty()));
    }
    let filter = RunFilter {
        flow: query.flow,
        among: asker.flows().await?,
        state: named(query.state, "state", RunState::from_name)?,
        key: query.key,
        before: cut.at.map(RunId),
        limit: cut.limit,
    };
    let mut rows = asker.store().runs(filter).await?;
    let veil = asker.veil().await?;
    asker.store().cover_rows(&veil, &mut rows).await?;
    let shown = |row: &_| Some(Run::from(row)).filter(|run| asker.sees(&run.flow));
    Ok(Json(Page::of(&cut, &rows, |row| row.run.0, shown)))
}

/// A value by its name.
fn named<T>(
    name: Option<String>,
    what: &str,
    from_name: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    match name {
        None => Ok(None),
        Some(name) => from_name(&name)
            .map(Some)
            .ok_or_else(|| Problem::unreadable(format!("there is no {what} `{name}`"))),
    }
}

/// How something is to be shown.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ShownQuery {
    /// With what is personal, which is masked otherwise. Needs the right `personal`, and is written into the audit log.
    reveal: Option<bool>,
}

/// A run with its timeline, by its number or its message's id.
#[utoipa::path(get, path = "/runs/{run}", tag = "runs", params(("run" = String, Path, description = "Its number, or its message's id"), ShownQuery),
    responses((status = 200, description = "The run", body = WholeRun)))]
pub(super) async fn run(
    asker: Asker,
    Within(which): Within<String>,
    Asked(query): Asked<ShownQuery>,
) -> Answer<WholeRun> {
    let found = asker.store().run(&which).await?;
    let mut found = found.ok_or_else(Problem::not_there)?;
    asker.may(Right::Metadata, Object::Flow(&found.row.flow))?;
    if query.reveal == Some(true) {
        let row = &found.row;
        asker.reveal(&row.flow, "run", row.run.0).await?;
    } else {
        let veil = asker.veil().await?;
        asker.store().cover_run(&veil, &mut found).await?;
    }
    Ok(Json(WholeRun::of(&found, asker.has(Right::Payload))))
}

/// What to look for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchQuery {
    /// The value of any key, `1001`, or of one, `order=1001`.
    #[param(min_length = 1)]
    q: String,
    /// How many at most. Default 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Where is it? All runs that have a key, over all flows, the oldest first.
#[utoipa::path(get, path = "/search", tag = "runs", params(SearchQuery), responses((status = 200, description = "Runs", body = Page<Run>)))]
pub(super) async fn search(asker: Asker, Asked(query): Asked<SearchQuery>) -> Answer<Page<Run>> {
    let paged = Paged {
        limit: query.limit,
        cursor: query.cursor,
    };
    found(&asker, &query.q, &paged).await
}

/// All runs that share a key, over all flows, the oldest first.
#[utoipa::path(get, path = "/journeys/{name}/{value}", tag = "runs",
    params(("name" = String, Path, description = "The key's name: `order`"), ("value" = String, Path, description = "Its value: `1001`"), Paged),
    responses((status = 200, description = "Runs", body = Page<Run>)))]
pub(super) async fn journey(
    asker: Asker,
    Within((name, value)): Within<(String, String)>,
    Asked(paged): Asked<Paged>,
) -> Answer<Page<Run>> {
    found(&asker, &format!("{name}={value}"), &paged).await
}

async fn found(asker: &Asker, key: &str, paged: &Paged) -> Answer<Page<Run>> {
    let mut rows = asker.store().journey(key).await?;
    let veil = asker.veil().await?;
    asker.store().cover_rows(&veil, &mut rows).await?;
    let seen = rows.iter().filter(|row| asker.sees(&row.flow));
    Ok(Json(Page::of_all(paged, seen.map(Run::from).collect())?))
}

/// Which exceptions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ExceptionsQuery {
    /// Of this flow.
    flow: Option<String>,
    /// Of this class: `validation`, `timeout`, ..
    class: Option<String>,
    /// In this state: `open`, `assigned`, `snoozed`, `resolved`, `discarded`. Default: all that wait for a person.
    state: Option<String>,
    /// Whatever their state.
    all: Option<bool>,
    /// With this cause: a fingerprint, or its beginning.
    issue: Option<String>,
    /// At this step.
    step: Option<String>,
    /// Of runs with this key: `1001`, or `order=1001`.
    key: Option<String>,
    /// Taken by this person.
    owner: Option<String>,
    /// How many at most. Default 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Messages that wait for a person, the newest first.
#[utoipa::path(get, path = "/exceptions", tag = "exceptions", params(ExceptionsQuery),
    responses((status = 200, description = "Exceptions", body = Page<Exception>)))]
pub(super) async fn exceptions(
    asker: Asker,
    Asked(query): Asked<ExceptionsQuery>,
) -> Answer<Page<Exception>> {
    let cut = cut(query.limit, query.cursor.as_deref())?;
    if asker.asks_for_others(query.flow.as_deref()) {
        return Ok(Json(Page::empty()));
    }
    let filter = ExceptionFilter {
        flow: query.flow,
        among: asker.flows().await?,
        class: named(query.class, "class", Class::from_name)?,
        state: named(query.state, "state", ExceptionState::from_name)?,
        settled: query.all.unwrap_or(false),
        fingerprint: query.issue,
        step: query.step,
        key: query.key,
        owner: query.owner,
        after: None,
        before: cut.at.map(ExceptionId),
        limit: cut.limit,
    };
    let rows = asker.store().exceptions(filter).await?;
    let shown = |row: &crate::store::exceptions::ExceptionRow| {
        asker.sees(&row.flow).then(|| Exception::from(row))
    };
    Ok(Json(Page::of(&cut, &rows, |row| row.id.0, shown)))
}

/// An exception with all that is known of it. Its `ETag` can be sent as `If-Match` with what is done about it.
#[utoipa::path(get, path = "/exceptions/{id}", tag = "exceptions", params(("id" = i64, Path, description = "Its number"), ShownQuery),
    responses((status = 200, description = "The exception", body = WholeException,
        headers(("ETag" = String, description = "Changes with everything that is done about it")))))]
pub(super) async fn exception(
    asker: Asker,
    Within(id): Within<i64>,
    Asked(query): Asked<ShownQuery>,
) -> Result<([(HeaderName, String); 1], Json<WholeException>), Problem> {
    let found = asker.store().exception(ExceptionId(id)).await?;
    let mut found = found.ok_or_else(Problem::not_there)?;
    asker.may(Right::Metadata, Object::Flow(&found.row.flow))?;
    if query.reveal == Some(true) {
        asker.reveal(&found.row.flow, "exception", id).await?;
    } else {
        let veil = asker.veil().await?;
        asker.store().cover_exception(&veil, &mut found).await?;
    }
    let tag = format!("\"{id}-{}\"", found.version());
    let whole = WholeException::of(&found, asker.has(Right::Payload));
    Ok(([(header::ETAG, tag)], Json(whole)))
}

/// Exceptions by cause; the causes with the most first.
#[utoipa::path(get, path = "/issues", tag = "exceptions", params(Paged), responses((status = 200, description = "Issues", body = Page<Cause>)))]
pub(super) async fn issues(asker: Asker, Asked(paged): Asked<Paged>) -> Answer<Page<Cause>> {
    let all = asker.store().issues().await?;
    let seen = all.iter().filter(|issue| asker.sees(&issue.flow));
    Ok(Json(Page::of_all(&paged, seen.map(Cause::from).collect())?))
}

/// Where every message is, by flow, and whether the sums hold.
#[utoipa::path(get, path = "/books", tag = "flows", params(Paged), responses((status = 200, description = "Books, by flow", body = Page<Books>)))]
pub(super) async fn books(asker: Asker, Asked(paged): Asked<Paged>) -> Answer<Page<Books>> {
    let all = asker.store().books().await?;
    let seen = all.iter().filter(|books| asker.sees(&books.flow));
    let seen = seen.map(|books| Books::of(&books.flow, &books.counts));
    Ok(Json(Page::of_all(&paged, seen.collect())?))
}

/// How every outside system is, and what waits for it.
#[utoipa::path(get, path = "/systems", tag = "systems", params(Paged), responses((status = 200, description = "Systems", body = Page<System>)))]
pub(super) async fn systems(asker: Asker, Asked(paged): Asked<Paged>) -> Answer<Page<System>> {
    let all = asker.store().systems().await?;
    Ok(Json(Page::of_all(
        &paged,
        all.iter().map(System::from).collect(),
    )?))
}

/// Lists of runs that are done again, the newest first.
#[utoipa::path(get, path = "/replays", tag = "replays", params(Paged), responses((status = 200, description = "Lists", body = Page<Replay>)))]
pub(super) async fn replays(asker: Asker, Asked(paged): Asked<Paged>) -> Answer<Page<Replay>> {
    let mut all = asker.store().replays(LISTS).await?;
    let veil = asker.veil().await?;
    all.iter_mut().for_each(|row| veil.list(row));
    Ok(Json(Page::of_all(
        &paged,
        all.iter().map(Replay::from).collect(),
    )?))
}

/// One list.
#[utoipa::path(get, path = "/replays/{id}", tag = "replays", params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, description = "The list", body = Replay)))]
pub(super) async fn replay(asker: Asker, Within(id): Within<i64>) -> Answer<Replay> {
    let found = asker.store().replay(ReplayId(id)).await?;
    let mut found = found.ok_or_else(Problem::not_there)?;
    asker.veil().await?.list(&mut found);
    Ok(Json(Replay::from(&found)))
}

/// The receipts of a list, in its order.
#[utoipa::path(get, path = "/replays/{id}/items", tag = "replays", params(("id" = i64, Path, description = "Its number"), Paged),
    responses((status = 200, description = "Receipts", body = Page<Item>)))]
pub(super) async fn replay_items(
    asker: Asker,
    Within(id): Within<i64>,
    Asked(paged): Asked<Paged>,
) -> Answer<Page<Item>> {
    let cut = cut(paged.limit, paged.cursor.as_deref())?;
    let after = cut.at.unwrap_or(0);
    let id = ReplayId(id);
    let found = asker.store().replay(id).await?;
    found.ok_or_else(Problem::not_there)?;
    let rows = asker.store().replay_items(id, after, cut.limit).await?;
    let page = Page::of(&cut, &rows, |row| row.n, |row| Some(Item::from(row)));
    Ok(Json(page))
}

/// What runs, what ran, and what is not to run.
#[utoipa::path(get, path = "/revisions", tag = "project", responses((status = 200, description = "Revisions", body = Revisions)))]
pub(super) async fn revisions(asker: Asker) -> Answer<Revisions> {
    Ok(Json(asker.desk.revisions(DEPLOYMENTS).await?))
}

/// Which rows of the audit log.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// By this actor.
    actor: Option<String>,
    /// Of this action, or of those that begin so: `exception`.
    action: Option<String>,
    /// About this: `exception:7`, or only `exception`.
    target: Option<String>,
    /// At this time or later, in milliseconds since 1970.
    since_ms: Option<i64>,
    /// How many at most. Default 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Who did what, the newest first.
#[utoipa::path(get, path = "/audit", tag = "audit", params(AuditQuery), responses((status = 200, description = "Rows of the audit log", body = Page<Audited>)))]
pub(super) async fn audit(asker: Asker, Asked(query): Asked<AuditQuery>) -> Answer<Page<Audited>> {
    let cut = cut(query.limit, query.cursor.as_deref())?;
    let filter = AuditFilter {
        actor: query.actor,
        action: query.action,
        target: query.target,
        since_ms: query.since_ms,
        before: cut.at,
        limit: cut.limit,
    };
    let rows = asker.store().audit(filter).await?;
    let page = Page::of(&cut, &rows, |row| row.seq, |row| Some(Audited::from(row)));
    Ok(Json(page))
}

/// An end of the audit log that was noted outside.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyQuery {
    /// `COUNT:HASH`, as the engine logs it once a day: the log must have passed it.
    head: Option<String>,
}

/// Whether the audit log is as it was written.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Proof {
    /// Whether it is.
    sound: bool,
    /// How many rows are.
    count: i64,
    /// The hash of the last one that is.
    head: String,
    /// The first row that is not.
    bad: Option<i64>,
    /// What is wrong with it.
    why: Option<String>,
}

/// Proves that nothing in the audit log was changed, dropped, reordered or cut off.
#[utoipa::path(get, path = "/audit/verify", tag = "audit", params(VerifyQuery), responses((status = 200, description = "The proof", body = Proof)))]
pub(super) async fn verify(asker: Asker, Asked(query): Asked<VerifyQuery>) -> Answer<Proof> {
    let verified = asker.store().verify_audit(query.head).await?;
    Ok(Json(Proof {
        sound: verified.bad.is_none(),
        count: verified.head.count,
        head: verified.head.hash,
        bad: verified.bad.as_ref().map(|bad| bad.seq),
        why: verified.bad.map(|bad| bad.why),
    }))
}
