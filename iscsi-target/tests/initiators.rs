//! Real initiators of Debian against `haas-iscsi`: libiscsi's tools, and QEMU.

mod support;

use std::process::Output;

use sha2::{Digest, Sha256};
use support::{Daemon, TARGET, tool};

fn succeeded(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}\n{out}\n{err}", output.status);
    out
}

#[test]
fn libiscsi_finds_and_describes_the_disk() {
    let mut daemon = Daemon::start(4096, &[]);
    let url = daemon.url();
    let portal = format!("iscsi://{}", daemon.addr);
    let listed = succeeded(&tool("iscsi-ls", "libiscsi-bin", &["-s", &portal]));
    assert!(listed.contains(&format!("Target:{TARGET} Portal:{},1", daemon.addr)), "{listed}");
    assert!(listed.contains("Lun:0    Type:DIRECT_ACCESS"), "{listed}");
    let inquiry = succeeded(&tool("iscsi-inq", "libiscsi-bin", &[&url]));
    assert!(inquiry.contains("Vendor:HAAS") && inquiry.contains("Product:IMAGE"), "{inquiry}");
    let names = succeeded(&tool("iscsi-inq", "libiscsi-bin", &["-e", "1", "-c", "131", &url]));
    // The tool lists them last to first; a unit test has their order.
    assert!(names.contains("Designator Type:(3) NAA"), "{names}");
    assert!(names.contains("Designator:[HAAS    "), "{names}");
    let capacity = succeeded(&tool("iscsi-readcapacity16", "libiscsi-bin", &[&url]));
    assert!(capacity.contains("Total size:2097152"), "{capacity}");
    assert!(daemon.terminate().success(), "SIGTERM is a clean end");
}

#[test]
fn servers_that_are_given_one_digest_are_paths_to_one_disk() {
    let names = |daemon: &Daemon| {
        succeeded(&tool("iscsi-inq", "libiscsi-bin", &["-e", "1", "-c", "131", &daemon.url()]))
    };
    let digest = ["--sha256", &"5a".repeat(32)];
    // Each daemon has its disk in a folder of its own.
    let [one, other] = [Daemon::start(8, &digest), Daemon::start(8, &digest)];
    assert_eq!(names(&one), names(&other));
    assert_ne!(names(&one), names(&Daemon::start(8, &[])));
}

#[test]
fn chap_lets_in_who_knows_the_secret() {
    let daemon = Daemon::start(2048, &["--chap", "node1:secret"]);
    let url =
        |user: &str, secret: &str| format!("iscsi://{user}%{secret}@{}/{TARGET}/0", daemon.addr);
    let try_in = |url: &str| tool("iscsi-inq", "libiscsi-bin", &[url]).status.success();
    assert!(try_in(&url("node1", "open sesame 123")));
    assert!(!try_in(&url("node1", "open sesame 124")));
    assert!(!try_in(&url("node2", "open sesame 123")));
    assert!(!try_in(&daemon.url()));
}

#[test]
fn qemu_reads_the_whole_disk_as_it_is() {
    let daemon = Daemon::start(65_536, &["--chap", "node1:secret"]);
    let out = daemon.dir.path().join("copy.img");
    let secret = format!("secret,id=s,file={}", daemon.dir.path().join("plain").display());
    std::fs::write(daemon.dir.path().join("plain"), "open sesame 123").unwrap();
    for digest in ["none", "crc32c"] {
        let source = format!(
            "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={},file.target={TARGET},\
             file.lun=0,file.user=node1,file.password-secret=s,file.header-digest={digest}",
            daemon.addr
        );
        let out = out.to_str().unwrap();
        let arguments = ["convert", "--object", &secret, "--image-opts", &source, "-O", "raw", out];
        let output = tool("qemu-img", "qemu-utils", &arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!error.contains("nknown driver"), "install qemu-block-extra: {error}");
        succeeded(&output);
        let copy = std::fs::read(out).unwrap();
        assert!(Sha256::digest(&copy) == Sha256::digest(&daemon.disk), "header digest {digest}");
    }
}

#[test]
fn qemu_sees_the_holes_of_the_disk() {
    let daemon = Daemon::sparse(65_536, 8192..16_384);
    let source = format!(
        "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={},file.target={TARGET},\
         file.lun=0",
        daemon.addr
    );
    let arguments = ["map", "--output=json", "--image-opts", &source];
    let map = succeeded(&tool("qemu-img", "qemu-utils", &arguments));
    // Where each part begins, how long it is, and whether it reads as zeros.
    let number = |line: &str, key: &str| {
        let (_, rest) = line.split_once(key).unwrap_or_else(|| panic!("no {key} in {map}"));
        rest.split(',').next().unwrap().trim().parse::<u64>().unwrap()
    };
    let parts: Vec<_> = map
        .lines()
        .filter(|line| line.contains("start"))
        .map(|line| {
            let zero = line.contains("\"zero\": true");
            (number(line, "\"start\":"), number(line, "\"length\":"), zero)
        })
        .collect();
    let mib = 1 << 20;
    let expected = [(0, 4 * mib, false), (4 * mib, 4 * mib, true), (8 * mib, 24 * mib, false)];
    assert_eq!(parts, expected, "{map}");
}
