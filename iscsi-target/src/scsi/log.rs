//! LOG SENSE (SPC-4 section 6.8): the log pages of a disk that has no parts to wear out.
//!
//! Only what is true is said. No errors are counted here and no temperature is known, so there is no
//! page for either.
#![warn(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::{Cdb, Outcome, Sense, data};

/// The list of pages; as a subpage, "and their subpages".
const SUPPORTED: u8 = 0x00;
const WITH_SUBPAGES: u8 = 0xff;
const INFORMATIONAL_EXCEPTIONS: u8 = 0x2f;

/// One parameter, number 0, a list of four bytes: no exception, temperature unknown (FFh).
const NO_EXCEPTION: [u8; 8] = [0, 0, 0x03, 4, 0x00, 0x00, 0xff, 0];

/// Answers LOG SENSE.
pub(super) fn sense(cdb: &Cdb<'_>) -> Result<Outcome, Sense> {
    let saves = cdb.byte(1) & 1 != 0;
    let (page, subpage) = (cdb.byte(2) & 0x3f, cdb.byte(3));
    // No page has a parameter behind its first.
    if saves || cdb.be::<2>(5) != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let (code, parameters) = match (page, subpage) {
        (SUPPORTED, 0) => (SUPPORTED, vec![SUPPORTED, INFORMATIONAL_EXCEPTIONS]),
        (SUPPORTED, WITH_SUBPAGES) => {
            let pages = [(SUPPORTED, 0), (SUPPORTED, WITH_SUBPAGES), (INFORMATIONAL_EXCEPTIONS, 0)];
            // SPF: the page has a subpage code.
            (0x40 | SUPPORTED, pages.iter().flat_map(|(page, sub)| [*page, *sub]).collect())
        }
        (INFORMATIONAL_EXCEPTIONS, 0) => (INFORMATIONAL_EXCEPTIONS, NO_EXCEPTION.to_vec()),
        _ => return Err(Sense::INVALID_FIELD),
    };
    let len = u16::try_from(parameters.len()).unwrap_or(u16::MAX).to_be_bytes();
    Ok(data([&[code, subpage], &len[..], &parameters].concat(), cdb.length::<2>(7)))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn ask(page: u8, subpage: u8) -> Result<Outcome, Sense> {
        sense(&Cdb(&[0x4d, 0, page, subpage, 0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0]))
    }

    #[test]
    fn each_page_of_the_list_can_be_had() {
        let Ok(Outcome::Data(list)) = ask(0, 0) else { panic!("no list") };
        assert_eq!(list, [0, 0, 0, 2, 0x00, 0x2f]);
        for page in &list[4..] {
            let Ok(Outcome::Data(bytes)) = ask(*page, 0) else { panic!("no page {page:#x}") };
            assert_eq!(bytes[0], *page);
            assert_eq!(usize::from(bytes[3]) + 4, bytes.len());
        }
        let Ok(Outcome::Data(list)) = ask(0, 0xff) else { panic!("no list") };
        assert_eq!(list, [0x40, 0xff, 0, 6, 0, 0, 0, 0xff, 0x2f, 0]);
    }

    #[test]
    fn what_is_not_kept_is_refused() {
        assert_eq!(ask(0x0d, 0), Err(Sense::INVALID_FIELD), "no temperature");
        assert_eq!(ask(0x2f, 1), Err(Sense::INVALID_FIELD));
        let saving = [0x4d, 1, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(sense(&Cdb(&saving)), Err(Sense::INVALID_FIELD));
        let second = [0x4d, 0, 0x2f, 0, 0, 0, 1, 0, 255, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(sense(&Cdb(&second)), Err(Sense::INVALID_FIELD));
    }
}
