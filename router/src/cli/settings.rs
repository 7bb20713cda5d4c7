//! Settings: flag over environment over file. Complete before the first socket is opened.

use std::path::{Path, PathBuf};

use directories::ProjectDirs;
use kademlia_dht::bootstrap::Bootstrap;
use proto_telemetry::LogFormat;
use router_plan::ModelRef;
use serde::{Deserialize, Serialize};

use super::options::Common;
use super::serve_settings::ServeFile;

/// What the configuration file may hold.
#[derive(Deserialize, Serialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsFile {
    /// Peers to begin with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) bootstrap: Vec<String>,
    pub(crate) trust_first: Option<bool>,
    pub(crate) model: Option<String>,
    pub(crate) credit: Option<u32>,
    pub(crate) standby: Option<bool>,
    pub(crate) attest: Option<bool>,
    pub(crate) timeout_s: Option<f64>,
    pub(crate) log_format: Option<String>,
    pub(crate) log: Option<String>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) cache_dir: Option<PathBuf>,
    /// Of `router serve`.
    pub(crate) serve: Option<ServeFile>,
}

/// The settings in force.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch that a user sets by itself")]
pub(crate) struct Settings {
    pub(crate) bootstrap: Vec<Bootstrap>,
    pub(crate) trust_first: bool,
    pub(crate) model: Option<ModelRef>,
    pub(crate) credit: u32,
    pub(crate) standby: bool,
    /// Stages sign for what they compute.
    pub(crate) attest: bool,
    pub(crate) timeout_s: Option<f64>,
    pub(crate) log_format: LogFormat,
    pub(crate) log_filter: String,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) cache_dir: PathBuf,
    pub(crate) json: bool,
    pub(crate) verbose: bool,
    /// Of `router serve`, as the file has them.
    pub(crate) serve: ServeFile,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
}

/// Options or configuration that can't be used: exit code 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("read {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", .path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{}: {field}: {why}", .path.display())]
    Field { path: PathBuf, field: &'static str, why: String },
    #[error("no home folder was found: set HOME, or give --cache-dir DIR")]
    NoHome,
    #[error("no bootstrap peer: give --bootstrap [NODEID@]HOST:PORT, or set `bootstrap` in {}", .0.display())]
    NoBootstrap(PathBuf),
    #[error("{0}")]
    Option(String),
}

/// What is logged by a one-shot command: its own output says the rest.
const QUIET_FILTER: &str = "warn,kademlia_dht=error,quinn=error,quinn_proto=error,rustls=error";
const SERVICE_FILTER: &str = "info,kademlia_dht=warn,quinn=warn,quinn_proto=warn,rustls=warn";
const VERBOSE_FILTER: &str = "info,router=debug,quinn=warn,quinn_proto=warn,rustls=warn";

impl Settings {
    /// Reads the file, if there is one, and lays flags and environment over it.
    pub(crate) fn load(common: &Common) -> Result<Self, UsageError> {
        let (path, file) = read_file(common)?;
        let field = |field: &'static str, why: String| UsageError::Field { path: path.clone(), field, why };
        let bootstrap = if common.bootstrap.is_empty() {
            let parse = |text: &String| {
                text.parse().map_err(|error: kademlia_dht::bootstrap::BootstrapError| {
                    field("bootstrap", error.to_string())
                })
            };
            file.bootstrap.iter().map(parse).collect::<Result<_, _>>()?
        } else {
            common.bootstrap.clone()
        };
        let model = file
            .model
            .as_deref()
            .map(str::parse::<ModelRef>)
            .transpose()
            .map_err(|error| field("model", error.to_string()))?;
        let log_format = match (common.log_format, &file.log_format) {
            (Some(format), _) => format,
            (None, Some(text)) => text.parse().map_err(|error: proto_telemetry::ParseLogFormatError| {
                field("log_format", error.to_string())
            })?,
            (None, None) => LogFormat::default(),
        };
        let credit = file.credit.unwrap_or(router::generate::DEFAULT_CREDIT);
        if !(1..=4096).contains(&credit) {
            return Err(field("credit", format!("{credit} is not within 1 to 4096")));
        }
        if file.timeout_s.is_some_and(|seconds| !is_duration(seconds)) {
            return Err(field("timeout_s", "not a positive number of seconds".into()));
        }
        let default_filter = if common.verbose { VERBOSE_FILTER } else { QUIET_FILTER };
        let cache_dir = match common.cache_dir.clone().or(file.cache_dir) {
            Some(folder) => folder,
            None => project().ok_or(UsageError::NoHome)?.cache_dir().join("blobs"),
        };
        Ok(Self {
            bootstrap,
            trust_first: common.trust_first.or(file.trust_first).unwrap_or(false),
            model,
            credit,
            standby: file.standby.unwrap_or(false),
            attest: common.attest.or(file.attest).unwrap_or(true),
            timeout_s: file.timeout_s,
            log_format,
            log_filter: common.log.clone().or(file.log).unwrap_or_else(|| default_filter.into()),
            state_dir: common.state_dir.clone().or(file.state_dir),
            cache_dir,
            json: common.json,
            verbose: common.verbose,
            serve: file.serve.unwrap_or_default(),
            file: path.exists().then_some(path),
        })
    }

