//! Whether what a node's agent read back from its kernel is what was wanted (M30).

use std::net::Ipv4Addr;

use haas_api::{agent::Proof, names::NodeName};

/// What a proof must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The desired state.
    pub generation: i64,
    /// The image's identity in VPD page 83.
    pub wwid: String,
    /// The image's target.
    pub target: String,
    /// The overlay's id; none for RAM.
    pub overlay_id: Option<String>,
    /// The node's place.
    pub rank: u32,
    /// The node's name.
    pub hostname: NodeName,
    /// Its address.
    pub address: Option<Ipv4Addr>,
}

/// Compares a proof with what was wanted. The error lists each difference, for people.
pub fn check_proof(proof: &Proof, expected: &Expected) -> Result<(), Vec<String>> {
    let mut wrong = Vec::new();
    let mut differs = |what: &str, is: String, should: String| {
        if is != should {
            wrong.push(format!("{what} is {is}, not {should}"));
        }
    };
    differs("generation", proof.generation.to_string(), expected.generation.to_string());
    differs("image", proof.wwid.clone(), expected.wwid.clone());
    differs("target", proof.target.clone(), expected.target.clone());
    differs("overlay", in_words(&proof.overlay_id), in_words(&expected.overlay_id));
    differs("rank", proof.rank.to_string(), expected.rank.to_string());
    differs("host name", proof.hostname.clone(), expected.hostname.to_string());
    if !proof.read_only {
        wrong.push("the image's disk is writable".to_owned());
    }
    if let Some(address) = expected.address
        && !proof.addresses.iter().any(|net| net.addr() == address)
    {
        wrong.push(format!("no boot NIC has {address}"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

fn in_words(overlay_id: &Option<String>) -> String {
    overlay_id.clone().unwrap_or_else(|| "in RAM".to_owned())
}
