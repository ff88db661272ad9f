//! The two users of the main job: what each does to a node, and how one sees that it was done.
//!
//! What they do depends on the node's rank, so that the nodes come to differ.

use anyhow::{Result, bail, ensure};

use crate::node::Node;
use crate::ssh::Person;

/// A user and what he does on each of his nodes.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub name: &'static str,
    /// `owner/name`.
    pub overlay: &'static str,
    /// Done by root, with the user's own key.
    pub as_root: &'static str,
    /// Done by the user himself, in his home.
    pub as_user: &'static str,
    /// Fails, with a reason on standard error, if something of it is missing or came back.
    look: &'static str,
    /// Prints what can be seen of it, if anything.
    trace: &'static str,
}

pub const ALICE: Work = Work {
    name: "alice",
    overlay: "alice/dev",
    as_root: r##"set -e; rank=$(cat /run/haas/rank)
        echo "alice, rank $rank" >/etc/lab.conf
        echo "export LAB=alice-$rank" >>/etc/profile
        rm /etc/bash.bashrc
        mkdir -p /usr/local/bin
        printf "#!/bin/sh\necho solved by rank $rank\n" >/usr/local/bin/solve
        chmod 755 /usr/local/bin/solve
        echo "# alice was here" >>/usr/bin/bashbug
        rm /usr/lib/terminfo/x/$(ls /usr/lib/terminfo/x | sed -n $((rank + 1))p)
        rm -r /usr/share/tabset; mkdir /usr/share/tabset; echo $rank >/usr/share/tabset/own"##,
    as_user: r##"set -e; rank=$(cat /run/haas/rank)
        echo "what I found on rank $rank" >notes.txt
        head -c 1000000 /dev/urandom >results.dat
        sha256sum results.dat >results.sum
        chmod 600 notes.txt; ln results.dat again.dat; ln -s notes.txt latest"##,
    look: r##"set -e; rank=$(cat /run/haas/rank)
        is() { [ "$1" = "$2" ] || { echo "\"$1\" is not \"$2\"" >&2; exit 1; }; }
        gone() { [ ! -e "$1" ] || { echo "$1 came back" >&2; exit 1; }; }
        is "$(cat /etc/lab.conf)" "alice, rank $rank"
        is "$(tail -n 1 /etc/profile)" "export LAB=alice-$rank"
        is "$(solve)" "solved by rank $rank"
        is "$(tail -n 1 /usr/bin/bashbug)" "# alice was here"
        is "$(ls /usr/share/tabset)" own
        is "$(cat /home/alice/latest)" "what I found on rank $rank"
        is "$(stat -c %h:%U /home/alice/results.dat)" 2:alice
        gone /etc/bash.bashrc
        (cd /home/alice && sha256sum -c results.sum >/dev/null)"##,
    trace: r##"ls -d /etc/lab.conf /home/alice /usr/local/bin/solve /usr/share/tabset/own 2>/dev/null
        grep -rlsw alice /etc /root /usr/local /usr/bin/bashbug
        [ -e /etc/bash.bashrc ] || echo "/etc/bash.bashrc is missing"
        [ -e /usr/share/tabset/std ] || echo "/usr/share/tabset/std is missing""##,
};

pub const BOB: Work = Work {
    name: "bob",
    overlay: "bob/lab",
    as_root: r##"set -e; rank=$(cat /run/haas/rank)
        echo "bob, rank $rank" >/etc/motd
        rm -r /usr/lib/terminfo/v
        mkdir -p /usr/local/bob; echo $rank >/usr/local/bob/rank"##,
    as_user: r##"set -e; rank=$(cat /run/haas/rank)
        echo "my run on rank $rank" >run.log"##,
    look: r##"set -e; rank=$(cat /run/haas/rank)
        is() { [ "$1" = "$2" ] || { echo "\"$1\" is not \"$2\"" >&2; exit 1; }; }
        is "$(cat /etc/motd)" "bob, rank $rank"
        is "$(cat /usr/local/bob/rank)" "$rank"
        is "$(cat /home/bob/run.log)" "my run on rank $rank"
        [ ! -e /usr/lib/terminfo/v ] || { echo "/usr/lib/terminfo/v came back" >&2; exit 1; }"##,
    trace: r##"ls -d /etc/motd /home/bob /usr/local/bob 2>/dev/null
        grep -rlsw bob /etc /root /usr/local
        [ -e /usr/lib/terminfo/v/vt100 ] || echo "/usr/lib/terminfo/v/vt100 is missing""##,
};

/// Fails if something of a user's work is not on his node.
pub(super) fn all_is_there(work: &Work, person: &Person<'_>, node: &Node) -> Result<()> {
    let output = person.ssh(node, "root", work.look)?;
    ensure!(output.code == Some(0), "{}", output.stderr.trim());
    Ok(())
}

/// Fails if `who`, who has the node now, can see anything of another user's work there, or if that
/// user's key still opens it.
pub(super) fn nothing_is_there(
    work: &Work,
    owner: &Person<'_>,
    who: &Person<'_>,
    node: &Node,
) -> Result<()> {
    let seen = who.ssh(node, "root", &format!("{}\ntrue", work.trace))?.ok()?;
    ensure!(seen.stdout.is_empty(), "there is {}", seen.stdout.trim().replace('\n', ", "));
    for login in ["root", work.name] {
        let output = owner.ssh(node, login, "true")?;
        if output.code == Some(0) {
            bail!("the key of {} opens {login}", owner.name);
        }
        ensure!(output.stderr.contains("Permission denied"), "no answer: {}", output.stderr);
    }
    Ok(())
}

/// Fails if a node's user finds himself on another image, by its os-release.
pub(super) fn image_is(id: &str, person: &Person<'_>, node: &Node) -> Result<()> {
    let found = person.root(node, "grep ^ID= /etc/os-release")?;
    ensure!(found.trim() == format!("ID={id}"), "the image is {}", found.trim());
    Ok(())
}
