//! Holds what the sources and the docs promise of themselves: which module may use which, what stays pure, which words
//! are not used, how long a file may be, that no file is dead and no link leads nowhere.
//!
//! [`tables`] says what is held, [`checks`] finds what breaks it, [`planted`] shows that each check can fail. It reads the
//! tree that it stands in, and uses nothing of the library.

mod checks;
mod planted;
mod source;
mod tables;
mod text;

use std::fs;
use std::path::Path;

use checks::Tree;

/// Folders that are not ours.
const SKIPPED_FOLDERS: &[&str] = &[".git", "target", "node_modules"];
/// Folders of data that programs wrote and compare.
const DATA_FOLDERS: &[&str] = &["golden", "vectors", "proptest-regressions"];
const PROSE_AND_CODE: &[&str] = &["rs", "md", "proto", "ts", "py", "sh", "toml", "yml", "yaml", "html"];

fn read_tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let Ok(inside) = path.strip_prefix(root) else { continue };
            let inside = inside.to_string_lossy().into_owned();
            if !path.is_dir() {
                // What is not text is known by its name alone.
                tree.insert(inside, fs::read_to_string(&path).unwrap_or_default());
            } else if !SKIPPED_FOLDERS.contains(&name.as_str()) {
                open.push(path);
            }
        }
    }
    tree
}

fn repository() -> Tree {
    let tree = read_tree(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(tree.contains_key("src/lib.rs"), "no src/lib.rs: run it in the checkout that it was built in");
    tree
}

/// Whether a file is written by hand: data that programs wrote, and the list of dependencies, are not.
fn is_written(path: &str) -> bool {
    let in_data_folder = path.split('/').any(|part| DATA_FOLDERS.contains(&part));
    let extension = path.rsplit_once('.').map(|(_, extension)| extension);
    let by_name = matches!(path, "Makefile" | ".ci/run") || path.starts_with("scripts/");
    !in_data_folder && (by_name || extension.is_some_and(|extension| PROSE_AND_CODE.contains(&extension)))
}

/// Runs a check on every file that it is for.
#[track_caller]
fn hold(is_for: fn(&str) -> bool, check: impl Fn(&str, &str) -> Vec<String>) {
    hold_on(&repository(), is_for, check);
}

/// The same, but for what is compiled for unit tests only.
#[track_caller]
fn hold_in_production(check: impl Fn(&str, &str) -> Vec<String>) {
    let mut tree = repository();
    let test_only = checks::test_only(&tree);
    tree.retain(|path, _| !test_only.contains(path));
    hold_on(&tree, is_rust, check);
}

#[track_caller]
fn hold_on(tree: &Tree, is_for: fn(&str) -> bool, check: impl Fn(&str, &str) -> Vec<String>) {
    let files = tree.iter().filter(|(path, _)| is_written(path) && is_for(path));
    report(files.flat_map(|(path, text)| check(path, text)).collect());
}

#[track_caller]
fn report(found: Vec<String>) {
    assert!(found.is_empty(), "{} found:\n{}", found.len(), found.join("\n"));
}

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

fn is_page(path: &str) -> bool {
    path.ends_with(".md")
}

fn any(_: &str) -> bool {
    true
}

#[test]
fn imports_run_one_way() {
    hold_in_production(checks::imports);
    report(checks::unknown_modules(repository().get("src/lib.rs").map_or("", String::as_str)));
}

#[test]
fn pure_modules_are_pure() {
    hold_in_production(checks::purity);
}

#[test]
fn foreign_crates_stay_where_they_belong() {
    hold_in_production(checks::foreign);
}

#[test]
fn only_our_words_are_used() {
    hold(any, checks::words);
}

#[test]
fn nothing_is_marked_unfinished() {
    hold(any, checks::marks);
}

#[test]
fn no_path_of_one_machine() {
    let deep = |path: &String| path.matches('/').count() > 1;
    let ours: Vec<String> = [Some(env!("CARGO_MANIFEST_DIR").to_owned()), std::env::var("HOME").ok()]
        .into_iter()
        .flatten()
        .filter(deep)
        .collect();
    hold(any, |path, text| checks::machine_paths(path, text, &ours));
}

#[test]
fn files_are_short() {
    hold(is_rust, checks::too_long);
}

#[test]
fn files_say_what_they_are_for() {
    // A file of tests is for what its name says.
    let is_for = |path: &str| is_rust(path) && !path.ends_with("/tests.rs") && !path.contains("tests/it/");
    hold(is_for, checks::undocumented);
}

#[test]
fn no_file_is_dead() {
    report(checks::dead_files(&repository()));
}

#[test]
fn links_and_mentions_lead_somewhere() {
    let tree = repository();
    hold(is_page, |path, text| checks::broken_links(path, text, &tree));
    // What is planted names pages that there are not.
    hold(|path| path != "tests/tidy/planted.rs", |path, text| checks::broken_mentions(path, text, &tree));
}
