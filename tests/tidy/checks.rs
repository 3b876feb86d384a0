//! The checks: functions from texts to findings, each `file:line: what: what to do`.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{
    children_folder, code, declared_modules, is_root, module_of, own_module, paths, starts, test_modules, tokens,
    without_tests,
};
use crate::tables::{
    FOREIGN, IMPURE_PATHS, IMPURE_WORDS, LAYERS, LEAVES, MACHINE_PATHS, MARKS, MAX_LINES, PURE, PURE_ELSEWHERE, WORDS,
    WORDS_EXEMPT,
};
use crate::text::{anchors, contains_word, links, numbered, resolve, without_urls};

/// Path, relative to the repository, to text.
pub(crate) type Tree = BTreeMap<String, String>;

pub(crate) fn imports(path: &str, text: &str) -> Vec<String> {
    let Some(module) = module_of(path) else { return Vec::new() };
    let from = module.first().map_or("", String::as_str);
    let mut found = Vec::new();
    for (line, used) in paths(&tokens(&code(text))) {
        let Some(to) = own_module(&used, &module) else { continue };
        if to != from && known(&to) && !allowed(from, &to) {
            found.push(format!(
                "{path}:{line}: `{from}` uses `{to}`, which does not stand below it: move the code to the layer it belongs to, \
                 or hand the value in (docs/ARCHITECTURE.md, the module map)"
            ));
        }
    }
    found
}

