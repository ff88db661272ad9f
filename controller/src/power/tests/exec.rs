use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use super::{super::exec::Exec, *};

const NODE: &str = r#"#!/bin/sh
dir=$1
case "$2" in
status) cat "$dir/power" ;;
on) echo "power 1" >>"$dir/log"; echo on >"$dir/power" ;;
off) echo "power 0" >>"$dir/log"; echo off >"$dir/power" ;;
soft) echo "shutdown" >>"$dir/log"; echo off >"$dir/power" ;;
bootdev-pxe) echo "boot pxe" >>"$dir/log" ;;
*) exit 64 ;;
esac
"#;

fn script(dir: &Path, text: &str) -> Vec<String> {
    let path = dir.join("node");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    vec![path.display().to_string(), dir.display().to_string()]
}

#[tokio::test]
async fn exec_keeps_the_promises() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("power"), "off\n").unwrap();
    let command = script(dir.path(), NODE);
    let exec = driver(&PowerSpec::Exec { command }, Firmware::Bios).unwrap();
    let log = || {
        let text = fs::read_to_string(dir.path().join("log")).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    keeps_the_promises(exec.as_ref(), &log).await;
}

#[tokio::test]
async fn a_failing_script_is_told_with_its_words_and_not_its_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = script(dir.path(), "#!/bin/sh\necho 'outlet 7 is dead' >&2\nexit 3\n");
    command.push("--password=hunter2".to_owned());
    let exec = driver(&PowerSpec::Exec { command: command.clone() }, Firmware::Bios).unwrap();
    let error = exec.set(PowerAction::On).await.unwrap_err();
    let told = error.to_string();
    assert_eq!(
        told,
        format!(
            "power command `{} … on`: exit status: 3, and said \"outlet 7 is dead\"",
            command[0]
        )
    );
    assert!(!format!("{error:?} {exec:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_script_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let text = "#!/bin/sh\nsleep 600 & echo $! >\"$1/child\"\nwait\n";
    let exec = Exec::new(&script(dir.path(), text)).unwrap();
    let exec = exec.with_limit(Duration::from_millis(1500));
    let told = exec.state().await.unwrap_err().to_string();
    assert!(told.ends_with("status`: was killed after 1.5 s without an end"), "{told}");
    let child = fs::read_to_string(dir.path().join("child")).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    let started = Instant::now();
    // Gone, or a zombie that init has not yet collected.
    while fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
        assert!(started.elapsed() < Duration::from_secs(10), "the child lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn odd_answers_and_missing_programs_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let exec = Exec::new(&script(dir.path(), "#!/bin/sh\necho maybe\n")).unwrap();
    let told = exec.state().await.unwrap_err().to_string();
    assert!(told.ends_with("printed \"maybe\"; expected \"on\" or \"off\""), "{told}");
    let exec = Exec::new(&["/nowhere/pdu".to_owned()]).unwrap();
    let told = exec.state().await.unwrap_err().to_string();
    assert!(told.contains("/nowhere/pdu … status`: cannot be started"), "{told}");
    assert!(Exec::new(&[]).is_err());
}

#[tokio::test]
async fn haasds_environment_is_not_handed_on() {
    let dir = tempfile::tempdir().unwrap();
    let exec = Exec::new(&script(dir.path(), "#!/bin/sh\nenv >\"$1/env\"\necho on\n")).unwrap();
    exec.state().await.unwrap();
    let env = fs::read_to_string(dir.path().join("env")).unwrap();
    let names: Vec<_> = env.lines().filter_map(|line| line.split('=').next()).collect();
    assert!(
        names.iter().all(|name| ["PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(name)),
        "{env}"
    );
}
