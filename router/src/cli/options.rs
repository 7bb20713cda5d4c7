//! Options as they are written. What they mean together with environment and file is `settings`'.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use kademlia_dht::bootstrap::Bootstrap;
use proto::tensor::NumericsClass;
use proto_telemetry::LogFormat;
use router::serve::Origin;
use router_plan::ModelRef;

/// Finds shards of language models in a swarm, plans a route over them and streams their answers.
#[derive(Parser, Debug)]
#[command(name = "router", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command. A flag beats the environment, which beats the configuration file.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Common {
    /// A peer of the swarm to begin with; bare HOST:PORT only on this machine or with --trust-first. Repeatable
    #[arg(
        long,
        global = true,
        value_name = "[NODEID@]HOST:PORT",
        env = "LAYERLANE_BOOTSTRAP",
        value_delimiter = ','
    )]
    pub(crate) bootstrap: Vec<Bootstrap>,
    /// Accept whoever answers at a bare bootstrap address
    #[arg(long, global = true, env = "LAYERLANE_TRUST_FIRST", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL")]
    pub(crate) trust_first: Option<bool>,
    /// Print one JSON value as the last line of stdout; everything else goes to stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say more on stderr: route, figures, debug log
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
    /// Shape of log lines on stderr: text or json
    #[arg(long, global = true, env = "LAYERLANE_LOG_FORMAT", value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// What is logged, for example info or warn,router=debug
    #[arg(long, global = true, env = "LAYERLANE_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// Configuration file; by default layerlane/router.toml in the XDG configuration folder
    #[arg(long, global = true, env = "LAYERLANE_ROUTER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Keep this router's identity here; without it every run is a stranger to the nodes
    #[arg(long, global = true, env = "LAYERLANE_ROUTER_STATE", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Whether the nodes sign for what they compute (default: true)
    #[arg(long, global = true, env = "LAYERLANE_ATTEST", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL")]
    pub(crate) attest: Option<bool>,
    /// Keep manifests and tokenizers here; by default in the XDG cache folder
    #[arg(long, global = true, env = "LAYERLANE_ROUTER_CACHE", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Continue a prompt
    #[command(visible_alias = "run")]
    Generate(Box<Generate>),
    /// Talk to a model in the terminal
    Chat(Box<Chat>),
    /// List the nodes that offer shards
    Nodes,
    /// List the models on offer, and which layers nobody holds
    Models,
    /// Check an answer's evidence: who computed which layers for which tokens. Needs no network
    Verify(Verify),
    /// Say why each node would be taken into a route or left out
    Explain(Explain),
    /// Serve clients over HTTP until SIGTERM or Ctrl-C
    Serve(Box<Serve>),
    /// Make, list, limit and revoke API keys
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Show or check the settings
    Config {
        #[command(flatten)]
        serve: Box<Serve>,
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

/// Options of `verify`.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// What `generate --bundle` wrote
    pub(crate) file: PathBuf,
    /// Fail, too, where nobody signed for rows behind the answer
    #[arg(long)]
    pub(crate) strict: bool,
}

/// Options of `serve`.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Serve {
    /// Where clients connect; by default 127.0.0.1:7400, or the next free port
    #[arg(long, value_name = "IP:PORT", env = "LAYERLANE_ROUTER_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,
    /// The admin endpoint; by default 127.0.0.1:7403, or the next free port
    #[arg(long, value_name = "IP:PORT", env = "LAYERLANE_ROUTER_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,
    /// Let others than this machine connect without API keys: whoever connects is served
    #[arg(long, env = "LAYERLANE_ROUTER_PUBLIC", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL")]
    pub(crate) public: Option<bool>,
    /// Serve this model only. Repeatable; by default all that are found, 16 at most
    #[arg(long = "serve-model", value_name = "M", env = "LAYERLANE_ROUTER_MODELS", value_delimiter = ',')]
    pub(crate) models: Vec<ModelRef>,
    /// Let web pages of this origin use the API, `SCHEME://HOST[:PORT]`, or `*` for any. Repeatable; by default none
    #[arg(
        long = "allow-origin",
        value_name = "ORIGIN",
        env = "LAYERLANE_ROUTER_ORIGINS",
        value_delimiter = ','
    )]
    pub(crate) origins: Vec<Origin>,
    /// Requests of a model that may wait for a place
    #[arg(long, value_name = "N", env = "LAYERLANE_ROUTER_QUEUE")]
    pub(crate) queue: Option<usize>,
    /// How long a request waits for a place at most
    #[arg(long, value_name = "SECONDS", env = "LAYERLANE_ROUTER_QUEUE_TIMEOUT")]
    pub(crate) queue_timeout: Option<f64>,
    /// Sessions that this router places on a node at once
    #[arg(long, value_name = "N", env = "LAYERLANE_ROUTER_SESSIONS_PER_NODE")]
    pub(crate) sessions_per_node: Option<u32>,
    /// Have other nodes stand by for those that answer: when one is lost, its place is taken without a pause to speak of.
    /// Takes twice the nodes and their memory
    #[arg(long, env = "LAYERLANE_STANDBY", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL")]
    pub(crate) standby: Option<bool>,
    /// How long open answers may go on after SIGTERM
    #[arg(long, value_name = "SECONDS", env = "LAYERLANE_ROUTER_DRAIN")]
    pub(crate) drain: Option<f64>,
    /// Connections of clients at once
    #[arg(long, value_name = "N", env = "LAYERLANE_ROUTER_CONNECTIONS")]
    pub(crate) max_connections: Option<usize>,
    /// Bytes of a request's body
    #[arg(long, value_name = "BYTES", env = "LAYERLANE_ROUTER_BODY")]
    pub(crate) max_body_bytes: Option<usize>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum KeysCommand {
    /// Make a key and print it, this once
    Create {
        /// What it is called in lists
        name: String,
        #[command(flatten)]
        limits: KeyLimitOptions,
    },
    /// Show all keys, what they may use and what they have used
    List,
    /// Refuse a key from now on
    Revoke {
        /// Its name, or the beginning of its id
        key: String,
    },
    /// Change what a key may use; what is not given is not limited
    Limit {
        /// Its name, or the beginning of its id
        key: String,
        #[command(flatten)]
        limits: KeyLimitOptions,
    },
    /// Forget keys that were revoked
    Prune,
}

