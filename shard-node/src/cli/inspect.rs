//! `inspect`: what a model is, how large its parts are in each class, what a machine of some size holds of it, and
//! what this version cannot compute. Prints; the numbers are the weights crate's.

use std::num::NonZeroU32;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args;
use proto_telemetry::LogFormat;
use serde_json::{Value, json};
use shard_node_weights::footprint::LIBRARY_BYTES;
use shard_node_weights::{Budget, Checkpoint, Fit, Inspection, ModelRef};

use super::{model, print_line, serve, source};
use crate::hub::Glance;

/// Options of `inspect`.
#[derive(Args, Debug)]
pub(super) struct InspectArgs {
    /// An HF directory, a .gguf file, a built-in alias, or hf:ORG/NAME[@REV]
    #[arg(value_name = "REF")]
    model: ModelRef,
    /// Say what a machine with this much memory holds: 24G, 900M, or a number of bytes
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemorySize>,
    /// Sessions that the machine is to have room for
    #[arg(long, value_name = "N", default_value = "1", requires = "memory")]
    sessions: NonZeroU32,
    /// Positions of each of these sessions; by default the model's context, but at most 8192
    #[arg(long, value_name = "POSITIONS", requires = "memory")]
    context: Option<NonZeroU32>,
    /// Read headers only: no hashing of the whole model, so no model id. So it always is with hf: models that are not in
    /// the cache
    #[arg(long)]
    quick: bool,
    /// Print a JSON object on one line
    #[arg(long)]
    json: bool,
}

pub(super) fn inspect(args: &InspectArgs) -> Result<()> {
    proto_telemetry::init_binary_logging(LogFormat::Text, proto_telemetry::DEFAULT_FILTER)?;
    let glance = match &args.model {
        ModelRef::Hub(repository) => Some(model::glance(repository)?),
        ModelRef::Path(_) | ModelRef::BuiltIn(_) => None,
    };
    let path = match &glance {
        Some(glance) => glance.path().to_owned(),
        None => model::locate_or_fetch(&args.model, None)?,
    };
    let checkpoint = Checkpoint::open(&path).with_context(|| format!("inspect {}", args.model))?;
    let inspection = shard_node_weights::inspect(&checkpoint)?;
    let name = model::name_of(&args.model, None);
    let whole = glance.as_ref().is_none_or(Glance::is_whole);
    let described = if inspection.unsupported.is_empty() && !args.quick && whole {
        Some(model::describe(&checkpoint)?)
    } else {
        None
    };
    if let Some(described) = &described {
        source::keep(&serve::runtime()?, described)?;
    }
    let id = described.map(|described| described.id);
    let room = args.memory.map(|memory| Room::new(args, memory, &inspection));
    if args.json {
        let mut object = json!({
            "model": name,
            "model_id": id,
            "layers": inspection.architecture.n_layers,
            "fetched_bytes": glance.as_ref().map_or(0, Glance::fetched),
        });
        let parts = [serde_json::to_value(&inspection)?, room.map_or(Ok(json!({})), |room| room.to_json())?];
        for part in parts {
            if let (Some(object), Value::Object(part)) = (object.as_object_mut(), part) {
                object.extend(part);
            }
        }
        print_line(&object.to_string());
        return Ok(());
    }
    print_line(&format!("{name}: {}", model::summary(&inspection.architecture)));
    if let Some(id) = id {
        print_line(&format!("model id            {id}"));
    } else if let Some(glance) = glance.as_ref().filter(|glance| !glance.is_whole()) {
        let read = bytes(glance.fetched());
        print_line(&format!("model id            needs the whole model; only headers were read ({read})"));
    }
    for line in summary(&inspection).into_iter().chain(classes(&inspection)) {
        print_line(&line);
    }
    if let Some(room) = room {
        for line in room.lines(&inspection) {
            print_line(&line);
        }
    }
    if !inspection.unsupported.is_empty() {
        bail!("this version can't run it: {}", inspection.unsupported.join("; "));
    }
    Ok(())
}

fn summary(inspection: &Inspection) -> Vec<String> {
    let types: Vec<String> =
        inspection.tensors.iter().map(|(dtype, count)| format!("{count} x {dtype}")).collect();
    let millions = |values: u64| format!("{:.1} M", values as f64 / 1e6);
    let parameters = if inspection.parameters_per_token == inspection.parameters {
        millions(inspection.parameters)
    } else {
        let used = millions(inspection.parameters_per_token);
        format!("{}, of which a token uses {used}", millions(inspection.parameters))
    };
    let container =
        format!("{}, mostly {} ({})", inspection.container, inspection.quantisation, types.join(", "));
    let rows = [
        ("container", container),
        ("parameters", parameters),
        ("licence", inspection.licence.clone().unwrap_or_else(|| "not named in the files".to_owned())),
        ("stored", bytes(inspection.stored_bytes)),
    ];
    rows.into_iter().map(|(name, value)| format!("{name:<20}{value}")).collect()
}

