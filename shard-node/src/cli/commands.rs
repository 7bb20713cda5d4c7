//! The commands that end by themselves: identity, inspect, setup, config.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use proto_telemetry::LogFormat;
use serde_json::json;
use shard_node_weights::{Checkpoint, Inspection, ModelRef};

use super::{merged, model, print_line, serve, source};
use crate::settings::Settings;
use crate::{identity, paths, setup};

/// Options of `identity`.
#[derive(Args, Debug)]
pub(super) struct IdentityArgs {
    /// Folder of the node's key
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn identity(args: IdentityArgs) -> Result<()> {
    let folder = args.state_dir.map_or_else(paths::state_dir, Ok)?;
    let node = identity::key_in(&folder)?.node_id();
    if args.json {
        print_line(&json!({ "node": node, "state_dir": folder }).to_string());
    } else {
        print_line(&node.to_hex());
    }
    Ok(())
}

/// Options of `inspect`.
#[derive(Args, Debug)]
pub(super) struct InspectArgs {
    /// An HF directory, a .gguf file, a built-in alias, or hf:ORG/NAME[@REV]
    #[arg(value_name = "REF")]
    model: ModelRef,
    /// Print a JSON object on one line
    #[arg(long)]
    json: bool,
}

pub(super) fn inspect(args: &InspectArgs) -> Result<()> {
    proto_telemetry::init_binary_logging(LogFormat::Text, proto_telemetry::DEFAULT_FILTER)?;
    let path = model::locate_or_fetch(&args.model, None)?;
    let checkpoint = Checkpoint::open(&path)?;
    let inspection = shard_node_weights::inspect(&checkpoint)?;
    let name = model::name_of(&args.model, None);
    let described =
        if inspection.unsupported.is_empty() { Some(model::describe(&checkpoint)?) } else { None };
    if let Some(described) = &described {
        source::keep(&serve::runtime()?, described)?;
    }
    let id = described.as_ref().map(|described| described.id);
    if args.json {
        let mut object = json!({
            "model": name,
            "model_id": id,
            "layers": inspection.architecture.n_layers,
            "licence": described.as_ref().and_then(|described| described.manifest.licence.clone()),
        });
        if let (Some(object), Ok(serde_json::Value::Object(rest))) =
            (object.as_object_mut(), serde_json::to_value(&inspection))
        {
            object.extend(rest);
        }
        print_line(&object.to_string());
        return Ok(());
    }
    print_line(&format!("{name}: {}", model::summary(&inspection.architecture)));
    if let Some(id) = id {
        print_line(&format!("model id            {id}"));
    }
    print_table(&inspection);
    if !inspection.unsupported.is_empty() {
        bail!("this version can't run it: {}", inspection.unsupported.join("; "));
    }
    Ok(())
}

fn print_table(inspection: &Inspection) {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let layers = &inspection.layer_bytes;
    let types: Vec<String> =
        inspection.tensors.iter().map(|(dtype, count)| format!("{count} x {dtype}")).collect();
    let rows = [
        (
            "container",
            format!("{}, mostly {} ({})", inspection.container, inspection.quantisation, types.join(", ")),
        ),
        ("parameters", format!("{:.1} M", inspection.parameters as f64 / 1e6)),
        ("stored", mib(inspection.stored_bytes)),
        (
            "a layer",
            format!(
                "{} to {}",
                mib(layers.iter().min().copied().unwrap_or(0)),
                mib(layers.iter().max().copied().unwrap_or(0))
            ),
        ),
        ("embedding, head", format!("{}, {}", mib(inspection.embedding_bytes), mib(inspection.head_bytes))),
        (
            "KV of a token",
            format!(
                "{} B (bf16), {} B (exact)",
                inspection.kv_bytes_per_token_bf16, inspection.kv_bytes_per_token_exact
            ),
        ),
    ];
    for (name, value) in rows {
        print_line(&format!("{name:<20}{value}"));
    }
}

/// Options of `setup`.
#[derive(Args, Debug)]
pub(super) struct SetupArgs {
    /// Where to put libtorch and the model; the per-user cache by default
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Fetch the CUDA libraries as well (about 2.5 GB)
    #[arg(long)]
    cuda: bool,
}

pub(super) fn setup(args: SetupArgs) -> Result<()> {
    let folder = args.dir.map_or_else(paths::cache_dir, Ok)?;
    setup::run(&setup::SetupOptions::from_environment(folder, args.cuda)).context("set up")?;
    Ok(())
}

/// Options of `config`.
#[derive(Args, Debug)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
    /// Configuration file instead of layerlane/node.toml
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Print what is in force: flags over environment over file
    Show {
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Say whether the configuration is valid
    Check,
}

pub(super) fn config(args: ConfigArgs) -> Result<()> {
    match args.command {
        ConfigCommand::Show { settings } => {
            let text = toml::to_string(&merged(*settings, args.config)?).context("write TOML")?;
            print_line(text.trim_end());
        }
        ConfigCommand::Check => {
            merged(Settings::default(), args.config)?.check()?;
            print_line("the configuration is valid");
        }
    }
    Ok(())
}
