//! haasd with a node for each BMC, asked by haasctl.

use std::{
    fmt::Write,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::tools::{Bmcs, Client, Round, Talker, USER};
use crate::run;

/// haasd, which runs as long as the value lives. The nodes are unmanaged: that their power changes behind
/// its back is none of its business.
pub(super) struct Haas {
    folder: PathBuf,
    nodes: String,
    haasd: Talker,
}

impl Haas {
    pub(super) fn start(bmcs: &Bmcs, folder: &Path) -> Result<Self> {
        let folder = folder.join("haas");
        fs::create_dir(&folder)?;
        let (api, http, iscsi) = (free_port()?, free_port()?, free_port()?);
        fs::write(folder.join("haasd.toml"), haasd_toml(&folder, api, http, iscsi))?;
        fs::write(folder.join("nodes.toml"), nodes_toml(bmcs)?)?;
        let mut program = Command::new(run::target().join("release/haasd"));
        program.env("RUST_LOG", "error").arg("--config").arg(folder.join("haasd.toml"));
        let mut haasd = Talker::start(&mut program)?;
        ensure!(haasd.hear()? == "haasd ready");
        let haas = Self { nodes: format!("b[1-{}]", bmcs.addresses.len()), folder, haasd };
        let state = haas.folder.join("state");
        let fingerprint = fs::read_to_string(state.join("fingerprint"))?;
        let (url, token) = (format!("https://127.0.0.1:{api}"), state.join("admin.token"));
        let mut context = haas.ctl();
        context.args(["context", "add", "bench", "--use", "--url", &url]);
        context.args(["--fingerprint", fingerprint.trim(), "--token-file"]).arg(token);
        run::output(&mut context)?;
        Ok(haas)
    }

    fn ctl(&self) -> Command {
        let mut ctl = Command::new(run::target().join("release/haasctl"));
        ctl.env("HAASCTL_CONFIG", self.folder.join("haasctl.toml"));
        ctl
    }

    /// Bytes that haasd holds for itself alone.
    pub(super) fn memory(&self) -> Result<f64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.haasd.id()))?;
        let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
        let kib = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        Ok(kib.sum::<f64>() * 1024.0)
    }
}

impl Client for Haas {
    fn round(&mut self, on: bool) -> Result<Round> {
        let mut command = self.ctl();
        command.args(["--output", "json", "power", "status", &self.nodes, "--fresh"]);
        let begun = Instant::now();
        let told = run::output(&mut command)?;
        let wall_s = begun.elapsed().as_secs_f64();
        let told: Value = serde_json::from_slice(&told).context("haasctl prints JSON")?;
        let nodes = told["items"].as_array().context("haasctl prints a list")?;
        let word = if on { "on" } else { "off" };
        let is_right = |node: &&Value| {
            let seen = &node["observed"];
            seen["power"] == word && seen["power_error"].is_null()
        };
        let right = nodes.iter().filter(is_right).count();
        Ok(Round { wall_s, right: u64::try_from(right)? })
    }
}

fn haasd_toml(folder: &Path, api: u16, http: u16, iscsi: u16) -> String {
    format!(
        "state_dir = \"{}\"\nagent_cpio = \"{}\"\ntemplates_dir = \"{}\"\n\
         [[network]]\nname = \"lo\"\ninterface = \"lo\"\ncidr = \"127.0.0.0/8\"\ndhcp = \"off\"\n\
         [ports]\napi = {api}\nhttp = {http}\niscsi = {iscsi}\n[reachability]\ncheck = \"off\"\n",
        folder.join("state").display(),
        run::target().join("agent.cpio.zst").display(),
        run::root().join("templates").display(),
    )
}

/// A node for each BMC.
fn nodes_toml(bmcs: &Bmcs) -> Result<String> {
    let mut text = format!(
        "[defaults.power]\ndriver = \"ipmi\"\nuser = \"{USER}\"\npassword_file = \"{}\"\n",
        bmcs.password.display()
    );
    for (number, address) in (1_u16..).zip(&bmcs.addresses) {
        let address: SocketAddr = address.parse()?;
        let [high, low] = number.to_be_bytes();
        writeln!(
            text,
            "[[node]]\nname = \"b{number}\"\nmac = \"52:54:00:00:{high:02x}:{low:02x}\"\n\
             power = {{ address = \"{}\", port = {} }}",
            address.ip(),
            address.port()
        )?;
    }
    Ok(text)
}

/// A port that nothing else listens on now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
