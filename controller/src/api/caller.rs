//! Who calls: the bearer token of a request becomes a [`Principal`].

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
};

use super::Fail;
use crate::{
    auth::{Object, Principal, Verb, authorize},
    context::Context,
    tokens,
};

/// The authenticated caller of a request. Every handler takes one; there is no open route beside
/// the health check and the API's description.
#[derive(Debug)]
pub(super) struct Caller(pub(super) Principal);

impl Caller {
    /// Whether this caller may; the one check before any side effect.
    pub(super) fn may(&self, verb: Verb, object: Object<'_>) -> Result<(), Fail> {
        authorize(&self.0, verb, object).map_err(Fail::from)
    }
}

impl FromRequestParts<Arc<Context>> for Caller {
    type Rejection = Fail;

    async fn from_request_parts(parts: &mut Parts, context: &Arc<Context>) -> Result<Self, Fail> {
        let refuse =
            |detail: &str| Fail::new(StatusCode::UNAUTHORIZED, "unauthorized", detail.to_owned());
        let token = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| refuse("this needs a token, as `Authorization: Bearer TOKEN`"))?;
        let mut tx = context.store.read().await?;
        let user = tx
            .user_by_token(&tokens::hash(token.trim()))
            .await?
            .ok_or_else(|| refuse("this token is unknown or was revoked"))?;
        Ok(Self(Principal { user_id: user.id, name: user.name, role: user.role }))
    }
}
