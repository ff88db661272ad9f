//! Boots whose kernel the system before starts itself (ADR 0011): what its agent is told, and the
//! moment from which the next attempt is the node's own.

use haas_api::{
    agent::{BootFile, BootStage, Failure, NextKernel},
    names::Digest,
};
use serde_json::json;
use tracing::info;

use super::plan;
use crate::{
    context::Context,
    lifecycle,
    metrics::METRICS,
    model::{Attempt, Node},
    netboot::script::Loader,
    store::{Result, Tx},
};

/// The kernel of an attempt, for the agent of the system before; the error says in words what is
/// missing.
pub async fn next_kernel(
    context: &Context,
    node: &Node,
    next: &Attempt,
) -> Result<std::result::Result<NextKernel, String>> {
    let token = context.master_key.boot_token(&next.id);
    let target = match plan::target(context, node, next, token.clone()).await? {
        Ok(target) => target,
        Err(reason) => return Ok(Err(reason)),
    };
    let cmdline = match context.templates.render(&target, Loader::Ipxe) {
        Ok(rendered) => rendered.cmdline,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let base = format!("http://{}:{}/boot/{}", target.controller, target.http_port, token.expose());
    let (kernel, initrd) = (target.kernel, target.initrd);
    // Both are named by their digests.
    let read = tokio::task::spawn_blocking(move || {
        let file = |url: String, path: &std::path::Path| -> std::result::Result<_, String> {
            let problem = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
            let size = std::fs::metadata(path).map_err(|e| problem(&e))?.len();
            let hex = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let digest: Digest = format!("sha256:{hex}").parse().map_err(|e| problem(&e))?;
            Ok(BootFile { url, size, digest })
        };
        let kernel = file(format!("{base}/kernel"), &kernel)?;
        Ok((kernel, file(format!("{base}/initrd"), &initrd)?))
    });
    let files: std::result::Result<_, String> = read.await.expect("looking at files never panics");
    let (kernel, initrd) = match files {
        Ok(files) => files,
        Err(reason) => return Ok(Err(reason)),
    };
    super::drift::note(context, &next.id).await?;
    Ok(Ok(NextKernel { attempt: next.id.clone(), kernel, initrd, cmdline }))
}

/// Notes that what an attempt's agent was to start the next kernel for cannot be done.
pub async fn kexec_failed(
    context: &Context,
    attempt: &str,
    next: &str,
    reason: String,
) -> Result<()> {
    let known = context.store.read().await?.attempt(next).await?;
    if known.is_none_or(|next| next.kexec_of.as_deref() != Some(attempt)) {
        return Ok(());
    }
    let failure = Failure::new(BootStage::Power, lifecycle::KEXEC_NOT_DONE, reason);
    super::held(context, next, &failure).await
}

/// The system before has ended, and has started the kernel of `next`.
pub async fn kexec_begun(context: &Context, next: &Attempt) -> Result<()> {
    let mut tx = context.store.write().await?;
    let is_news = note_begun(context, &mut tx, next).await?;
    tx.commit().await?;
    if is_news {
        METRICS.boot_reached(next, BootStage::Kernel, context.clock.now());
    }
    // What the old initiator reads is of no use to anybody any more.
    context.exports.reload(&context.store).await?;
    context.changed();
    Ok(())
}

/// The same in a transaction of the caller's; true if it is news.
pub async fn note_begun(context: &Context, tx: &mut Tx, next: &Attempt) -> Result<bool> {
    let now = context.clock.now();
    if !tx.kexec_begun(next, now).await? {
        return Ok(false);
    }
    tx.advance(next, BootStage::Kernel, now).await?;
    let data = json!({ "boot": next.id, "stage": BootStage::Kernel });
    let node = super::event(tx, next, "boot-progressed", data).await?;
    info!(node, boot = %next.id, "what ran has started the kernel of the next boot");
    Ok(true)
}
