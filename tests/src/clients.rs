//! Clients written in Python: installed once for each list of versions, and their scripts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A command that runs a script of `tests/clients` with the packages of a list there.
pub fn script(name: &str, list: &str) -> Result<Command> {
    let mut python = Command::new("python3");
    python.arg(folder().join(name)).env("PYTHONPATH", installed(list)?).env("PYTHONUNBUFFERED", "1");
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(python)
}

/// That each check in a script's text (a function below `@check`) ran and passed, by what the script told: how many. One
/// that did not run is an error, and so is one that nobody knows.
pub fn checks_passed(script: &str, told: &str) -> Result<usize> {
    let path = folder().join(script);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let (marked, passed) = (marked(&text), passed(told));
    ensure!(!marked.is_empty(), "{script} has no checks");
    ensure!(marked == passed, "{script}: the checks are {marked:?}, those that passed are {passed:?}");
    let last = told.lines().last().unwrap_or_default();
    ensure!(last == format!("{} checks passed, 0 skipped", marked.len()), "{script} ends with {last:?}");
    Ok(marked.len())
}

/// The names of the functions that are marked as checks.
fn marked(script: &str) -> Vec<&str> {
    let below = script.lines().zip(script.lines().skip(1)).filter(|(mark, _)| *mark == "@check");
    below.filter_map(|(_, line)| line.strip_prefix("def ")?.split('(').next()).collect()
}

/// The names that a script told as passed.
fn passed(told: &str) -> Vec<&str> {
    told.lines().filter_map(|line| line.strip_prefix("ok ")).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_did_not_run_is_missed() {
        let script =
            "@check\ndef a():\n    pass\n\n\n@check\ndef b(x=1):\n    pass\n\n\ndef c():\n    pass\n";
        assert_eq!(marked(script), ["a", "b"]);
        assert_eq!(passed("ok a\nsomething\nok b\n2 checks passed, 0 skipped\n"), ["a", "b"]);
        let all =
            marked(&std::fs::read_to_string(folder().join("openapi.py")).unwrap_or_default()).join("\nok ");
        let told = format!("ok {all}\n3 checks passed, 0 skipped\n");
        assert_eq!(checks_passed("openapi.py", &told).ok(), Some(3));
        for wrong in [
            told.replacen("ok ", "skipped ", 1),
            told.replace(", 0 skipped", ", 1 skipped"),
            told.replace("3 checks", "2 checks"),
            format!("ok more\n{told}"),
            String::new(),
        ] {
            assert!(checks_passed("openapi.py", &wrong).is_err(), "{wrong}");
        }
        assert!(checks_passed("checks.py", "0 checks passed, 0 skipped").is_err());
    }
}
