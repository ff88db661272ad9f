//! The documentation says what is so: its commands are taken by the programs, those that need no node
//! run for real, its links lead somewhere, its examples are read, and every fault code is explained.

mod attacks;
mod invariants;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::pages::{Line, Page, pages, root};
use tests::{built, wait_for};

/// haasctl's exit code for a haasd that cannot be reached: the command itself was understood.
const UNREACHABLE: i32 = 8;

/// The first words of commands that change nothing and end by themselves.
const LOOKS: [&str; 14] = [
    "haasctl context list",
    "haasctl disk list",
    "haasctl image list",
    "haasctl node boots",
    "haasctl node discovered",
    "haasctl node groups",
    "haasctl node list",
    "haasctl node show",
    "haasctl operation list",
    "haasctl overlay du",
    "haasctl overlay list",
    "haasctl power status",
    "haasctl status",
    "haasctl user list",
];

#[test]
fn every_command_is_one_that_its_program_takes() -> Result<()> {
    let desk = Desk::new()?;
    desk.write(
        "haasctl.toml",
        &format!(
            "current = \"lab\"\n[contexts.lab]\n{haasd}[contexts.alice]\n{haasd}",
            haasd = format!(
                "url = \"https://127.0.0.1:{}\"\nfingerprint = \"{}\"\ntoken = \"none\"\n",
                free_port()?,
                "ab".repeat(32)
            ),
        ),
    )?;
    for folder in ["", "state/"] {
        desk.write(&format!("{folder}fingerprint"), &"ab".repeat(32))?;
        desk.write(&format!("{folder}admin.token"), "none")?;
    }
    // The page has haasctl make it, which has no haasd here.
    desk.write("alice.token", &"t".repeat(43))?;
    let mut seen = 0;
    for page in pages()? {
        for line in page.lines() {
            let Line { place, command, .. } = &line;
            ensure!(!command.contains("> /"), "{place}: writes outside of the reader's own files");
            if let Some(task) = command.strip_prefix("cargo xtask ") {
                desk.help_of_task(task).with_context(|| place.clone())?;
            } else if command.split('|').any(|part| part.trim().starts_with("haasctl ")) {
                let local = ["haasctl context ", "haasctl completion ", "haasctl node import "];
                let is_local = local.iter().any(|start| command.starts_with(start));
                let expected = if is_local { 0 } else { UNREACHABLE };
                // A context that the page adds must not take the place of ours.
                let config = if is_local { "contexts.toml" } else { "haasctl.toml" };
                let output = desk.run(command, config)?;
                ensure!(
                    output.status.code() == Some(expected),
                    "{place}: {command}\nended with {}, expected {expected}\n{}",
                    output.status,
                    text(&output)
                );
            } else {
                continue;
            }
            seen += 1;
        }
    }
    ensure!(seen > 40, "only {seen} commands were found: is the reading of pages broken?");
    Ok(())
}

#[test]
fn commands_that_need_no_node_do_what_the_pages_say() -> Result<()> {
    let desk = Desk::new()?;
    let haasd = Haasd::start(&desk)?;
    let mut ran = 0;
    for page in pages()? {
        // The reference's examples are of a cluster of their own: only those that look are run.
        let is_reference = page.name == "docs/reference/cli.md";
        for Line { place, command, on_the_rack } in page.lines() {
            let ours = ["haasctl ", "haasd ", "haas-sim "];
            let is_ours = ours.iter().any(|program| command.starts_with(program));
            let looks = LOOKS.iter().any(|look| command.starts_with(look))
                && !command.contains("--watch")
                && !command.contains("--context");
            if !is_ours || on_the_rack || (is_reference && !looks) {
                continue;
            }
            let here = command.replace("10.77.0.1:8443", &haasd.address);
            let output = desk.run(&here, "haasctl.toml")?;
            ensure!(
                output.status.success(),
                "{place}: {here}\nended with {}\n{}{}",
                output.status,
                text(&output),
                fs::read_to_string(desk.path("haasd.log")).unwrap_or_default()
            );
            ran += 1;
        }
    }
    ensure!(ran > 25, "only {ran} commands were run: is the reading of pages broken?");
    Ok(())
}

