//! `shard-node keys`: the keys that sign for this node's work.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use proto_attest::Address;
use proto_keys::KeyRing;

use super::print_line;
use crate::clock::unix_seconds;
use crate::identity::{self, Identity};
use crate::paths;

/// Options of `keys`.
#[derive(Args, Debug)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: Command,
    /// State folder of the node
    #[arg(long, value_name = "DIR", env = "LAYERLANE_STATE_DIR", global = true)]
    state_dir: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Print the node, its operator and its receipt key as one line of JSON, creating keys on first use
    Show,
    /// Take a new receipt key; the node must not be running
    Rotate,
    /// Print what an operator with a key elsewhere (a hardware wallet) has to sign: EIP-712 typed data in JSON
    Request {
        /// The operator's address, 0x and 40 hexadecimal digits
        #[arg(long, value_name = "ADDRESS")]
        operator: Address,
    },
    /// Take the operator's signature over what `request` printed last
    Bind {
        /// 0x and 130 hexadecimal digits
        signature: String,
    },
    /// Write all keys of this node into a new file, which is all that it takes to be this node: keep it well
    Backup {
        /// Where to
        file: PathBuf,
    },
    /// Put the keys of a backup into the state folder; keys that are there already are never overwritten
    Restore {
        /// Where from
        file: PathBuf,
    },
}

pub(super) fn run(args: KeysArgs) -> Result<()> {
    let folder = args.state_dir.map_or_else(paths::state_dir, Ok)?;
    match args.command {
        Command::Show => show(&KeyRing::open(&folder, &identity::key_in(&folder)?, unix_seconds())?),
        Command::Rotate => {
            let identity = held(&folder)?;
            show(&proto_keys::rotate(&folder, identity.key(), unix_seconds())?);
        }
        Command::Request { operator } => {
            let identity = held(&folder)?;
            print_line(&proto_keys::request(&folder, identity.key(), operator, unix_seconds())?.typed_data());
        }
        Command::Bind { signature } => {
            let identity = held(&folder)?;
            proto_keys::bind(&folder, identity.key(), &signature, unix_seconds())?;
            show(&KeyRing::open(&folder, identity.key(), unix_seconds())?);
        }
        Command::Backup { file } => proto_keys::back_up(&folder, &file)?,
        Command::Restore { file } => proto_keys::restore(&folder, &file)?,
    }
    Ok(())
}

/// A running node would go on with the keys that it has read.
fn held(folder: &Path) -> Result<Identity> {
    Identity::open(folder).context("change keys of a node that does not run")
}

fn show(ring: &KeyRing) {
    let binding = ring.binding().binding();
    let line = serde_json::json!({
        "node": binding.node.to_hex(),
        "operator": binding.operator.to_string(),
        "receipt": binding.receipt.to_string(),
        "sequence": binding.sequence,
        "issued_unix_s": binding.issued_unix_s,
        "expires_unix_s": binding.expires_unix_s,
    });
    print_line(&line.to_string());
}
