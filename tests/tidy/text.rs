//! Reads prose: lines, words, links and headings.

use std::collections::BTreeSet;

use crate::source::is_word;

pub(crate) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line))
}

pub(crate) fn without_urls(line: &str) -> String {
    let urls = |part: &&str| !part.contains("://");
    line.split_whitespace().filter(urls).collect::<Vec<_>>().join(" ")
}

/// Whether the needle occurs in the line, and not as the end or the beginning of a longer word.
pub(crate) fn contains_word(line: &str, needle: &str) -> bool {
    line.match_indices(needle).any(|(at, _)| {
        let (before, rest) = line.split_at(at);
        let after = rest.split_at(needle.len()).1;
        let joined = |c: char| is_word(c) || c == '.' || c == '}';
        let ends_in_word = needle.ends_with(is_word);
        let joined_after = ends_in_word && after.starts_with(is_word);
        !before.ends_with(joined) && !joined_after
    })
}

/// Local targets of a page's links, with their lines. What stands in code is none.
pub(crate) fn links(text: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    let mut fenced = false;
    for (number, line) in numbered(text) {
        fenced ^= line.trim_start().starts_with("```");
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        for target in prose.split("](").skip(1).filter(|_| !fenced).filter_map(|rest| rest.split([')', ' ']).next()) {
            if !target.contains("://") && !target.starts_with("mailto:") {
                out.push((number, target.to_owned()));
            }
        }
    }
    out
}

/// What headings of a page are called in links.
pub(crate) fn anchors(page: &str) -> BTreeSet<String> {
    let title = |line: &str| line.starts_with('#').then(|| line.trim_start_matches('#').trim().to_lowercase());
    let slug = |title: String| {
        title.chars().filter(|c| is_word(*c) || " -".contains(*c)).collect::<String>().replace(' ', "-")
    };
    page.lines().filter_map(title).map(slug).collect()
}

/// The path of a link's target from the repository's root; nothing if it leaves the repository.
pub(crate) fn resolve(page: &str, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some(page.to_owned());
    }
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}
