//! What the API does: each path asks for the rights that this verb needs here, and hands on to the desk. It decides nothing else.

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::api::{Act, ActOnOne, Deploy, MakeList, RunsAgain};
use super::asker::{Asker, Given, Within};
use super::problem::Problem;
use super::rights::{BULK_MAX, Object, Right};
use crate::failure::Failure;
use crate::run::again::{From as Begin, Receipt};
use crate::run::deploy::Deployed;
use crate::run::desk::{Acted, Report, Retry, Verb, Which};
use crate::run::replay::Listed;
use crate::store::exceptions::ExceptionId;
use crate::store::replays::ReplayState;

/// How many exceptions or runs one request may name.
const NAMED_MAX: usize = 1_000;

type Answer<T> = Result<Json<T>, Problem>;

/// The right that a verb needs, for one exception.
fn right_for(verb: &Verb) -> Right {
    match verb {
        Verb::Assign { .. } | Verb::Note { .. } | Verb::Snooze { .. } => Right::Note,
        Verb::Retry {
            how: Retry::Plain, ..
        } => Right::Retry,
        Verb::Edit { .. } => Right::Edit,
        // They end or leave out something, or say what nobody can check.
        Verb::Discard { .. } | Verb::ByHand { .. } | Verb::Skip { .. } | Verb::Retry { .. } => {
            Right::Operate
        }
    }
}

/// Does a verb about exceptions, each by itself: some may be refused while others are done. Many at once need the right `operate`, more than
/// 1,000 the right `approve`, too. More than `admin.approval.above` wait for a second person: `approval` is the request's number then.
#[utoipa::path(post, path = "/exceptions:act", tag = "exceptions", request_body = Act,
    responses((status = 200, description = "For how many it was done, and why not for others", body = Report)))]
pub(super) async fn act(asker: Asker, Given(wish): Given<Act>) -> Answer<Report> {
    few(wish.which.ids.len())?;
    asker.may(right_for(&wish.verb), Object::Flows)?;
    if wish.which.ids.len() != 1 {
        asker.may(Right::Operate, Object::Flows)?;
    }
    reach(&asker, &wish.which).await?;
    let chosen = asker.desk.choose(&wish.which).await?;
    let many = chosen.many;
    // Where a second person approves, that is enough.
    if many > BULK_MAX && !asker.desk.needs_second(&wish.verb, many) {
        asker.may(Right::Approve, Object::Flows)?;
    }
    let report = asker
        .desk
        .act_on_chosen(&chosen, &wish.verb, asker.who(), wish.dry_run)
        .await?;
    Ok(Json(report))
}

/// Whether all that is chosen is theirs.
async fn reach(asker: &Asker, which: &Which) -> Result<(), Problem> {
    if asker.sees_all() {
        return Ok(());
    }
    if let Some(flow) = &which.flow {
        return asker.may(Right::Metadata, Object::Flow(flow));
    }
    if which.ids.is_empty() {
        return asker.may(Right::Metadata, Object::Whole);
    }
    for id in &which.ids {
        let found = asker.store().exception(ExceptionId(*id)).await?;
        let found = found.ok_or_else(Problem::not_there)?;
        asker.may(Right::Metadata, Object::Flow(&found.row.flow))?;
    }
    Ok(())
}

fn few(named: usize) -> Result<(), Problem> {
    match named > NAMED_MAX {
        false => Ok(()),
        true => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "validation",
            format!("{named} are named, at most {NAMED_MAX} can be"),
        )
        .help("choose by flow, class or issue, or ask several times")),
    }
}

/// That something is done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// It is.
    done: bool,
}

/// Does a verb about one exception. With `If-Match` only if nothing was done about it since; else 412.
#[utoipa::path(post, path = "/exceptions/{id}:act", tag = "exceptions", request_body = ActOnOne,
    params(("id" = i64, Path, description = "Its number"), ("If-Match" = Option<String>, Header, description = "The `ETag` of the exception")),
    responses((status = 200, description = "It is done", body = Done)))]
pub(super) async fn act_on_one(
    asker: Asker,
    Within(id): Within<i64>,
    headers: HeaderMap,
    Given(wish): Given<ActOnOne>,
) -> Answer<Done> {
    let found = asker.store().exception(ExceptionId(id)).await?;
    let found = found.ok_or_else(Problem::not_there)?;
    asker.may(right_for(&wish.verb), Object::Flow(&found.row.flow))?;
    let version = if_match(&headers, id)?;
    let acted = asker
        .desk
        .act_on_one(id, &wish.verb, asker.who(), version)
        .await?;
    match acted {
        Acted::Done => Ok(Json(Done { done: true })),
        Acted::Changed => Err(changed()),
        Acted::Refused(why) => Err(Problem::new(StatusCode::CONFLICT, "refused", why)),
    }
}

fn changed() -> Problem {
    let detail = "somebody has done something about it since you looked";
    Problem::new(StatusCode::PRECONDITION_FAILED, "changed", detail)
        .help("look at it again, and send its new `ETag`")
}

/// The version that `If-Match` names; `None`: any.
fn if_match(headers: &HeaderMap, id: i64) -> Result<Option<u32>, Problem> {
    let Some(given) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = given.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let tag = text.trim_matches('"');
    let version = tag
        .split_once('-')
        .filter(|(of, _)| *of == id.to_string())
        .and_then(|(_, version)| version.parse().ok());
    version.map(Some).ok_or_else(changed)
}

