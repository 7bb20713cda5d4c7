//! `router keys`: makes, lists, limits and revokes API keys. Needs no swarm: a router that serves sees the change within
//! a second.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use router::keys::{KeyFile, KeyLimits, KeyRecord, KeyUsage, Secret};
use serde_json::{Value, json};

use super::options::{KeyLimitOptions, KeysCommand};
use super::output;
use super::settings::{Settings, UsageError, state_dir};

/// Where a router's keys are: in its state folder, or in the default one.
pub(super) fn folder(settings: &Settings) -> Result<PathBuf, UsageError> {
    match &settings.state_dir {
        Some(folder) => Ok(folder.clone()),
        None => state_dir().ok_or(UsageError::NoHome),
    }
}

pub(super) fn run(settings: &Settings, command: &KeysCommand, now: u64) -> anyhow::Result<ExitCode> {
    let file = KeyFile::new(folder(settings)?);
    match command {
        KeysCommand::Create { name, limits } => create(settings, &file, name, limits, now)?,
        KeysCommand::List => list(settings, &file)?,
        KeysCommand::Revoke { key } => {
            let revoked = file.change(|set| set.revoke(key, now).cloned())?;
            say(settings, &revoked, &format!("revoked {} ({})", revoked.id, revoked.name))?;
        }
        KeysCommand::Limit { key, limits } => {
            let limited = file.change(|set| set.limit(key, limits.limits()).cloned())?;
            say(settings, &limited, &format!("limited {} ({})", limited.id, limited.name))?;
        }
        KeysCommand::Prune => {
            let gone = file.change(|set| Ok(set.prune()))?;
            output::line(&if settings.json {
                json!({"pruned": gone}).to_string()
            } else {
                format!("revoked keys forgotten: {gone}")
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(
    settings: &Settings,
    file: &KeyFile,
    name: &str,
    limits: &KeyLimitOptions,
    now: u64,
) -> anyhow::Result<()> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("draw a key: {error}"))?;
    let secret = Secret::of_random(random);
    let id = file.change(|set| set.create(&secret, name, now, limits.limits()))?;
    if settings.json {
        output::line(&json!({"id": id, "name": name, "key": secret.reveal()}).to_string())?;
    } else {
        output::remark(&format!("key {id} ({name}); it is shown this once:"));
        output::line(secret.reveal())?;
    }
    Ok(())
}

fn list(settings: &Settings, file: &KeyFile) -> anyhow::Result<()> {
    let (set, usage) = (file.load()?, file.usage().context("read what keys have used")?);
    let used = |key: &KeyRecord| usage.get(&key.id).copied().unwrap_or_default();
    if settings.json {
        let list: Vec<Value> = set.keys.iter().map(|key| object(key, used(key))).collect();
        output::line(&Value::Array(list).to_string())?;
        return Ok(());
    }
    let limit = |limit: Option<u32>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
    let rows: Vec<Vec<String>> = set
        .keys
        .iter()
        .map(|key| {
            let KeyUsage { requests, prompt_tokens, completion_tokens } = used(key);
            vec![
                key.id.to_string(),
                key.name.clone(),
                (if key.is_valid() { "valid" } else { "revoked" }).to_owned(),
                limit(key.limits.requests_per_minute),
                limit(key.limits.tokens_per_minute),
                limit(key.limits.concurrent),
                requests.to_string(),
                prompt_tokens.to_string(),
                completion_tokens.to_string(),
            ]
        })
        .collect();
    let head =
        ["id", "name", "state", "req/min", "tok/min", "at once", "requests", "prompt tokens", "generated"];
    output::line(&output::table(&head, &rows))?;
    Ok(())
}

fn say(settings: &Settings, key: &KeyRecord, text: &str) -> anyhow::Result<()> {
    let line = if settings.json { object(key, KeyUsage::default()).to_string() } else { text.to_owned() };
    output::line(&line)?;
    Ok(())
}

/// Everything but the hash.
fn object(key: &KeyRecord, used: KeyUsage) -> Value {
    json!({
        "id": key.id, "name": key.name, "valid": key.is_valid(), "created_unix_s": key.created_unix_s,
        "revoked_unix_s": key.revoked_unix_s, "limits": key.limits, "used": used,
    })
}

impl KeyLimitOptions {
    fn limits(&self) -> KeyLimits {
        let Self { requests_per_minute, tokens_per_minute, concurrent } = *self;
        KeyLimits { requests_per_minute, tokens_per_minute, concurrent }
    }
}
