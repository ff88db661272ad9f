//! Drift: whether a reboot would change a node. What it was given to boot is kept with its boot, by
//! digest, and compared with what it would be given now.

use haas_api::{
    names::{Digest, ImageRef},
    node::{Difference, Drift, DriftState},
};
use tracing::warn;

use super::plan;
use crate::{
    context::Context,
    errors::chain,
    model::{Attempt, AttemptState, Given, Node},
    reconcile::Loaded,
    store::{Result, Tx},
};

/// Keeps with an attempt what its node was given just now. A boot does not fail for it.
pub(super) async fn note(context: &Context, attempt: &str) -> Result<()> {
    let mut tx = context.store.read().await?;
    let Some(attempt) = tx.attempt(attempt).await? else { return Ok(()) };
    let Some(node) = tx.node_by_id(&attempt.node_id).await? else { return Ok(()) };
    drop(tx);
    if node.generation != attempt.generation {
        return Ok(());
    }
    let given = match agent(context).await {
        Ok(agent) => now(context, &node, &agent).await,
        Err(error) => Err(error),
    };
    match given {
        Ok(given) => {
            let mut tx = context.store.write().await?;
            tx.set_given(&attempt.id, &given).await?;
            tx.commit().await
        }
        Err(reason) => {
            warn!(node = %node.name, boot = %attempt.id, reason, "cannot note what it was given");
            Ok(())
        }
    }
}

/// The digest of the agent that nodes get now.
pub async fn agent(context: &Context) -> std::result::Result<Digest, String> {
    let (images, path) = (context.images.clone(), context.config.agent_cpio.clone());
    let read = tokio::task::spawn_blocking(move || images.agent(&path));
    let digest = read.await.expect("hashing a file does not panic");
    digest.map_err(|error| chain(&error))
}

/// What a node would be given if it booted now, with this agent.
async fn now(context: &Context, node: &Node, agent: &Digest) -> std::result::Result<Given, String> {
    let rendered = plan::preview(context, node).await?;
    let mut tx = context.store.read().await.map_err(|e| chain(&e))?;
    let desired = tx.desired(&node.id, node.generation).await.map_err(|e| chain(&e))?;
    let Some(desired) = desired else { return Err("nothing is wanted of it".to_owned()) };
    let manifest = plan::manifest(&mut tx, &desired).await.map_err(|e| chain(&e))?;
    let (Some(image), Some(manifest)) = (desired.wanted.image, manifest) else {
        return Err("its image is gone".to_owned());
    };
    drop(tx);
    let (images, kernel) = (context.images.clone(), manifest.kernel.digest.clone());
    let agent_cpio = context.config.agent_cpio.clone();
    let joined = tokio::task::spawn_blocking(move || images.initramfs(&manifest, &agent_cpio));
    let joined = joined.await.expect("joining two files does not panic");
    let (initramfs, _) = joined.map_err(|e| format!("its initramfs cannot be made: {e}"))?;
    Ok(Given {
        image: image.digest,
        kernel,
        initramfs,
        agent: agent.clone(),
        cmdline: rendered.cmdline,
        script: rendered.script,
    })
}

/// Whether a reboot would change what this node runs.
pub async fn of(
    context: &Context,
    loaded: &Loaded,
    agent: &std::result::Result<Digest, String>,
) -> Result<Drift> {
    let node = &loaded.node;
    let drift = |state, reason: String, differences| Drift {
        node: node.name.clone(),
        state,
        reason,
        differences,
    };
    let lives = |a: &&Attempt| matches!(a.state, AttemptState::Open | AttemptState::Ready);
    let Some(attempt) = loaded.attempt.as_ref().filter(lives) else {
        return Ok(drift(DriftState::NotRunning, "nothing of haas runs".to_owned(), Vec::new()));
    };
    let unknown = |reason: String| drift(DriftState::Unknown, reason, Vec::new());
    let mut tx = context.store.read().await?;
    let Some(given) = tx.given(&attempt.id).await? else {
        return Ok(unknown("haasd has not kept what it was given".to_owned()));
    };
    let reason = moved_tag(&mut tx, loaded).await?.unwrap_or_default();
    drop(tx);
    let would = match agent {
        Ok(agent) => now(context, node, agent).await,
        Err(error) => Err(error.clone()),
    };
    let would = match would {
        Ok(would) => would,
        Err(reason) => return Ok(unknown(format!("it would be given nothing: {reason}"))),
    };
    let differences = differences(&given, &would);
    let state = if differences.is_empty() { DriftState::Same } else { DriftState::Differs };
    Ok(drift(state, reason, differences))
}

