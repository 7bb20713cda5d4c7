//! An engine that cheats, so that tests can see it caught. An example, so that it is in no release.
//!
//! `LAYERLANE_CHEAT` says how: `int8`, `int4` or `kv8` computes with cheaper weights or KV than it announces, `skip`
//! leaves a layer out, `identity` sends on what it received, `tamper` changes a value of each step on its way out.

mod stage;

use std::process::ExitCode;

use proto::tensor::NumericsClass;
use shard_node::engine::{Engine, LoadRequest};
use shard_node_engine::LibtorchEngine;
use shard_node_stage::{LoadError, StageLoader};
use stage::{Cheat, CheatingStage};

struct CheatingEngine;

impl Engine for CheatingEngine {
    fn loader(&self, request: LoadRequest) -> StageLoader {
        let announced = request.class;
        let name = std::env::var("LAYERLANE_CHEAT").unwrap_or_default();
        let (class, cheat) = match name.as_str() {
            "int8" => (NumericsClass::Int8, Cheat::None),
            "int4" => (NumericsClass::Int4, Cheat::None),
            "kv8" => (NumericsClass::Bf16Kv8, Cheat::None),
            "skip" => (announced, Cheat::Skip),
            "identity" => (announced, Cheat::Identity),
            "tamper" => (announced, Cheat::Tamper),
            _ => {
                let message =
                    format!("LAYERLANE_CHEAT is `{name}`: int8, int4, kv8, skip, identity or tamper");
                return Box::new(move || Err(LoadError::message(message)));
            }
        };
        let load = LibtorchEngine.loader(LoadRequest { class, ..request });
        Box::new(move || Ok(Box::new(CheatingStage::new(load()?, announced, cheat))))
    }
}

fn main() -> ExitCode {
    shard_node::cli::engine_main(&CheatingEngine)
}
