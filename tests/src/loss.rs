//! A bad network: packets between nodes and controller that are lost on the way, of the protocols
//! that a node boots with. iSCSI and the agents' channel are spared: losing those is TCP's business.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::haasd::Output;
use crate::rack::Rack;

/// Packets that were lost so far, of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    pub dhcp: u64,
    pub tftp: u64,
    pub http: u64,
}

impl Rack {
    /// From now on this share of the packets of DHCP, TFTP and HTTP is lost, in each direction.
    pub fn lose(&self, percent: u32) -> Result<()> {
        // A packet counts as it goes over the wire, not in the bundles that the kernel sends.
        self.namespace().ip(&["link", "set", "dev", "br0", "gso_max_segs", "1"])?;
        let share = u64::from(percent) * (1 << 32) / 100;
        let rules = RULES.replace("LOSE", &format!("meta random < {share} counter name"));
        let mut nft = self.command("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped());
        let mut nft = nft.spawn().context("cannot run nft (nftables)")?;
        nft.stdin.take().context("its input is piped")?.write_all(rules.as_bytes())?;
        ensure!(nft.wait()?.success(), "nft refuses the rules");
        Ok(())
    }

    /// What [`Rack::lose`] has cost so far.
    pub fn lost(&self) -> Result<Lost> {
        let mut nft = self.command("nft");
        nft.args(["-j", "list", "counters", "table", "bridge", "loss"]);
        let list: Value = serde_json::from_str(&Output::of(&mut nft)?.ok()?.stdout)?;
        let items = list["nftables"].as_array().context("nft lists counters")?;
        let count = |name: &str| {
            let counter = items.iter().map(|item| &item["counter"]).find(|c| c["name"] == name);
            let packets = counter.and_then(|counter| counter["packets"].as_u64());
            packets.with_context(|| format!("no counter {name} in {list}"))
        };
        Ok(Lost { dhcp: count("dhcp")?, tftp: count("tftp")?, http: count("http")? })
    }
}

/// TFTP's data has ports of its own on both sides; nothing else that boots a node uses UDP.
const RULES: &str = "
table bridge loss {
    counter dhcp { }
    counter tftp { }
    counter http { }
    chain from_nodes {
        type filter hook prerouting priority 0; policy accept;
        iifname != \"tap*\" accept
        udp dport { 67, 4011 } LOSE dhcp drop
        udp dport 1-65535 udp dport != { 67, 68, 4011 } LOSE tftp drop
        tcp dport 80 LOSE http drop
    }
    chain to_nodes {
        type filter hook postrouting priority 0; policy accept;
        oifname != \"tap*\" accept
        udp dport { 67, 4011 } accept
        udp sport { 67, 4011 } LOSE dhcp drop
        udp dport 1-65535 udp sport != { 67, 4011 } LOSE tftp drop
        tcp sport 80 LOSE http drop
    }
}
";
