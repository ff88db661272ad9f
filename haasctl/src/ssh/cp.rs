//! `cp`: files to many nodes, or from one.

use clap::Args;
use haas_api::{client::Client, node::Node};
use tokio::process::Command;

use super::{
    Access, Reach,
    fan_out::{Limits, show},
};
use crate::{
    cli::{Session, nodeset},
    error::Error,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haasctl cp hello.c n[01-16]:
  haasctl cp -r input @rack1:/scratch
  haasctl cp n01:results.csv .")]
pub(crate) struct CpArgs {
    /// What to copy: local files, or `NODE:PATH`. Where a local name has a colon, begin it with ./
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,
    /// Where to: `NODESET:PATH`, or a local place. A path without / at its beginning begins at home.
    #[arg(value_name = "TARGET")]
    target: String,
    /// Folders too, with all that is in them.
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    limits: Limits,
}

/// A place in a command line.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Here(&'a str),
    There { nodeset: &'a str, path: &'a str },
}

/// What is to be copied.
#[derive(Debug, PartialEq, Eq)]
enum Way<'a> {
    ToNodes { sources: Vec<String>, nodeset: &'a str, path: &'a str },
    FromNode { node: &'a str, path: &'a str, target: String },
}

impl CpArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let way = way(&self.sources, &self.target)?;
        let client = session.client()?;
        let access = Access::open(session, &client, &self.reach).await?;
        let nodes = nodes(&client, &way).await?;
        let jobs = nodes.iter().map(|node| {
            let command = access.options(node).map(|options| {
                let mut scp = Command::new("scp");
                scp.args(["-B", "-o", "ConnectTimeout=10"]).args(options);
                if self.recursive {
                    scp.arg("-r");
                }
                scp.arg("--");
                match &way {
                    Way::ToNodes { sources, path, .. } => {
                        scp.args(sources).arg(format!("{}:{path}", node.name));
                    }
                    Way::FromNode { path, target, .. } => {
                        scp.arg(format!("{}:{path}", node.name)).arg(target);
                    }
                }
                scp
            });
            (node.name.clone(), command)
        });
        show(session, self.limits.run(jobs.collect()).await?)
    }
}

async fn nodes(client: &Client, way: &Way<'_>) -> Result<Vec<Node>, Error> {
    match way {
        Way::ToNodes { nodeset, .. } => Ok(client.nodes(Some(nodeset)).await?),
        Way::FromNode { node, .. } => {
            let nodes = client.nodes(Some(node)).await?;
            match nodes.len() {
                1 => Ok(nodes),
                many => Err(Error::Usage(format!(
                    "{node} is {many} nodes, whose files would overwrite each other; copy from one"
                ))),
            }
        }
    }
}

fn way<'a>(sources: &'a [String], target: &'a str) -> Result<Way<'a>, Error> {
    let places: Vec<_> = sources.iter().map(|source| place(source)).collect();
    let is_here = |place: &Place<'_>| matches!(place, Place::Here(_));
    match (place(target), places.as_slice()) {
        (Place::There { nodeset: set, path }, sources) if sources.iter().all(is_here) => {
            nodeset(set).map_err(Error::Usage)?;
            let here = |place: &Place<'_>| match place {
                Place::Here(path) | Place::There { path, .. } => local(path),
            };
            Ok(Way::ToNodes { sources: sources.iter().map(here).collect(), nodeset: set, path })
        }
        (Place::Here(target), [Place::There { nodeset: node, path }]) => {
            nodeset(node).map_err(Error::Usage)?;
            Ok(Way::FromNode { node, path, target: local(target) })
        }
        (Place::Here(_), sources) if sources.iter().all(is_here) => Err(Error::Usage(
            "neither side names a node; write NODESET:PATH for what is on nodes".to_owned(),
        )),
        (Place::Here(_), _) => Err(Error::Usage(
            "copy from one node and one path at a time: NODE:PATH TARGET".to_owned(),
        )),
        (Place::There { .. }, _) => Err(Error::Usage(
            "both sides are on nodes; copy to here first, or use ssh between the nodes".to_owned(),
        )),
    }
}

/// As scp has it: a colon before any slash makes it a place elsewhere. A node set may have one in
/// neither.
fn place(text: &str) -> Place<'_> {
    match text.split_once(':') {
        Some((nodeset, path)) if !nodeset.contains('/') => Place::There { nodeset, path },
        _ => Place::Here(text),
    }
}

/// A local path that scp takes for nothing else.
fn local(path: &str) -> String {
    if path.starts_with(['/', '.']) { path.to_owned() } else { format!("./{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sources: &[&str], target: &str) -> Result<String, String> {
        let sources: Vec<_> = sources.iter().map(|&source| source.to_owned()).collect();
        way(&sources, target).map(|way| format!("{way:?}")).map_err(|e| e.to_string())
    }

    #[test]
    fn the_side_with_a_colon_is_on_nodes() {
        let there = of(&["a", "/b", "./c:d"], "n[01-02],@gpu:/tmp").unwrap();
        assert_eq!(
            there,
            "ToNodes { sources: [\"./a\", \"/b\", \"./c:d\"], nodeset: \"n[01-02],@gpu\", path: \"/tmp\" }"
        );
        let home = of(&["a"], "n01:").unwrap();
        assert!(home.ends_with("nodeset: \"n01\", path: \"\" }"), "{home}");
        let back = of(&["n01:x:y"], "there").unwrap();
        assert_eq!(back, "FromNode { node: \"n01\", path: \"x:y\", target: \"./there\" }");
    }

    #[test]
    fn what_names_no_node_or_too_many_sides_is_refused() {
        for (sources, target, told) in [
            (&["a"][..], "b", "neither side"),
            (&["n01:a"], "n02:b", "both sides"),
            (&["n01:a", "n01:b"], ".", "one path at a time"),
            (&["n01:a", "b"], ".", "one path at a time"),
            (&["a"], ":b", "empty"),
            (&[" :a"], "b", "empty"),
        ] {
            let said = of(sources, target).unwrap_err();
            assert!(said.contains(told), "{sources:?} {target}: {said}");
        }
    }
}
