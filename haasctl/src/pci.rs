//! Names of PCI devices, from the database that the system has: Debian's package `pci.ids`, or
//! `hwdata` elsewhere.

use std::fs;

const PLACES: [&str; 2] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];

/// The database; empty where there is none.
#[derive(Debug, Default)]
pub(crate) struct Names(String);

impl Names {
    /// Reads it.
    pub(crate) fn of_system() -> Self {
        Self(PLACES.iter().find_map(|place| fs::read_to_string(place).ok()).unwrap_or_default())
    }

    /// Vendor and device in words, as far as they are known.
    pub(crate) fn of(&self, vendor: &str, device: &str) -> Option<String> {
        // `15b3  Mellanox Technologies`, and below it `<tab>1017  MT27800 Family [ConnectX-5]`.
        let named =
            |line: &str, id: &str| Some(line.strip_prefix(id)?.strip_prefix("  ")?.to_owned());
        let mut lines = self.0.lines();
        let maker = lines.find_map(|line| named(line, vendor))?;
        let below = lines.take_while(|line| line.starts_with('\t') || line.starts_with('#'));
        let model =
            below.filter_map(|line| line.strip_prefix('\t')).find_map(|line| named(line, device));
        Some(model.map_or_else(|| maker.clone(), |model| format!("{maker} {model}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: &str = "# a comment\n\
                        10de  NVIDIA Corporation\n\
                        \t2330  GH100 [H100 SXM5 80GB]\n\
                        \t\t10de 16c1  H100 SXM5 80GB\n\
                        15b3  Mellanox Technologies\n\
                        \t1017  MT27800 Family [ConnectX-5]\n";

    #[test]
    fn a_device_has_a_name_where_the_system_knows_one() {
        let names = Names(SOME.to_owned());
        let card = names.of("15b3", "1017").unwrap();
        assert_eq!(card, "Mellanox Technologies MT27800 Family [ConnectX-5]");
        assert_eq!(names.of("10de", "1017").unwrap(), "NVIDIA Corporation");
        assert_eq!(names.of("1af4", "1000"), None);
        assert_eq!(Names::default().of("10de", "2330"), None);
    }
}
