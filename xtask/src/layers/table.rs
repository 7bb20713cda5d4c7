//! The dependency table: which of our crates may depend on which, and who may name the heavy outside crates.
//!
//! Data only. Every row carries its reason; whoever adds an edge writes it here and in `docs/decisions/`.

/// One of our crates.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Our crates that it may depend on, for its tests too.
    pub(super) ours: &'static [&'static str],
    /// Outside crates that must not be linked into it, not even through others.
    pub(super) links_no: &'static [&'static str],
    pub(super) why: &'static str,
}

/// An outside crate that only some of ours may name.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) name: &'static str,
    pub(super) only: &'static [&'static str],
    /// Whether others may name it for their tests and examples.
    pub(super) free_in_tests: bool,
    pub(super) why: &'static str,
}

/// The row of a crate.
pub(super) const ROW_OF: fn(&str) -> Option<&'static Row> = |name| CRATES.iter().find(|row| row.name == name);

/// What a crate of pure decisions never links.
const PURE: &[&str] = &["tokio", "quinn", "rustls", "tch", "torch-sys"];

/// What everything but the engine never links.
const NO_TORCH: &[&str] = &["tch", "torch-sys"];

/// Our crates.
pub(crate) const CRATES: &[Row] = &[
    Row {
        name: "proto",
        ours: &[],
        links_no: PURE,
        why: "what two processes must agree on has no I/O, no async and no clock",
    },
    Row {
        name: "proto-transport",
        ours: &["proto"],
        links_no: NO_TORCH,
        why: "it moves frames and blobs between peers and knows nothing of what they mean",
    },
    Row {
        name: "kademlia-dht",
        ours: &["proto", "proto-transport"],
        links_no: NO_TORCH,
        why: "a sans-IO core with a thin driver over the transport",
    },
    Row { name: "proto-text", ours: &["proto"], links_no: PURE, why: "pure: text to tokens and back" },
    Row {
        name: "proto-sampling",
        ours: &["proto"],
        links_no: PURE,
        why: "pure: logits to a token, auditable anywhere",
    },
    Row {
        name: "proto-attest",
        ours: &["proto", "proto-sampling"],
        links_no: PURE,
        why: "pure: what is signed and how it is judged, the same on a node, a router and a client's machine",
    },
    Row {
        name: "proto-keys",
        ours: &["proto", "proto-attest"],
        links_no: NO_TORCH,
        why: "nodes and routers keep their keys alike; it touches files and nothing else",
    },
    Row {
        name: "proto-log",
        ours: &["proto", "proto-attest"],
        links_no: PURE,
        why: "pure: a log is checked the same by its router, a witness and anybody with a copy of it",
    },
    Row {
        name: "proto-telemetry",
        ours: &[],
        links_no: NO_TORCH,
        why: "every process uses it, so it depends on none of them",
    },
    Row {
        name: "shard-node-stage",
        ours: &["proto", "proto-sampling"],
        links_no: PURE,
        why: "the seam between a node and its tensor library has neither network nor tensors",
    },
    Row {
        name: "shard-node-weights",
        ours: &["proto", "proto-text"],
        links_no: PURE,
        why: "model files are read without a tensor library, so that inspect and manifests work without one",
    },
    Row {
        name: "shard-node",
        ours: &[
            "proto",
            "proto-transport",
            "proto-attest",
            "proto-keys",
            "kademlia-dht",
            "proto-text",
            "proto-sampling",
            "proto-telemetry",
            "shard-node-stage",
            "shard-node-weights",
        ],
        links_no: NO_TORCH,
        why: "a node must be able to say that libtorch is missing; router and node meet in proto only",
    },
    Row {
        name: "shard-node-engine",
        ours: &[
            "proto",
            "proto-text",
            "proto-sampling",
            "proto-telemetry",
            "shard-node",
            "shard-node-stage",
            "shard-node-weights",
        ],
        links_no: &[],
        why: "it adds a tensor library to the node, never the reverse",
    },
    Row {
        name: "router-plan",
        ours: &["proto"],
        links_no: PURE,
        why: "pure: a view goes in, a decision comes out",
    },
    Row {
        name: "router-openai",
        ours: &["proto", "proto-text", "router-plan"],
        links_no: PURE,
        why: "pure: bytes of a request in, bytes of an answer out; HTTP, clock and randomness are the router's",
    },
    Row {
        name: "router",
        ours: &[
            "proto",
            "proto-transport",
            "proto-attest",
            "proto-keys",
            "kademlia-dht",
            "proto-text",
            "proto-sampling",
            "proto-telemetry",
            "router-plan",
            "router-openai",
        ],
        links_no: NO_TORCH,
        why: "the router needs neither weights nor libtorch; router and node meet in proto only",
    },
    Row {
        name: "cluster-tests",
        ours: EVERYTHING_BUT_THE_ENGINE,
        links_no: NO_TORCH,
        why: "swarms in one process run ToyStage; the engine is tested as a process",
    },
    Row {
        name: "benches",
        ours: WHAT_BENCHES_MEASURE,
        links_no: NO_TORCH,
        why: "it measures the engine as a process, so that every measurement builds without libtorch",
    },
    Row {
        name: "xtask",
        ours: &[],
        links_no: &["tokio", "quinn", "rustls", "tch", "torch-sys"],
        why: "it builds first on a clean clone and must build quickly",
    },
];

