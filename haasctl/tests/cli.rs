//! The binary against a small haasd of this test's own: trust, exit codes, streams. It shares no
//! code with the real one, only the wire types.

mod console;
mod server;
mod ssh;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use haas_api::client::{Client, ClientError};
use server::{Server, TOKEN};

/// A configuration for the server, and a way to call haasctl with it.
struct Ctl {
    folder: tempfile::TempDir,
}

impl Ctl {
    fn new(server: &Server) -> Self {
        Self::with(&server.url, &server.fingerprint)
    }

    fn with(url: &str, fingerprint: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "current = \"test\"\n[contexts.test]\nurl = \"{url}\"\nfingerprint = \"{fingerprint}\"\n\
             token = \"{TOKEN}\"\n"
        );
        fs::write(folder.path().join("config.toml"), text).unwrap();
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(folder.path().join("config.toml"), private).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs haasctl; its exit code, what it printed and what it said.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_haasctl"))
            .args(args)
            .env("HAASCTL_CONFIG", self.path("config.toml"))
            .env_remove("HAASCTL_CONTEXT")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

#[test]
fn only_the_pinned_certificate_is_trusted() {
    let server = Server::start();
    let (code, _, _) = Ctl::new(&server).run(&["user", "whoami"]);
    assert_eq!(code, 0);

    let other = "0".repeat(64);
    let (code, stdout, stderr) = Ctl::with(&server.url, &other).run(&["user", "whoami"]);
    assert_eq!((code, stdout.as_str()), (8, ""));
    assert!(stderr.contains("another certificate than the pinned one"), "{stderr}");
    assert!(stderr.contains(&server.fingerprint) && stderr.contains(&other), "{stderr}");
    assert_eq!(server.requests("/v1/whoami"), 1, "the token must not travel to a stranger");
}

#[test]
fn a_haasd_that_is_not_there_is_unreachable() {
    let (url, fingerprint) = {
        let server = Server::start();
        (server.url.clone(), server.fingerprint.clone())
    };
    let (code, _, stderr) = Ctl::with(&url, &fingerprint).run(&["status"]);
    assert_eq!(code, 8, "{stderr}");
    assert!(stderr.contains("cannot be reached") && stderr.contains("refused"), "{stderr}");
}

#[test]
fn problems_become_exit_codes_and_sentences() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let (code, _, stderr) = ctl.run(&["node", "show", "n404"]);
    assert_eq!((code, stderr.as_str()), (4, "haasctl: there is no node n404\n"));

    let (code, _, stderr) = ctl.run(&["switch", "n[01-02]", "--image", "busy"]);
    assert_eq!(code, 5);
    assert!(stderr.contains("\n  n02: alice is logged in (logins)"), "{stderr}");

    fs::write(ctl.path("wrong.token"), "wrong\n").unwrap();
    let text = fs::read_to_string(ctl.path("config.toml")).unwrap();
    let text = text.replace(&format!("token = \"{TOKEN}\""), "token_file = \"wrong.token\"");
    fs::write(ctl.path("config.toml"), text).unwrap();
    let (code, _, stderr) = ctl.run(&["user", "whoami"]);
    assert_eq!(code, 6);
    assert!(stderr.contains("token") && !stderr.contains("wrong\n"), "{stderr}");
}

#[test]
fn an_empty_node_set_is_never_sent() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    for args in [
        vec!["switch", "", "--image", "minimal"],
        vec!["power", "off", " , "],
        vec!["rollback", ""],
        vec!["node", "manage", ""],
        vec!["status", ""],
        vec!["switch", "--image", "minimal"],
        vec!["switch", "n01"],
    ] {
        let (code, _, stderr) = ctl.run(&args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
    }
    assert_eq!(server.requests(""), 0);
}

#[test]
fn a_dry_run_shows_the_plan() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let args = ["switch", "n[01-02]", "--image", "minimal", "--dry-run"];
    let (code, stdout, stderr) = ctl.run(&args);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(
        stdout,
        "NODE  FROM  TO                     RANK  ACTION  NOTES\n\
         n01   off   minimal:latest + none  0     boot\n"
    );
    let (_, json, _) = ctl.run(&[&args[..], &["-o", "json"]].concat());
    let plan: haas_api::operation::Plan = serde_json::from_str(&json).unwrap();
    assert_eq!(plan.nodes.len(), 1);
}

