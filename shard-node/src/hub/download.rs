//! One file from a hub to disk: into `.NAME.part`, going on where an earlier attempt broke off, renamed once its
//! length and hash are right.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::client::Client;
use super::error::HubError;
use super::listing::Wanted;

/// Attempts in a row that bring no byte before the fetch gives up.
const FRUITLESS_ATTEMPTS: u32 = 3;

/// Fetches `wanted` into `directory`, unless it is there. `progress` is told bytes of the file so far.
pub(super) fn download(
    client: &Client<'_>,
    commit: &str,
    wanted: &Wanted,
    directory: &Path,
    mut progress: impl FnMut(u64),
) -> Result<(), HubError> {
    let path = directory.join(&wanted.name);
    if fs::metadata(&path).is_ok_and(|found| found.len() == wanted.bytes) {
        return Ok(());
    }
    let part_path = directory.join(format!(".{}.part", wanted.name));
    let mut part = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&part_path)
        .map_err(HubError::io("open", &part_path))?;
    let mut have = part.metadata().map_err(HubError::io("look at", &part_path))?.len();
    if have > wanted.bytes {
        have = 0;
    }
    let (mut fruitless, mut said) = (0, String::new());
    while have < wanted.bytes {
        if fruitless == FRUITLESS_ATTEMPTS {
            return Err(HubError::BrokenOff {
                repository: client.repository().to_owned(),
                file: wanted.name.clone(),
                have,
                size: wanted.bytes,
                attempts: fruitless,
                said,
            });
        }
        let before = have;
        match attempt(client, commit, wanted, &mut part, &mut have, &mut progress) {
            Ok(()) => "the server ended early".clone_into(&mut said),
            Err(Attempt::Broken(why)) => said = why,
            Err(Attempt::Disk(source)) => return Err(HubError::io("write", &part_path)(source)),
            Err(Attempt::Hub(error)) => return Err(error),
        }
        fruitless = if have > before { 0 } else { fruitless + 1 };
    }
    part.set_len(have).map_err(HubError::io("write", &part_path))?;
    if let Some(expected) = &wanted.sha256 {
        let got = sha256(&mut part).map_err(HubError::io("read", &part_path))?;
        if got != *expected {
            fs::remove_file(&part_path).map_err(HubError::io("remove", &part_path))?;
            return Err(HubError::Hash {
                repository: client.repository().to_owned(),
                file: wanted.name.clone(),
                expected: expected.clone(),
                got,
            });
        }
    }
    fs::rename(&part_path, &path).map_err(HubError::io("place", &path))
}

enum Attempt {
    /// The connection broke; what came is kept.
    Broken(String),
    Disk(io::Error),
    Hub(HubError),
}

/// One request; adds what it brings to `part` and `have`.
fn attempt(
    client: &Client<'_>,
    commit: &str,
    wanted: &Wanted,
    part: &mut File,
    have: &mut u64,
    progress: &mut impl FnMut(u64),
) -> Result<(), Attempt> {
    let (begins, body) = client.file(commit, &wanted.name, *have).map_err(Attempt::Hub)?;
    if begins > *have {
        return Err(Attempt::Broken(format!("asked from byte {have}, the server sent from {begins}")));
    }
    // A server that does not know ranges begins at 0 again.
    *have = begins;
    part.seek(SeekFrom::Start(begins)).map_err(Attempt::Disk)?;
    let mut reader = body.into_with_config().limit(u64::MAX).reader();
    let mut buffer = vec![0; 256 << 10];
    while *have < wanted.bytes {
        let room = buffer.len().min((wanted.bytes - *have) as usize);
        let read = match reader.read(&mut buffer[..room]) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Attempt::Broken(error.to_string())),
        };
        part.write_all(&buffer[..read]).map_err(Attempt::Disk)?;
        *have += read as u64;
        progress(*have);
    }
    Ok(())
}

fn sha256(file: &mut File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}