/// Does runs again, each by itself: some may be refused while others go on. More than one, or as something new, needs the right `operate`.
#[utoipa::path(post, path = "/runs:again", tag = "runs", request_body = RunsAgain,
    responses((status = 200, description = "A receipt for each", body = Vec<Receipt>)))]
pub(super) async fn again(asker: Asker, Given(wish): Given<RunsAgain>) -> Answer<Vec<Receipt>> {
    few(wish.runs.len())?;
    let plain = wish.how.from == Begin::Resume && !wish.how.as_new;
    if wish.runs.len() != 1 || !plain {
        asker.may(Right::Operate, Object::Flows)?;
    }
    if !asker.sees_all() {
        for run in &wish.runs {
            let found = asker.store().run(&run.to_string()).await?;
            let found = found.ok_or_else(Problem::not_there)?;
            asker.may(Right::Retry, Object::Flow(&found.row.flow))?;
        }
    }
    let why = wish.why.as_deref();
    let receipts = asker
        .desk
        .again(&wish.runs, &wish.how, asker.who(), why, wish.dry_run)
        .await?;
    Ok(Json(receipts))
}

/// Freezes a filter into a list of runs, which the engine does again at a rate. More than 1,000 need the right `approve`, too; more than
/// `admin.approval.above` wait for a second person: `approval` is the request's number then.
#[utoipa::path(post, path = "/replays", tag = "replays", request_body = MakeList,
    responses((status = 200, description = "The list, or what it would be", body = Listed)))]
pub(super) async fn list(asker: Asker, Given(wish): Given<MakeList>) -> Answer<Listed> {
    match &wish.list.flow {
        Some(flow) => asker.may(Right::Operate, Object::Flow(flow))?,
        None => asker.may(Right::Operate, Object::Whole)?,
    }
    let would = asker.desk.list(&wish.list, asker.who(), true).await?;
    if would.runs > BULK_MAX && !asker.desk.needs_second_again(would.runs) {
        asker.may(Right::Approve, Object::Flows)?;
    }
    if wish.dry_run {
        return Ok(Json(would));
    }
    let listed = asker
        .desk
        .list_up_to(&wish.list, asker.who(), would.runs.max(BULK_MAX));
    let listed = listed.await?;
    Ok(Json(listed))
}

/// Begins no more items of a list for a while.
#[utoipa::path(post, path = "/replays/{id}:pause", tag = "replays", params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, description = "Whether it could be; not if it has ended", body = bool, content_type = "application/json")))]
pub(super) async fn pause_list(asker: Asker, Within(id): Within<i64>) -> Answer<bool> {
    turn(&asker, id, ReplayState::Paused).await
}

/// Lets a list go on.
#[utoipa::path(post, path = "/replays/{id}:resume", tag = "replays", params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, description = "Whether it could be; not if it has ended", body = bool, content_type = "application/json")))]
pub(super) async fn resume_list(asker: Asker, Within(id): Within<i64>) -> Answer<bool> {
    turn(&asker, id, ReplayState::Running).await
}

/// Ends a list: what was begun of it goes on.
#[utoipa::path(post, path = "/replays/{id}:abort", tag = "replays", params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, description = "Whether it could be; not if it has ended", body = bool, content_type = "application/json")))]
pub(super) async fn abort_list(asker: Asker, Within(id): Within<i64>) -> Answer<bool> {
    turn(&asker, id, ReplayState::Aborted).await
}

async fn turn(asker: &Asker, id: i64, to: ReplayState) -> Answer<bool> {
    Ok(Json(asker.desk.turn_list(id, to).await?))
}

/// Loads the project from the disk and lets it run, if it is sound; with `dry_run` only says what that would change.
#[utoipa::path(post, path = "/project:reload", tag = "project", request_body = Deploy,
    responses((status = 200, description = "What became of it", body = Deployed)))]
pub(super) async fn reload(asker: Asker, Given(wish): Given<Deploy>) -> Answer<Deployed> {
    if wish.revision.is_some() {
        return Err(Failure::validation(
            "a reload takes no `revision`: it loads what is on the disk",
        )
        .into());
    }
    let why = wish.why.as_deref();
    let done = asker.desk.reload(asker.who(), why, wish.dry_run).await?;
    Ok(Json(done))
}

/// Withdraws what runs: in its place runs the revision that is named, or the one before. `why` is required.
#[utoipa::path(post, path = "/project:rollback", tag = "project", request_body = Deploy,
    responses((status = 200, description = "What became of it", body = Deployed)))]
pub(super) async fn roll_back(asker: Asker, Given(wish): Given<Deploy>) -> Answer<Deployed> {
    let (to, why) = (wish.revision.as_deref(), wish.why.unwrap_or_default());
    let done = asker
        .desk
        .roll_back(to, asker.who(), &why, wish.dry_run)
        .await?;
    Ok(Json(done))
}

/// Lets a revision run again that was withdrawn.
#[utoipa::path(post, path = "/project:lift", tag = "project", request_body = Deploy,
    responses((status = 200, description = "What became of it", body = Deployed)))]
pub(super) async fn lift(asker: Asker, Given(wish): Given<Deploy>) -> Answer<Deployed> {
    if wish.dry_run {
        return Err(Failure::validation("a lift cannot be tried: leave out `dry_run`").into());
    }
    let which = wish.revision.unwrap_or_default();
    let why = wish.why.as_deref();
    Ok(Json(asker.desk.lift(&which, asker.who(), why).await?))
}
