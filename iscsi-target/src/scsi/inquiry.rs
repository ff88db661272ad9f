//! INQUIRY and its vital product data pages: what the disk says it is (SPC-4 section 6.6, SBC-3
//! section 6.6).
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::{Cdb, Outcome, Sense, data};
use crate::lun::{Lun, LunIdentity};

/// SAM-5, SPC-4, SBC-3 and iSCSI, none at a particular revision.
const STANDARDS: [u16; 4] = [0x00a0, 0x0460, 0x04c0, 0x0960];

/// Pages, in ascending order as the standard wants them listed.
const PAGES: [u8; 7] = [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2];

/// Blocks that one READ had best ask for: 256 KiB, the PDU size that Linux and QEMU accept. Linux
/// sets its readahead to twice this.
const BEST_TRANSFER: u32 = 512;

/// Answers INQUIRY; a unit that is not `there` is said not to be connected.
pub(super) fn answer(cdb: &Cdb<'_>, there: bool, lun: &Lun) -> Result<Outcome, Sense> {
    let vital = cdb.byte(1) & 1 != 0;
    let page = cdb.byte(2);
    // Qualifier 3 with device type 1Fh: there is and can be no such unit.
    let device = if there { 0x00 } else { 0x7f };
    let bytes = match (vital, page) {
        (false, 0) => standard(device, lun.identity()),
        (true, page) if there || page == 0 => {
            let body = vital_page(page, lun).ok_or(Sense::INVALID_FIELD)?;
            let len = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
            [&[device, page], &len[..], &body].concat()
        }
        _ => return Err(Sense::INVALID_FIELD),
    };
    Ok(data(bytes, cdb.length::<2>(3)))
}

fn standard(device: u8, identity: &LunIdentity) -> Vec<u8> {
    // Fixed medium; SPC-4; hierarchical LUNs, response format 2; 91 more bytes; command queuing.
    let mut bytes = vec![device, 0, 0x06, 0x12, 91, 0, 0, 0x02];
    bytes.extend(padded(&identity.vendor, 8));
    bytes.extend(padded(&identity.product, 16));
    bytes.extend(padded(&identity.revision, 4));
    bytes.resize(58, 0);
    for standard in STANDARDS {
        bytes.extend_from_slice(&standard.to_be_bytes());
    }
    bytes.resize(96, 0);
    bytes
}

fn vital_page(page: u8, lun: &Lun) -> Option<Vec<u8>> {
    let identity = lun.identity();
    Some(match page {
        0x00 => PAGES.to_vec(),
        0x80 => ascii(&identity.serial),
        0x83 => names(identity),
        // Extended INQUIRY: only simple task attributes.
        0x86 => sized(0x3c, &[0, 0x01]),
        0xb0 => {
            // Granularity of 8 blocks, no maximum, and the best transfer length.
            let mut limits = vec![0, 0, 0, 8, 0, 0, 0, 0];
            limits.extend_from_slice(&BEST_TRANSFER.to_be_bytes());
            sized(0x3c, &limits)
        }
        // Not a rotating medium.
        0xb1 => sized(0x3c, &[0, 1]),
        // Thin: what is not mapped reads as zeros, and nothing can be unmapped. Or fully provisioned.
        0xb2 => sized(4, if lun.is_thin() { &[0, 0x04, 0x02] } else { &[] }),
        _ => return None,
    })
}

/// Page 83: the NAA name first, since Linux takes the first of the best kind, then vendor and serial.
fn names(identity: &LunIdentity) -> Vec<u8> {
    let mut bytes = vec![0x01, 0x03, 0, 8];
    bytes.extend_from_slice(&identity.naa.to_be_bytes());
    let mut vendor = padded(&identity.vendor, 8);
    vendor.extend(ascii(&identity.serial));
    vendor.truncate(252);
    bytes.extend_from_slice(&[0x02, 0x01, 0, u8::try_from(vendor.len()).unwrap_or(252)]);
    bytes.extend(vendor);
    bytes
}

fn ascii(text: &str) -> Vec<u8> {
    text.bytes().map(|byte| if (0x20..0x7f).contains(&byte) { byte } else { b'?' }).collect()
}

fn padded(text: &str, len: usize) -> Vec<u8> {
    let mut bytes = ascii(text);
    bytes.resize(len, b' ');
    bytes
}

fn sized(len: usize, start: &[u8]) -> Vec<u8> {
    let mut bytes = start.to_vec();
    bytes.resize(len, 0);
    bytes
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn page_83_names_the_disk_by_naa_then_by_serial() {
        let identity = LunIdentity::from_sha256(&[0xab; 32]);
        let bytes = names(&identity);
        assert_eq!(bytes[..12], [1, 3, 0, 8, 0x3a, 0xba, 0xba, 0xba, 0xba, 0xba, 0xba, 0xba]);
        assert_eq!(bytes[12..16], [2, 1, 0, 40]);
        assert_eq!(bytes[16..], [&b"HAAS    "[..], "ab".repeat(16).as_bytes()].concat());
    }

    #[test]
    fn the_standard_data_is_as_long_as_it_says() {
        let bytes = standard(0, &LunIdentity::from_sha256(&[1; 32]));
        assert_eq!(usize::from(bytes[4]) + 5, bytes.len());
        assert_eq!(&bytes[8..36], b"HAAS    IMAGE           1   ");
    }
}