#[test]
fn every_shell_block_is_a_script() -> Result<()> {
    for page in pages()? {
        for (at, block) in page.blocks("sh") {
            let output = Command::new("sh").args(["-n", "-c", &block]).output()?;
            ensure!(output.status.success(), "{}:{at}: {}", page.name, text(&output));
        }
    }
    Ok(())
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    let pages = pages()?;
    let mut broken = Vec::new();
    for page in &pages {
        for link in page.links().iter().filter(|link| !link.starts_with("http")) {
            let (file, anchor) =
                link.split_once('#').map_or((&**link, None), |(f, a)| (f, Some(a)));
            let folder = page.path.parent().unwrap_or(Path::new(""));
            let target = match file {
                "" => page.path.clone(),
                file => folder.join(file),
            };
            let there = target.canonicalize();
            let found = there.as_ref().ok().and_then(|t| pages.iter().find(|p| p.path == *t));
            let has = |page: &Page, anchor: &str| page.anchors().iter().any(|a| a == anchor);
            let good = match (anchor, found) {
                (None, _) => there.is_ok(),
                (Some(anchor), Some(page)) => has(page, anchor),
                (Some(_), None) => false,
            };
            if !good {
                broken.push(format!("{}: {link}", page.name));
            }
        }
    }
    ensure!(broken.is_empty(), "these links lead nowhere:\n{}", broken.join("\n"));
    Ok(())
}

#[test]
fn every_code_of_a_fault_is_explained() -> Result<()> {
    let root = root();
    let pages = pages()?;
    let named = |code: &str| {
        let explains = ["docs/operations.md", "docs/reference/api.md"];
        pages.iter().any(|page| explains.contains(&page.name.as_str()) && page.names(code))
    };
    let mut codes = Vec::new();
    for file in sources(&root.join("bootagent/src"))? {
        for call in ["hold(", "retry("] {
            codes.extend(words_after(&fs::read_to_string(&file)?, call));
        }
    }
    let deciding = [
        "lifecycle.rs",
        "lifecycle/deadline.rs",
        "lifecycle/ending.rs",
        "boots/mod.rs",
        "boots/foreign.rs",
        "boots/targets.rs",
    ];
    for file in deciding {
        let text = fs::read_to_string(root.join("controller/src").join(file))?;
        let places = [
            "code: ",
            "failure(",
            "BootStage::Power,",
            "attempt.stage,",
            "generation,",
            "Some(attempt),",
            "(",
            "=> ",
        ];
        for before in places {
            codes.extend(words_after(&text, before).into_iter().filter(|c| c.contains('-')));
        }
    }
    codes.sort();
    codes.dedup();
    ensure!(codes.len() > 70, "only {} codes were found: has their form changed?", codes.len());
    let silent: Vec<_> = codes.iter().filter(|code| !named(code)).collect();
    ensure!(silent.is_empty(), "docs/operations.md does not explain {silent:?}");
    Ok(())
}

#[test]
fn every_key_of_the_configuration_is_in_the_reference() -> Result<()> {
    let root = root().join("controller/src");
    let pages = pages()?;
    let reference = page(&pages, "docs/reference/config.md")?;
    let mut keys = Vec::new();
    for file in [
        "config/read.rs",
        "config/network.rs",
        "config/queues.rs",
        "inventory/layer.rs",
        "inventory/power.rs",
    ] {
        let text = fs::read_to_string(root.join(file))?;
        for before in ["get(", "need(", "list(", "file_or(", "limit(", "port(", "percent(", "time("]
        {
            keys.extend(words_after(&text, before));
        }
    }
    let node = fs::read_to_string(root.join("inventory/node.rs"))?;
    for before in ["get(", "need("] {
        keys.extend(words_after(&node, before));
    }
    ensure!(keys.len() > 50, "only {} keys were found: has their form changed?", keys.len());
    // Of tables whose whole form the reference shows.
    let shown = ["role", "serial", "path"];
    let explained = |key: &str| {
        let forms = [key.to_owned(), format!("[{key}]"), format!("[[{key}]]")];
        shown.contains(&key) || forms.iter().any(|form| reference.names(form))
    };
    let silent: Vec<_> = keys.iter().filter(|key| !explained(key)).collect();
    ensure!(silent.is_empty(), "{} does not explain {silent:?}", reference.name);
    Ok(())
}

