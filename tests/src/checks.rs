//! The main job, checked: two users share the same nodes, one after the other, and each finds his
//! own system again as he left it, on each node, while the images stay as they are.
//!
//! One function, told by the demo and demanded by the suites. It looks from outside: through
//! `haasctl`, `ssh`, and the files on the controller.

mod image;
mod people;
mod system;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use haas_api::List;
use haas_api::operation::BootReport;

pub use image::ImageFile;
pub use people::{ALICE, BOB, Work};
pub use system::System;

use crate::haasd::Haasd;
use crate::node::Node;
use crate::rack::Rack;
use crate::ssh::Person;
use crate::story::Story;
use crate::wait::wait_for;

/// How many steps [`main_job`] tells.
pub const STEPS: usize = 7;

/// haasd's private memory must stay below this, in bytes.
pub const MEMORY: u64 = 50 << 20;

/// Runs the main job on all nodes of a rack. `meanwhile` is called while bob has the nodes and
/// alice's overlays lie on their disks: what happens there behind her back must come to light.
pub fn main_job(
    rack: &Rack,
    haasd: &Haasd<'_>,
    story: &mut Story,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let nodes = node_set(rack);
    let (alice, bob) = (Person::new(rack, ALICE.name)?, Person::new(rack, BOB.name)?);

    let images = story.step("Two images are built from their recipes", |story| {
        build(haasd, story, "minimal")?;
        build(haasd, story, "tools")?;
        Ok([ImageFile::of(haasd, rack, "minimal")?, ImageFile::of(haasd, rack, "tools")?])
    })?;
    story.step("Two users, each with a key and an overlay", |story| {
        for person in [&alice, &bob] {
            add_user(rack, haasd, story, person)?;
        }
        for overlay in [ALICE.overlay, BOB.overlay] {
            story.haasctl(haasd, &["overlay", "create", overlay])?;
        }
        story.haasctl(haasd, &["node", "manage", &nodes]).map(drop)
    })?;

    let left = story.step("Alice gets the nodes, and works on each of them", |story| {
        switch(haasd, story, &nodes, "minimal", ALICE.overlay)?;
        let fresh = systems(rack, &alice)?;
        work(story, rack, &alice, &ALICE)?;
        let left = systems(rack, &alice)?;
        for (node, (before, after)) in rack.nodes().iter().zip(fresh.iter().zip(&left)) {
            let changed = before.changes(after);
            let told = format!(
                "{}: {changed} files under /etc, /usr and /home are new, changed or gone",
                node.name
            );
            story.check(told, people::all_is_there(&ALICE, &alice, node));
        }
        story.check("every node has its own rank, machine-id and host keys", distinct(&left));
        Ok(left)
    })?;

    let of_bob = story.step("The same nodes become bob's", |story| {
        switch(haasd, story, &nodes, "tools", BOB.overlay)?;
        let fresh = systems(rack, &bob)?;
        for (i, node) in rack.nodes().iter().enumerate() {
            let told = format!("{}: bob has tools, and sees nothing of alice's", node.name);
            let unseen = people::nothing_is_there(&ALICE, &alice, &bob, node);
            story.check(told, unseen.and_then(|()| people::image_is("haas-tools", &bob, node)));
            let told = format!("{}: its host keys and machine-id are not alice's", node.name);
            story.check(told, left[i].is_another(&fresh[i]));
        }
        work(story, rack, &bob, &BOB)?;
        for node in rack.nodes() {
            let told = format!("{}: bob's marks are there", node.name);
            story.check(told, people::all_is_there(&BOB, &bob, node));
        }
        systems(rack, &bob)
    })?;
    meanwhile()?;

    story.step("One step back: all is as alice left it", |story| {
        nobody_is_logged_in(haasd, &nodes)?;
        story.haasctl(haasd, &["rollback", &nodes, "--wait"])?;
        let found = systems(rack, &alice)?;
        for (i, node) in rack.nodes().iter().enumerate() {
            let files = found[i].count();
            let told = format!("{}: {files} files are as alice left them, to the byte", node.name);
            story.check(told, left[i].is_same(&found[i]));
            let told = format!("{}: nothing of bob's is to be seen", node.name);
            let unseen = people::nothing_is_there(&BOB, &bob, &alice, node);
            story.check(told, unseen.and_then(|()| people::all_is_there(&ALICE, &alice, node)));
            let told = format!("{}: the same rank, machine-id and host keys", node.name);
            story.check(told, left[i].has_identity_of(&found[i]));
            story.check(format!("{}: it is not bob's system", node.name), {
                of_bob[i].is_another(&found[i])
            });
        }
        Ok(())
    })?;

    story.step("The images are as they were built", |story| {
        for image in &images {
            story.command(format!("sha256sum {}", image.path.display()));
            let told = format!("{}: SHA-256 and digest of {} are the same", image.name, image.size);
            story.check(told, image.is_unchanged(haasd, rack));
        }
        Ok(())
    })?;

    story.step("What it took", |story| {
        story.haasctl(haasd, &["overlay", "du"])?;
        story.say("");
        bill(rack, haasd, story, &images)?;
        let private = haasd.memory()?.private;
        let told = format!("haasd has {} of private memory", megabytes(private));
        story.check(told, memory_is_small(private));
        Ok(())
    })?;
    story.verdict()
}

