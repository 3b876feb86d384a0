//! Reading policy files, all of which hold together.

use std::path::PathBuf;

use anyhow::anyhow;
use holdfast_client::proto::v1;

use crate::cli::exit::Problem;
use crate::cli::settings::file;
use crate::limits;
use crate::policy::set::{PolicySet, Refusal, Source};

/// The texts of some files.
///
/// # Errors
/// When one cannot be read, or is too large.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<v1::PolicySource>, Problem> {
    let most = u64::try_from(limits::MAX_POLICY_FILE_BYTES).unwrap_or(u64::MAX);
    let read = |path: &PathBuf| {
        let text = file::text(path, most).map_err(Problem::usage)?;
        Ok(v1::PolicySource { name: path.display().to_string(), text })
    };
    files.iter().map(read).collect()
}

/// The policies of some texts, or what is wrong with them.
pub(super) fn parse(sources: &[v1::PolicySource]) -> Result<PolicySet, Vec<Refusal>> {
    let sources: Vec<Source<'_>> =
        sources.iter().map(|source| Source { name: &source.name, text: &source.text }).collect();
    PolicySet::parse(&sources)
}

/// The policies of some files, all of which must be sound.
///
/// # Errors
/// When one cannot be read, or something is wrong with it.
pub(super) fn sound(files: &[PathBuf]) -> Result<PolicySet, Problem> {
    parse(&read(files)?).map_err(|refusals| refused(&refusals))
}

/// The first thing that is wrong.
pub(super) fn refused(refusals: &[Refusal]) -> Problem {
    let more = match refusals.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more: holdfast ctl policy lint shows them)", count - 1),
    };
    Problem::usage(anyhow!("{}{more}", refusals.first().map(ToString::to_string).unwrap_or_default()))
}
