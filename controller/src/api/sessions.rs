//! What an image's iSCSI sessions do now, and what a boot of it reads.

use std::sync::Arc;

use axum::extract::State;
use haas_api::{
    List,
    image::{BootRead, ImageSessions, SenseCount, SessionCounts, Sessions, UserSessions},
    names::ImageRef,
    problem::Problem,
};
use iscsi_target::Counts;

use super::{Answer, Caller, Fail, Json, Page, Path, Query, images::no_such_image};
use crate::{
    auth::{Object, Verb},
    context::Context,
    exports::ServedAttempt,
    requests::image as image_for,
};

/// What an image's iSCSI sessions did since haasd started, and how much of it is in memory.
#[utoipa::path(get, path = "/v1/images/{image}/sessions", params(("image" = String, Path)),
    responses((status = 200, body = ImageSessions), (status = 404, body = Problem)))]
pub(super) async fn sessions(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(image): Path<ImageRef>,
) -> Answer<Json<ImageSessions>> {
    let digest = image_for(&mut context.store.read().await?, &caller.0, Verb::View, &image).await?;
    let served = context.exports.served(&digest).ok_or_else(|| no_such_image(&image))?;
    let resident = match served.lun {
        Some(lun) => {
            // It looks at each page of the image.
            let look = tokio::task::spawn_blocking(move || lun.resident());
            let resident = look.await.map_err(std::io::Error::other).and_then(|looked| looked);
            Some(resident.map_err(|error| Fail::internal(&error))?)
        }
        None => None,
    };
    // Who boots what is nobody else's business.
    let may_see =
        |tenant: &str| caller.may(Verb::View, Object::Deed { actor: None, tenant }).is_ok();
    let attempts = served.attempts.into_iter().filter(|attempt| may_see(&attempt.tenant_id));
    let mut nodes: Vec<_> = attempts.map(of_node).collect();
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    let tenants = served.tenants.into_iter().filter(|tenant| may_see(&tenant.tenant_id));
    let mut users: Vec<_> = tenants
        .map(|tenant| UserSessions { user: tenant.tenant, counts: shown(&tenant.counts) })
        .collect();
    users.sort_by(|a, b| a.user.cmp(&b.user));
    let all = shown(&served.all);
    Ok(Json(ImageSessions { digest, cached_bytes: resident, all, users, nodes }))
}

/// What the first boot of an image since haasd started has read, in order.
#[utoipa::path(get, path = "/v1/images/{image}/reads", params(("image" = String, Path), Page),
    responses((status = 200, body = List<BootRead>), (status = 404, body = Problem)))]
pub(super) async fn reads(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(image): Path<ImageRef>,
    Query(page): Query<Page>,
) -> Answer<Json<List<BootRead>>> {
    let digest = image_for(&mut context.store.read().await?, &caller.0, Verb::View, &image).await?;
    let reads = context.exports.recorded(&digest).into_iter().zip(1..);
    let reads = reads.map(|(read, number)| BootRead {
        number,
        at_us: read.at_us,
        lba: read.lba,
        blocks: read.blocks,
    });
    Ok(Json(page.of(reads.collect(), |read: &BootRead| format!("{:08}", read.number))?))
}

fn of_node(attempt: ServedAttempt) -> Sessions {
    Sessions {
        node: attempt.node,
        boot: attempt.boot,
        address: attempt.address.map(|address| address.to_string()),
        user: attempt.tenant,
        counts: shown(&attempt.counts),
    }
}

fn shown(counts: &Counts) -> SessionCounts {
    SessionCounts {
        sessions: counts.sessions,
        logins: counts.logins,
        reads: counts.reads,
        bytes: counts.bytes,
        p50_us: counts.quantile_us(0.5),
        p99_us: counts.quantile_us(0.99),
        took_us: counts.took.to_vec(),
        errors: counts
            .errors
            .iter()
            .map(|([key, code, qualifier], count)| SenseCount {
                sense: format!("{key:x}/{code:02x}{qualifier:02x}"),
                count: *count,
            })
            .collect(),
    }
}
