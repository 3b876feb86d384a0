//! The settings file: TOML with the names of [`Settings`], all on the top level. A name that is no setting is an error:
//! what is misspelt would otherwise be silently without effect.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::cli::settings::Settings;
use crate::ids::nearest;

/// Bytes of a settings file: a hundred times what all settings need. What is larger is some other file.
pub(super) const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Why a settings file, a region file or a policy file was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// It is too large to be one.
    #[error("{} is larger than the {most} bytes that such a file may have: is it another file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes.
        most: u64,
    },
    /// It is not TOML, or a value has the wrong type.
    #[error("{}:{line}: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// It has a name that is no setting.
    #[error("{}:{line}: `{name}` is no setting: {hint}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The name.
        name: String,
        /// What to write instead.
        hint: String,
    },
}

/// Reads a settings file.
///
/// # Errors
/// When it cannot be read, is not TOML, or has a name that is no setting.
pub(crate) fn read(path: &Path) -> Result<Settings, FileError> {
    parse(path, &text(path, MAX_FILE_BYTES)?)
}

/// Reads the text of a file that somebody wrote by hand, up to so many bytes.
///
/// # Errors
/// When it cannot be read, or is larger.
pub(crate) fn text(path: &Path, most: u64) -> Result<String, FileError> {
    let unreadable = |why| FileError::Read { path: path.to_owned(), why };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let read = file.take(most + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > most {
        return Err(FileError::TooLarge { path: path.to_owned(), most });
    }
    Ok(text)
}

/// Parses a settings file's text; `path` is for the messages.
///
/// # Errors
/// When it is not TOML, or has a name that is no setting.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Settings, FileError> {
    let refused = |error: toml::de::Error| FileError::Syntax {
        path: path.to_owned(),
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        why: error.message().to_owned(),
    };
    let table: toml::Table = toml::from_str(text).map_err(refused)?;
    let known: Vec<String> = Settings::arguments().iter().map(|argument| argument.get_id().to_string()).collect();
    if let Some(name) = table.keys().find(|name| !known.contains(name)) {
        return Err(FileError::Unknown {
            path: path.to_owned(),
            line: line_of_name(text, name),
            name: name.clone(),
            hint: match nearest(name, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", known.join(", ")),
            },
        });
    }
    toml::from_str(text).map_err(refused)
}

pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The line that a top-level name first starts; the first line if it is written in a way that this does not see.
fn line_of_name(text: &str, name: &str) -> usize {
    let starts = |line: &str| line.trim_start_matches(['[', '"', '\'', ' ', '\t']).starts_with(name);
    text.lines().position(starts).map_or(1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse(Path::new("h.toml"), text).map_or_else(|error| error.to_string(), |settings| format!("{settings:?}"))
    }

    #[test]
    fn a_file_has_the_names_of_the_settings() -> anyhow::Result<()> {
        let text = "data_dir = \"/var/lib/holdfast\"\nlisten = \"127.0.0.1:7500\"\nhomes = [\"eu\", \"us\"]\n\
                    max_envelope_body_bytes = 1_048_576\naccept_clock_jump = true\n";
        let settings = parse(Path::new("h.toml"), text)?;
        assert_eq!(settings.data_dir, Some(PathBuf::from("/var/lib/holdfast")));
        assert_eq!(settings.homes, Some(vec!["eu".to_owned(), "us".to_owned()]));
        assert_eq!(settings.max_envelope_body_bytes, Some(1_048_576));
        assert_eq!(settings.accept_clock_jump, Some(true));
        assert_eq!(settings.region, None);
        Ok(())
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named_with_its_line() {
        let cases = [
            ("region = \"eu\"\ndata-dir = \"/d\"\n", "h.toml:2: `data-dir` is no setting: did you mean `data_dir`?"),
            ("drain = 5\n", "h.toml:1: `drain` is no setting: there are data_dir, listen, "),
            ("drain_m = 5\n", "did you mean `drain_ms`?"),
            ("\n[server]\nlisten = \"127.0.0.1:1\"\n", "h.toml:2: `server` is no setting: there are data_dir"),
            ("listen = \"localhost\"\n", "h.toml:1: invalid socket address syntax"),
            ("\nnode_id = -1\n", "h.toml:2: "),
            ("node_id = \"one\"\n", "h.toml:1: invalid type: string \"one\", expected u64"),
            ("partitions = 99999\n", "h.toml:1: "),
            ("node_id = 1\nnode_id = 2\n", "h.toml:2: duplicate key"),
            ("node_id = \n", "h.toml:1: "),
        ];
        for (text, expected) in cases {
            let message = refusal(text);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }
}
