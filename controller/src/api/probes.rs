//! Looking at a BMC: what it speaks, and what the account may do.

use std::{sync::Arc, time::Instant};

use axum::{extract::State, http::StatusCode, response::IntoResponse};
use haas_api::{
    bmc::{Probe, ProbeRequest, ProbeTarget},
    problem::Problem,
};

use super::{Answer, Caller, Fail, Json, Path};
use crate::{
    auth::{Object, Verb},
    context::Context,
    looks::Look,
    power::probe::{Known, Unknown, Wanted, probe},
    secret::Secret,
};

/// Begins a look at a BMC, which reads only. Nobody's account leaves haasd by Redfish but to a certificate that
/// was named.
#[utoipa::path(post, path = "/v1/probes", request_body = ProbeRequest,
    responses((status = 202, body = Probe), (status = 404, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)))]
pub(super) async fn begin(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(request): Json<ProbeRequest>,
) -> Answer<impl IntoResponse> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let fingerprint = request.fingerprint.as_deref().map(fingerprint).transpose()?;
    let (wanted, what) = match request.target {
        ProbeTarget::Node { node } => {
            let mut tx = context.store.read().await?;
            let found = tx.node(node.as_str()).await?;
            let found = found.ok_or_else(|| {
                Fail::not_found("no-node", format!("there is no node {node}; give an address"))
            })?;
            let wanted = Wanted::of_node(&found.spec.power, fingerprint).map_err(|unknown| {
                let code = match unknown {
                    Unknown::NoBmc(_) => "no-bmc",
                    Unknown::Secret(_) => "bmc-secret",
                };
                Fail::bad(code, format!("{node}: {}", crate::errors::chain(&unknown)))
            })?;
            (wanted, node.to_string())
        }
        ProbeTarget::Address { address, account, redfish_port, ipmi_port } => {
            let account = account.map(|account| {
                let password = Secret::new(account.password.expose().to_owned());
                Known::typed(account.user, password)
            });
            let wanted = Wanted {
                address,
                ipmi_port: ipmi_port.unwrap_or(623),
                redfish_port: redfish_port.unwrap_or(443),
                account,
                fingerprint,
            };
            (wanted, address.to_string())
        }
    };
    let id = context.probes.begin(&caller.0.user_id, (), Instant::now()).ok_or_else(crowded)?;
    let begun = Probe { id: id.clone(), report: None };
    tokio::spawn(async move {
        let report = probe(wanted).await;
        context.probes.end(&id, report);
    });
    caller.did(format!("probe of {what}"));
    Ok((StatusCode::ACCEPTED, Json(begun)))
}

/// What was found, once it is.
#[utoipa::path(get, path = "/v1/probes/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Probe), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Probe>> {
    caller.may(Verb::Manage, Object::Nodes)?;
    let look = context.probes.get(&id, Instant::now());
    let gone = || Fail::not_found("no-probe", "there is no such look, or no more; begin another");
    let Look { found: report, .. } = look.ok_or_else(gone)?;
    Ok(Json(Probe { id, report }))
}

/// Too many looks of a kind are under way.
pub(super) fn crowded() -> Fail {
    Fail::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "crowded",
        "too many looks at BMCs are under way; try again in some seconds",
    )
}

fn fingerprint(text: &str) -> Answer<String> {
    let digits = text.replace(':', "").to_ascii_lowercase();
    match digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(digits),
        false => {
            Err(Fail::bad("bad-fingerprint", "a fingerprint is a SHA-256, 64 hexadecimal digits"))
        }
    }
}
