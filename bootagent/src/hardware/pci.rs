//! PCI functions, by their numbers and what their class means.

use std::{fs, path::Path};

use haas_api::hardware::PciFunction;

/// Every function that the kernel knows.
pub(super) fn functions(folder: &Path) -> Vec<PciFunction> {
    let function = |address: String| {
        let number = |file: &str| {
            let text = fs::read_to_string(folder.join(&address).join(file)).ok()?;
            Some(text.trim().trim_start_matches("0x").to_owned())
        };
        let class = number("class")?;
        Some(PciFunction {
            vendor: number("vendor")?,
            device: number("device")?,
            kind: kind(&class).to_owned(),
            class,
            address,
        })
    };
    super::names(folder).into_iter().filter_map(function).collect()
}

/// Whether a name is the address of a PCI function: `0000:3b:00.0`.
pub(super) fn is_address(name: &str) -> bool {
    let parts: Vec<_> = name.split([':', '.']).collect();
    matches!(&parts[..], [domain, bus, slot, function]
        if domain.len() >= 4 && bus.len() == 2 && slot.len() == 2 && function.len() == 1)
}

/// What a class means: the ones that people look for, else its first byte (PCI Code and ID Assignment
/// Specification).
fn kind(class: &str) -> &'static str {
    let by_class = match class.get(..4).unwrap_or_default() {
        "0106" => "SATA controller",
        "0107" => "SAS controller",
        "0104" => "RAID controller",
        "0108" => "NVMe controller",
        "0200" => "Ethernet controller",
        "0207" => "InfiniBand controller",
        "0300" => "VGA controller",
        "0302" => "3D controller",
        "0c03" => "USB controller",
        "0c04" => "Fibre Channel",
        _ => "",
    };
    if !by_class.is_empty() {
        return by_class;
    }
    match class.get(..2).unwrap_or_default() {
        "01" => "storage controller",
        "02" => "network controller",
        "03" => "display controller",
        "04" => "multimedia controller",
        "05" => "memory controller",
        "06" => "bridge",
        "07" => "communication controller",
        "08" => "system peripheral",
        "09" => "input device",
        "0b" => "processor",
        "0c" => "serial bus controller",
        "0d" => "wireless controller",
        "10" => "encryption controller",
        "11" => "signal processing controller",
        "12" => "processing accelerator",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_told_by_their_numbers() {
        let sys = tempfile::tempdir().unwrap();
        let card = sys.path().join("0000:3b:00.0");
        fs::create_dir(&card).unwrap();
        for (file, text) in
            [("vendor", "0x15b3\n"), ("device", "0x1017\n"), ("class", "0x020700\n")]
        {
            fs::write(card.join(file), text).unwrap();
        }
        fs::create_dir(sys.path().join("0000:3c:00.0")).unwrap();
        let found = functions(sys.path());
        assert_eq!(found.len(), 1, "one without numbers is none");
        assert_eq!((found[0].vendor.as_str(), found[0].device.as_str()), ("15b3", "1017"));
        assert_eq!(found[0].kind, "InfiniBand controller");
    }

    #[test]
    fn an_address_is_told_from_other_names() {
        assert!(is_address("0000:3b:00.0") && is_address("10000:01:00.0"));
        assert!(!is_address("virtio1") && !is_address("0:0:0:0") && !is_address("pci0000:00"));
    }
}
