//! The machine that the BMC switches.

use std::path::PathBuf;

use crate::{folder::Folder, power};

/// A machine with a power supply and a button.
pub trait Machine: Send + 'static {
    /// Whether it is on.
    fn is_on(&mut self) -> bool;
    /// Gives it power.
    fn on(&mut self);
    /// Cuts its power.
    fn off(&mut self);
    /// Asks its operating system to end.
    fn soft(&mut self);
    /// Says what it boots from next.
    fn boot_from(&mut self, target: &str);
}

/// One that does at once what it is told.
#[derive(Debug, Default)]
pub struct Plain {
    on: bool,
}

impl Machine for Plain {
    fn is_on(&mut self) -> bool {
        self.on
    }

    fn on(&mut self) {
        self.on = true;
    }

    fn off(&mut self) {
        self.on = false;
    }

    fn soft(&mut self) {
        self.on = false;
    }

    fn boot_from(&mut self, _: &str) {}
}

/// A simulated node, switched as by its BMC's program.
#[derive(Debug)]
pub struct Node {
    /// The node.
    pub folder: Folder,
    /// `haas-sim-node`.
    pub program: PathBuf,
}

impl Node {
    fn command(&self, verb: &str) {
        // What it refuses is in its log, and the BMC goes on.
        let _ = power::command(&self.folder, verb, &self.program);
    }
}

impl Machine for Node {
    fn is_on(&mut self) -> bool {
        power::is_on(&self.folder).unwrap_or(false)
    }

    fn on(&mut self) {
        self.command("on");
    }

    fn off(&mut self) {
        self.command("off");
    }

    fn soft(&mut self) {
        self.command("soft");
    }

    fn boot_from(&mut self, target: &str) {
        self.command(if target == "Pxe" || target == "UefiHttp" {
            "bootdev-pxe"
        } else {
            "bootdev-disk"
        });
    }
}
