//! The `NEEDED` entries of an ELF file, read here because `readelf` may be missing.
//!
//! Only 64-bit little-endian files, which is all we build. It follows the program headers, as the dynamic
//! loader does, and treats the file as hostile: each offset is checked. Source: the ELF-64 object file format.

use anyhow::{Context, Result, ensure};

/// The libraries that the loader must find before the program can start, in the file's order.
pub(crate) fn needed_libraries(file: &[u8]) -> Result<Vec<String>> {
    ensure!(file.starts_with(b"\x7fELF"), "not an ELF file");
    ensure!(file.get(4..6) == Some([2, 1].as_slice()), "not a 64-bit little-endian ELF file");
    let headers = program_headers(file)?;
    let Some(dynamic) = headers.iter().find(|header| header.kind == PT_DYNAMIC) else {
        return Ok(Vec::new()); // linked statically
    };
    let entries = dynamic_entries(file, dynamic)?;
    let table_address = entries
        .iter()
        .find_map(|&(tag, value)| (tag == DT_STRTAB).then_some(value))
        .context("the dynamic section names no string table")?;
    let table = file_offset(&headers, table_address).context("the string table lies outside the file")?;
    entries
        .iter()
        .filter(|(tag, _)| *tag == DT_NEEDED)
        .map(|&(_, name)| string_at(file, table.checked_add(name).context("offset overflow")?))
        .collect()
}

#[derive(Clone, Copy, Debug)]
struct ProgramHeader {
    kind: u32,
    offset: u64,
    address: u64,
    length: u64,
}

fn program_headers(file: &[u8]) -> Result<Vec<ProgramHeader>> {
    let (table, size, count) = (word(file, 32)?, half(file, 54)?, half(file, 56)?);
    (0..u64::from(count))
        .map(|index| {
            let at = table.checked_add(index * u64::from(size)).context("offset overflow")?;
            Ok(ProgramHeader {
                kind: u32::try_from(word(file, at)? & 0xffff_ffff)?,
                offset: word(file, at + 8)?,
                address: word(file, at + 16)?,
                length: word(file, at + 32)?,
            })
        })
        .collect()
}

/// Pairs of tag and value up to the terminating null tag.
fn dynamic_entries(file: &[u8], dynamic: &ProgramHeader) -> Result<Vec<(u64, u64)>> {
    let mut entries = Vec::new();
    for index in 0..dynamic.length / 16 {
        let at = dynamic.offset.checked_add(index * 16).context("offset overflow")?;
        let (tag, value) = (word(file, at)?, word(file, at.checked_add(8).context("offset overflow")?)?);
        if tag == DT_NULL {
            break;
        }
        entries.push((tag, value));
    }
    Ok(entries)
}

fn file_offset(headers: &[ProgramHeader], address: u64) -> Option<u64> {
    headers.iter().filter(|header| header.kind == PT_LOAD).find_map(|header| {
        let within = address.checked_sub(header.address).filter(|within| *within < header.length)?;
        header.offset.checked_add(within)
    })
}

fn string_at(file: &[u8], offset: u64) -> Result<String> {
    let bytes = file.get(usize::try_from(offset)?..).context("a name lies outside the file")?;
    let end = bytes.iter().take(MAX_NAME).position(|byte| *byte == 0).context("a name does not end")?;
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn word(file: &[u8], offset: u64) -> Result<u64> {
    let bytes = usize::try_from(offset)
        .ok()
        .and_then(|start| file.get(start..start.checked_add(8)?))
        .context("the file is cut short")?;
    Ok(u64::from_le_bytes(bytes.try_into()?))
}

fn half(file: &[u8], offset: usize) -> Result<u16> {
    let bytes = file.get(offset..offset + 2).context("the file is cut short")?;
    Ok(u16::from_le_bytes(bytes.try_into()?))
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

/// File names end far below this.
const MAX_NAME: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_needs_libc_and_no_libtorch() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needed = needed_libraries(&file).unwrap();
        assert!(needed.iter().any(|name| name.starts_with("libc.so")), "{needed:?}");
        assert!(!needed.iter().any(|name| name.contains("torch")), "{needed:?}");
    }

    #[test]
    fn other_files_and_cut_files_are_errors() {
        assert!(needed_libraries(b"#!/bin/sh\n").is_err());
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in [0, 4, 5, 20, 63, 64, 100] {
            assert!(needed_libraries(&file[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn flipped_bytes_in_the_headers_never_panic() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for at in 0..1024 {
            for value in [0, 0x7f, 0xff] {
                let mut copy = file[..file.len().min(1 << 16)].to_vec();
                copy[at] = value;
                let _ = needed_libraries(&copy);
            }
        }
    }
}
