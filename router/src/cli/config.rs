//! `router config`: which settings are in force, and whether they hold together.

use std::process::ExitCode;

use super::options::{Common, ConfigCommand, Serve};
use super::output;
use super::serve_settings;
use super::settings::{Settings, default_file};
use super::swarm::need_bootstrap;

pub(super) fn run(common: &Common, serve: &Serve, command: ConfigCommand) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::load(common)?;
    let config = serve_settings::config(&settings, serve)?;
    settings.serve = serve_settings::to_file(&config, serve_settings::is_public(&settings, serve));
    let origin = match (&settings.file, default_file()) {
        (Some(file), _) => format!("# read from {}", file.display()),
        (None, Some(file)) => {
            format!("# {} does not exist; these are flags, environment and defaults", file.display())
        }
        (None, None) => "# no configuration folder".into(),
    };
    match command {
        ConfigCommand::Show if settings.json => output::line(&serde_json::to_string(&settings.to_file())?)?,
        ConfigCommand::Show => {
            output::line(&origin)?;
            output::line(toml::to_string(&settings.to_file())?.trim_end())?;
        }
        ConfigCommand::Check => {
            need_bootstrap(&settings)?;
            proto_telemetry::build_subscriber(
                settings.log_format,
                &settings.log_filter,
                false,
                std::io::sink,
            )?;
            output::line("ok")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
