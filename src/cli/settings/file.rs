//! The settings file: TOML with the names of [`Settings`], all on the top level. A name that is no setting is an error:
//! what is misspelt would otherwise be silently without effect.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::cli::settings::Settings;

/// Bytes of a settings file: a hundred times what all settings need. What is larger is some other file.
pub(super) const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Why a settings file, or a region file, was refused.
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
    #[error("{} is larger than the {most} bytes that a settings file may have: is it another file?", path.display())]
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
    let unreadable = |why| FileError::Read { path: path.to_owned(), why };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(FileError::TooLarge { path: path.to_owned(), most: MAX_FILE_BYTES });
    }
    parse(path, &text)
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

/// The known name that a misspelt one is probably meant to be: a third of it may be wrong.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a String> {
    let distances = known.iter().map(|candidate| (distance(name, candidate), candidate));
    let (distance, near) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= name.chars().count().div_ceil(3)).then_some(near)
}

/// The Levenshtein distance: how many characters must be added, dropped or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (to, above) in b.iter().zip(row.iter().skip(1)) {
            let changed = diagonal + usize::from(from != *to);
            left = changed.min(above + 1).min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
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

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0), ("abc", "", 3)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
