//! What waits for a second person: seen by those whose flows it is about, decided by those with the right `approve`.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asker::{Asker, Given, Within};
use super::problem::Problem;
use super::rights::{Object, Right};
use crate::store::approvals::Approval;

/// How many requests are shown.
const SHOWN: usize = 200;

type Answer<T> = Result<Json<T>, Problem>;

/// A decision about a request.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decides {
    /// Why; required to refuse.
    #[serde(default)]
    pub why: Option<String>,
}

/// Whom a request is for: those who may act on its flow, or on all.
fn object(approval: &Approval) -> Object<'_> {
    approval.flow.as_deref().map_or(Object::Whole, Object::Flow)
}

/// Whether they have asked for it themselves.
fn is_own(asker: &Asker, approval: &Approval) -> bool {
    approval.who == asker.who() && approval.kind == asker.actor.acting.kind.name()
}

/// Whether it is theirs to see.
fn is_seen(asker: &Asker, approval: &Approval) -> bool {
    let theirs = match &approval.flow {
        Some(flow) => asker.sees(flow),
        None => asker.sees_all(),
    };
    theirs || is_own(asker, approval)
}

/// A request as they may see it: bodies are for those who may see bodies, and for who has written them.
fn shown(asker: &Asker, mut approval: Approval) -> Approval {
    if asker.has(Right::Payload) || is_own(asker, &approval) {
        return approval;
    }
    for path in ["/exceptions/edit/body", "/exceptions/retry/answer"] {
        if let Some(body) = approval.verb.pointer_mut(path)
            && !body.is_null()
        {
            *body = "(not shown: the right `payload` is missing)".into();
        }
    }
    approval
}

/// The last requests, the newest first: who asks for what, and what became of it.
#[utoipa::path(get, path = "/approvals", tag = "approvals",
    responses((status = 200, description = "The requests", body = Vec<Approval>)))]
pub(super) async fn approvals(asker: Asker) -> Answer<Vec<Approval>> {
    let mut all = asker.store().approvals(SHOWN).await?;
    all.retain(|approval| is_seen(&asker, approval));
    let all = all.into_iter().map(|approval| shown(&asker, approval));
    Ok(Json(all.collect()))
}

/// Approves what somebody else has asked for: the engine does it from now on.
#[utoipa::path(post, path = "/approvals/{id}:approve", tag = "approvals", request_body = Decides, params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, description = "The request", body = Approval)))]
pub(super) async fn approve(
    asker: Asker,
    Within(id): Within<i64>,
    Given(wish): Given<Decides>,
) -> Answer<Approval> {
    let found = found(&asker, id).await?;
    asker.may(Right::Approve, object(&found))?;
    let why = wish.why.as_deref();
    let approved = asker.desk.approve(id, asker.who(), why).await?;
    Ok(Json(shown(&asker, approved)))
}

/// Refuses what somebody has asked for, or ends what is approved and not done yet. Needs the right `approve`, but for who takes back what they have asked for themselves.
#[utoipa::path(post, path = "/approvals/{id}:refuse", tag = "approvals", request_body = Decides, params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, description = "The request", body = Approval)))]
pub(super) async fn refuse(
    asker: Asker,
    Within(id): Within<i64>,
    Given(wish): Given<Decides>,
) -> Answer<Approval> {
    let found = found(&asker, id).await?;
    match is_own(&asker, &found) {
        true => asker.may(Right::Metadata, Object::Flows)?,
        false => asker.may(Right::Approve, object(&found))?,
    }
    let why = wish.why.unwrap_or_default();
    let refused = asker.desk.refuse(id, asker.who(), &why).await?;
    Ok(Json(shown(&asker, refused)))
}

/// A request that is theirs to see.
async fn found(asker: &Asker, id: i64) -> Result<Approval, Problem> {
    let found = asker.store().approval(id).await?;
    let found = found.ok_or_else(Problem::not_there)?;
    match &found.flow {
        Some(flow) if !asker.sees(flow) && !is_own(asker, &found) => Err(Problem::not_there()),
        _ => Ok(found),
    }
}
