//! Why set-up failed, each with its cure.

use std::io;
use std::path::PathBuf;

/// Why set-up could not finish. It can always be run again; finished downloads are kept.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No Python.
    #[error(
        "`{python}` was not found; set-up fetches libtorch with pip: install Python 3 with pip (Debian, Ubuntu: apt install python3 python3-pip), or set LIBTORCH to a libtorch {version} you already have"
    )]
    NoPython {
        /// The program looked for.
        python: String,
        /// The version of libtorch wanted.
        version: &'static str,
    },
    /// Python without pip.
    #[error(
        "`{python} -m pip` does not work ({said}); install pip (Debian, Ubuntu: apt install python3-pip, elsewhere: {python} -m ensurepip)"
    )]
    NoPip {
        /// The program.
        python: String,
        /// Its message.
        said: String,
    },
    /// pip ended with an error.
    #[error(
        "fetching {requirement} failed; is this machine offline, or does its pip index lack it? pip said:\n{said}\nRun set-up again when the cause is gone: finished downloads are kept in {downloads}"
    )]
    Fetch {
        /// The package.
        requirement: String,
        /// The end of pip's messages.
        said: String,
        /// Where finished wheels are.
        downloads: PathBuf,
    },
    /// pip succeeded, but the wheel is not there.
    #[error(
        "pip fetched {requirement} but not as {file}; its index holds another build of it: unset PIP_INDEX_URL and similar settings, then run set-up again"
    )]
    OtherFile {
        /// The package.
        requirement: String,
        /// The file expected.
        file: String,
    },
    /// The bytes are not the pinned ones.
    #[error(
        "{file} has SHA-256 {got}, expected {expected}; it was removed: run set-up again, and if that does not help, the package index serves other bytes than the pinned ones"
    )]
    Hash {
        /// The file.
        file: String,
        /// The pinned hash.
        expected: String,
        /// The hash found.
        got: String,
    },
    /// Not enough space.
    #[error(
        "{directory} has {free} MB free, set-up needs {needed} MB; free some, or choose another directory with --dir"
    )]
    Space {
        /// The directory.
        directory: PathBuf,
        /// Megabytes free.
        free: u64,
        /// Megabytes needed.
        needed: u64,
    },
    /// The user's libtorch is unsuitable.
    #[error(
        "LIBTORCH={path} {what}; unset LIBTORCH so that set-up fetches libtorch {version}, or point it at that version"
    )]
    OwnLibtorch {
        /// The path in LIBTORCH.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// The version wanted.
        version: &'static str,
    },
    /// A wheel does not hold what it should.
    #[error("{file}: {what}; remove it and run set-up again")]
    Archive {
        /// The wheel.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Only Linux x86-64 builds are pinned.
    #[error(
        "set-up knows libtorch builds for Linux x86-64 only; set LIBTORCH to a libtorch {version} for this machine"
    )]
    Platform {
        /// The version wanted.
        version: &'static str,
    },
    /// The system refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// Verb.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

impl SetupError {
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}
