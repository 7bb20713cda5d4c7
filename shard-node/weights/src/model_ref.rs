//! What the user writes for a model, and the name it is announced under.
//! Fetching is not done here: a built-in alias is fetched by set-up, `hf:` by the hub client.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A model as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// An HF directory or a `.gguf` file.
    Path(PathBuf),
    /// A model that set-up fetches.
    BuiltIn(&'static BuiltIn),
    /// `hf:ORG/NAME[@REV]`.
    Hub(HubRef),
}

/// A model that set-up fetches, with pinned bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// The alias.
    pub alias: &'static str,
    /// The file's name in the models directory.
    pub file: &'static str,
    /// The file's length.
    pub bytes: u64,
    /// SHA-256 of the file, in hex.
    pub sha256: &'static str,
}

/// All built-in models; the first is the default.
pub const BUILT_IN: [BuiltIn; 1] = [BuiltIn {
    alias: "smollm2-135m-instruct",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}];

/// A repository of a model hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRef {
    /// Organisation or user.
    pub organisation: String,
    /// Repository.
    pub name: String,
    /// Branch, tag or commit; the hub's default branch when absent.
    pub revision: Option<String>,
}

/// Why a text names no model. Says what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelRefError {
    /// Neither an alias nor a path that exists.
    #[error("unknown model `{0}`: give an HF directory, a .gguf file, hf:ORG/NAME[@REV], or one of the built-in models: {aliases}", aliases = aliases())]
    Unknown(String),
    /// Malformed `hf:`.
    #[error(
        "`{0}` is not a hub model: write hf:ORG/NAME or hf:ORG/NAME@REVISION, of letters, digits, `.`, `_` and `-`"
    )]
    Hub(String),
}

impl ModelRef {
    /// The name it is announced under: the alias, `ORG/NAME`, or the file's or directory's stem.
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path_name(path),
            Self::BuiltIn(built_in) => built_in.alias.to_owned(),
            Self::Hub(hub) => hub.repository(),
        }
    }
}

impl FromStr for ModelRef {
    type Err = ModelRefError;

    /// An alias wins over a file of the same name; `./name` means the file. Whether a path exists is
    /// looked up here only for texts that do not look like paths.
    fn from_str(text: &str) -> Result<Self, ModelRefError> {
        if let Some(hub) = text.strip_prefix("hf:") {
            return hub.parse().map(Self::Hub);
        }
        if let Some(built_in) = BUILT_IN.iter().find(|built_in| built_in.alias == text) {
            return Ok(Self::BuiltIn(built_in));
        }
        let path = Path::new(text);
        let looks_like_path =
            text.contains('/') || path.extension().is_some_and(|extension| extension == "gguf");
        if !text.is_empty() && (looks_like_path || path.exists()) {
            return Ok(Self::Path(path.to_owned()));
        }
        Err(ModelRefError::Unknown(text.chars().take(120).collect()))
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::BuiltIn(built_in) => f.write_str(built_in.alias),
            Self::Hub(hub) => write!(f, "hf:{hub}"),
        }
    }
}

impl HubRef {
    /// `ORG/NAME`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.organisation, self.name)
    }
}

impl FromStr for HubRef {
    type Err = ModelRefError;

    /// `ORG/NAME[@REV]`, without the `hf:`.
    fn from_str(text: &str) -> Result<Self, ModelRefError> {
        let wrong = || ModelRefError::Hub(text.chars().take(120).collect());
        let (repository, revision) = match text.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (text, None),
        };
        let (organisation, name) = repository.split_once('/').ok_or_else(wrong)?;
        // A revision may be a branch with slashes.
        let parts_of_revision = revision.into_iter().flat_map(|revision| revision.split('/'));
        if !is_hub_word(organisation) || !is_hub_word(name) || !parts_of_revision.clone().all(is_hub_word) {
            return Err(wrong());
        }
        Ok(Self {
            organisation: organisation.to_owned(),
            name: name.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.organisation, self.name)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// A path component that is safe in a URL and as a directory name; hubs allow no others.
fn is_hub_word(word: &str) -> bool {
    (1..=96).contains(&word.len())
        && !word.starts_with(['.', '-'])
        && !word.contains("..")
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn path_name(path: &Path) -> String {
    let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // The stem of what the user wrote, unless that is `.` or `..`; a directory's dots are not an extension.
    let named = if path.file_name().is_some() { path } else { &canonical };
    let is_gguf = named.extension().is_some_and(|extension| extension == "gguf");
    let stem = if is_gguf { named.file_stem() } else { named.file_name() };
    stem.map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

fn aliases() -> String {
    BUILT_IN.map(|built_in| built_in.alias).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_parse_and_name_the_model() {
        let cases = [
            ("smollm2-135m-instruct", "smollm2-135m-instruct"),
            ("hf:org/Name-1.5", "org/Name-1.5"),
            ("hf:org/name@refs/pr/1", "org/name"),
            ("models/Tiny.Q4_1.gguf", "Tiny.Q4_1"),
            ("Tiny.gguf", "Tiny"),
            ("/models/Llama-3.2-1B", "Llama-3.2-1B"),
            ("./smollm2-135m-instruct", "smollm2-135m-instruct"),
        ];
        for (text, name) in cases {
            let model: ModelRef = text.parse().unwrap();
            assert_eq!(model.name(), name, "{text}");
            assert_eq!(model.to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_alternatives() {
        for text in [
            "",
            "no-such-model",
            "hf:",
            "hf:name",
            "hf:a/b/c",
            "hf:../b",
            "hf:a/..",
            "hf:a/b@",
            "hf:a/b@../c",
            "hf:a/b c",
        ] {
            let error = text.parse::<ModelRef>().unwrap_err().to_string();
            assert!(error.contains("hf:ORG/NAME"), "{text}: {error}");
        }
        let error = "no-such-model".parse::<ModelRef>().unwrap_err().to_string();
        assert!(error.contains("unknown model `no-such-model`") && error.contains("smollm2-135m-instruct"));
    }
}
