//! As much of ELF (64 bit, little endian) as is needed: a section by its name, and the libraries
//! that a program needs. Refuses what it does not understand; never panics on a broken file.

/// Why a file was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an ELF file of 64 bits, little endian, with section headers")]
pub struct ElfError;

const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;

/// The bytes of the section with this name, if the file has one.
pub(crate) fn section<'a>(file: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, ElfError> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(ElfError);
    }
    let table = u64_at(file, 0x28)?;
    let (size, count, names) = (u16_at(file, 0x3a)?, u16_at(file, 0x3c)?, u16_at(file, 0x3e)?);
    let header = |index: u16| -> Result<(u32, &'a [u8]), ElfError> {
        let at = table.checked_add(u64::from(index) * u64::from(size)).ok_or(ElfError)?;
        let head = slice(file, at, 0x40)?;
        let name = u32_at(head, 0)?;
        let no_bits = u32_at(head, 4)? == 8;
        let offset = u64_at(head, 0x18)?;
        let len = if no_bits { 0 } else { u64_at(head, 0x20)? };
        Ok((name, slice(file, offset, len)?))
    };
    let (_, strings) = header(names)?;
    for index in 0..count {
        let (at, data) = header(index)?;
        if text_at(strings, u64::from(at))? == name.as_bytes() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// The names of the libraries that the program or library needs (DT_NEEDED), none for a static one.
pub(crate) fn needed(file: &[u8]) -> Result<Vec<String>, ElfError> {
    let (Some(dynamic), Some(strings)) = (section(file, ".dynamic")?, section(file, ".dynstr")?)
    else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in dynamic.chunks_exact(16) {
        match u64_at(entry, 0)? {
            DT_NULL => break,
            DT_NEEDED => {
                let name = text_at(strings, u64_at(entry, 8)?)?;
                found.push(String::from_utf8(name.to_vec()).map_err(|_| ElfError)?);
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The loader that the program names (PT_INTERP), none for a static one.
pub(crate) fn interpreter(file: &[u8]) -> Result<Option<String>, ElfError> {
    let Some(data) = section(file, ".interp")? else { return Ok(None) };
    let name = text_at(data, 0)?;
    Ok(Some(String::from_utf8(name.to_vec()).map_err(|_| ElfError)?))
}

fn slice(file: &[u8], offset: u64, len: u64) -> Result<&[u8], ElfError> {
    let start = usize::try_from(offset).map_err(|_| ElfError)?;
    let end = usize::try_from(offset.checked_add(len).ok_or(ElfError)?).map_err(|_| ElfError)?;
    file.get(start..end).ok_or(ElfError)
}

fn text_at(strings: &[u8], at: u64) -> Result<&[u8], ElfError> {
    let rest = strings.get(usize::try_from(at).map_err(|_| ElfError)?..).ok_or(ElfError)?;
    rest.split(|b| *b == 0).next().ok_or(ElfError)
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N], ElfError> {
    let end = at.checked_add(N).ok_or(ElfError)?;
    file.get(at..end).and_then(|b| b.try_into().ok()).ok_or(ElfError)
}

fn u16_at(file: &[u8], at: usize) -> Result<u16, ElfError> {
    bytes(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Result<u32, ElfError> {
    bytes(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Result<u64, ElfError> {
    bytes(file, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_program_names_its_libraries_and_loader() {
        let file = std::fs::read("/bin/ls").expect("/bin/ls");
        assert!(needed(&file).expect("needed").iter().any(|n| n.starts_with("libc.so")));
        assert!(interpreter(&file).expect("interp").expect("dynamic").contains("ld-linux"));
    }

    #[test]
    fn broken_files_are_refused_and_never_panic() {
        let file = std::fs::read("/bin/ls").expect("/bin/ls");
        for len in [0, 5, 6, 63, 64, 100, file.len() / 2] {
            assert_eq!(needed(&file[..len]), Err(ElfError), "cut to {len}");
        }
        let mut bent = file.clone();
        bent[0x28..0x30].fill(0xff);
        assert_eq!(needed(&bent), Err(ElfError));
    }
}
