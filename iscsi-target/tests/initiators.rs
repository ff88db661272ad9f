//! Real initiators of Debian against `haas-iscsi`: libiscsi's tools and conformance suite, and QEMU.

mod support;

use std::collections::BTreeMap;
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

/// Suites of commands that read or change nothing: all of their tests must pass.
const READING: [&str; 24] = [
    "Inquiry",
    "Mandatory",
    "ModeSense6",
    "NoMedia",
    "Prefetch10",
    "Prefetch16",
    "Read6",
    "Read10",
    "Read12",
    "Read16",
    "ReadCapacity10",
    "ReadCapacity16",
    "ReadOnly",
    "ReportSupportedOpcodes",
    "StartStopUnit",
    "TestUnitReady",
    "Verify10",
    "Verify12",
    "Verify16",
    "iSCSIcmdsn",
    "iSCSITMF",
    "GetLBAStatus",
    "Reserve6",
    "PrinReadKeys",
];

/// Suites that write: what fails in them must fail because the disk is write-protected.
const WRITING: [&str; 17] = [
    "CompareAndWrite",
    "ExtendedCopy",
    "OrWrite",
    "Unmap",
    "Write10",
    "Write12",
    "Write16",
    "WriteAtomic16",
    "WriteSame10",
    "WriteSame16",
    "WriteVerify10",
    "WriteVerify12",
    "WriteVerify16",
    "iSCSIdatasn",
    "iSCSIResiduals",
    "Sanitize",
    "MultipathIO",
];

/// What is skipped in the reading suites, and why that is right.
const SKIPPED: [(&str, &str); 15] = [
    // The tool takes "invalid field", which the standard and the test itself want for the wrong
    // reporting option, for "not implemented". Our unit tests cover the answers.
    ("ReportSupportedOpcodes.OneCommand", "REPORT_SUPPORTED_OPCODES is not implemented"),
    // Nothing is provisioned thinly, and LBPME says so.
    ("Inquiry.BlockLimits", "fully provisioned"),
    ("GetLBAStatus.UnmapSingle", "fully provisioned"),
    ("GetLBAStatus.Simple", "GET_LBA_STATUS is not implemented"),
    ("GetLBAStatus.BeyondEol", "GET_LBA_STATUS is not implemented"),
    // The medium stays where it is.
    ("StartStopUnit.Simple", "not removable"),
    // Many nodes read one disk; none may reserve it.
    ("PrinReadKeys.Simple", "PERSISTENT RESERVE IN is not implemented"),
    ("PrinReadKeys.Truncate", "PROUT Not Supported"),
    ("Reserve6.Simple", "RESERVE6 is not implemented"),
    ("Reserve6.2Initiators", "RESERVE6 is not implemented"),
    ("Reserve6.Logout", "RESERVE6 is not implemented"),
    ("Reserve6.ITNexusLoss", "RESERVE6 is not implemented"),
    ("Reserve6.TargetColdReset", "RESERVE6 is not implemented"),
    ("Reserve6.TargetWarmReset", "RESERVE6 is not implemented"),
    ("Reserve6.LUNReset", "RESERVE6 is not implemented"),
];

/// Tests that write asynchronously, of which the tool tells no more than "check condition".
const WRITING_ASYNC: [&str; 2] = ["Write10.Async", "iSCSITMF.AbortTaskSimpleAsync"];

#[test]
fn libiscsi_conformance_as_far_as_a_read_only_disk_goes() {
    let daemon = Daemon::start(65_536, &[]);
    let output =
        tool("iscsi-test-cu", "libiscsi-bin", &["--dataloss", "-v", "-t", "ALL", &daemon.url()]);
    let log = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let results = results(&log);
    assert!(results.len() > 200, "only {} tests ran:\n{log}", results.len());

    let mut wrong = Vec::new();
    let mut passed = BTreeMap::<&str, usize>::new();
    for (name, text) in &results {
        let (suite, _) = name.split_once('.').unwrap();
        let failed = text.contains("FAILED");
        if !failed {
            *passed.entry(suite).or_default() += 1;
        }
        if WRITING_ASYNC.contains(&name.as_str()) {
            if !text.contains("CHECK_CONDITION") {
                wrong.push(format!("{name} ended otherwise: {text}"));
            }
            continue;
        }
        let reads = READING.contains(&suite) || name.contains("iSCSIResiduals.Read");
        if reads {
            let expected = SKIPPED.iter().find(|(skipped, _)| skipped == name);
            let skipped = text.split("[SKIPPED]").nth(1).filter(|_| !after_the_verdict(text));
            let as_expected = match (skipped, expected) {
                (Some(why), Some((_, reason))) => why.contains(reason),
                (None, None) => true,
                _ => false,
            };
            if failed || !as_expected {
                wrong.push(format!("{name}: {}", text.chars().take(500).collect::<String>()));
            }
        } else if failed {
            let protected = text.split("[FAILED]").nth(1).is_some_and(|why| why.contains("0x2700"));
            if !WRITING.contains(&suite) || !protected {
                wrong.push(format!("{name}: {}", text.chars().take(500).collect::<String>()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for suite in READING {
        assert!(passed.contains_key(suite), "suite {suite} did not run: {passed:?}");
    }
    assert_eq!(std::fs::read(daemon.dir.path().join("disk.img")).unwrap(), daemon.disk);
}

/// The tool closes each suite with a message of its own, after the last test has passed.
fn after_the_verdict(text: &str) -> bool {
    matches!((text.find("passed"), text.find("[SKIPPED]")), (Some(verdict), Some(skip)) if verdict < skip)
}

/// What the tool printed about each `Suite.Test`.
fn results(log: &str) -> BTreeMap<String, String> {
    let mut results = BTreeMap::new();
    let (mut suite, mut test) = (String::new(), None);
    for line in log.lines() {
        if let Some(name) = line.strip_prefix("Suite: ") {
            (suite, test) = (name.trim().to_owned(), None);
        } else if let Some(rest) = line.strip_prefix("  Test: ") {
            let (name, rest) = rest.split_once(" ...").unwrap_or((rest, ""));
            let name = format!("{suite}.{name}");
            results.insert(name.clone(), rest.to_owned());
            test = Some(name);
        } else if line.starts_with("Run Summary") {
            test = None;
        } else if let Some(text) = test.as_ref().and_then(|name| results.get_mut(name)) {
            text.push('\n');
            text.push_str(line);
        }
    }
    results
}
