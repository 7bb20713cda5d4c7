//! Clients written in Python: installed once for each list of versions, and their scripts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A command that runs a script of `tests/clients` with the packages of a list there.
pub fn script(name: &str, list: &str) -> Result<Command> {
    let mut python = Command::new("python3");
    python.arg(folder().join(name)).env("PYTHONPATH", installed(list)?).env("PYTHONUNBUFFERED", "1");
    Ok(python)
}

/// What a script's output must end with: nothing may be skipped.
pub fn nothing_skipped(told: &str) -> bool {
    told.lines().last().is_some_and(|last| last.ends_with("checks passed, 0 skipped"))
}

/// Where the packages of a list are.
fn installed(list: &str) -> Result<PathBuf> {
    let list = folder().join(list);
    let versions = std::fs::read(&list).with_context(|| format!("read {}", list.display()))?;
    let versions = proto::ContentHash::of(&versions).to_string();
    let root = folder().join("../../target/clients");
    let installed = root.join(&versions[..16]);
    if installed.exists() {
        return Ok(installed);
    }
    std::fs::create_dir_all(&root)?;
    let draft = tempfile::tempdir_in(&root)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]);
    // Exactly the list, whatever else this machine has installed.
    let status = pip.args(["--no-deps", "--target"]).arg(draft.path()).arg("-r").arg(&list).status()?;
    ensure!(status.success(), "pip could not install the clients of {}", list.display());
    // Tests run side by side, as processes too: whoever comes second throws its draft away.
    if std::fs::rename(draft.path(), &installed).is_ok() {
        let _ = draft.keep();
    }
    ensure!(installed.exists(), "{} should be there", installed.display());
    Ok(installed)
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/clients"))
}
