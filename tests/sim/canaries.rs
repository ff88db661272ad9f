//! Known secrets are looked for wherever none may stand.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use controller::tokens::MasterKey;
use haas_api::user::{Login, NewUser, Password, PasswordChange, Role, TokenRequest, UserKind};

use crate::rack::{Controller, LONG, PATIENT, SimRack};

/// Where secrets are at home, below the rack's folder: haasd's own keys and the first admin's token,
/// haasctl's contexts, and what simulated nodes remember.
const HOMES: [&str; 7] = [
    "state/admin.token",
    "state/master.key",
    "state/ssh-host-ca.key",
    "state/ssh-user-ca.key",
    "state/tls.key",
    "haasctl.toml",
    "sim",
];

/// A user who is not root.
const NOBODY: u32 = 65_534;

#[test]
#[ignore = "needs root and built binaries; run: cargo xtask e2e"]
fn no_secret_stands_in_a_log_an_argument_the_kernels_log_the_database_or_a_core() -> Result<()> {
    let sim = SimRack::start("canary", 2)?;
    let mut haas = sim.haasd(PATIENT)?;
    let mut secrets = secrets_of_people(&haas)?;
    haas.switched("n[1-2]", "a")?;
    haas.switched("n[1-2]", "b")?;
    secrets.extend(secrets_of_boots(&haas)?);
    ensure!(secrets.len() > 15, "too few secrets were planted: {:?}", secrets.keys());
    // While it runs, and as a crash leaves it: with its write-ahead log and free pages.
    let place = sim.rack.dir().to_owned();
    let found = found(&place, &secrets)?;
    ensure!(found.is_empty(), "while haasd runs:\n{}", found.join("\n"));
    crashes_without_a_core(&mut haas)?;
    let found = found_in_files(&place, &secrets)?;
    ensure!(found.is_empty(), "after a crash:\n{}", found.join("\n"));
    // And it would find one.
    let (name, secret) = secrets.iter().next().context("there are some")?;
    fs::write(place.join("careless.log"), format!("DEBUG got {secret} from alice\n"))?;
    let found = found_in_files(&place, &secrets)?;
    ensure!(found.len() == 1 && found[0].contains(name), "{found:?}");
    Ok(())
}

/// What haasd has in use stands in its memory. Root reads that, as a debugger must; nobody else does, and a
/// crash makes no file of it, on a machine that makes one of others.
fn crashes_without_a_core(haas: &mut Controller<'_>) -> Result<()> {
    let pid = haas.haasd.pid().context("haasd runs")?;
    let proc = Path::new("/proc").join(pid.to_string());
    let maps = fs::read_to_string(proc.join("maps"))?;
    let heap = maps.lines().find(|line| line.contains(" rw-p ")).context("it has memory")?;
    let start = u64::from_str_radix(heap.split('-').next().unwrap_or_default(), 16)?;
    let mut bytes = [0; 64];
    File::open(proc.join("mem"))?.read_exact_at(&mut bytes, start).context("root, as gdb reads")?;
    for file in ["maps", "mem", "environ", "fd"] {
        let path = proc.join(file);
        // `ls` for the folder, `head` for the others: both open it.
        let program = if file == "fd" { "ls" } else { "head" };
        let mut look = Command::new(program);
        let output = look.arg(&path).uid(NOBODY).gid(NOBODY).output()?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && told.contains("denied"), "{}: {told}", path.display());
    }

    let limits = fs::read_to_string(proc.join("limits"))?;
    let cores = limits.lines().find(|line| line.starts_with("Max core file size"));
    let sizes: Vec<_> = cores.unwrap_or_default().split_whitespace().skip(4).take(2).collect();
    ensure!(sizes == ["0", "0"], "haasd would leave a core: {cores:?}");
    // Another program leaves one here, as a service manager may have it.
    let mut other = Command::new("prlimit");
    other.args(["--core=unlimited:unlimited", "sh", "-c", "kill -ABRT $$"]);
    let other = other.current_dir(haas.sim.rack.dir()).status().context("prlimit (util-linux)")?;
    ensure!(other.core_dumped(), "this machine leaves no core of anything: {other}");
    ensure!(Command::new("kill").args(["-ABRT", &pid.to_string()]).status()?.success());
    let status = haas.haasd.wait_exit(LONG)?;
    ensure!(status.signal() == Some(6) && !status.core_dumped(), "haasd left a core: {status}");
    Ok(())
}

