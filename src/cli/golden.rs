//! Generated pages: a test compares them with what the program says now, and `REWRITE=1` writes them.

use anyhow::Context as _;

/// Compares a file of the repository with what it should be, or writes it where `REWRITE` is set.
pub(crate) fn check(path: &str, expected: &str) -> anyhow::Result<()> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("REWRITE").is_some() {
        return std::fs::write(&file, expected).with_context(|| format!("writing {path}"));
    }
    let found =
        std::fs::read_to_string(&file).with_context(|| format!("{path} is missing: run this test with REWRITE=1"))?;
    let different = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    let line = different.unwrap_or_else(|| found.lines().count().min(expected.lines().count())) + 1;
    anyhow::ensure!(
        found == expected,
        "{path} is old from line {line} on: run this test with REWRITE=1, and read the diff"
    );
    Ok(())
}
