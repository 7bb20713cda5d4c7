//! Log lines on stderr, as text for people or JSON for collectors.
//!
//! [`build_subscriber`] makes a subscriber without installing it, for tests and for programs with one of
//! their own; [`init_binary_logging`] installs it for the whole process and is for `main` only. Standard
//! output stays free for what a program prints. It does not read environment variables.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use thiserror::Error;
use tracing::Subscriber;
use tracing::dispatcher::SetGlobalDefaultError;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged when nothing is asked for: our own `info`, and only warnings of the QUIC stack, which
/// otherwise reports each lost connection once more.
pub const DEFAULT_FILTER: &str = "info,quinn=warn,quinn_proto=warn,rustls=warn";

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line per event for people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A log format that is neither `text` nor `json`.
#[derive(Debug, Error)]
#[error("log format {0:?} is unknown; choose text or json")]
pub struct ParseLogFormatError(String);

/// A filter that cannot be parsed.
#[derive(Debug, Error)]
#[error("log filter {filter:?} cannot be read ({source}); write for example info or info,router=debug")]
pub struct LogFilterError {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Logging could not be installed.
#[derive(Debug, Error)]
pub enum InitLoggingError {
    /// The filter is bad.
    #[error(transparent)]
    Filter(#[from] LogFilterError),
    /// This process has a subscriber already.
    #[error("logging is already installed in this process")]
    AlreadyInstalled(#[from] SetGlobalDefaultError),
}

impl fmt::Display for LogFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = ParseLogFormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(ParseLogFormatError(other.to_owned())),
        }
    }
}

/// Installs logging to stderr for the whole process. For `main` of a binary, once, before the first task.
pub fn init_binary_logging(format: LogFormat, filter: &str) -> Result<(), InitLoggingError> {
    let colours = std::io::stderr().is_terminal();
    let subscriber = build_subscriber(format, filter, colours, std::io::stderr)?;
    tracing::dispatcher::set_global_default(tracing::Dispatch::new(subscriber))?;
    Ok(())
}

/// A subscriber that writes to `writer`; nothing is installed.
pub fn build_subscriber<W>(
    format: LogFormat,
    filter: &str,
    colours: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogFilterError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter =
        EnvFilter::try_new(filter).map_err(|source| LogFilterError { filter: filter.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        LogFormat::Text => Box::new(builder.with_ansi(colours).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_span_list(false).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn json_lines_parse_and_carry_event_and_span_fields() {
        let line = capture(LogFormat::Json, "info");
        let value: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
        assert_eq!((&value["message"], &value["rows"]), (&"step done".into(), &3.into()));
        assert_eq!(value["span"]["session"], 7);
    }

    #[test]
    fn text_lines_carry_no_escape_codes_away_from_a_terminal() {
        let line = capture(LogFormat::Text, "info");
        assert!(line.contains("step done") && !line.contains('\u{1b}'), "{line:?}");
    }

    #[test]
    fn the_filter_drops_what_it_should() {
        assert_eq!(capture(LogFormat::Text, "error"), "");
    }

    #[test]
    fn a_bad_filter_and_a_bad_format_say_what_to_write() {
        let error = build_subscriber(LogFormat::Text, "router=loud", false, std::io::sink).err().unwrap();
        assert!(error.to_string().contains("router=loud"), "{error}");
        let error = "xml".parse::<LogFormat>().unwrap_err();
        assert!(error.to_string().contains("text or json"), "{error}");
    }

    #[test]
    fn the_default_filter_parses_and_formats_round_trip() {
        assert!(build_subscriber(LogFormat::Text, DEFAULT_FILTER, false, std::io::sink).is_ok());
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse::<LogFormat>().unwrap(), format);
        }
    }

    fn capture(format: LogFormat, filter: &str) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = build_subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("session", session = 7).entered();
            tracing::info!(rows = 3, "step done");
        });
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
