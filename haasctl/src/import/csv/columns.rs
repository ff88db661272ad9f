//! What the columns of a table hold, by the names that they usually have.

use crate::import::text;

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Column {
    Name,
    /// NICs with this role: `boot`, `data` or `ib`.
    Mac(&'static str),
    Address,
    BmcAddress,
    BmcPort,
    BmcMac,
    BmcUser,
    BmcPassword,
    BmcDriver,
    Groups,
    KernelArgs,
    Firmware,
    Arch,
    Comment,
    Label(String),
    /// Something secret that is not a BMC's password; never copied.
    Secret(String),
}

/// The column of a header, by any of its usual names.
pub(super) fn column(header: &str) -> Column {
    let key = key_of(header);
    match key.as_str() {
        "name" | "node" | "nodename" | "node_name" | "host" | "hostname" | "host_name" => {
            Column::Name
        }
        "mac" | "mac_address" | "macaddr" | "macaddress" | "hwaddr" | "boot_mac" | "mac1"
        | "pxe_mac" => Column::Mac("boot"),
        "data_mac" | "mac2" | "mac3" | "mac4" | "data_macs" => Column::Mac("data"),
        "ib_mac" | "ib_macs" => Column::Mac("ib"),
        "ip" | "address" | "ipaddr" | "ip_address" | "ipaddress" | "ipv4" | "boot_ip" => {
            Column::Address
        }
        "bmc" | "bmc_ip" | "bmc_address" | "bmc_ipaddr" | "ipmi" | "ipmi_ip" | "ipmi_address"
        | "ipmi_ipaddr" | "ilo" | "idrac" | "oob" | "oob_ip" => Column::BmcAddress,
        "bmc_port" | "ipmi_port" => Column::BmcPort,
        "bmc_mac" | "ipmi_mac" | "bmc_mac_address" => Column::BmcMac,
        "bmc_user" | "bmc_username" | "ipmi_user" | "ipmi_username" => Column::BmcUser,
        "bmc_password" | "bmc_pass" | "ipmi_password" | "ipmi_pass" => Column::BmcPassword,
        "bmc_driver" | "bmc_type" | "power_driver" | "power_type" => Column::BmcDriver,
        "group" | "groups" | "node_group" | "node_groups" => Column::Groups,
        "kernel_args" | "kernel_arguments" | "cmdline" => Column::KernelArgs,
        "firmware" | "boot_mode" => Column::Firmware,
        "arch" | "architecture" => Column::Arch,
        "comment" | "comments" | "note" | "notes" | "description" | "remark" => Column::Comment,
        _ if text::is_secret(&key) => Column::Secret(key),
        _ => Column::Label(key),
    }
}

/// `BMC IP`, `bmc-ip` and `bmc.ip` are one column.
fn key_of(header: &str) -> String {
    let lower = header.trim().to_ascii_lowercase();
    let key = lower.chars().map(|c| if c.is_ascii_alphanumeric() || c == '/' { c } else { '_' });
    key.collect::<String>().trim_matches('_').to_owned()
}
