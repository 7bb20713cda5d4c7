//! The settings of `router serve`: flag over environment over file, to a [`ServeConfig`].

use std::net::SocketAddr;
use std::time::Duration;

use router::keys::KeyFile;
use router::serve::{Listen, Origin, ServeConfig};
use router_plan::ModelRef;
use serde::{Deserialize, Serialize};

use super::options::Serve;
use super::settings::{Settings, UsageError, is_duration};

/// The table `[serve]` of the configuration file.
#[derive(Deserialize, Serialize, Clone, PartialEq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServeFile {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) public: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) models: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) origins: Vec<String>,
    pub(crate) queue: Option<usize>,
    pub(crate) queue_timeout_s: Option<f64>,
    pub(crate) sessions_per_node: Option<u32>,
    pub(crate) drain_s: Option<f64>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) max_body_bytes: Option<usize>,
}

/// The settings in force. Fails on what can't be served with.
pub(crate) fn config(settings: &Settings, flags: &Serve) -> Result<ServeConfig, UsageError> {
    let (file, default) = (&settings.serve, ServeConfig::default());
    let mut config = ServeConfig {
        listen: listen(flags.listen.or(file.listen), default.listen),
        admin: listen(flags.admin.or(file.admin), default.admin),
        models: if flags.models.is_empty() { models(file)? } else { flags.models.clone() },
        origins: if flags.origins.is_empty() { origins(file)? } else { flags.origins.clone() },
        credit: settings.credit,
        queue_for: seconds("queue-timeout", flags.queue_timeout.or(file.queue_timeout_s), default.queue_for)?,
        drain: seconds("drain", flags.drain.or(file.drain_s), default.drain)?,
        ..default
    };
    let at_least_one = |name: &str, value: Option<usize>, default: usize| match value {
        Some(0) => Err(UsageError::Option(format!("{name} is at least 1"))),
        value => Ok(value.unwrap_or(default)),
    };
    config.admission.standby = flags.standby.unwrap_or(settings.standby);
    // Without a queue whatever finds no place at once is refused.
    config.admission.queue = flags.queue.or(file.queue).unwrap_or(config.admission.queue);
    let per_node = flags.sessions_per_node.or(file.sessions_per_node).map(|count| count as usize);
    config.admission.sessions_per_node =
        at_least_one("sessions-per-node", per_node, config.admission.sessions_per_node as usize)? as u32;
    let connections = flags.max_connections.or(file.max_connections);
    config.http.connections = at_least_one("max-connections", connections, config.http.connections)?;
    let keys = KeyFile::new(super::keys::folder(settings)?);
    let body = flags.max_body_bytes.or(file.max_body_bytes);
    config.http.body_bytes = at_least_one("max-body-bytes", body, config.http.body_bytes)?;
    // Looked at once: what lets the router listen in public also closes it, should they vanish meanwhile.
    let kept = keys.exists();
    config.keys_required = kept && !config.listen.addr().ip().is_loopback();
    for (name, addr) in [("--listen", config.listen.addr()), ("--admin", config.admin.addr())] {
        // The admin endpoint asks for no keys.
        let guarded = name == "--listen" && kept;
        if !addr.ip().is_loopback() && !guarded && !is_public(settings, flags) {
            let keys = if name == "--listen" { "make API keys (`router keys create NAME`), " } else { "" };
            return Err(UsageError::Option(format!(
                "{name} {addr} lets others than this machine connect, and whoever connects is served: {keys}give \
                 --public to say that this is meant, or listen on 127.0.0.1 behind a proxy"
            )));
        }
    }
    config.keys = Some(keys);
    Ok(config)
}

/// Whether others than this machine may connect.
pub(crate) fn is_public(settings: &Settings, flags: &Serve) -> bool {
    flags.public.or(settings.serve.public).unwrap_or(false)
}

/// As the table of a configuration file.
pub(crate) fn to_file(config: &ServeConfig, public: bool) -> ServeFile {
    // A default address has no place in a file: written there it would be an explicit one.
    let explicit = |listen| match listen {
        Listen::Exactly(addr) => Some(addr),
        Listen::OrNextFree(_) => None,
    };
    ServeFile {
        listen: explicit(config.listen),
        admin: explicit(config.admin),
        public: Some(public),
        models: config.models.iter().map(ToString::to_string).collect(),
        origins: config.origins.iter().map(ToString::to_string).collect(),
        queue: Some(config.admission.queue),
        queue_timeout_s: Some(config.queue_for.as_secs_f64()),
        sessions_per_node: Some(config.admission.sessions_per_node),
        drain_s: Some(config.drain.as_secs_f64()),
        max_connections: Some(config.http.connections),
        max_body_bytes: Some(config.http.body_bytes),
    }
}