/// How much a key may use.
#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct KeyLimitOptions {
    /// Requests a minute
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) requests_per_minute: Option<u32>,
    /// Tokens a minute, prompts and answers together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tokens_per_minute: Option<u32>,
    /// Requests at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrent: Option<u32>,
}

#[derive(Subcommand, Debug, Clone, Copy)]
pub(crate) enum ConfigCommand {
    /// Print the settings in force, as a configuration file
    Show,
    /// Check flags, environment and file
    Check,
}

#[derive(Args, Debug)]
pub(crate) struct Generate {
    #[command(flatten)]
    pub(crate) choice: Choice,
    #[command(flatten)]
    pub(crate) prompt: PromptSource,
    /// Put the prompt into the model's chat template as the user's turn
    #[arg(long, conflicts_with = "token_ids")]
    pub(crate) chat: bool,
    /// The system's turn before the prompt
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    /// Add to the object each token's margin: the lead of the largest logit over the second
    #[arg(long)]
    pub(crate) margins: bool,
    /// Write the object of --json to this file, whether it is printed or not
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Save what the nodes signed in this file, for `router verify`. Whoever sees it learns prompt, answer and seed
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct PromptSource {
    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// A file with the text to continue; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// Token ids, comma-separated, used as they are: no template, no BOS
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) token_ids: Option<Vec<u32>>,
}

#[derive(Args, Debug)]
pub(crate) struct Chat {
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// The system's turn at the beginning
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
}

#[derive(Args, Debug)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// Positions that the session would need
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_positions: u32,
}

#[derive(Args, Debug)]
pub(crate) struct Choice {
    /// Model: its name, NAME@ID8 or the whole id; may be left out where there is only one
    #[arg(long, value_name = "M", env = "LAYERLANE_MODEL")]
    pub(crate) model: Option<ModelRef>,
    /// Numerics class: exact, bf16, int8, int4, bf16-kv8, int8-kv8 or int4-kv8; by default the class with the faster route
    #[arg(long, value_name = "C")]
    pub(crate) numerics: Option<NumericsClass>,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct Sampling {
    /// Tokens to generate at most
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: u32,
    /// 0 takes the likeliest token each time
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Keep the smallest set of tokens with at least this probability; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) top_k: u32,
    /// Drop tokens less likely than P times the likeliest; 0 drops none
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) min_p: f32,
    /// Seed of the sampler; drawn at random if a temperature is given and no seed
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Divides the logits of tokens seen; 1 is off
    #[arg(long, value_name = "R", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) repetition_penalty: f32,
    /// Subtracted once from the logits of tokens generated; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) presence_penalty: f32,
    /// Subtracted per occurrence from the logits of tokens generated; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: f32,
    /// Text that ends the answer before it. Repeatable
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Positions that the nodes may run ahead of the reader
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) credit: Option<u32>,
    /// Have other nodes stand by for those that answer: when one is lost, its place is taken without a pause to speak of.
    /// Takes twice the nodes and their memory
    #[arg(long, env = "LAYERLANE_STANDBY", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL")]
    pub(crate) standby: Option<bool>,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<f64>,
}
