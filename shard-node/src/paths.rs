//! Where files live: XDG folders, and the copies beside a build tree.

use std::path::{Path, PathBuf};

use directories::ProjectDirs;

/// No home folder, so there is nowhere to keep files.
#[derive(Debug, thiserror::Error)]
#[error("no home folder was found: set HOME, or give {0}")]
pub struct NoHome(&'static str);

/// Default folder of a node's key and routing table.
pub fn state_dir() -> Result<PathBuf, NoHome> {
    let dirs = project().ok_or(NoHome("--state-dir DIR"))?;
    Ok(dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir()).join("node"))
}

/// Per-user folder of what can be fetched or computed again.
pub fn cache_dir() -> Result<PathBuf, NoHome> {
    project().map(|dirs| dirs.cache_dir().to_owned()).ok_or(NoHome("XDG_CACHE_HOME"))
}

/// Default configuration file.
pub fn config_file() -> Result<PathBuf, NoHome> {
    project().map(|dirs| dirs.config_dir().join("node.toml")).ok_or(NoHome("--config FILE"))
}

/// `third_party/` of the build tree that this program was built in, if it still runs from there.
pub fn build_tree_third_party() -> Option<PathBuf> {
    third_party_of(&std::env::current_exe().ok()?)
}

fn third_party_of(program: &Path) -> Option<PathBuf> {
    let target =
        program.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "target"))?;
    let third_party = target.parent()?.join("third_party");
    third_party.is_dir().then_some(third_party)
}

fn project() -> Option<ProjectDirs> {
    ProjectDirs::from("", "", "layerlane")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_tree_is_found_from_its_programs_only() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("third_party")).unwrap();
        let found = third_party_of(&root.path().join("target/release/deps/shard-node"));
        assert_eq!(found, Some(root.path().join("third_party")));
        assert_eq!(third_party_of(&root.path().join("bin/shard-node")), None);
    }
}
