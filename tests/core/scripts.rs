//! Every file of `tests/scripts` gives the answers that stand in it.

use std::fs;
use std::path::PathBuf;

use crate::script::{Trace, run};

const FOLDER: &str = "tests/scripts";

/// The scripts of a folder by name, with their text.
///
/// # Panics
/// When the directory cannot be read.
pub(crate) fn all(folder: &str) -> Vec<(PathBuf, String)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&directory).expect("the folder of the scripts can be read");
    let mut scripts: Vec<(PathBuf, String)> = entries
        .map(|entry| entry.expect("an entry of the folder can be read").path())
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
    all(FOLDER).into_iter().map(|(path, text)| run(&path.display().to_string(), &text).1).collect()
}

#[test]
fn answers_are_as_they_stand() {
    hold(FOLDER, |name, text| run(name, text).0);
}

/// Compares the answers of a folder's scripts with those that stand in them, or writes them there.
///
/// # Panics
/// When one is another.
pub(crate) fn hold(folder: &str, run: impl Fn(&str, &str) -> String) {
    let rewrite = std::env::var_os("REWRITE").is_some();
    let mut wrong = Vec::new();
    for (path, text) in all(folder) {
        let now = run(&path.display().to_string(), &text);
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
