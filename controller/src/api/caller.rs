//! Who calls, for handlers.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};

use super::Fail;
use crate::{
    auth::{Object, Principal, Verb, authorize},
    context::Context,
};

/// The authenticated caller of a request, found out by [`super::guard`].
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

    async fn from_request_parts(parts: &mut Parts, _context: &Arc<Context>) -> Result<Self, Fail> {
        // Absent only on a route for those without a token, whose handler asks for no caller.
        let principal = parts.extensions.get::<Principal>().cloned();
        let nobody = || Fail::new(StatusCode::UNAUTHORIZED, "unauthorized", "this needs a token");
        principal.map(Self).ok_or_else(nobody)
    }
}