const EVERYTHING_BUT_THE_ENGINE: &[&str] = &[
    "proto",
    "proto-transport",
    "proto-attest",
    "proto-keys",
    "kademlia-dht",
    "proto-text",
    "proto-sampling",
    "proto-telemetry",
    "shard-node",
    "shard-node-stage",
    "shard-node-weights",
    "router",
    "router-plan",
];

/// For measurements, which start the same swarms as the tests.
const WHAT_BENCHES_MEASURE: &[&str] = &[
    "proto",
    "proto-transport",
    "proto-attest",
    "proto-keys",
    "kademlia-dht",
    "proto-text",
    "proto-sampling",
    "proto-telemetry",
    "shard-node",
    "shard-node-stage",
    "shard-node-weights",
    "router",
    "router-plan",
    "cluster-tests",
];

/// Outside crates that are heavy or dangerous.
pub(super) const HEAVY: &[Guard] = &[
    Guard {
        name: "tch",
        only: &["shard-node-engine"],
        free_in_tests: false,
        why: "one crate knows what a tensor library is",
    },
    Guard {
        name: "torch-sys",
        only: &["shard-node-engine"],
        free_in_tests: false,
        why: "one crate knows what a tensor library is",
    },
    Guard {
        name: "quinn",
        only: &["proto-transport"],
        free_in_tests: false,
        why: "one crate knows QUIC, so that it can be replaced",
    },
    Guard {
        name: "rustls",
        only: &["proto-transport"],
        free_in_tests: false,
        why: "one crate decides whom a connection trusts",
    },
    Guard {
        name: "bincode",
        only: &["proto"],
        free_in_tests: false,
        why: "one codec file with its limits; the crate is unmaintained",
    },
    Guard {
        name: "ed25519-dalek",
        only: &["proto"],
        free_in_tests: false,
        why: "one place signs and verifies",
    },
    Guard {
        name: "secp256k1",
        only: &["proto-attest"],
        free_in_tests: false,
        why: "one crate signs what a contract may judge, in one form of signature",
    },
    Guard {
        name: "tokenizers",
        only: &["proto-text"],
        free_in_tests: false,
        why: "heavy, and its files are hostile input",
    },
    Guard {
        name: "minijinja",
        only: &["proto-text"],
        free_in_tests: false,
        why: "runs templates from models, within limits set there",
    },
    Guard {
        name: "axum",
        only: &["proto-telemetry", "router"],
        free_in_tests: false,
        why: "only the admin endpoint and the API speak HTTP",
    },
    Guard {
        name: "tower-http",
        only: &["router"],
        free_in_tests: false,
        why: "only the API is for web pages, and of the crate only its layer for CORS is used",
    },
    Guard {
        name: "tracing-subscriber",
        only: &["proto-telemetry"],
        free_in_tests: false,
        why: "a library never installs a subscriber; binaries do it through telemetry",
    },
    Guard {
        name: "ureq",
        only: &["shard-node"],
        free_in_tests: false,
        why: "only setup and hf: references fetch from the web",
    },
    Guard {
        name: "memmap2",
        only: &["shard-node-weights"],
        free_in_tests: false,
        why: "mapped files are unsafe input; one crate holds them",
    },
    Guard {
        name: "tokio",
        only: &[
            "proto-transport",
            "kademlia-dht",
            "proto-telemetry",
            "shard-node",
            "shard-node-engine",
            "router",
            "benches",
            "cluster-tests",
        ],
        free_in_tests: false,
        why: "decisions are pure; only shells that move bytes and time are async",
    },
    Guard {
        name: "anyhow",
        only: &["shard-node", "shard-node-engine", "router", "benches", "cluster-tests", "xtask"],
        free_in_tests: true,
        why: "libraries say what can go wrong in enums",
    },
];