/// The tag that was asked for may name another image by now, which a reboot does not bring.
async fn moved_tag(tx: &mut Tx, loaded: &Loaded) -> Result<Option<String>> {
    let wanted = loaded.desired.as_ref().and_then(|desired| desired.wanted.image.as_ref());
    let Some(wanted) = wanted else { return Ok(None) };
    let Ok(image @ ImageRef::Tag(..)) = wanted.name.parse::<ImageRef>() else { return Ok(None) };
    let now = tx.resolve_image(&image).await?;
    let is_other = now.is_some_and(|digest| digest != wanted.digest);
    Ok(is_other.then(|| format!("{image} is another image by now; a switch would bring it")))
}

fn differences(was: &Given, is: &Given) -> Vec<Difference> {
    let mut list = Vec::new();
    let digests = [
        ("image", &was.image, &is.image),
        ("kernel", &was.kernel, &is.kernel),
        ("initramfs", &was.initramfs, &is.initramfs),
        ("agent", &was.agent, &is.agent),
    ];
    for (what, was, is) in digests.into_iter().filter(|(_, was, is)| was != is) {
        let (runs, would) = (was.to_string(), is.to_string());
        list.push(Difference { what: what.to_owned(), runs, would });
    }
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    list.extend(only("command line", &words(&was.cmdline), &words(&is.cmdline), " "));
    // The script has the command line in it.
    let lines = |given: &Given| {
        let script = given.script.replace(&given.cmdline, "CMDLINE");
        script.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    list.extend(only("script", &lines(was), &lines(is), "\n"));
    list
}

/// What only one of the two has.
fn only(what: &str, was: &[String], is: &[String], between: &str) -> Option<Difference> {
    let without = |these: &[String], those: &[String]| {
        let only = these.iter().filter(|one| !those.contains(one)).cloned();
        only.collect::<Vec<_>>().join(between)
    };
    (was != is).then(|| Difference {
        what: what.to_owned(),
        runs: without(was, is),
        would: without(is, was),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> Given {
        Given {
            image: Digest::of(b"image"),
            kernel: Digest::of(b"kernel"),
            initramfs: Digest::of(b"initramfs"),
            agent: Digest::of(b"agent"),
            cmdline: "ro quiet console=ttyS0".to_owned(),
            script: "#!ipxe\nkernel k ro quiet console=ttyS0\nboot".to_owned(),
        }
    }

    #[test]
    fn what_is_the_same_does_not_differ() {
        assert_eq!(differences(&given(), &given()), []);
    }

    #[test]
    fn each_thing_that_differs_is_named_with_what_it_is_and_would_be() {
        let mut now = given();
        now.agent = Digest::of(b"a newer agent");
        now.cmdline = "ro quiet console=ttyS1".to_owned();
        now.script = "#!ipxe\nkernel k ro quiet console=ttyS1\nboot".to_owned();
        let found = differences(&given(), &now);
        let shown: Vec<_> =
            found.iter().map(|d| (d.what.as_str(), d.runs.as_str(), d.would.as_str())).collect();
        let (was, is) = (given().agent.to_string(), now.agent.to_string());
        let expected = [
            ("agent", was.as_str(), is.as_str()),
            ("command line", "console=ttyS0", "console=ttyS1"),
        ];
        assert_eq!(shown, expected, "a script that differs by its command line is no second thing");
        now.script = "#!ipxe\nsleep 1\nkernel k ro quiet console=ttyS1\nboot".to_owned();
        let script = differences(&given(), &now).pop().unwrap();
        assert_eq!((script.what.as_str(), script.would.as_str()), ("script", "sleep 1"));
    }
}
