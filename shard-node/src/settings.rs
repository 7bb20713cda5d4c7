//! Settings of a node as users write them: flags, environment and file have the same names. Flag beats
//! environment beats file; [`Settings::check`] turns the texts into a [`Checked`] or says which one is wrong.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kademlia_dht::bootstrap::Bootstrap;
use proto::tensor::NumericsClass;
use proto::{LayerSpan, ModelId};
use proto_telemetry::LogFormat;
use serde::{Deserialize, Serialize};
use shard_node_weights::ModelRef;

use crate::engine::DeviceChoice;
use crate::node::{DEFAULT_BOUNDARY_BYTES, DEFAULT_DRAIN};
use crate::paths;

/// Everything that can be set. Absent = not said at this place.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Model: an HF directory, a .gguf file, a built-in alias, or hf:ORG/NAME[@REV]
    #[arg(long, env = "LAYERLANE_MODEL", value_name = "REF")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Id of the model: its manifest is taken from the cache or the swarm instead of being computed from all files
    #[arg(long, env = "LAYERLANE_MODEL_ID", value_name = "HEX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// Layers to serve, B not included; all of them by default
    #[arg(long, env = "LAYERLANE_LAYERS", value_name = "A..B")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<String>,
    /// Name to announce the model under; by default the alias, ORG/NAME or the file's name
    #[arg(long, env = "LAYERLANE_NAME", value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where to compute: auto, cpu or cuda:N
    #[arg(long, env = "LAYERLANE_DEVICE", value_name = "DEVICE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How to compute: bf16 is fast; int8 and int4 are smaller and faster, less close; exact gives the same bits however a model is split; bf16-kv8, int8-kv8 and int4-kv8 keep keys and values in 8 bits
    #[arg(long, env = "LAYERLANE_NUMERICS", value_name = "CLASS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numerics: Option<String>,
    /// Compute threads; chosen by the engine when absent
    #[arg(long, env = "LAYERLANE_THREADS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroUsize>,
    /// KV to offer, in positions of all sessions together; by default what a GPU has memory for, 65,536 on a CPU
    #[arg(long, env = "LAYERLANE_KV_POSITIONS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_positions: Option<u64>,
    /// Positions of KV that may hold rows of earlier prompts for reuse while no session needs them; a quarter by default, 0 = none
    #[arg(long, env = "LAYERLANE_PREFIX_POSITIONS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_positions: Option<u64>,
    /// Bytes of rows sent on to hold in case the next node is lost, so that only its layers are computed again; 268435456 by default, 0 = none
    #[arg(long, env = "LAYERLANE_BOUNDARY_BYTES", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boundary_bytes: Option<u64>,
    /// Seconds that open sessions may go on once the node was told to leave; 20 by default
    #[arg(long, env = "LAYERLANE_DRAIN", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<u64>,
    /// UDP address to listen on; `0.0.0.0:7401` or the next free port by default
    #[arg(long, env = "LAYERLANE_LISTEN", value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Address that others dial, when it is not the one listened on
    #[arg(long, env = "LAYERLANE_ADVERTISE", value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<SocketAddr>,
    /// Peer to begin with; may be given several times
    #[arg(long, env = "LAYERLANE_BOOTSTRAP", value_name = "[NODEID@]HOST:PORT", value_delimiter = ',')]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bootstrap: Vec<String>,
    /// Accept whoever answers at a bootstrap address without a node id
    #[arg(long, env = "LAYERLANE_TRUST_FIRST", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_first: Option<bool>,
    /// Address of `/metrics`, `/livez` and `/readyz`; `127.0.0.1:7402` or the next free port by default
    #[arg(long, env = "LAYERLANE_ADMIN", value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// Folder of the node's key and routing table
    #[arg(long, env = "LAYERLANE_STATE_DIR", value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// What to log, for example `info` or `info,shard_node=debug`
    #[arg(long, env = "LAYERLANE_LOG", value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// `text` or `json`
    #[arg(long, env = "LAYERLANE_LOG_FORMAT", value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<String>,
}

/// Settings that parse. Addresses that were not said stay `None`, so that only those may move to a free port.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The model, absent for a bootstrap peer.
    pub model: Option<ModelRef>,
    /// Which weights these are, where the manifest is not to be computed.
    pub model_id: Option<ModelId>,
    /// The layers, not yet held against the model.
    pub layers: Option<LayerSpan>,
    /// The name announced.
    pub name: Option<String>,
    /// Where to compute.
    pub device: DeviceChoice,
    /// How to compute.
    pub class: NumericsClass,
    /// Compute threads.
    pub threads: Option<NonZeroUsize>,
    /// KV offered, if the user says.
    pub kv_positions: Option<u64>,
    /// KV for rows of earlier prompts, if the user says.
    pub prefix_positions: Option<u64>,
    /// Bytes of rows sent on that are held.
    pub boundary_bytes: u64,
    /// How long open sessions may go on at the end.
    pub drain: Duration,
    /// An explicit listening address.
    pub listen: Option<SocketAddr>,
    /// An explicit address for others.
    pub advertise: Option<SocketAddr>,
    /// Peers to begin with.
    pub bootstrap: Vec<Bootstrap>,
    /// Accept whoever answers.
    pub trust_first: bool,
    /// An explicit admin address.
    pub admin: Option<SocketAddr>,
    /// Key and table.
    pub state_dir: PathBuf,
    /// Log filter.
    pub log: String,
    /// Log format.
    pub log_format: LogFormat,
}