#[test]
fn waiting_survives_a_broken_stream_and_an_absent_haasd() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let args = ["switch", "n[01-02]", "--image", "minimal", "--wait", "--timeout", "60"];
    let (code, stdout, stderr) = ctl.run(&args);
    assert_eq!(code, 3, "{stderr}");
    // Two streams broke off; no event is lost and none told twice.
    for line in ["n01 dhcp 1.0s", "n01 kernel 3.2s", "n01 ready 9.0s"] {
        assert_eq!(stderr.matches(line).count(), 1, "{line}: {stderr}");
    }
    assert!(stderr.contains("is back"), "{stderr}");
    assert!(stderr.contains("n02: no DHCPDISCOVER within 15 min"), "{stderr}");
    assert!(stderr.ends_with("haasctl: 1 of 2 nodes are there, 1 failed\n"), "{stderr}");
    assert_eq!(
        stdout,
        "NODE  DHCP  KERNEL  TOTAL s  KERNEL+INITRAMFS  ISCSI\n\
         n01    1.0     8.0      9.0           19.5 MB  3.2 MB\n"
    );
}

#[test]
fn waiting_ends_at_its_time_and_says_how_to_go_on() {
    let server = Server::start();
    let (code, _, stderr) =
        Ctl::new(&server).run(&["operation", "wait", "op-forever", "--timeout", "1"]);
    assert_eq!(code, 7, "{stderr}");
    assert!(stderr.contains("haasctl operation wait op-forever"), "{stderr}");
}

#[test]
fn ctrl_c_leaves_the_operation_running() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let mut child = Command::new(env!("CARGO_BIN_EXE_haasctl"))
        .args(["operation", "wait", "op-forever"])
        .env("HAASCTL_CONFIG", ctl.path("config.toml"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    // The stream is opened after the signal's handler stands.
    while server.requests("/v1/events") == 0 {
        assert!(std::time::Instant::now() < until, "haasctl never asked for events");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let mut stderr = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{stderr}");
    assert!(stderr.contains("haasctl operation show op-forever"), "{stderr}");
}

#[test]
fn a_terminal_gets_a_table_that_is_drawn_over_itself() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let command =
        format!("{} switch n[01-02] --image minimal --wait", env!("CARGO_BIN_EXE_haasctl"));
    // script(1) gives it a terminal.
    let output = Command::new("script")
        .args(["-q", "-e", "-c", &command, "/dev/null"])
        .env("HAASCTL_CONFIG", ctl.path("config.toml"))
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("A\x1b[J"), "{text}");
    assert!(text.contains("[##########]") && text.contains("1 of 2 there"), "{text}");
}

#[test]
fn a_build_streams_the_recipe_and_its_log() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    fs::create_dir(ctl.path("tiny")).unwrap();
    fs::write(ctl.path("tiny/recipe.toml"), "x = 1\n").unwrap();
    fs::write(ctl.path("tiny/big"), vec![7; 3 << 20]).unwrap();
    let folder = ctl.path("tiny").display().to_string();
    let (code, stdout, stderr) = ctl.run(&["image", "build", &folder, "--tag", "t1"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stderr, "got big 3145728\ngot recipe.toml 6\nbuilding\n");
    assert!(stdout.contains("image             tiny:t1\n"), "{stdout}");

    let (code, _, stderr) = ctl.run(&["image", "build", &folder, "--name", "broken"]);
    assert_eq!(code, 2);
    assert!(stderr.ends_with("haasctl: recipe.toml:1: unknown key x\n"), "{stderr}");

    let (code, _, stderr) = ctl.run(&["image", "build", &folder, "--name", "cut"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("ended before the image was done"), "{stderr}");
}

#[test]
fn what_cannot_be_packed_is_named() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    fs::create_dir(ctl.path("odd")).unwrap();
    let fifo = ctl.path("odd/pipe");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let folder = ctl.path("odd").display().to_string();
    let (code, _, stderr) = ctl.run(&["image", "build", &folder]);
    assert_eq!(code, 1);
    assert!(stderr.contains("odd/pipe: a recipe holds files"), "{stderr}");

    fs::write(ctl.path("x.tar.gz"), [0x1f, 0x8b, 8, 0]).unwrap();
    let tar = ctl.path("x.tar.gz").display().to_string();
    let (code, _, stderr) = ctl.run(&["image", "import", &tar, "--name", "x"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("gzip -dc"), "{stderr}");
}

#[test]
fn an_inventory_is_shown_before_it_is_taken() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    fs::write(ctl.path("nodes.toml"), "# two nodes\n").unwrap();
    let file = ctl.path("nodes.toml").display().to_string();
    let (code, stdout, stderr) = ctl.run(&["node", "apply", &file]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("+ n01") && stderr.contains("--yes"), "{stderr}");
    assert_eq!(server.applied(), 0);
    let (code, stdout, _) = ctl.run(&["node", "apply", &file, "--dry-run"]);
    assert_eq!((code, stdout.as_str()), (0, "+ n01\nWould be: 1 added (n01).\n"));
    assert_eq!(server.applied(), 0);
    let (code, stdout, _) = ctl.run(&["node", "apply", &file, "-y"]);
    assert_eq!((code, stdout.as_str()), (0, "Done: 1 added (n01).\n"));
    assert_eq!(server.applied(), 1);
}

