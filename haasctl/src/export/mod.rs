//! `node export`: haasd's nodes in the files of other programs. One module per format; what haasd
//! does not know is left out, and said in a comment where the reader has to complete it.

mod clustershell;
mod fold;
mod genders;
mod hostfile;
mod hosts;
mod slurm;

use haas_api::{List, node::Node};

use crate::{
    cli::{Session, nodeset},
    error::Error,
    import::natural,
    ssh,
};

pub(crate) use hostfile::of_overlay;

/// A format that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// Lines for /etc/hosts.
    Hosts,
    /// /etc/genders, for pdsh and others.
    Genders,
    /// A file of groups for ClusterShell, such as /etc/clustershell/groups.d/haas.cfg.
    Clustershell,
    /// NodeName and NodeSet lines for slurm.conf.
    Slurm,
    /// A file of hosts for MPI: the nodes in the order of their ranks.
    Hostfile,
    /// Lines for ~/.ssh/known_hosts, with which ssh knows the nodes' keys.
    KnownHosts,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// What to write.
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: Target,
    /// The nodes; all of them where none are given.
    #[arg(value_parser = nodeset)]
    nodeset: Option<String>,
}

impl ExportArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let list = List::whole(client.nodes(self.nodeset.as_deref()).await?);
        let authority = match self.to {
            Target::KnownHosts => client.ssh_ca().await?.host_ca,
            _ => String::new(),
        };
        session.out.text(&self.to.write(list.items, &authority))
    }
}

impl Target {
    /// `authority` signs the nodes' host keys.
    fn write(self, mut nodes: Vec<Node>, authority: &str) -> String {
        nodes.sort_by_key(|node| natural(node.name.as_str()));
        let body = match self {
            Self::Hosts => hosts::write(&nodes),
            Self::Genders => genders::write(&nodes),
            Self::Clustershell => clustershell::write(&nodes),
            Self::Slurm => slurm::write(&nodes),
            Self::Hostfile => hostfile::of_nodes(&nodes),
            Self::KnownHosts => ssh::known_hosts_text(authority, &nodes),
        };
        let name = clap::ValueEnum::to_possible_value(&self).expect("no format is hidden");
        format!("# Written by haasctl node export --to {}\n{body}", name.get_name())
    }
}

/// The names of the groups that these nodes are in, and who is in each.
fn groups(nodes: &[Node]) -> Vec<(&str, Vec<&str>)> {
    let mut groups = std::collections::BTreeMap::<&str, Vec<&str>>::new();
    for node in nodes {
        for group in &node.groups {
            groups.entry(group.as_str()).or_default().push(node.name.as_str());
        }
    }
    groups.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use haas_api::hardware::Summary;

    use super::*;
    use crate::status;

    /// Six nodes: `n[01-04]` in rack1, of which two are gpu nodes, and two that are alone.
    fn rack() -> Vec<Node> {
        let node = |name: &str, address: Option<&str>, groups: &[&str]| {
            let mut node = status::tests::sample();
            node.name = name.parse().unwrap();
            node.address = address.map(str::to_owned);
            node.groups = groups.iter().map(|group| group.parse().unwrap()).collect();
            node.labels = Default::default();
            node
        };
        let mut nodes = vec![
            node("n10", Some("10.77.0.30"), &[]),
            node("n02", Some("10.77.0.12"), &["rack1"]),
            node("n01", Some("10.77.0.11"), &["rack1"]),
            node("n03", Some("10.77.0.13"), &["gpu", "rack1"]),
            node("n04", Some("10.77.0.14"), &["rack1", "gpu"]),
            node("login", None, &[]),
        ];
        nodes[0].labels.insert("rack".to_owned(), "2".to_owned());
        nodes[0].labels.insert("owner".to_owned(), "the lab, 2nd floor".to_owned());
        nodes
    }

    #[test]
    fn hosts_have_an_address_each() {
        assert_eq!(
            Target::Hosts.write(rack(), "ssh-ed25519 CA"),
            "\
# Written by haasctl node export --to hosts
# login has no address yet
10.77.0.11       n01
10.77.0.12       n02
10.77.0.13       n03
10.77.0.14       n04
10.77.0.30       n10
"
        );
    }

    #[test]
    fn genders_have_groups_and_labels_as_attributes() {
        assert_eq!(
            Target::Genders.write(rack(), "ssh-ed25519 CA"),
            "\
# Written by haasctl node export --to genders
# n10: the label owner is left out: its value has a comma or a space, or is empty
login  all
n[01-02]  all,rack1
n[03-04]  all,gpu,rack1
n10  all,rack=2
"
        );
    }

    #[test]
    fn clustershell_gets_a_line_for_each_group() {
        assert_eq!(
            Target::Clustershell.write(rack(), "ssh-ed25519 CA"),
            "\
# Written by haasctl node export --to clustershell
all: login,n[01-04,10]
gpu: n[03-04]
rack1: n[01-04]
"
        );
        assert_eq!(
            Target::Clustershell.write(Vec::new(), ""),
            "# Written by haasctl node export --to clustershell\n# haasd has no node\n"
        );
    }

    #[test]
    fn a_hostfile_has_the_nodes_in_the_order_of_their_ranks() {
        let mut nodes = rack();
        for (node, rank) in nodes.iter_mut().zip([0, 5, 1, 2, 3, 4]) {
            node.desired.as_mut().unwrap().rank = rank;
        }
        nodes[5].desired = None;
        assert_eq!(
            Target::Hostfile.write(nodes, ""),
            "\
# Written by haasctl node export --to hostfile
# login: nothing is wanted of it
n10
n01
n03
n04
n02
"
        );
    }

    #[test]
    fn known_hosts_trust_the_authority_for_these_nodes() {
        assert_eq!(
            Target::KnownHosts.write(rack()[1..3].to_vec(), "ssh-ed25519 CA"),
            "\
# Written by haasctl node export --to known-hosts
@cert-authority n01,10.77.0.11,n02,10.77.0.12 ssh-ed25519 CA
"
        );
    }

    #[test]
    fn slurm_gets_lines_in_which_names_and_addresses_go_together() {
        let mut nodes = rack();
        for node in &mut nodes[1..3] {
            let seen = Summary { sockets: 2, cores: 32, threads: 64, ..Summary::default() };
            node.summary = Some(Summary { usable: 63 << 30, ..seen });
        }
        let text = Target::Slurm.write(nodes, "ssh-ed25519 CA");
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "NodeName=login",
                "NodeName=n[01-02] NodeAddr=10.77.0.[11-12] Sockets=2 CoresPerSocket=16 ThreadsPerCore=2 \
                 RealMemory=64512 Features=rack1",
                "NodeName=n[03-04] NodeAddr=10.77.0.[13-14] Features=gpu,rack1",
                "NodeName=n10 NodeAddr=10.77.0.30",
                "NodeSet=gpu Feature=gpu",
                "NodeSet=rack1 Feature=rack1",
            ]
        );
        assert!(text.contains("slurmd -C"), "{text}");
    }
}
