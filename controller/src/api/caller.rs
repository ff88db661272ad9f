//! Who calls, for handlers.

use std::{fmt::Display, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};

use super::{Fail, guard::Deed};
use crate::{
    auth::{Object, Principal, Verb, authorize},
    clock,
    context::Context,
    model::Node,
    store::{NewEvent, Tx},
};

/// The authenticated caller of a request, found out by [`super::guard`], and what the request has
/// come to.
#[derive(Debug)]
pub(super) struct Caller(pub(super) Principal, pub(super) Deed);

impl Caller {
    /// Whether this caller may; the one check before any side effect.
    pub(super) fn may(&self, verb: Verb, object: Object<'_>) -> Result<(), Fail> {
        authorize(&self.0, verb, object).map_err(Fail::from)
    }

    /// Ends the transaction of a request that will be answered with `status`, and says for the audit log
    /// what it has come to: names and numbers, never a secret. The entry is of the same transaction, so
    /// that nothing is done without one.
    pub(super) async fn commit(
        &self,
        mut tx: Tx,
        status: StatusCode,
        what: impl Into<String>,
    ) -> Result<(), Fail> {
        let mut entry = self.1.ended(&self.0, status);
        entry.detail = what.into();
        tx.add_audit(&entry).await?;
        tx.commit().await?;
        self.1.noted(status);
        Ok(())
    }

    /// Says the same of what was done by somebody else's transaction, which is over.
    pub(super) fn did(&self, what: impl Into<String>) {
        self.1.came_to(what.into());
    }

    /// Adds to the event log what this caller did with a node.
    pub(super) async fn note(
        &self,
        tx: &mut Tx,
        node: &Node,
        kind: &str,
        data: serde_json::Value,
    ) -> Result<(), Fail> {
        tx.add_event(NewEvent {
            at: clock::wall(),
            kind,
            node: Some(node.name.as_str()),
            operation: None,
            actor: self.0.name.as_str(),
            data,
            tenant: None,
        })
        .await?;
        Ok(())
    }
}

impl FromRequestParts<Arc<Context>> for Caller {
    type Rejection = Fail;

    async fn from_request_parts(parts: &mut Parts, _context: &Arc<Context>) -> Result<Self, Fail> {
        // Absent only on a route for those without a token, whose handler asks for no caller.
        let deed = parts.extensions.get::<Deed>().cloned().unwrap_or_default();
        let principal = parts.extensions.get::<Principal>().cloned();
        let nobody = || Fail::new(StatusCode::UNAUTHORIZED, "unauthorized", "this needs a token");
        principal.map(|principal| Self(principal, deed)).ok_or_else(nobody)
    }
}

/// Who was added to something and removed from it, for the audit log.
pub(super) fn changes(added: &[impl Display], removed: &[impl Display]) -> String {
    fn names(list: &[impl Display]) -> String {
        list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
    let added = (!added.is_empty()).then(|| format!("added {}", names(added)));
    let removed = (!removed.is_empty()).then(|| format!("removed {}", names(removed)));
    [added, removed].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