/// A line per class.
fn classes(inspection: &Inspection) -> Vec<String> {
    let row = |cells: [&str; 6]| {
        let [class, rest @ ..] = cells;
        rest.into_iter().fold(format!("{class:<10}"), |line, cell| format!("{line}{cell:>14}"))
    };
    let mut lines = vec![row(["class", "a layer", "embedding", "head", "whole", "KV of a token"])];
    for class in &inspection.classes {
        let sizes = [
            class.layer_bytes,
            class.embedding_bytes,
            class.head_bytes,
            class.whole_bytes(&inspection.architecture),
            class.kv_bytes_per_token,
        ];
        let [layer, embedding, head, whole, kv] = sizes.map(bytes);
        lines.push(row([class.class, &layer, &embedding, &head, &whole, &kv]));
    }
    lines
}

/// A machine and the sessions it is to serve.
#[derive(Debug)]
struct Room {
    memory: MemorySize,
    sessions: u32,
    context: u32,
    budget: Budget,
    fits: Vec<Fit>,
}

impl Room {
    fn new(args: &InspectArgs, memory: MemorySize, inspection: &Inspection) -> Self {
        let sessions = args.sessions.get();
        let usual = inspection.architecture.context.min(USUAL_CONTEXT);
        let context = args.context.map_or(usual, NonZeroU32::get);
        let budget = Budget { memory: memory.0, positions: u64::from(sessions) * u64::from(context) };
        let architecture = &inspection.architecture;
        let fits = inspection.classes.iter().map(|class| class.fit(architecture, budget)).collect();
        Self { memory, sessions, context, budget, fits }
    }

    fn to_json(&self) -> Result<Value, serde_json::Error> {
        Ok(json!({
            "memory": {
                "bytes": self.memory.0,
                "usable_bytes": self.budget.usable(),
                "sessions": self.sessions,
                "context": self.context,
                "fits": serde_json::to_value(&self.fits)?,
            }
        }))
    }

    fn lines(&self, inspection: &Inspection) -> Vec<String> {
        let all = inspection.architecture.n_layers;
        let mut lines = vec![format!(
            "{} hold, with 15 % left free, {} for the library and the KV of {} x {} positions (--kv-positions {}):",
            bytes(self.memory.0),
            bytes(LIBRARY_BYTES),
            self.sessions,
            self.context,
            self.budget.positions
        )];
        lines.extend(self.fits.iter().map(|fit| {
            let Fit { class, first, middle, last, whole, machines } = *fit;
            if whole {
                return format!("{class:<10}the whole model");
            }
            let ends =
                format!("{first} layers with the embedding, {middle} in the middle, {last} with the head");
            match machines {
                Some(machines) => format!("{class:<10}{ends}; {machines} such machines hold all {all}"),
                None => format!("{class:<10}{ends}; no number of such machines is enough"),
            }
        }));
        lines
    }
}

/// Bytes of memory, as people write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MemorySize(u64);

/// A text that is no size of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a size of memory: write 24G, 1.5T or 900M (powers of 1024), 24GB (powers of 1000) or bytes"
)]
struct NotASize(String);

impl FromStr for MemorySize {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let wrong = || NotASize(text.chars().take(40).collect());
        let split = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit = unit.trim_start().to_ascii_uppercase();
        let (prefix, base) = match unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')) {
            Some(prefix) if unit.ends_with("IB") => (prefix, 1024.0),
            Some(prefix) => (prefix, 1000.0),
            None => (unit.as_str(), 1024.0),
        };
        let power = ["", "K", "M", "G", "T"].iter().position(|known| *known == prefix).ok_or_else(wrong)?;
        let bytes = number * f64::powi(base, i32::try_from(power).map_err(|_| wrong())?);
        // No machine has a PiB; beyond it a float would not hold every byte either.
        if bytes >= 1.0 && bytes < f64::from(1 << 25) * f64::from(1 << 25) {
            Ok(Self(bytes as u64))
        } else {
            Err(wrong())
        }
    }
}

/// Bytes for people.
fn bytes(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..0x2800 => format!("{bytes} B"),
        0x2800..0xa0_0000 => format!("{:.1} KiB", value / 1024.0),
        0xa0_0000..0x2_8000_0000 => format!("{:.1} MiB", value / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", value / f64::from(1 << 30)),
    }
}

/// Most chats stay below; a model's whole context may be a million.
const USUAL_CONTEXT: u32 = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_memory_are_read_as_people_write_them() {
        let cases = [
            ("24G", Some(24 << 30)),
            ("24GiB", Some(24 << 30)),
            ("24gb", Some(24_000_000_000)),
            ("1.5 T", Some(3 << 39)),
            ("900M", Some(900 << 20)),
            ("123456", Some(123_456)),
            ("7B", Some(7)),
            ("0", None),
            ("", None),
            ("G", None),
            ("24X", None),
            ("-1G", None),
            ("1e30", None),
            ("99999999T", None),
            ("1.2.3G", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse().ok().map(|MemorySize(bytes)| bytes), expected, "{text}");
        }
        assert!("x".parse::<MemorySize>().unwrap_err().to_string().contains("24G"));
    }

    #[test]
    fn bytes_keep_three_digits() {
        let cases = [
            (999, "999 B"),
            (10_240, "10.0 KiB"),
            (1_300_000, "1269.5 KiB"),
            (30 << 20, "30.0 MiB"),
            (24 << 30, "24.0 GiB"),
        ];
        for (value, text) in cases {
            assert_eq!(bytes(value), text);
        }
    }
}
