//! MODE SENSE (SPC-4 section 6.13): above all that the disk is write-protected.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::{Cdb, Outcome, Sense, data, opcodes as op};
use crate::lun::Lun;

/// Device-specific parameter: WP, and DPO and FUA are accepted (SBC-3 section 6.4.1).
const WRITE_PROTECTED: u8 = 0x80 | 0x10;

const ALL_PAGES: u8 = 0x3f;

/// Caching: no write cache.
const CACHING: [u8; 20] = [0x08, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Control: unrestricted reordering, software write protect.
const CONTROL: [u8; 12] = [0x0a, 10, 0, 0x10, 0x08, 0, 0, 0, 0, 0, 0, 0];
/// Informational exceptions: none are reported.
const EXCEPTIONS: [u8; 12] = [0x1c, 10, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Answers MODE SENSE(6) and (10).
pub(super) fn sense(cdb: &Cdb<'_>, lun: &Lun) -> Result<Outcome, Sense> {
    let short = cdb.byte(0) == op::MODE_SENSE_6;
    let with_block = cdb.byte(1) & 0x08 == 0;
    let (control, page, subpage) = (cdb.byte(2) >> 6, cdb.byte(2) & 0x3f, cdb.byte(3));
    if control == 3 {
        return Err(Sense::NOT_SAVED);
    }
    if !matches!(subpage, 0 | 0xff) {
        return Err(Sense::INVALID_FIELD);
    }
    // Of each page asked for: its values or, for "changeable" (1), which bits could be set: none.
    let pages: Vec<u8> = [&CACHING[..], &CONTROL, &EXCEPTIONS]
        .into_iter()
        .filter(|bytes| page == ALL_PAGES || bytes.first() == Some(&page))
        .flatten()
        .copied()
        .collect();
    if pages.is_empty() {
        return Err(Sense::INVALID_FIELD);
    }
    let pages = if control == 1 { unchangeable(&pages) } else { pages };

    let block = if with_block { block_descriptor(lun) } else { Vec::new() };
    let block_len = u8::try_from(block.len()).unwrap_or(0);
    let rest = block.len() + pages.len();
    let header = if short {
        let len = u8::try_from(rest + 3).unwrap_or(u8::MAX);
        vec![len, 0, WRITE_PROTECTED, block_len]
    } else {
        let [high, low] = u16::try_from(rest + 6).unwrap_or(u16::MAX).to_be_bytes();
        vec![high, low, 0, WRITE_PROTECTED, 0, 0, 0, block_len]
    };
    let allocated = if short { usize::from(cdb.byte(4)) } else { cdb.length::<2>(7) };
    Ok(data([header, block, pages].concat(), allocated))
}

/// The pages with their codes and lengths kept and all else zero.
fn unchangeable(mut pages: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pages.len());
    while let [code, len, rest @ ..] = pages {
        out.extend_from_slice(&[*code, *len]);
        out.resize(out.len() + usize::from(*len), 0);
        pages = rest.get(usize::from(*len)..).unwrap_or_default();
    }
    out
}

/// Number of blocks (all ones if it does not fit) and block length.
fn block_descriptor(lun: &Lun) -> Vec<u8> {
    let blocks = u32::try_from(lun.blocks()).unwrap_or(u32::MAX);
    [blocks.to_be_bytes(), [0, 0, 2, 0]].concat()
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_be_changed() {
        let mask = unchangeable(&[&CACHING[..], &CONTROL].concat());
        assert_eq!(mask.len(), 32);
        assert_eq!(mask[..2], [0x08, 18]);
        assert_eq!(mask[20..22], [0x0a, 10]);
        assert!(mask[2..20].iter().chain(&mask[22..]).all(|byte| *byte == 0));
    }
}
