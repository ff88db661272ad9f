//! What a BMC has on file about the machine's parts: IPMI 2.0 chapter 34, and the Platform Management
//! FRU Information Storage Definition.

use ipmi_rs_core::connection::{IpmiCommand, Message, NetFn, NotEnoughData};

/// Section 34.2: a part of a FRU's inventory. Offsets are in bytes, which every BMC that follows the
/// definition below has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadFru {
    /// Which FRU; 0 is the machine's own.
    pub device: u8,
    /// From which byte on.
    pub offset: u16,
    /// How many bytes.
    pub count: u8,
}

impl From<ReadFru> for Message {
    fn from(part: ReadFru) -> Self {
        let [o0, o1] = part.offset.to_le_bytes();
        Self::new_request(NetFn::Storage, 0x11, vec![part.device, o0, o1, part.count])
    }
}

impl IpmiCommand for ReadFru {
    type Output = Vec<u8>;
    type Error = NotEnoughData;

    fn parse_success_response(data: &[u8]) -> Result<Vec<u8>, NotEnoughData> {
        let (count, bytes) = data.split_first().ok_or(NotEnoughData)?;
        Ok(bytes.get(..usize::from(*count)).ok_or(NotEnoughData)?.to_vec())
    }
}

/// An area of a FRU that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FruArea {
    /// The chassis.
    Chassis,
    /// The board.
    Board,
    /// The product.
    Product,
}

/// Bytes of a FRU's common header.
pub const FRU_HEADER: u8 = 8;

/// Where the areas of a FRU begin, in bytes; none where the header makes no sense.
pub fn fru_areas(header: &[u8]) -> Option<Vec<(FruArea, u16)>> {
    let bytes: [u8; 8] = *header.first_chunk()?;
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    let [version, _, chassis, board, product, ..] = bytes;
    if version & 0x0F != 1 || sum != 0 {
        return None;
    }
    let areas = [(FruArea::Chassis, chassis), (FruArea::Board, board), (FruArea::Product, product)];
    let known = areas.into_iter().filter(|(_, place)| *place != 0);
    Some(known.map(|(area, place)| (area, u16::from(place) * 8)).collect())
}

/// How many bytes an area has, as its first two bytes say.
pub fn fru_area_length(head: &[u8]) -> Option<u16> {
    let [version, length] = *head.first_chunk()?;
    (version & 0x0F == 1).then_some(u16::from(length) * 8)
}

impl FruArea {
    /// The fields of an area, by their names.
    pub fn fields(self, area: &[u8]) -> Vec<(&'static str, String)> {
        let (names, first): (&[&str], usize) = match self {
            Self::Chassis => (&["chassis part", "chassis serial"], 3),
            Self::Board => (&["board maker", "board name", "board serial", "board part"], 6),
            Self::Product => (
                &[
                    "product maker",
                    "product name",
                    "product part",
                    "product version",
                    "product serial",
                    "asset tag",
                ],
                3,
            ),
        };
        let mut rest = area.get(first..).unwrap_or_default();
        let mut fields = Vec::new();
        for name in names {
            // 0xC1 ends the fields.
            let Some((&head, after)) = rest.split_first().filter(|(head, _)| **head != 0xC1) else {
                break;
            };
            let Some(bytes) = after.get(..usize::from(head & 0x3F)) else { break };
            let text = decode(head >> 6, bytes);
            if !text.is_empty() {
                fields.push((*name, text));
            }
            rest = after.get(bytes.len()..).unwrap_or_default();
        }
        fields
    }
}

/// Bytes of a text by their type code: 0 binary, 1 BCD plus, 2 packed ASCII, 3 Latin-1.
pub(super) fn decode(kind: u8, bytes: &[u8]) -> String {
    let text: String = match kind & 0x03 {
        0 => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        1 => {
            const DIGITS: [char; 16] =
                ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', ' ', '-', '.', ':', ',', '_'];
            let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0x0F]);
            nibbles.filter_map(|nibble| DIGITS.get(usize::from(nibble))).collect()
        }
        2 => {
            // Four characters of six bits in three bytes, the lowest first.
            let mut text = String::new();
            for three in bytes.chunks(3) {
                let mut bits = 0_u32;
                for (place, byte) in three.iter().enumerate() {
                    bits |= u32::from(*byte) << (8 * place);
                }
                for place in 0..three.len() * 8 / 6 {
                    let code = (bits >> (6 * place)) & 0x3F;
                    text.extend(char::from_u32(code + 0x20));
                }
            }
            text
        }
        _ => bytes.iter().map(|byte| char::from(*byte)).collect(),
    };
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_in_four_forms() {
        assert_eq!(decode(0, &[0xAB, 1]), "ab01");
        assert_eq!(decode(1, &[0x12, 0x3B, 0x4A]), "123-4");
        // "IPMI" is the definition's own example.
        assert_eq!(decode(2, &[0x29, 0xDC, 0xA6]), "IPMI");
        assert_eq!(decode(3, b" Box\x1b[2J\0"), "Box [2J");
    }

    #[test]
    fn a_board_is_read_and_its_end_is_seen() {
        let area = [1, 3, 0, 0, 0, 0, 0xC4, b'A', b'C', b'M', b'E', 0xC3, b'X', b'1', b'2', 0xC1];
        let fields = FruArea::Board.fields(&area);
        assert_eq!(fields, [("board maker", "ACME".to_owned()), ("board name", "X12".to_owned())]);
        for end in 0..area.len() {
            let _ = FruArea::Board.fields(&area[..end]);
            let _ = FruArea::Product.fields(&area[..end]);
        }
        assert_eq!(FruArea::Chassis.fields(&[0xFF; 9]), []);
    }

    #[test]
    fn a_header_with_a_wrong_sum_is_none() {
        assert_eq!(fru_areas(&[1, 0, 0, 1, 4, 0, 0, 0xFA]).unwrap().len(), 2);
        assert_eq!(fru_areas(&[1, 0, 0, 1, 4, 0, 0, 0]), None);
        assert_eq!(fru_areas(&[0xFF; 8]), None);
        assert!(ReadFru::parse_success_response(&[9, 1]).is_err());
    }
}