/// Passwords and tokens that go over the API, right ones and wrong ones.
fn secrets_of_people(haas: &Controller<'_>) -> Result<BTreeMap<String, String>> {
    let mut secrets = BTreeMap::new();
    let token = fs::read_to_string(haas.sim.rack.dir().join("state/admin.token"))?;
    secrets.insert("the first admin's token".to_owned(), token.trim().to_owned());
    for word in ["first", "second", "wrong"] {
        secrets.insert(format!("{word} password"), format!("canary-{word}-{}", ulid::Ulid::new()));
    }
    let password = |word: &str| Password::new(secrets[&format!("{word} password")].clone());
    let (first, second, wrong) = (password("first"), password("second"), password("wrong"));
    let tokens = haas.api(async move |client| {
        let name: haas_api::names::UserName = "carol".parse().expect("a valid name");
        let new = NewUser {
            name: name.clone(),
            kind: UserKind::Person,
            role: Role::User,
            ssh_keys: Vec::new(),
        };
        client.add_user(&new).await?;
        let change = |new| PasswordChange { old: None, new };
        client.change_password(&name, &change(first)).await?;
        client.change_password(&name, &change(second.clone())).await?;
        let login =
            |password| Login { name: name.clone(), password, token: TokenRequest::default() };
        assert!(client.login(&login(wrong)).await.is_err(), "a wrong password lets in");
        let by_password = client.login(&login(second)).await?;
        let made = client.new_token(&name, &TokenRequest::default()).await?;
        client.revoke_token(&name, &made.id).await?;
        Ok([by_password.token, made.token])
    })??;
    let names = ["a login's token", "a revoked token"];
    secrets.extend(names.map(str::to_owned).into_iter().zip(tokens));
    Ok(secrets)
}

/// What every boot so far had: its token, and the two secrets of its session.
fn secrets_of_boots(haas: &Controller<'_>) -> Result<BTreeMap<String, String>> {
    let key = MasterKey::open(&haas.sim.rack.dir().join("state/master.key"))?;
    let mut secrets = BTreeMap::new();
    for event in haas.events()?.iter().filter(|event| event.kind == "boot-opened") {
        let boot = event.data["boot"].as_str().context("a boot has an id")?;
        for (what, secret) in [
            ("boot token", key.boot_token(boot)),
            ("secret of the node", key.node_chap(boot)),
            ("secret of the target", key.target_chap(boot)),
        ] {
            secrets.insert(format!("{what} of {boot}"), secret.expose().clone());
        }
    }
    Ok(secrets)
}

/// Every place where one of the secrets stands.
fn found(place: &Path, secrets: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut found = found_in_files(place, secrets)?;
    for process in fs::read_dir("/proc")?.filter_map(Result::ok) {
        // It may end meanwhile, and most entries are no processes.
        let Ok(arguments) = fs::read(process.path().join("cmdline")) else { continue };
        look(&process.path().join("cmdline"), &arguments, secrets, &mut found);
    }
    let kernel = Command::new("dmesg").output().context("dmesg")?;
    ensure!(kernel.status.success(), "dmesg: {}", String::from_utf8_lossy(&kernel.stderr));
    look(Path::new("the kernel's log"), &kernel.stdout, secrets, &mut found);
    Ok(found)
}

fn found_in_files(place: &Path, secrets: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![place.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if HOMES.iter().any(|home| path == place.join(home)) {
                continue;
            }
            let kind = fs::symlink_metadata(&path)?.file_type();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                look(&path, &fs::read(&path)?, secrets, &mut found);
            }
        }
    }
    Ok(found)
}

fn look(place: &Path, bytes: &[u8], secrets: &BTreeMap<String, String>, found: &mut Vec<String>) {
    // What is no text becomes other letters than a secret's.
    let text = String::from_utf8_lossy(bytes);
    for (name, secret) in secrets {
        if text.contains(secret.as_str()) {
            found.push(format!("{}: {name}", place.display()));
        }
    }
}
