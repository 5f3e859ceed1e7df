//! Shadows: each path asks for the rights, and hands on to the desk. Values of messages are for who may see bodies.

use axum::Json;

use super::api::ShadowEnd;
use super::asker::{Asker, Given};
use super::problem::Problem;
use super::rights::Right;
use crate::failure::{Class, Failure};
use crate::run::shadow::{ShadowShown, Shadowing};
use crate::store::audit::ActorKind;

/// How many shadows are shown.
const SHADOWS: usize = 20;

type Answer<T> = Result<Json<T>, Problem>;

/// The last shadows, the newest first: at how many messages each has looked, and what the candidate does otherwise. The examples need the right
/// `payload`.
#[utoipa::path(get, path = "/shadows", tag = "shadows",
    responses((status = 200, description = "The shadows", body = Vec<ShadowShown>)))]
pub(super) async fn shadows(asker: Asker) -> Answer<Vec<ShadowShown>> {
    let all = asker.desk.shadows(SHADOWS).await?.into_iter();
    Ok(Json(all.map(|one| seen_by(&asker, one)).collect()))
}

/// Tries another project on copies of what is accepted, without any effect. Over the socket of the machine only.
#[utoipa::path(post, path = "/shadows", tag = "shadows", request_body = Shadowing,
    responses((status = 200, description = "The shadow", body = ShadowShown)))]
pub(super) async fn begin_shadow(
    asker: Asker,
    Given(mut wish): Given<Shadowing>,
) -> Answer<ShadowShown> {
    // A project reads files and variables of the machine: it comes from who may read them, too.
    if asker.actor.acting.kind != ActorKind::User {
        let why =
            "a shadow begins at the command line of the engine's machine: `crossdock shadow start`";
        return Err(Failure::new(Class::Forbidden, why).into());
    }
    wish.who = asker.who().to_owned();
    Ok(Json(asker.desk.begin_shadow(&wish).await?))
}

/// Ends the shadow that runs. Its report is kept.
#[utoipa::path(post, path = "/shadows:stop", tag = "shadows", request_body = ShadowEnd,
    responses((status = 200, description = "The shadow", body = ShadowShown)))]
pub(super) async fn stop_shadow(
    asker: Asker,
    Given(wish): Given<ShadowEnd>,
) -> Answer<ShadowShown> {
    let stopped = asker.desk.stop_shadow(asker.who(), &wish.why).await?;
    Ok(Json(seen_by(&asker, stopped)))
}

fn seen_by(asker: &Asker, mut shown: ShadowShown) -> ShadowShown {
    if !asker.has(Right::Payload) {
        for finding in &mut shown.findings {
            finding.examples.clear();
        }
    }
    shown
}
