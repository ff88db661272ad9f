//! What a UEFI firmware remembers: its variables in a flash image, in EDK2's authenticated format
//! (`MdeModulePkg/Include/Guid/VariableFormat.h`).

/// `AUTHENTICATED_VARIABLE_HEADER`.
const HEADER: usize = 60;
const START: [u8; 2] = [0xaa, 0x55];
/// `VAR_ADDED`: whole, and not deleted since.
const ADDED: u8 = 0x3f;

/// The variable's data, none where the flash holds none of this name.
pub(crate) fn variable(flash: &[u8], name: &str) -> Option<Vec<u8>> {
    let wanted: Vec<u8> =
        name.encode_utf16().chain([0]).flat_map(|unit| unit.to_le_bytes()).collect();
    // Variables are aligned to 4 bytes.
    (0..flash.len()).step_by(4).find_map(|at| {
        let header = flash.get(at..at + HEADER)?;
        if header[..2] != START || header[2] != ADDED {
            return None;
        }
        let size = |at: usize| {
            let field = header.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_le_bytes(field)).ok()
        };
        let (name_size, data_size) = (size(36)?, size(40)?);
        let name_at = at + HEADER;
        let name = flash.get(name_at..name_at.checked_add(name_size)?)?;
        let data_at = name_at + name_size;
        let data = flash.get(data_at..data_at.checked_add(data_size)?)?;
        (name == wanted).then(|| data.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, data: &[u8], state: u8) -> Vec<u8> {
        let name: Vec<u8> =
            name.encode_utf16().chain([0]).flat_map(|unit| unit.to_le_bytes()).collect();
        let mut bytes = vec![0; HEADER];
        bytes[..2].copy_from_slice(&START);
        bytes[2] = state;
        bytes[36..40].copy_from_slice(&u32::try_from(name.len()).unwrap().to_le_bytes());
        bytes[40..44].copy_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
        bytes.extend(name);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0xff);
        bytes
    }

    #[test]
    fn the_variable_that_was_not_deleted_is_found() {
        let flash = [
            vec![0xff; 8],
            written("BootOrder", &[9, 9], 0x3d),
            written("Boot", &[1], ADDED),
            written("BootOrder", &[2, 0, 1, 0], ADDED),
        ]
        .concat();
        assert_eq!(variable(&flash, "BootOrder"), Some(vec![2, 0, 1, 0]));
        assert_eq!(variable(&flash, "BootNext"), None);
    }
}
