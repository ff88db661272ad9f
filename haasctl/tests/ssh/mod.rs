//! `ssh`, `exec` and `cp` against real ssh servers on the loopback interface: one with a certificate,
//! which listens at the addresses of several nodes, and one without.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::server::{Server, TOKEN};

const SSHD: &str = "/usr/sbin/sshd";

/// Nodes n01 and n02 have a certificate. n03 shows theirs, which is not for its name. n04 has none, and
/// n05 is off.
struct Rack {
    folder: tempfile::TempDir,
    server: Server,
    servers: Vec<Child>,
    port: u16,
}

impl Rack {
    fn start() -> Self {
        assert!(Path::new(SSHD).exists(), "{SSHD} is missing: cargo xtask setup installs it");
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["ca", "certified", "plain", "alice"] {
            let mut keygen = Command::new("ssh-keygen");
            done(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(at(name)));
        }
        let mut sign = Command::new("ssh-keygen");
        sign.arg("-q").arg("-s").arg(at("ca")).args(["-I", "test", "-h", "-n", "n01,n02"]);
        done(sign.args(["-V", "-1d:+1d"]).arg(at("certified.pub")));
        fs::copy(at("alice.pub"), at("authorized_keys")).unwrap();
        // Where a server that root starts locks its unprivileged part in.
        let _ = fs::DirBuilder::new().mode(0o755).create("/run/sshd");
        let port = free_port();
        let certificate = format!("HostCertificate {}", at("certified-cert.pub").display());
        let nodes = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
        let servers = vec![
            sshd(folder.path(), "certified", &certificate, port, &nodes),
            sshd(folder.path(), "plain", "", port, &["127.0.0.4"]),
        ];
        let public = |name: &str| {
            let text = fs::read_to_string(at(name).with_extension("pub")).unwrap();
            text.trim().to_owned()
        };
        let plain = public("plain");
        let server = Server::with_nodes(
            &public("ca"),
            &[
                ("n01", Some("127.0.0.1"), None),
                ("n02", Some("127.0.0.2"), None),
                ("n03", Some("127.0.0.3"), None),
                ("n04", Some("127.0.0.4"), Some(&plain)),
                ("n05", None, None),
            ],
        );
        let config = format!(
            "[contexts.test]\nurl = \"{}\"\nfingerprint = \"{}\"\ntoken = \"{TOKEN}\"\n",
            server.url, server.fingerprint
        );
        fs::write(at("config.toml"), config).unwrap();
        fs::set_permissions(at("config.toml"), fs::Permissions::from_mode(0o600)).unwrap();
        Self { folder, server, servers, port }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs haasctl; `options` stand for the account, the key and the port.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_haasctl"));
        for arg in args {
            if *arg == "OPTIONS" {
                command.arg("-i").arg(self.at("alice"));
                command.arg("--ssh-option").arg(format!("Port={}", self.port));
                command.args([
                    "--ssh-option",
                    "IdentitiesOnly=yes",
                    "--ssh-option",
                    "BatchMode=yes",
                ]);
            } else {
                command.arg(arg);
            }
        }
        let Output { status, stdout, stderr } = command
            .env("HAASCTL_CONFIG", self.at("config.toml"))
            .env("XDG_CACHE_HOME", self.at("cache"))
            .env_remove("HAASCTL_CONTEXT")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // It may have ended already.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn sshd(folder: &Path, key: &str, more: &str, port: u16, addresses: &[&str]) -> Child {
    let listen: String =
        addresses.iter().map(|address| format!("ListenAddress {address}:{port}\n")).collect();
    let folder_text = folder.display();
    let text = format!(
        "{listen}HostKey {folder_text}/{key}\n{more}\nAuthorizedKeysFile {folder_text}/authorized_keys\n\
         StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n\
         PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    );
    let config = folder.join(format!("sshd_{key}"));
    fs::write(&config, text).unwrap();
    let log = fs::File::create(folder.join(format!("{key}.log"))).unwrap();
    let mut server = Command::new(SSHD)
        .args(["-D", "-e", "-f"])
        .arg(&config)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    for address in addresses {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        while TcpStream::connect(address).is_err() {
            let said = || fs::read_to_string(folder.join(format!("{key}.log")));
            assert!(server.try_wait().unwrap().is_none(), "sshd has ended: {:?}", said());
            assert!(Instant::now() < until, "sshd does not listen: {:?}", said());
            std::thread::yield_now();
        }
    }
    server
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The account that this test runs as: sshd lets nobody else in.
fn me() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn ssh_reaches_a_node_that_it_has_never_seen_and_asks_and_warns_of_nothing() {
    let (rack, me) = (Rack::start(), me());
    for node in ["n01", "n02", "n04"] {
        let (code, stdout, stderr) =
            rack.run(&["ssh", node, "-l", &me, "OPTIONS", "--", "echo", "in;", "exit", "7"]);
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (7, "in\n", ""), "{node}");
    }
    let known = fs::read_dir(rack.at("cache/haasctl")).unwrap().count();
    assert_eq!(known, 1, "one file for this haasd, however often it is asked");
}

#[test]
fn ssh_goes_nowhere_where_the_key_is_not_the_nodes() {
    let (rack, me) = (Rack::start(), me());
    let ran = rack.at("ran");
    let touch = format!("touch {}", ran.display());
    let (code, _, stderr) = rack.run(&["ssh", "n03", "-l", &me, "OPTIONS", "--", &touch]);
    assert_eq!(code, 255, "{stderr}");
    assert!(stderr.contains("n03") && stderr.contains("verification failed"), "{stderr}");
    let (code, _, stderr) = rack.run(&[
        "ssh",
        "n03",
        "-l",
        &me,
        "OPTIONS",
        "--ssh-option",
        "StrictHostKeyChecking=no",
        "--",
        &touch,
    ]);
    assert_eq!(code, 255, "nor where somebody would rather not know: {stderr}");
    assert!(!ran.exists());
    let (code, _, stderr) = rack.run(&["ssh", "n05", "-l", &me, "--", &touch]);
    assert_eq!(code, 1);
    assert!(stderr.contains("no address") || stderr.contains("off, as is wanted"), "{stderr}");
}

#[test]
fn who_names_no_account_comes_under_his_own_name() {
    let rack = Rack::start();
    let (code, _, stderr) = rack.run(&["ssh", "n01", "OPTIONS", "--", "true"]);
    assert_eq!(code, 255, "this machine has no such account");
    assert!(stderr.contains("alice@127.0.0.1"), "{stderr}");
    assert_eq!(rack.server.requests("/v1/whoami"), 1);
}

#[test]
fn exec_runs_on_all_nodes_and_shows_the_same_output_once() {
    let (rack, me) = (Rack::start(), me());
    let (code, stdout, stderr) =
        rack.run(&["exec", "n01,n02,n04", "-l", &me, "OPTIONS", "--", "echo same"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "--- n[01-02,04] (3 nodes)\nsame\n");

    let own = "set -- $SSH_CONNECTION; echo $3; test $3 != 127.0.0.2 || exit 4";
    let (code, stdout, stderr) =
        rack.run(&["exec", "n01,n02,n05", "-l", &me, "OPTIONS", "--fanout", "1", "--", own]);
    assert_eq!(code, 255, "{stderr}");
    assert_eq!(stdout, "--- n01 (1 node)\n127.0.0.1\n--- n02 (1 node, exit code 4)\n127.0.0.2\n");
    assert!(
        stderr.contains("n05: ") && stderr.contains("2 of 3 nodes failed: n[02,05]"),
        "{stderr}"
    );

    let (code, stdout, _) = rack.run(&[
        "exec",
        "n01,n02",
        "-l",
        &me,
        "OPTIONS",
        "-o",
        "json",
        "--",
        own,
        "; echo no >&2",
    ]);
    let list: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, 4, "the highest of all");
    let first = &list["items"][0];
    assert_eq!((&first["node"], &first["exit_code"]), (&"n01".into(), &0.into()));
    assert_eq!((&first["stdout"], &first["stderr"]), (&"127.0.0.1\n".into(), &"no\n".into()));
    assert_eq!((&list["items"][1]["exit_code"]), &4);
}

#[test]
fn cp_brings_files_to_nodes_and_back() {
    let (rack, me) = (Rack::start(), me());
    fs::create_dir_all(rack.at("from/deep")).unwrap();
    fs::write(rack.at("from/deep/file"), "what is copied").unwrap();
    let (from, there) = (rack.at("from"), rack.at("there"));
    let target = format!("n01,n04:{}", there.display());
    let (code, stdout, stderr) = rack.run(&[
        "cp",
        "-r",
        from.to_str().unwrap(),
        &target,
        "-l",
        &me,
        "OPTIONS",
        "--fanout",
        "1",
    ]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "", ""));
    // The first node has made the folder, and the second one has copied into it.
    assert_eq!(fs::read_to_string(there.join("deep/file")).unwrap(), "what is copied");
    assert_eq!(fs::read_to_string(there.join("from/deep/file")).unwrap(), "what is copied");

    let source = format!("n02:{}/deep/file", there.display());
    let back = rack.at("back");
    let (code, _, stderr) =
        rack.run(&["cp", &source, back.to_str().unwrap(), "-l", &me, "OPTIONS"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(fs::read_to_string(back).unwrap(), "what is copied");

    let (code, _, stderr) = rack.run(&[
        "cp",
        &source,
        &format!("n03:{}", rack.at("x").display()),
        "-l",
        &me,
        "OPTIONS",
    ]);
    assert_eq!(code, 2, "{stderr}");
    let (code, _, stderr) = rack.run(&[
        "cp",
        from.to_str().unwrap(),
        &format!("n03:{}", rack.at("x").display()),
        "-r",
        "-l",
        &me,
        "OPTIONS",
    ]);
    assert!(code != 0 && stderr.contains("verification failed"), "{code}: {stderr}");
    assert!(!rack.at("x").exists());
    let (code, _, stderr) = rack.run(&["cp", "n01,n02:file", ".", "-l", &me, "OPTIONS"]);
    assert_eq!(code, 2, "{stderr}");
}
