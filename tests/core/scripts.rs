//! Every file of `tests/scripts` gives the answers that stand in it.

use std::fs;
use std::path::PathBuf;

use crate::script::{Trace, run};

/// The scripts by name, with their text.
///
/// # Panics
/// When the directory cannot be read.
pub(crate) fn all() -> Vec<(PathBuf, String)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let entries = fs::read_dir(&directory).expect("tests/scripts can be read");
    let mut scripts: Vec<(PathBuf, String)> = entries
        .map(|entry| entry.expect("an entry of tests/scripts can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a script is UTF-8 text");
            (path, text)
        })
        .collect();
    scripts.sort();
    scripts
}

/// What all scripts together came to.
pub(crate) fn traces() -> Vec<Trace> {
    all().into_iter().map(|(path, text)| run(&path.display().to_string(), &text).1).collect()
}

#[test]
fn answers_are_as_they_stand() {
    let rewrite = std::env::var_os("REWRITE").is_some();
    let mut wrong = Vec::new();
    for (path, text) in all() {
        let (now, _) = run(&path.display().to_string(), &text);
        match (now == text, rewrite) {
            (true, _) => {}
            (false, true) => fs::write(&path, now).expect("a script can be rewritten"),
            (false, false) => wrong.push(difference(&path.display().to_string(), &text, &now)),
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nREWRITE=1 writes these answers into the scripts: read the difference before you keep it",
        wrong.join("\n")
    );
}

/// The first lines that differ, with their place.
fn difference(path: &str, text: &str, now: &str) -> String {
    let lines = text.lines().zip(now.lines()).enumerate().find(|(_, (old, new))| old != new);
    match lines {
        Some((number, (old, new))) => format!("{path}:{}\n  stands: {old}\n  is:     {new}", number + 1),
        None => format!("{path}: one text is longer: {} and {} lines", text.lines().count(), now.lines().count()),
    }
}
