//! API tokens: made, listed, revoked. A token is shown once; what is kept is its hash.

use axum::Json;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::api::{MadeToken, MakeToken};
use super::asker::{Asked, Asker, Given, Page, Paged, Within};
use super::authenticate::PREFIX;
use super::problem::Problem;
use super::rights::{Role, pattern_fault};
use super::views::Token;
use crate::failure::{Class, Failure};
use crate::run::desk::Desk;
use crate::store::tokens::{NewToken, TokenChange};

/// For how long a token may be valid at most, in seconds.
const VALID_SECONDS_MAX: u64 = 3_660 * 86_400;
/// How many patterns of flows a token may have.
const PATTERNS_MAX: usize = 20;

/// The tokens, the newest first, those too that are valid no longer.
#[utoipa::path(get, path = "/tokens", tag = "tokens", params(Paged), responses((status = 200, description = "Tokens", body = Page<Token>)))]
pub(super) async fn tokens(
    asker: Asker,
    Asked(paged): Asked<Paged>,
) -> Result<Json<Page<Token>>, Problem> {
    let all = asker.store().tokens().await?;
    Ok(Json(Page::of_all(
        &paged,
        all.iter().map(Token::from).collect(),
    )?))
}

/// Makes a token. The answer is the only place where it ever stands.
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = MakeToken,
    responses((status = 200, description = "The token", body = MadeToken)))]
pub(super) async fn create(
    asker: Asker,
    Given(wish): Given<MakeToken>,
) -> Result<Json<MadeToken>, Problem> {
    Ok(Json(make(&asker.desk, &wish, asker.who()).await?))
}

/// Revokes the token with this name: no engine of the store takes it from now on.
#[utoipa::path(post, path = "/tokens/{name}:revoke", tag = "tokens", params(("name" = String, Path, description = "The token's name")),
    responses((status = 200, description = "It is revoked", body = bool, content_type = "application/json")))]
pub(super) async fn revoke(
    asker: Asker,
    Within(name): Within<String>,
) -> Result<Json<bool>, Problem> {
    end(&asker.desk, &name).await?;
    Ok(Json(true))
}

/// Makes a token, beside an engine or on the store.
///
/// Fails with class `validation` if the wish is none, with `conflict` if there is a valid token of this name.
pub async fn make(desk: &Desk, wish: &MakeToken, who: &str) -> Result<MadeToken, Failure> {
    if let Some(fault) = fault(wish) {
        return Err(Failure::validation(fault));
    }
    let random = &desk.world().random;
    let mut bytes = Vec::with_capacity(32);
    for _ in 0..4 {
        bytes.extend(random.next().to_le_bytes());
    }
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let valid_ms = i64::try_from(wish.valid_seconds * 1_000).unwrap_or(i64::MAX / 4);
    let expires_at_ms = desk.store().now_ms().saturating_add(valid_ms);
    let flows = match wish.flows.is_empty() {
        true => vec!["*".to_owned()],
        false => wish.flows.clone(),
    };
    let new = NewToken {
        name: wish.name.clone(),
        hash: Sha256::digest(token.as_bytes()).into(),
        roles: wish.roles.clone(),
        flows,
        created_by: who.to_owned(),
        expires_at_ms,
    };
    if !desk.change_token(TokenChange::Create(new)).await? {
        return Err(Failure::new(
            Class::Conflict,
            format!(
                "there is a valid token `{}`; revoke it, or give this one another name",
                wish.name
            ),
        ));
    }
    Ok(MadeToken {
        name: wish.name.clone(),
        token,
        expires_at_ms,
    })
}

/// Revokes a token, beside an engine or on the store.
///
/// Fails with class `not_found` if there is no valid token of this name.
pub async fn end(desk: &Desk, name: &str) -> Result<(), Failure> {
    let name = name.to_owned();
    match desk.change_token(TokenChange::Revoke { name }).await? {
        true => Ok(()),
        false => Err(Failure::new(
            Class::NotFound,
            "there is no valid token of this name",
        )),
    }
}

/// What is wrong with a wish, if something is.
fn fault(wish: &MakeToken) -> Option<String> {
    let known = |letter: char| letter.is_alphanumeric() || "-_.@ ".contains(letter);
    let name = wish.name.trim();
    if name.is_empty() || name != wish.name || name.len() > 100 || !name.chars().all(known) {
        return Some(
            "the name has 1 to 100 bytes: letters, digits, spaces within, `-`, `_`, `.` and `@`"
                .to_owned(),
        );
    }
    let unknown = wish
        .roles
        .iter()
        .find(|role| Role::from_name(role).is_none());
    if let Some(role) = unknown {
        let all = Role::ALL.map(Role::name).join(", ");
        return Some(format!("there is no role `{role}`; one of: {all}"));
    }
    if wish.roles.is_empty() || wish.roles.len() > Role::ALL.len() {
        return Some("a token has at least one role, and each once".to_owned());
    }
    if wish.flows.len() > PATTERNS_MAX {
        return Some(format!("at most {PATTERNS_MAX} patterns of flows"));
    }
    if let Some(fault) = wish.flows.iter().find_map(|flow| pattern_fault(flow)) {
        return Some(fault);
    }
    let seconds = 1..=VALID_SECONDS_MAX;
    (!seconds.contains(&wish.valid_seconds))
        .then(|| "a token is valid for at least a second and at most 3660 days".to_owned())
}
