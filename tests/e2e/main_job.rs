//! The main job on two nodes; and that its checks do fail when something went wrong behind a user's
//! back.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};

use anyhow::{Context, Result, ensure};
use tests::checks::{self, ImageFile};
use tests::ssh::Person;
use tests::story::Story;
use tests::{Haasd, NodeHw, Rack, RackSpec, files};

fn with_haasd(name: &str, nodes: usize, test: fn(&Rack, &Haasd<'_>) -> Result<()>) -> Result<()> {
    Rack::with(RackSpec::new(name, vec![NodeHw::default(); nodes]), |rack| {
        let haasd = Haasd::start(rack, &files::haasd_toml(rack)?, &files::nodes_toml(rack)?)?;
        test(rack, &haasd)
    })
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e"]
fn two_users_find_their_systems_again_on_every_node() -> Result<()> {
    with_haasd("main-job", 2, |rack, haasd| {
        checks::main_job(rack, haasd, &mut Story::untold(), || Ok(()))
    })
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_the_checks_see_an_emptied_overlay_and_a_changed_image() -> Result<()> {
    with_haasd("main-job-fails", 1, |rack, haasd| {
        let behind_her_back = || {
            empty_alices_overlay(rack)?;
            change_the_image(rack, haasd)
        };
        let done = checks::main_job(rack, haasd, &mut Story::untold(), behind_her_back);
        let error = format!("{:#}", done.err().context("nothing was noticed")?);
        for wrong in [
            "files are as alice left them, to the byte: ",
            "\"\" is not \"alice, rank 0\"",
            "SHA-256 and digest of",
        ] {
            ensure!(error.contains(wrong), "{wrong:?} is missing in: {error}");
        }
        // What nobody touched is still right: these checks do not fail for just anything.
        for right in ["bob's marks", "private memory", "not alice's"] {
            ensure!(!error.contains(right), "{right:?} failed too: {error}");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs QEMU; run: cargo xtask e2e --slow"]
fn slow_an_overlay_that_was_removed_is_not_silently_a_new_one() -> Result<()> {
    with_haasd("main-job-removed", 1, |rack, haasd| {
        let remove = || {
            haasd.ctl(&["overlay", "rm", checks::ALICE.overlay, "--yes"])?.ok()?;
            haasd.ctl(&["overlay", "create", checks::ALICE.overlay])?.ok().map(drop)
        };
        let done = checks::main_job(rack, haasd, &mut Story::untold(), remove);
        let error = format!("{:#}", done.err().context("nothing was noticed")?);
        ensure!(error.contains("the overlay that it had was removed"), "{error}");
        Ok(())
    })
}

/// Deletes what alice wrote, as a broken disk or a bad administrator would. Bob has the node now,
/// and root reaches the store through the agent's own root.
fn empty_alices_overlay(rack: &Rack) -> Result<()> {
    const EMPTY: &str = r#"set -e
        for store in /proc/[0-9]*/root/store/overlays; do
            for shard in "$store"/*; do
                grep -q '"alice/dev"' "$shard/meta.json" || continue
                rm -r "$shard"/upper/*
                sync
                echo emptied
                exit
            done
        done"#;
    let bob = Person::new(rack, checks::BOB.name)?;
    for node in rack.nodes() {
        let said = bob.root(node, EMPTY)?;
        ensure!(said.trim() == "emptied", "alice's shard was not found: {said}");
    }
    Ok(())
}

/// Turns one bit of the image's file on the controller, in its last block, which no node reads.
fn change_the_image(rack: &Rack, haasd: &Haasd<'_>) -> Result<()> {
    let image = ImageFile::of(haasd, rack, "minimal")?;
    fs::set_permissions(&image.path, Permissions::from_mode(0o644))?;
    let file = OpenOptions::new().read(true).write(true).open(&image.path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, image.size.0 - 1)?;
    file.write_all_at(&[byte[0] ^ 1], image.size.0 - 1)?;
    Ok(())
}
