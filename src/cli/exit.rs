//! How a command ends: the documented exit codes, and a failure with the code it ends with.

use std::process::ExitCode;

/// The exit codes. Scripts depend on them: none changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok,
    /// It was tried and failed, or what was checked is not as it should be.
    Failed,
    /// The command line or a setting is wrong. Nothing was tried. (2 is also what the flag parser exits with.)
    Usage,
    /// The node cannot be reached or does not serve now. Try again later, or start it.
    Unavailable,
    /// The store has no record of the key.
    NoRecord,
    /// A second signal ended the process before what was in flight had ended.
    Interrupted,
}

impl Exit {
    /// Every code with its meaning, for the help text.
    pub(crate) const HELP: &'static str = "\
Exit codes:
  0    done
  1    failed, or what was checked is not as it should be
  2    the command line or a setting is wrong; nothing was tried
  3    the node cannot be reached or does not serve now
  4    the store has no record of the key
  130  a second signal ended the process before what was in flight had ended";

    /// The number.
    #[must_use]
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unavailable => 3,
            Self::NoRecord => 4,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed, as one line, and the code that the process ends with.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What to print.
    pub(crate) error: anyhow::Error,
}

impl Problem {
    /// The command line or a setting is wrong.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Usage, error: error.into() }
    }

    /// The node cannot be reached or does not serve.
    pub(crate) fn unavailable(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Unavailable, error: error.into() }
    }

    /// The line that tells a person.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        let mut text = String::new();
        for cause in self.error.chain().map(ToString::to_string) {
            // Some errors tell their cause themselves.
            if !text.contains(&cause) {
                text.push_str(if text.is_empty() { "" } else { ": " });
                text.push_str(&cause);
            }
        }
        // A cause may span lines (a parser's excerpt): one line is promised.
        text.split('\n').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: Exit::Failed, error }
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_code() {
        for exit in [Exit::Ok, Exit::Failed, Exit::Usage, Exit::Unavailable, Exit::NoRecord, Exit::Interrupted] {
            let line = format!("  {:<5}", exit.code());
            assert!(Exit::HELP.lines().any(|text| text.starts_with(&line)), "{exit:?}");
        }
    }

    #[test]
    fn a_problem_is_one_line() {
        let error = anyhow::anyhow!("line one\n  |\n2 | x").context("reading the file");
        assert_eq!(Problem::usage(error).line(), "reading the file: line one | 2 | x");
        let told = anyhow::anyhow!("address in use").context("cannot listen: address in use: take another");
        assert_eq!(Problem::usage(told).line(), "cannot listen: address in use: take another");
    }
}