/// Why settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("configuration {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The file does not parse; the message has line and column.
    #[error("configuration {path}: {source}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's word.
        source: Box<toml::de::Error>,
    },
    /// One setting is wrong.
    #[error("{name}: {why}")]
    Wrong {
        /// Which.
        name: &'static str,
        /// Why, and what to write.
        why: String,
    },
}

impl Settings {
    /// Reads a configuration file. One that was not asked for may be missing.
    pub fn read(path: &Path, asked_for: bool) -> Result<Self, SettingsError> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|source| SettingsError::Parse { path: path.into(), source: Box::new(source) }),
            Err(error) if !asked_for && error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(SettingsError::Read { path: path.into(), source }),
        }
    }

    /// These settings, and where they are silent the others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            model: self.model.or(other.model),
            model_id: self.model_id.or(other.model_id),
            layers: self.layers.or(other.layers),
            name: self.name.or(other.name),
            device: self.device.or(other.device),
            numerics: self.numerics.or(other.numerics),
            threads: self.threads.or(other.threads),
            kv_positions: self.kv_positions.or(other.kv_positions),
            prefix_positions: self.prefix_positions.or(other.prefix_positions),
            boundary_bytes: self.boundary_bytes.or(other.boundary_bytes),
            drain: self.drain.or(other.drain),
            listen: self.listen.or(other.listen),
            advertise: self.advertise.or(other.advertise),
            bootstrap: if self.bootstrap.is_empty() { other.bootstrap } else { self.bootstrap },
            trust_first: self.trust_first.or(other.trust_first),
            admin: self.admin.or(other.admin),
            state_dir: self.state_dir.or(other.state_dir),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
        }
    }

    /// Parses every text.
    pub fn check(&self) -> Result<Checked, SettingsError> {
        let name = self.name.clone();
        if let Some(name) = &name
            && (name.is_empty()
                || name.len() > proto::record::MAX_NAME_BYTES
                || name.contains(char::is_control))
        {
            return Err(wrong("name", format!("must have 1 to {} bytes", proto::record::MAX_NAME_BYTES)));
        }
        if self.kv_positions == Some(0) {
            return Err(wrong("kv-positions", "must be at least 1"));
        }
        let state_dir = match &self.state_dir {
            Some(folder) => folder.clone(),
            None => paths::state_dir().map_err(|error| wrong("state-dir", error))?,
        };
        Ok(Checked {
            model: parse("model", self.model.as_deref())?,
            model_id: parse("model-id", self.model_id.as_deref())?,
            layers: parse("layers", self.layers.as_deref())?,
            name,
            device: parse("device", self.device.as_deref())?.unwrap_or_default(),
            class: parse("numerics", self.numerics.as_deref())?.unwrap_or(NumericsClass::Bf16),
            threads: self.threads,
            kv_positions: self.kv_positions,
            prefix_positions: self.prefix_positions,
            boundary_bytes: self.boundary_bytes.unwrap_or(DEFAULT_BOUNDARY_BYTES),
            drain: self.drain.map_or(DEFAULT_DRAIN, Duration::from_secs),
            listen: self.listen,
            advertise: self.advertise,
            bootstrap: self
                .bootstrap
                .iter()
                .map(|text| text.parse().map_err(|error| wrong("bootstrap", error)))
                .collect::<Result<_, _>>()?,
            trust_first: self.trust_first.unwrap_or(false),
            admin: self.admin,
            state_dir,
            log: self.log.clone().unwrap_or_else(|| proto_telemetry::DEFAULT_FILTER.to_owned()),
            log_format: parse("log-format", self.log_format.as_deref())?.unwrap_or_default(),
        })
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, SettingsError> {
    text.map(str::parse).transpose().map_err(|error| wrong(name, error))
}

fn wrong(name: &'static str, why: impl std::fmt::Display) -> SettingsError {
    SettingsError::Wrong { name, why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_beat_the_file() {
        let file: Settings = toml::from_str("layers = \"0..10\"\nnumerics = \"exact\"").unwrap();
        let flags = Settings { layers: Some("5..6".into()), ..Settings::default() };
        let checked = flags.or(file).check().unwrap();
        assert_eq!(checked.layers.unwrap().to_string(), "5..6");
        assert_eq!(checked.class, NumericsClass::Exact);
    }

    #[test]
    fn wrong_settings_are_named_with_the_cure() {
        for (text, words) in [
            ("layers = \"10..5\"", ["layers", "start must be below end"]),
            ("numerics = \"int3\"", ["numerics", "int8 or int4"]),
            ("device = \"tpu\"", ["device", "auto, cpu or cuda:N"]),
            ("bootstrap = [\"nowhere\"]", ["bootstrap", "NODEID@HOST:PORT"]),
            ("log_format = \"xml\"", ["log-format", "text or json"]),
            ("name = \"\"", ["name", "bytes"]),
            ("kv_positions = 0", ["kv-positions", "at least 1"]),
            ("model = \"nonesuch\"", ["model", "unknown model"]),
            ("model_id = \"beef\"", ["model-id", "64"]),
        ] {
            let error = toml::from_str::<Settings>(text).unwrap().check().unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        std::fs::write(&path, "layer = \"0..1\"\n").unwrap();
        let error = Settings::read(&path, true).unwrap_err().to_string();
        assert!(
            error.contains("node.toml") && error.contains("layer") && error.contains("line 1"),
            "{error}"
        );
        assert!(Settings::read(&folder.path().join("none.toml"), false).is_ok());
        assert!(Settings::read(&folder.path().join("none.toml"), true).is_err());
    }
}
