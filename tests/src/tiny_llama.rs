//! A llama of four layers with random weights and a tied head, made of the engine's goldens.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// Writes it as an HF directory with a shard file for each layer and one, `ends.safetensors`, for the rest.
pub fn write_sharded(folder: &Path) -> Result<()> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shard-node/engine/golden");
    std::fs::create_dir_all(folder)?;
    std::fs::copy(golden.join("llama-linear/config.json"), folder.join("config.json"))?;
    let mut shards: BTreeMap<String, (Map<String, Value>, Vec<u8>)> = BTreeMap::new();
    let mut index = Map::new();
    for stored in ["matrices.safetensors", "llama-linear/own.safetensors"] {
        let file = std::fs::read(golden.join(stored)).with_context(|| format!("read {stored}"))?;
        let (length, rest) = file.split_first_chunk::<8>().context("a header's length")?;
        let (header, body) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length))?).context("a header")?;
        let header: Map<String, Value> = serde_json::from_slice(header)?;
        for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
            let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
            let shard =
                layer.map_or_else(|| "ends.safetensors".into(), |layer| format!("layer-{layer}.safetensors"));
            let (header, bytes) = shards.entry(shard.clone()).or_default();
            let offset = |at: usize| -> Result<usize> {
                Ok(usize::try_from(entry["data_offsets"][at].as_u64().context("an offset")?)?)
            };
            let start = bytes.len();
            bytes.extend_from_slice(body.get(offset(0)?..offset(1)?).context("a tensor's bytes")?);
            let mut entry = entry.clone();
            entry["data_offsets"] = json!([start, bytes.len()]);
            header.insert(name.clone(), entry);
            index.insert(name.clone(), json!(shard));
        }
    }
    for (name, (header, bytes)) in shards {
        let header = Value::Object(header).to_string();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat();
        std::fs::write(folder.join(name), file)?;
    }
    let index = json!({ "weight_map": index }).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index)?;
    Ok(())
}