#[test]
fn every_route_and_kind_of_event_is_in_the_reference() -> Result<()> {
    let pages = pages()?;
    let reference = page(&pages, "docs/reference/api.md")?;
    let description = fs::read_to_string(root().join("docs/openapi.json"))?;
    let description: serde_json::Value = serde_json::from_str(&description)?;
    let paths = description["paths"].as_object().context("openapi.json has no paths")?;
    ensure!(!paths.is_empty(), "openapi.json describes no route");
    for path in paths.keys() {
        ensure!(reference.mentions(path), "{} does not name {path}", reference.name);
    }
    let mut kinds = Vec::new();
    for file in sources(&root().join("controller/src"))? {
        kinds.extend(words_after(&fs::read_to_string(&file)?, "kind: "));
    }
    let acting = fs::read_to_string(root().join("controller/src/reconcile/act.rs"))?;
    for before in [
        "tx, node,",
        "&loaded.node,",
        "Ending::Agent,",
        "Ending::Acpi,",
        "Ending::Hard,",
        "Ending::BmcReset,",
    ] {
        kinds.extend(words_after(&acting, before));
    }
    for file in ["disks.rs", "drain.rs"] {
        let deciding = fs::read_to_string(root().join("controller/src/api").join(file))?;
        for before in ["&node,", "holder,"] {
            kinds.extend(words_after(&deciding, before));
        }
    }
    kinds.extend(words_after(
        &fs::read_to_string(root().join("controller/src/boots/mod.rs"))?,
        "&attempt,",
    ));
    let foreign = fs::read_to_string(root().join("controller/src/boots/foreign.rs"))?;
    kinds.extend(words_after(&foreign, "add(context,"));
    ensure!(kinds.len() > 10, "hardly a kind of event was found: has their form changed?");
    let silent: Vec<_> = kinds.iter().filter(|k| !reference.names(k)).collect();
    ensure!(silent.is_empty(), "{} does not explain {silent:?}", reference.name);
    Ok(())
}

fn page<'a>(pages: &'a [Page], name: &str) -> Result<&'a Page> {
    pages.iter().find(|page| page.name == name).with_context(|| format!("there is no {name}"))
}

/// The Rust files of a folder.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Each string literal that follows `before`, if it is a lower-case word of the form of a code.
fn words_after(text: &str, before: &str) -> Vec<String> {
    let literal = |rest: &str| {
        let (word, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
        let good = !word.is_empty()
            && word.len() < 24
            && !word.starts_with('-')
            && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'_');
        good.then(|| word.to_owned())
    };
    text.split(before).skip(1).filter_map(literal).collect()
}

/// A folder with what the pages take for granted: a home with a key, recipes, systems to import.
struct Desk {
    folder: tempfile::TempDir,
    path_variable: String,
}

impl Desk {
    fn new() -> Result<Desk> {
        let programs = programs()?;
        let path = std::env::var("PATH").unwrap_or_default();
        let folder = tempfile::Builder::new().prefix("haas-docs-").tempdir()?;
        let desk = Desk { folder, path_variable: format!("{}:{path}", programs.display()) };
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmYmY a@b\n";
        desk.write(".ssh/id_ed25519.pub", key)?;
        desk.write("rocky9/etc/os-release", "ID=rocky\n")?;
        desk.write("rocky9.tar.zst", "")?;
        desk.write("root.erofs", "")?;
        desk.write("vmlinuz", "")?;
        desk.write("lab.token", "none")?;
        desk.write("bmc.password", "none")?;
        desk.write("agent.cpio.zst", "nobody boots here")?;
        let job = "1 0 -1 60 4 -1 -1 4 90 -1 1 1 1 -1 -1 -1 -1 -1\n";
        desk.write("trace.swf", job)?;
        desk.write("lib/modules/6.1.0-30-amd64/modules.builtin", "")?;
        fs::create_dir_all(desk.path(".local/share/bash-completion/completions"))?;
        std::os::unix::fs::symlink(root().join("images"), desk.path("images"))?;
        let tutorial = pages()?.remove(0);
        let nodes = block_of(&tutorial, "[[node]]")?.replace("10.77.0.", "127.77.0.");
        let more: String = (3..=16)
            .map(|n| format!("[[node]]\nname = \"n{n:02}\"\nmac = \"52:54:00:77:00:{n:02x}\"\npower = {{ driver = \"manual\" }}\n"))
            .collect();
        desk.write("nodes.toml", &format!("{nodes}\n{more}"))?;
        desk.write("secrets/bmc", "none\n")?;
        // The same nodes as another system has them; `node import` of it takes the place of nodes.toml.
        let table: String = (1..=16)
            .map(|n| format!("n{n:02},52:54:00:77:00:{n:02x},127.77.0.{},rack1\n", 10 + n))
            .collect();
        desk.write("hosts.csv", &format!("name,mac,ip,groups\n{table}"))?;
        for sample in ["dhcpd.conf", "dnsmasq.conf"] {
            let text = fs::read_to_string(root().join("haasctl/tests/import").join(sample))?;
            desk.write(sample, &text)?;
        }
        Ok(desk)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// Runs a line as a reader would type it, with the folder as home, haasd's state in `state` and
    /// haasctl's configuration in `config`.
    fn run(&self, line: &str, config: &str) -> Result<Output> {
        let line = line.replace("/var/lib/haas/", "state/");
        let mut shell = Command::new("timeout");
        shell.args(["60", "sh", "-c", &line]).current_dir(&self.folder);
        shell.env("HAASD_CONFIG", self.path("haasd.toml"));
        shell.env("HOME", self.folder.path()).env("PATH", &self.path_variable);
        shell.env("HAASCTL_CONFIG", self.path(config)).stdin(Stdio::null());
        for variable in ["HAASCTL_CONTEXT", "XDG_CONFIG_HOME"] {
            shell.env_remove(variable);
        }
        shell.output().context("cannot run timeout or sh")
    }

    /// Whether xtask has this task with these options, without doing it.
    fn help_of_task(&self, task: &str) -> Result<()> {
        let mut words: Vec<&str> = task.split_whitespace().collect();
        // The rest of these is passed on, and would be run.
        if let ["test" | "e2e", ..] = words[..] {
            words.truncate(1);
        }
        words.push("--help");
        let output = Command::new(built("xtask")?).args(&words).output()?;
        ensure!(output.status.success(), "cargo xtask {task}: {}", text(&output));
        Ok(())
    }
}

/// The folder of our programs, built if they are not yet: `cargo test` builds those only of the
/// package that it tests.
fn programs() -> Result<PathBuf> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        // All of it: a few packages would have other features, and be built anew.
        build.args(["build", "--quiet", "--workspace", "--all-targets", "--locked"]);
        build.current_dir(root());
        // Of this package. As they are when somebody types it, or ring and its users are built anew.
        for (name, _) in std::env::vars_os() {
            let is_ours = ["CARGO_PKG_", "CARGO_MANIFEST_"];
            if is_ours.iter().any(|start| name.to_string_lossy().starts_with(start)) {
                build.env_remove(name);
            }
        }
        build.status().is_ok_and(|status| status.success())
    });
    ensure!(*done, "cargo build of the workspace failed; its message is above");
    Ok(built("haasd")?.parent().context("a program lies in a folder")?.to_owned())
}