fn listen(asked: Option<SocketAddr>, default: Listen) -> Listen {
    asked.map_or(default, Listen::Exactly)
}

fn models(file: &ServeFile) -> Result<Vec<ModelRef>, UsageError> {
    let parse = |text: &String| {
        text.parse().map_err(|error| UsageError::Option(format!("serve.models: `{text}`: {error}")))
    };
    file.models.iter().map(parse).collect()
}

fn origins(file: &ServeFile) -> Result<Vec<Origin>, UsageError> {
    let parse =
        |text: &String| text.parse().map_err(|error| UsageError::Option(format!("serve.origins: {error}")));
    file.origins.iter().map(parse).collect()
}

fn seconds(name: &str, asked: Option<f64>, default: Duration) -> Result<Duration, UsageError> {
    match asked {
        None => Ok(default),
        Some(seconds) if is_duration(seconds) => Ok(Duration::from_secs_f64(seconds)),
        Some(seconds) => {
            Err(UsageError::Option(format!("{name} {seconds} is not a positive number of seconds")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::Common;
    use super::*;

    fn settings(text: &str) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("router.toml");
        std::fs::write(&path, text).unwrap();
        let common =
            Common { config: Some(path), cache_dir: Some(folder.path().to_owned()), ..Common::default() };
        Settings::load(&common).unwrap()
    }

    #[test]
    fn a_flag_beats_the_file_and_an_address_asked_for_is_exact() {
        let settings = settings("[serve]\nqueue = 5\ndrain_s = 2.5\nmodels = [\"toy\"]\n");
        let read = config(&settings, &Serve::default()).unwrap();
        assert_eq!((read.admission.queue, read.drain), (5, Duration::from_millis(2500)));
        assert_eq!(read.models.len(), 1);
        assert!(matches!(read.listen, Listen::OrNextFree(_)));
        let flags = Serve { queue: Some(7), listen: Some(([127, 0, 0, 1], 0).into()), ..Serve::default() };
        let read = config(&settings, &flags).unwrap();
        assert_eq!(read.admission.queue, 7);
        assert!(matches!(read.listen, Listen::Exactly(_)));
    }

    #[test]
    fn a_public_address_must_be_meant() {
        let public = Serve { listen: Some(([0, 0, 0, 0], 7400).into()), ..Serve::default() };
        let error = config(&settings(""), &public).unwrap_err().to_string();
        assert!(error.contains("--public") && error.contains("0.0.0.0:7400"), "{error}");
        assert!(config(&settings(""), &Serve { public: Some(true), ..public.clone() }).is_ok());
        assert!(config(&settings("[serve]\npublic = true\n"), &public).is_ok());
    }

    #[test]
    fn with_keys_the_api_may_be_public_and_stays_closed_but_the_admin_endpoint_may_not() {
        let folder = tempfile::tempdir().unwrap();
        let with_keys = Settings { state_dir: Some(folder.path().to_owned()), ..settings("") };
        let public = Serve { listen: Some(([0, 0, 0, 0], 7400).into()), ..Serve::default() };
        assert!(config(&with_keys, &public).is_err(), "there are none yet");
        let secret = router::keys::Secret::of_random([7; 32]);
        let file = KeyFile::new(folder.path().to_owned());
        file.change(|set| set.create(&secret, "one", 1, router::keys::KeyLimits::default())).unwrap();
        let read = config(&with_keys, &public).unwrap();
        assert!(read.keys_required);
        assert!(!config(&with_keys, &Serve::default()).unwrap().keys_required, "on this machine only");
        let admin = Serve { admin: Some(([0, 0, 0, 0], 7403).into()), ..public };
        let error = config(&with_keys, &admin).unwrap_err().to_string();
        assert!(error.contains("--admin") && error.contains("--public"), "{error}");
    }

    #[test]
    fn what_is_shown_can_be_read_back() {
        let read = config(&settings("[serve]\nqueue = 5\n"), &Serve::default()).unwrap();
        let shown = toml::to_string(&to_file(&read, false)).unwrap();
        let again = config(&settings(&format!("[serve]\n{shown}")), &Serve::default()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("sessions_per_node = 0", "sessions-per-node"),
            ("drain_s = -1.0", "drain"),
            ("max_connections = 0", "max-connections"),
            ("models = [\"\"]", "serve.models"),
        ] {
            let error =
                config(&settings(&format!("[serve]\n{text}\n")), &Serve::default()).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
