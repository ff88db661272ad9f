//! A node that only a person can switch.

use futures_util::future::{BoxFuture, FutureExt, ready};

use super::{BootDevice, Power, PowerAction, PowerDriver, PowerError};

/// Knows nothing and asks for a person.
#[derive(Debug)]
pub(super) struct Manual;

impl PowerDriver for Manual {
    fn state(&self) -> BoxFuture<'_, Result<Power, PowerError>> {
        ready(Ok(Power::Unknown)).boxed()
    }

    fn set(&self, action: PowerAction) -> BoxFuture<'_, Result<(), PowerError>> {
        ask(match action {
            PowerAction::On => "switch the node on",
            PowerAction::Off => "switch the node off",
            PowerAction::Soft => "shut the node down",
        })
    }

    fn set_boot_device(&self, device: BootDevice) -> BoxFuture<'_, Result<(), PowerError>> {
        ask(match device {
            BootDevice::Pxe => "let the node start from the network",
            BootDevice::Disk => "let the node start from its disk",
            BootDevice::Bios => "enter the setup of the node's firmware",
        })
    }
}

fn ask(what: &str) -> BoxFuture<'static, Result<(), PowerError>> {
    ready(Err(PowerError::NeedsPerson { what: what.to_owned() })).boxed()
}