/// A haasd on the loopback interface, with the tutorial's files moved to 127.77.0.0/24. It answers no
/// DHCP there and needs no root.
struct Haasd {
    child: Child,
    address: String,
}

impl Haasd {
    fn start(desk: &Desk) -> Result<Haasd> {
        let port = free_port()?;
        let tutorial = pages()?.remove(0);
        let network = block_of(&tutorial, "[[network]]")?
            .replace("br0", "lo")
            .replace("10.77.0.0/24", "127.77.0.0/24\"\ncontroller = \"127.77.0.1")
            .replace("dhcp = \"own\"", "dhcp = \"off\"");
        let network: String = network
            .lines()
            .filter(|line| !line.starts_with("pool"))
            .map(|line| format!("{line}\n"))
            .collect();
        desk.write(
            "haasd.toml",
            &format!(
                "state_dir = \"state\"\nagent_cpio = \"agent.cpio.zst\"\ntemplates_dir = \"{}\"\n{network}\n\
                 [ports]\napi = {port}\nhttp = 0\niscsi = 0\n",
                root().join("templates").display()
            ),
        )?;
        let mut command = Command::new(built("haasd")?);
        command.args(["--config", "haasd.toml"]).current_dir(&desk.folder);
        command.stdin(Stdio::null()).stdout(fs::File::create(desk.path("haasd.out"))?);
        command.stderr(fs::File::create(desk.path("haasd.log"))?);
        let child = tests::spawn(command)?;
        let mut haasd = Haasd { child, address: format!("127.77.0.1:{port}") };
        let mut is_ready = false;
        wait_for("haasd to be ready, or to end", Duration::from_secs(60), || {
            let out = fs::read_to_string(desk.path("haasd.out")).unwrap_or_default();
            is_ready = out.contains("haasd ready");
            is_ready || haasd.child.try_wait().is_ok_and(|ended| ended.is_some())
        })?;
        ensure!(is_ready, "haasd ended: {}", fs::read_to_string(desk.path("haasd.log"))?);
        for file in ["admin.token", "fingerprint"] {
            fs::copy(desk.path("state").join(file), desk.path(file))?;
        }
        Ok(haasd)
    }
}

impl Drop for Haasd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The page's TOML block with this table.
fn block_of(page: &Page, table: &str) -> Result<String> {
    let blocks = page.blocks("toml");
    let found = blocks.into_iter().find(|(_, text)| text.contains(table));
    let (_, text) = found.with_context(|| format!("{} has no {table}", page.name))?;
    Ok(text)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.77.0.1:0")?.local_addr()?.port())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
