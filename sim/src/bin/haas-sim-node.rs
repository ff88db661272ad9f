//! A simulated node and its BMC: `run FOLDER` is the node while it is on, `power FOLDER VERB` what
//! haasd's `exec` power driver calls.

use std::path::PathBuf;

use anyhow::{Result, bail};
use sim::{Folder, power, run};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", folder] => run(&Folder::new(folder)),
        ["power", folder, verb] => {
            power::command(&Folder::new(PathBuf::from(folder)), verb, &std::env::current_exe()?)
        }
        _ => bail!("usage: haas-sim-node run FOLDER | power FOLDER VERB"),
    }
}