/// All nodes of a rack, as haasctl takes them.
pub fn node_set(rack: &Rack) -> String {
    match rack.nodes() {
        [node] => node.name.clone(),
        nodes => format!("node[1-{}]", nodes.len()),
    }
}

/// `haasctl image build` of a recipe in `images/`.
pub fn build(haasd: &Haasd<'_>, story: &Story, recipe: &str) -> Result<()> {
    let folder = checkout()?.join("images").join(recipe);
    story.haasctl(haasd, &["image", "build", &folder.to_string_lossy()]).map(drop)
}

/// `haasctl user add` of somebody with a key.
pub fn add_user(rack: &Rack, haasd: &Haasd<'_>, story: &Story, person: &Person<'_>) -> Result<()> {
    let keys = person.public_key();
    let keys = keys.strip_prefix(rack.dir()).unwrap_or(&keys).to_string_lossy();
    story.haasctl(haasd, &["user", "add", &person.name, "--keys", &keys]).map(drop)
}

/// `haasctl switch --wait` of some nodes.
pub fn switch(
    haasd: &Haasd<'_>,
    story: &Story,
    nodes: &str,
    image: &str,
    overlay: &str,
) -> Result<()> {
    nobody_is_logged_in(haasd, nodes)?;
    let args = ["switch", nodes, "--image", image, "--overlay", overlay, "--wait"];
    story.haasctl(haasd, &args).map(drop)
}

/// Waits until haasd knows that our own logins are over: it would refuse to end them, and hears of
/// them with the next heartbeat.
pub fn nobody_is_logged_in(haasd: &Haasd<'_>, nodes: &str) -> Result<()> {
    wait_for("all logins to be over", Duration::from_secs(60), || {
        let nodes: Result<List<haas_api::node::Node>> = haasd.ctl_json(&["node", "list", nodes]);
        nodes.is_ok_and(|nodes| nodes.items.iter().all(|node| node.observed.logins.is_empty()))
    })
}

/// Fails if a haasd takes too much memory.
pub fn memory_is_small(private: u64) -> Result<()> {
    ensure!(private < MEMORY, "{} of private memory are too much", megabytes(private));
    Ok(())
}

fn checkout() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?)
}

fn systems(rack: &Rack, person: &Person<'_>) -> Result<Vec<System>> {
    rack.nodes().iter().map(|node| System::look(rack, person, node)).collect()
}

/// Does a user's work on every node, and shows it once.
fn work(story: &Story, rack: &Rack, person: &Person<'_>, work: &Work) -> Result<()> {
    let command = |node: &Node, login: &str, script: &str| -> Result<()> {
        story.command(format!("ssh {login}@{} '", node.name));
        script.lines().for_each(|line| story.say(format!("    {}", line.trim())));
        story.say("  '");
        person.ssh(node, login, script)?.ok().map(drop)
    };
    let (shown, silent) = rack.nodes().split_at(1);
    for node in shown {
        command(node, "root", work.as_root)?;
        command(node, work.name, work.as_user)?;
    }
    for node in silent {
        story.say(format!("... and the same on {}, where the rank is another.", node.name));
        person.root(node, work.as_root)?;
        person.ssh(node, work.name, work.as_user)?.ok()?;
    }
    Ok(())
}

fn distinct(systems: &[System]) -> Result<()> {
    for (i, one) in systems.iter().enumerate() {
        ensure!(one.rank == i.to_string(), "node {} has rank {:?}", i + 1, one.rank);
        for other in &systems[..i] {
            one.is_another(other)?;
            ensure!(!one.differences(other).is_empty(), "two nodes hold the same files");
        }
    }
    Ok(())
}

/// One row per boot: seconds and bytes beside the size of the image.
fn bill(rack: &Rack, haasd: &Haasd<'_>, story: &Story, images: &[ImageFile]) -> Result<()> {
    story.say("NODE   SYSTEM                      SECONDS  KERNEL+INITRAMFS  READ OF THE IMAGE");
    for node in rack.nodes() {
        let mut boots: List<BootReport> = haasd.ctl_json(&["node", "boots", &node.name])?;
        boots.items.sort_by(|a, b| a.started_at.cmp(&b.started_at));
        for boot in &boots.items {
            let seconds: f64 = boot.stages.iter().map(|stage| stage.seconds).sum();
            let image = images.iter().find(|image| boot.what.starts_with(&image.name));
            let size = image.map_or(0, |image| image.size.0);
            let read = u64::try_from(boot.root_bytes).unwrap_or(0);
            story.say(format!(
                "{:<6} {:<27} {seconds:>7.1}  {:>16}  {} of {}",
                boot.node,
                boot.what,
                megabytes(u64::try_from(boot.boot_bytes).unwrap_or(0)),
                megabytes(read),
                megabytes(size),
            ));
        }
    }
    Ok(())
}

fn megabytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people, with one digit")]
    let megabytes = bytes as f64 / 1e6;
    format!("{megabytes:.1} MB")
}
