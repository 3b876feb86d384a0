//! Reads Rust just well enough: comments and literals blanked, paths and `mod` lines found. Deliberately absent: macros,
//! `#[path]`, and whatever else this code base does without.

use crate::text::numbered;

/// The modules from the crate's root to a file of `src/`: `src/region/calls.rs` is `["region", "calls"]`.
pub(crate) fn module_of(path: &str) -> Option<Vec<String>> {
    let inside = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    (inside != "lib").then(|| inside.split('/').map(str::to_owned).collect())
}

/// Which top module of ours a path leads to.
pub(crate) fn own_module(used: &[String], module: &[String]) -> Option<String> {
    match used.first().map(String::as_str) {
        Some("crate" | "holdfast") => used.get(1).cloned(),
        Some("super") => {
            let up = used.iter().take_while(|part| *part == "super").count();
            let base = module.get(..module.len().checked_sub(up)?)?;
            base.iter().chain(used.iter().skip(up)).next().cloned()
        }
        Some(_) | None => None,
    }
}

/// Whether a path begins with another. A crate's name alone is no path: it may as well be a variable.
pub(crate) fn starts(used: &[String], prefix: &str) -> bool {
    used.len() > 1 && prefix.split("::").enumerate().all(|(at, part)| used.get(at).is_some_and(|used| used == part))
}

/// The text up to its unit tests.
pub(crate) fn without_tests(text: &str) -> &str {
    text.split_once("\n#[cfg(test)]\nmod tests").map_or(text, |(code, _)| code)
}

/// The text with comments and literals blanked, line for line.
pub(crate) fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(here) = chars.get(at) {
        let end = literal_end(&chars, at).unwrap_or(at);
        if end == at {
            out.push(*here);
            at += 1;
            continue;
        }
        out.extend(chars.iter().take(end).skip(at).map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Where the comment or literal that begins at `at` ends, if one does.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let peek = |offset: usize| chars.get(at + offset).copied().unwrap_or('\0');
    let after_word = at.checked_sub(1).and_then(|before| chars.get(before)).is_some_and(|c| is_word(*c));
    match (peek(0), peek(1)) {
        ('/', '/') => Some((at..chars.len()).find(|i| chars.get(*i) == Some(&'\n')).unwrap_or(chars.len())),
        ('/', '*') => Some(block_end(chars, at)),
        ('"', _) => Some(quoted_end(chars, at + 1, '"')),
        ('r', '"' | '#') if !after_word || chars.get(at - 1) == Some(&'b') => raw_end(chars, at + 1),
        ('\'', '\\') => Some(quoted_end(chars, at + 1, '\'')),
        ('\'', _) if peek(2) == '\'' => Some(at + 3),
        (_, _) => None,
    }
}

fn block_end(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at < chars.len() {
        match (chars.get(at), chars.get(at + 1)) {
            (Some('/'), Some('*')) => (depth, at) = (depth + 1, at + 2),
            (Some('*'), Some('/')) if depth == 1 => return at + 2,
            (Some('*'), Some('/')) => (depth, at) = (depth - 1, at + 2),
            (_, _) => at += 1,
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start;
    while let Some(c) = chars.get(at) {
        match c {
            '\\' => at += 2,
            c if *c == quote => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars.iter().skip(start).take_while(|c| **c == '#').count();
    if chars.get(start + hashes) != Some(&'"') {
        return None;
    }
    let closes = |at: usize| chars.get(at) == Some(&'"') && (1..=hashes).all(|i| chars.get(at + i) == Some(&'#'));
    Some((start + hashes + 1..chars.len()).find(|at| closes(*at)).map_or(chars.len(), |at| at + hashes + 1))
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Words, `::` and single other characters, each with its line.
pub(crate) fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut out: Vec<(usize, String)> = Vec::new();
    for (number, line) in numbered(code) {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                c => c.len_utf8(),
            };
            let (token, after) = rest.split_at(length);
            out.push((number, token.to_owned()));
            rest = after.trim_start();
        }
    }
    out
}

/// Every path in the tokens, groups (`a::{b, c::d}`) taken apart.
pub(crate) fn paths(tokens: &[(usize, String)]) -> Vec<(usize, Vec<String>)> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = path_at(tokens, at, &[], &mut out).max(at + 1);
    }
    out
}

fn path_at(tokens: &[(usize, String)], start: usize, prefix: &[String], out: &mut Vec<(usize, Vec<String>)>) -> usize {
    let token = |at: usize| tokens.get(at).map_or("", |(_, token)| token.as_str());
    let (mut at, mut path) = (start, prefix.to_vec());
    while token(at).starts_with(is_word) || token(at) == "*" {
        path.push(token(at).to_owned());
        at += 1;
        if token(at) != "::" {
            break;
        }
        at += 1;
    }
    if token(at) == "{" && at > start && token(at - 1) == "::" {
        at += 1;
        while at < tokens.len() && token(at) != "}" {
            at = path_at(tokens, at, &path, out).max(at + 1);
        }
        return at + 1;
    }
    if path.len() == 1 && prefix.is_empty() && start.checked_sub(1).is_some_and(|before| token(before) == "use") {
        path.push("self".to_owned());
    }
    if path.len() > prefix.len() {
        out.push((tokens.get(start).map_or(0, |(line, _)| *line), path));
    }
    at
}

/// The names of `mod name;` lines.
pub(crate) fn declared_modules(text: &str) -> Vec<String> {
    let tokens = tokens(&code(text));
    let names = tokens.windows(3).filter_map(|three| match three {
        [(_, keyword), (_, name), (_, end)] if keyword == "mod" && end == ";" => Some(name.clone()),
        _ => None,
    });
    names.collect()
}

/// The names of `#[cfg(test)] mod name;` lines.
pub(crate) fn test_modules(text: &str) -> Vec<String> {
    let tokens: Vec<String> = tokens(&code(text)).into_iter().map(|(_, token)| token).collect();
    let ends = |window: &[String]| window.concat() == "#[cfg(test)]mod";
    let after = (8..tokens.len()).filter(|at| tokens.get(at - 8..*at).is_some_and(ends));
    after
        .filter_map(|at| tokens.get(at).filter(|_| tokens.get(at + 1).is_some_and(|end| end == ";")).cloned())
        .collect()
}

/// Whether cargo finds the file by itself: no `mod` line leads to it.
pub(crate) fn is_root(path: &str) -> bool {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let target_folder = match folder.rsplit('/').next() {
        Some("tests" | "benches" | "examples") => !folder.split('/').any(|part| part == "src"),
        Some("bin") => folder.ends_with("src/bin"),
        Some(_) | None => false,
    };
    target_folder || matches!(file, "lib.rs" | "main.rs" | "build.rs")
}

/// Where a file's child modules stand.
pub(crate) fn children_folder(path: &str) -> String {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let (folder, file) = stem.rsplit_once('/').map_or(("", stem), |(folder, file)| (folder, file));
    let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    match is_root(path) || file == "mod" {
        true => folder,
        false => format!("{folder}{file}/"),
    }
}