#[test]
fn a_token_goes_into_a_private_file_and_nowhere_else() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let file = ctl.path("alice.token");
    let (code, stdout, stderr) =
        ctl.run(&["user", "token", "alice", "--file", &file.display().to_string()]);
    assert_eq!(code, 0);
    assert!(!(stdout + &stderr).contains("fresh-token"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "fresh-token\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let (code, stdout, _) = ctl.run(&["context", "show"]);
    assert_eq!(code, 0);
    assert!(stdout.contains(&server.fingerprint) && !stdout.contains(TOKEN), "{stdout}");
}

#[test]
fn a_context_is_added_privately_and_used() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    fs::write(ctl.path("t"), format!("{TOKEN}\n")).unwrap();
    let token_file = ctl.path("t").display().to_string();
    let add = ["context", "add", "two", "--url", &server.url, "--fingerprint"];
    let rest = ["--token-file", &token_file, "--use"];
    let (code, _, stderr) = ctl.run(&[&add[..], &[&server.fingerprint], &rest[..]].concat());
    assert_eq!(code, 0, "{stderr}");
    let mode = fs::metadata(ctl.path("config.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (code, stdout, _) = ctl.run(&["context", "list"]);
    assert_eq!(code, 0);
    assert!(stdout.lines().any(|line| line.starts_with("*  two")), "{stdout}");
    assert_eq!(ctl.run(&["user", "whoami"]).0, 0);
    assert_eq!(ctl.run(&["user", "whoami", "--context", "three"]).0, 2);
    let (code, _, stderr) = ctl.run(&[&add[..], &["abc"], &rest[..]].concat());
    assert_eq!(code, 2);
    assert!(stderr.contains("fingerprint"), "{stderr}");
}

#[test]
fn completion_needs_no_context() {
    let ctl = Ctl::with("https://127.0.0.1:1", &"0".repeat(64));
    fs::remove_file(ctl.path("config.toml")).unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, _) = ctl.run(&["completion", shell]);
        assert_eq!(code, 0);
        assert!(stdout.contains("rollback"), "{shell}");
    }
    let (code, _, stderr) = ctl.run(&["status"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("haasctl context add"), "{stderr}");
}

/// The sample of an import, as an absolute path.
fn sample(name: &str) -> String {
    format!("{}/tests/import/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn an_import_needs_no_haasd_and_keeps_results_apart_from_notes() {
    let ctl = Ctl::with("https://127.0.0.1:1", &"0".repeat(64));
    fs::remove_file(ctl.path("config.toml")).unwrap();
    let (code, stdout, stderr) = ctl.run(&["node", "import", &sample("hosts.csv")]);
    assert_eq!(code, 0, "{stderr}");
    let expected = fs::read_to_string(sample("hosts.csv.toml")).unwrap();
    // The file is named as it was given.
    assert_eq!(
        stdout.lines().skip(1).collect::<Vec<_>>(),
        expected.lines().skip(1).collect::<Vec<_>>()
    );
    assert!(stderr.starts_with("5 nodes taken over from "), "{stderr}");
    assert!(
        stderr.contains("secrets/bmc: the password of the user admin on the BMCs of n[01-02]"),
        "{stderr}"
    );
    assert!(stderr.contains("secrets/bmc-2: the password of the user gpuadmin"), "{stderr}");
    for secret in ["s3cret", "0ther"] {
        assert!(!(stdout.clone() + &stderr).contains(secret), "{secret} was copied");
    }
}

#[test]
fn an_import_that_cannot_be_prints_nothing_but_what_is_wrong() {
    let ctl = Ctl::with("https://127.0.0.1:1", &"0".repeat(64));
    let text = "host n01 { hardware ethernet 52:54:00:77:00:01; }\n\
                host n02 {\n hardware ethernet 52:54:00:77:00:0x;\n}\n";
    fs::write(ctl.path("x.conf"), text).unwrap();
    let file = ctl.path("x.conf").display().to_string();
    let (code, stdout, stderr) = ctl.run(&["node", "import", &file]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(
        stderr.starts_with(&format!("haasctl: {file} cannot be taken over as ISC dhcpd:\n")),
        "{stderr}"
    );
    assert!(
        stderr.contains(&format!("  {file}:3: \"52:54:00:77:00:0x\" is not a valid MAC")),
        "{stderr}"
    );

    fs::write(ctl.path("notes"), "n01 stands in rack 1\n").unwrap();
    let notes = ctl.path("notes").display().to_string();
    let (code, stdout, stderr) = ctl.run(&["node", "import", &notes]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("--from csv, dnsmasq, dhcpd or warewulf"), "{stderr}");
    let (code, _, stderr) = ctl.run(&["node", "import", "/nowhere/at.all"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("/nowhere/at.all cannot be read: "), "{stderr}");
    // Standard input is empty here.
    let (code, _, stderr) = ctl.run(&["node", "import", "-", "--from", "csv"]);
    assert_eq!((code, stderr.as_str()), (2, "haasctl: standard input, read as CSV, has no node\n"));
}

#[test]
fn an_export_is_of_the_nodes_that_haasd_has() {
    let server = Server::start();
    let ctl = Ctl::new(&server);
    let (code, stdout, stderr) = ctl.run(&["node", "export", "--to", "hosts", "n02"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.ends_with("\n10.77.0.12       n02\n") && !stdout.contains("n01"), "{stdout}");
    let (code, stdout, _) = ctl.run(&["node", "export", "--to", "slurm"]);
    assert_eq!(code, 0);
    let line = "\nNodeName=n[01-02] NodeAddr=10.77.0.[11-12] Features=rack1\n\
                NodeSet=rack1 Feature=rack1\n";
    assert!(stdout.ends_with(line), "{stdout}");
    for args in [&["node", "export"][..], &["node", "export", "--to", "hosts", ""]] {
        assert_eq!(ctl.run(args).0, 2, "{args:?}");
    }
}

#[test]
fn the_client_resumes_events_behind_the_last_one() {
    let server = Server::start();
    let client = Client::new(&server.url, &server.fingerprint, TOKEN).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (got, breaks) = runtime.block_on(async {
        let mut events = client.events(Some(0), Some("op-1"));
        let (mut got, mut breaks) = (Vec::new(), 0);
        while got.last() != Some(&3) {
            let next = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
            match next.expect("an event or an error within 10 s") {
                Ok(event) => got.push(event.seq),
                Err(error) => {
                    assert!(error.is_transient(), "{error}");
                    breaks += 1;
                }
            }
        }
        (got, breaks)
    });
    assert_eq!(got, [1, 2, 3]);
    assert_eq!(breaks, 2, "one stream breaks off and one ends");
    let expected = [0, 1, 2].map(|from| format!("from={from}&operation=op-1"));
    assert_eq!(server.event_queries(), expected);
}

#[test]
fn the_client_tells_a_stranger_from_an_absent_haasd() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::new(&server.url, &"0".repeat(64), TOKEN).unwrap();
        let error = client.whoami().await.unwrap_err();
        assert!(matches!(error, ClientError::WrongCertificate { .. }), "{error:?}");
        assert!(!error.is_transient());
        let client = Client::new(&server.url, &server.fingerprint, "wrong").unwrap();
        let error = client.whoami().await.unwrap_err();
        assert!(matches!(error, ClientError::Problem(p) if p.status == 401 && p.code == "token"));
        let client = Client::new("https://127.0.0.1:1", &server.fingerprint, TOKEN).unwrap();
        assert!(client.healthz().await.unwrap_err().is_transient());
    });
}
