//! What is stopped and let go on at run time, canaries, and what is erased: each path asks for the rights, and hands on to the desk.

use axum::Json;

use super::api::{CanaryEnd, CanaryShare};
use super::asker::{Asker, Given};
use super::problem::Problem;
use super::rights::{Object, Right};
use crate::failure::{Class, Failure};
use crate::run::canary::{Shown, Trying};
use crate::run::privacy::Erasing;
use crate::run::toggles::{Toggled, Toggling};
use crate::store::audit::ActorKind;
use crate::store::erasure::Erased;
use crate::store::toggles::Target;

/// How many canaries are shown.
const CANARIES: usize = 100;

type Answer<T> = Result<Json<T>, Problem>;

/// What is stopped, by whom, why and until when.
#[utoipa::path(get, path = "/toggles", tag = "toggles",
    responses((status = 200, description = "What is stopped now", body = Vec<Toggled>)))]
pub(super) async fn toggles(asker: Asker) -> Answer<Vec<Toggled>> {
    let mut all = asker.desk.toggles().await?;
    all.retain(|toggled| match &toggled.target {
        Target::Flow(flow) | Target::Step(flow, _) => asker.sees(flow),
        Target::System(_) => asker.sees_all(),
    });
    Ok(Json(all))
}

/// Stops flows (`orders`), steps (`orders/erp`) or systems (`system:erp`), or lets them go on where `to` is null. All of it or nothing; `why` is
/// required for what is stopped.
#[utoipa::path(post, path = "/toggles", tag = "toggles", request_body = Toggling,
    responses((status = 200, description = "How each target is, and was", body = Vec<Toggled>)))]
pub(super) async fn toggle(asker: Asker, Given(mut wish): Given<Toggling>) -> Answer<Vec<Toggled>> {
    for target in &wish.targets {
        match target {
            Target::Flow(flow) | Target::Step(flow, _) => {
                asker.may(Right::Operate, Object::Flow(flow))?;
            }
            Target::System(_) => asker.may(Right::Operate, Object::Whole)?,
        }
    }
    wish.who = asker.who().to_owned();
    let toggled = asker.desk.toggle(&wish).await;
    match toggled {
        // What there is besides is not for everybody.
        Err(failure) if failure.class == Class::NotFound && !asker.sees_all() => {
            Err(Problem::not_there())
        }
        toggled => Ok(Json(toggled?)),
    }
}

/// The last canaries, the newest first: what each takes, and how both sides do.
#[utoipa::path(get, path = "/canaries", tag = "canaries",
    responses((status = 200, description = "The canaries", body = Vec<Shown>)))]
pub(super) async fn canaries(asker: Asker) -> Answer<Vec<Shown>> {
    Ok(Json(asker.desk.canaries(CANARIES).await?))
}

/// Lets another project take a share of the messages, beside the one that runs. Over the socket of the machine only.
#[utoipa::path(post, path = "/canaries", tag = "canaries", request_body = Trying,
    responses((status = 200, description = "The canary", body = Shown)))]
pub(super) async fn try_out(asker: Asker, Given(mut wish): Given<Trying>) -> Answer<Shown> {
    // A project reads files and variables of the machine: it comes from who may read them, too.
    if asker.actor.acting.kind != ActorKind::User {
        let why =
            "a canary begins at the command line of the engine's machine: `crossdock canary start`";
        return Err(Failure::new(Class::Forbidden, why).into());
    }
    wish.who = asker.who().to_owned();
    Ok(Json(asker.desk.try_out(&wish).await?))
}

/// Lets the canary that runs take another share.
#[utoipa::path(post, path = "/canaries:share", tag = "canaries", request_body = CanaryShare,
    responses((status = 200, description = "The canary", body = Shown)))]
pub(super) async fn share(asker: Asker, Given(wish): Given<CanaryShare>) -> Answer<Shown> {
    Ok(Json(asker.desk.share_out(wish.share).await?))
}

/// Lets the canary's revision run for all. Needs the right `deploy`, or `approve` where somebody else than who began it must do that.
#[utoipa::path(post, path = "/canaries:promote", tag = "canaries", request_body = CanaryEnd,
    responses((status = 200, description = "The canary", body = Shown)))]
pub(super) async fn promote(asker: Asker, Given(wish): Given<CanaryEnd>) -> Answer<Shown> {
    let canary = asker.store().canary().await?;
    let other = canary.is_some_and(|canary| canary.terms.other_promotes);
    if !(other && asker.has(Right::Approve)) {
        asker.may(Right::Deploy, Object::Whole)?;
    }
    Ok(Json(asker.desk.promote(asker.who(), &wish.why).await?))
}

/// Lets the canary take nothing any more. What it has accepted ends under it.
#[utoipa::path(post, path = "/canaries:stop", tag = "canaries", request_body = CanaryEnd,
    responses((status = 200, description = "The canary", body = Shown)))]
pub(super) async fn stop(asker: Asker, Given(wish): Given<CanaryEnd>) -> Answer<Shown> {
    Ok(Json(asker.desk.stop_canary(asker.who(), &wish.why).await?))
}

/// Takes what ended messages with a business key hold out of the store: bodies, requests, answers, texts and personal keys. With `dry_run`, which
/// is the default, it only counts. What has not ended is named and left.
#[utoipa::path(post, path = "/personal:erase", tag = "personal", request_body = Erasing,
    responses((status = 200, description = "What was erased, or would be", body = Erased)))]
pub(super) async fn erase(asker: Asker, Given(mut wish): Given<Erasing>) -> Answer<Erased> {
    wish.who = asker.who().to_owned();
    Ok(Json(asker.desk.erase(&wish).await?))
}
