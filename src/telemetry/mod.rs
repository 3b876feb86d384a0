//! What the process says about itself: logs on stderr, and [`metrics`]. Every message is a constant with fields beside it;
//! keys, bodies and secrets are never fields.
//!
//! A call that comes with a `traceparent` has its trace id on every line that is logged while it is handled ([`trace`]).
//! Deliberately absent: spans that are sent to a collector.

pub mod metrics;
pub mod trace;

use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: one line an event.
    #[default]
    Text,
    /// For collectors: one JSON object an event.
    Json,
}

impl LogFormat {
    /// Every format, in the order the documentation lists them.
    pub const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// The name it has in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| LogError::Format { got: text.to_owned() })
    }
}

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No such format.
    #[error("{got:?} is no log format: use text or json")]
    Format {
        /// What was asked for.
        got: String,
    },
    /// The filter does not parse.
    #[error("{got:?} is no log filter ({why}): use a level such as info, or directives such as info,holdfast=debug")]
    Filter {
        /// What was asked for.
        got: String,
        /// What the parser says.
        why: String,
    },
    /// The process has a logger already.
    #[error("logs are set up already")]
    SetUpAlready,
}

/// A filter that parsed: which events are logged, by module and level.
#[derive(Debug)]
pub struct LogFilter(EnvFilter);

impl FromStr for LogFilter {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        EnvFilter::try_new(text)
            .map(Self)
            .map_err(|why| LogError::Filter { got: text.to_owned(), why: why.to_string() })
    }
}

/// Sends the events that pass the filter to stderr, from now on and for the whole process. Colours only on a terminal,
/// and never where `NO_COLOR` is set (<https://no-color.org>).
///
/// # Errors
/// When the process has a logger already.
pub fn init(filter: LogFilter, format: LogFormat) -> Result<(), LogError> {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter.0)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !no_color)
        // A closed stderr must not bring the node down, which reporting the failure on stderr would.
        .log_internal_errors(false);
    let set = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|_| LogError::SetUpAlready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_filters_parse_or_say_what_would() {
        assert_eq!("json".parse::<LogFormat>().ok(), Some(LogFormat::Json));
        let refused = "xml".parse::<LogFormat>().map_err(|error| error.to_string());
        assert_eq!(refused, Err("\"xml\" is no log format: use text or json".to_owned()));
        assert!("info,holdfast::raft=debug".parse::<LogFilter>().is_ok());
        let refused = "holdfast=loud".parse::<LogFilter>().map(|_| ()).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|message| message.contains("holdfast=loud") && message.contains("info")));
    }
}