fn allowed(from: &str, to: &str) -> bool {
    let last = LAYERS.len() - 1;
    match (layer(from), layer(to)) {
        (Some(from), Some(to)) => from < to || (from == last && to == last),
        (Some(_), None) => !PURE.contains(&from),
        (None, Some(to)) => to == last,
        (None, None) => true,
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn known(module: &str) -> bool {
    layer(module).is_some() || LEAVES.contains(&module)
}

pub(crate) fn unknown_modules(lib: &str) -> Vec<String> {
    declared_modules(lib)
        .into_iter()
        .filter(|name| !known(name))
        .map(|name| {
            format!(
                "src/lib.rs: the module `{name}` has no layer: give it one in tests/tidy.rs and docs/ARCHITECTURE.md"
            )
        })
        .collect()
}

pub(crate) fn purity(path: &str, text: &str) -> Vec<String> {
    let module = module_of(path).unwrap_or_default();
    let inside = PURE.iter().find(|name| module.first().is_some_and(|module| module == *name));
    let Some(pure) = inside.or_else(|| PURE_ELSEWHERE.iter().find(|place| path.starts_with(**place))) else {
        return Vec::new();
    };
    let tokens = tokens(&code(without_tests(text)));
    let words = tokens.iter().filter(|(_, token)| IMPURE_WORDS.contains(&token.as_str())).cloned();
    let named = paths(&tokens).into_iter().filter(|(_, used)| IMPURE_PATHS.iter().any(|impure| starts(used, impure)));
    words
        .chain(named.map(|(line, used)| (line, used.join("::"))))
        .map(|(line, what)| {
            format!(
                "{path}:{line}: `{what}` in `{pure}`, which is pure: let the caller hand the value in, in a fixed order"
            )
        })
        .collect()
}

pub(crate) fn foreign(path: &str, text: &str) -> Vec<String> {
    let Some(module) = module_of(path) else { return Vec::new() };
    let from = module.first().map_or("", String::as_str);
    let mut found = Vec::new();
    for (line, used) in paths(&tokens(&code(text))) {
        for (name, modules) in FOREIGN {
            if starts(&used, name) && !modules.contains(&from) {
                found.push(format!("{path}:{line}: `{name}` in `{from}`; only {} may use it", modules.join(", ")));
            }
        }
    }
    found
}

pub(crate) fn words(path: &str, text: &str) -> Vec<String> {
    if path == WORDS_EXEMPT {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in numbered(text) {
        let line = without_urls(line).to_lowercase().replace(['_', '-'], " ");
        for (word, better) in WORDS {
            if line.contains(word) {
                found.push(format!(
                    "{path}:{number}: \"{word}\" is not a word of ours: say {better} (docs/GLOSSARY.md)"
                ));
            }
        }
    }
    found
}

pub(crate) fn marks(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in numbered(text) {
        for mark in MARKS.iter().filter(|mark| contains_word(line, mark)) {
            found.push(format!("{path}:{number}: \"{mark}\": finish it, or file an issue and take the mark out"));
        }
    }
    found
}

pub(crate) fn machine_paths(path: &str, text: &str, ours: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in numbered(text) {
        let line = without_urls(line);
        let named = MACHINE_PATHS.iter().map(|place| (*place).to_owned()).chain(ours.iter().cloned());
        for place in named.filter(|place| contains_word(&line, place)) {
            found.push(format!(
                "{path}:{number}: \"{place}\" exists on one machine only: make the path relative, or a setting"
            ));
        }
    }
    found
}

pub(crate) fn too_long(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    match lines > MAX_LINES {
        true => vec![format!("{path}:{lines}: {lines} lines, over {MAX_LINES}: split it by what its parts are for")],
        false => Vec::new(),
    }
}

pub(crate) fn undocumented(path: &str, text: &str) -> Vec<String> {
    match text.lines().next().is_some_and(|line| line.starts_with("//! ")) {
        true => Vec::new(),
        false => vec![format!("{path}:1: no `//!` on the first line: say what the file is for")],
    }
}

pub(crate) fn dead_files(tree: &Tree) -> Vec<String> {
    let roots = tree.keys().filter(|path| path.ends_with(".rs") && is_root(path)).cloned().collect();
    let reached = reachable(tree, roots);
    let dead = tree.keys().filter(|path| path.ends_with(".rs") && !reached.contains(*path));
    dead.map(|path| format!("{path}:1: no `mod` line leads here, so it is not compiled: add one, or delete the file"))
        .collect()
}

/// The files that are compiled for unit tests only, and what they declare.
pub(crate) fn test_only(tree: &Tree) -> BTreeSet<String> {
    let declare = |(path, text): (&String, &String)| children(tree, path, &test_modules(text));
    let roots = tree.iter().filter(|(path, _)| path.ends_with(".rs")).flat_map(declare).collect();
    reachable(tree, roots)
}

fn reachable(tree: &Tree, mut open: Vec<String>) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    while let Some(path) = open.pop() {
        let declared = tree.get(&path).map(|text| declared_modules(text)).unwrap_or_default();
        open.extend(children(tree, &path, &declared));
        reached.insert(path);
    }
    reached
}

/// The files of the modules that a file declares.
fn children(tree: &Tree, path: &str, names: &[String]) -> Vec<String> {
    let folder = children_folder(path);
    let places = names.iter().flat_map(|name| [format!("{folder}{name}.rs"), format!("{folder}{name}/mod.rs")]);
    places.filter(|place| tree.contains_key(place)).collect()
}

pub(crate) fn broken_links(path: &str, text: &str, tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (number, target) in links(text) {
        let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
        let Some(resolved) = resolve(path, file) else {
            found.push(format!("{path}:{number}: the link {target} leaves the repository"));
            continue;
        };
        let folder = format!("{}/", resolved.trim_end_matches('/'));
        match tree.get(&resolved) {
            Some(page) if !anchor.is_empty() && !anchors(page).contains(anchor) => {
                found.push(format!("{path}:{number}: {resolved} has no heading #{anchor}"));
            }
            Some(_) => {}
            None if tree.keys().any(|known| known.starts_with(&folder)) => {}
            None => found.push(format!("{path}:{number}: the link {target} leads nowhere ({resolved} does not exist)")),
        }
    }
    found
}

/// Sources name pages of the docs by their path.
pub(crate) fn broken_mentions(path: &str, text: &str, tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in numbered(text) {
        for part in line.split(|c: char| !(c.is_ascii_alphanumeric() || "/_-.".contains(c))) {
            let page = part.trim_end_matches('.');
            if page.starts_with("docs/") && page.ends_with(".md") && !tree.contains_key(page) {
                found.push(format!("{path}:{number}: names {page}, which does not exist"));
            }
        }
    }
    found
}