    /// A service logs what it does, unless it is told otherwise.
    pub(crate) fn log_for_a_service(&mut self, common: &Common) {
        if self.log_filter == QUIET_FILTER && !common.verbose {
            SERVICE_FILTER.clone_into(&mut self.log_filter);
        }
    }

    /// As a configuration file.
    pub(crate) fn to_file(&self) -> SettingsFile {
        SettingsFile {
            bootstrap: self.bootstrap.iter().map(ToString::to_string).collect(),
            trust_first: Some(self.trust_first),
            model: self.model.as_ref().map(ToString::to_string),
            credit: Some(self.credit),
            standby: Some(self.standby),
            attest: Some(self.attest),
            timeout_s: self.timeout_s,
            log_format: Some(self.log_format.to_string()),
            log: Some(self.log_filter.clone()),
            state_dir: self.state_dir.clone(),
            cache_dir: Some(self.cache_dir.clone()),
            serve: (self.serve != ServeFile::default()).then(|| self.serve.clone()),
        }
    }
}

/// Whether a number is a usable length of time in seconds.
pub(crate) fn is_duration(seconds: f64) -> bool {
    seconds > 0.0 && seconds < 1e9
}

/// Where the configuration file is looked for by default.
pub(crate) fn default_file() -> Option<PathBuf> {
    Some(project()?.config_dir().join("router.toml"))
}

/// Where a router's state is kept by default.
pub(crate) fn state_dir() -> Option<PathBuf> {
    let project = project()?;
    Some(project.state_dir().unwrap_or_else(|| project.data_local_dir()).join("router"))
}

fn project() -> Option<ProjectDirs> {
    ProjectDirs::from("", "", "layerlane")
}

/// A file that was named must exist; the default one need not.
fn read_file(common: &Common) -> Result<(PathBuf, SettingsFile), UsageError> {
    let (path, named) = match &common.config {
        Some(path) => (path.clone(), true),
        None => match default_file() {
            Some(path) => (path, false),
            None => return Ok((PathBuf::from("router.toml"), SettingsFile::default())),
        },
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok((path.clone(), parse(&path, &text)?)),
        Err(source) if !named && source.kind() == std::io::ErrorKind::NotFound => {
            Ok((path, SettingsFile::default()))
        }
        Err(source) => Err(UsageError::Read { path, source }),
    }
}

fn parse(path: &Path, text: &str) -> Result<SettingsFile, UsageError> {
    toml::from_str(text)
        .map_err(|source| UsageError::Parse { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, common: Common) -> Result<Settings, UsageError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("router.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(&Common { config: Some(path), cache_dir: Some("cache".into()), ..common })
    }

    #[test]
    fn a_flag_beats_the_file() {
        let text = "bootstrap = [\"127.0.0.1:7401\"]\nlog = \"info\"\ncredit = 8\n";
        let settings = load(text, Common::default()).unwrap();
        assert_eq!((settings.bootstrap.len(), settings.credit), (1, 8));
        assert_eq!(settings.log_filter, "info");
        let flag = Common {
            bootstrap: vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()],
            ..Common::default()
        };
        assert_eq!(load(text, flag).unwrap().bootstrap.len(), 2);
    }

    #[test]
    fn mistakes_in_the_file_are_named() {
        for (text, word) in [
            ("bootstrop = []", "bootstrop"),
            ("bootstrap = [\"nonsense\"]", "nonsense"),
            ("credit = 0", "credit"),
            ("timeout_s = -1.0", "timeout_s"),
            ("log_format = \"xml\"", "xml"),
        ] {
            let error = load(text, Common::default()).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("router.toml"), "{error}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        let text = "bootstrap = [\"127.0.0.1:7401\"]\nmodel = \"toy\"\n";
        let settings = load(text, Common::default()).unwrap();
        let shown = toml::to_string(&settings.to_file()).unwrap();
        let again = load(&shown, Common::default()).unwrap();
        assert_eq!(again.model, settings.model);
        assert_eq!(again.bootstrap, settings.bootstrap);
    }
}
