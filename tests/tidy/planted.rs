//! Plants a violation for each check and sees it found, beside something innocent that it must leave alone.

use crate::checks::{self, Tree};
use crate::source::{code, paths, tokens};
use crate::tables::{MACHINE_PATHS, MARKS, WORDS, WORDS_EXEMPT};

#[track_caller]
fn finds(found: &[String], expected: &[&str]) {
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found:?} does not say {expected:?}");
    }
}

#[test]
fn an_import_upwards() {
    let text = "use crate::ids::Epoch;\nuse crate::{limits, region::Region};\nfn f() { super::super::node::x() }\n";
    finds(
        &checks::imports("src/store/log.rs", text),
        &["src/store/log.rs:2: `store` uses `region`", ":3: `store` uses `node`"],
    );
    finds(&checks::imports("src/node.rs", text), &[]);
    finds(&checks::imports("src/api/http.rs", "use crate::gateway::Route;"), &["`api` uses `gateway`"]);
    finds(&checks::imports("src/ids.rs", "use crate::limits;"), &[]);
    finds(&checks::imports("src/limits.rs", "use crate::codec::FORMAT;"), &["`limits` uses `codec`"]);
}

#[test]
fn a_leaf_in_a_pure_module_and_a_leaf_that_climbs() {
    finds(
        &checks::imports("src/reservation/decide.rs", "use crate::clock::monotonic;"),
        &["`reservation` uses `clock`"],
    );
    finds(&checks::imports("src/raft/group.rs", "use crate::clock::monotonic;"), &[]);
    finds(&checks::imports("src/clock.rs", "use crate::raft::Group;"), &["`clock` uses `raft`"]);
}

#[test]
fn what_stands_in_comments_and_literals_is_no_import() {
    let text = "// crate::node\n/* a /* crate::node */ */ const A: &str = \"crate::node\";\nlet b = r#\"\" crate::node\"#; let c = '\"'; let d = \"\";";
    finds(&checks::imports("src/store/mod.rs", text), &[]);
    finds(
        &checks::imports("src/store/mod.rs", "fn f<'a>(x: &'a u8) { crate::node::go('\\'', 'x') }"),
        &["`store` uses `node`"],
    );
}

#[test]
fn a_module_without_a_layer() {
    finds(&checks::unknown_modules("pub mod ids;\nmod helpers;\n"), &["`helpers` has no layer"]);
}

#[test]
fn impurity() {
    let planted = [
        "pub async fn decide() {}",
        "let set: HashMap<u8, u8> = x;",
        "use std::time::Duration;",
        "let now = std::time::Instant::now();",
        "fn f() { tracing::info!(\"x\") }",
        "use tokio::sync::Mutex;",
        "use std::{fmt, fs::File};",
    ];
    for text in planted {
        assert!(!checks::purity("src/reservation/decide.rs", text).is_empty(), "not found: {text}");
        finds(&checks::purity("src/region/mod.rs", text), &[]);
    }
    finds(
        &checks::purity("sdk/rust/src/fingerprint/json.rs", "use std::fs;"),
        &["`sdk/rust/src/fingerprint`, which is pure"],
    );
    finds(&checks::purity("sdk/rust/src/client.rs", "use std::fs;"), &[]);
    finds(&checks::purity("src/codec/keys.rs", "//! no async here\nuse std::fmt;\nlet tracing = 1;\n"), &[]);
    let in_tests = "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
    finds(&checks::purity("src/codec/keys.rs", in_tests), &[]);
}

#[test]
fn a_foreign_crate_in_the_wrong_place() {
    finds(&checks::foreign("src/region/mod.rs", "use rocksdb::DB;"), &["`rocksdb` in `region`; only store"]);
    finds(&checks::foreign("src/region/mod.rs", "use rocksdb;"), &["`rocksdb` in `region`"]);
    finds(&checks::foreign("src/store/mod.rs", "use rocksdb::{DB, Options};"), &[]);
    finds(&checks::foreign("src/store/mod.rs", "fn f() -> openraft::Vote {}"), &["`openraft` in `store`"]);
    finds(
        &checks::foreign("src/cli/ctl.rs", "use tonic::transport::{Channel, Server};"),
        &["`tonic::transport::Server` in `cli`"],
    );
    finds(&checks::foreign("src/region/mod.rs", "self.rocksdb.get()"), &[]);
}

#[test]
fn a_word_that_is_not_ours() {
    for (word, _) in WORDS {
        assert!(!checks::words("docs/x.md", &format!("The {word} of a node.")).is_empty(), "not found: {word}");
        assert!(
            !checks::words("src/x.rs", &format!("fn {}_of()", word.replace(' ', "_"))).is_empty(),
            "not found: {word}"
        );
        finds(&checks::words(WORDS_EXEMPT, word), &[]);
        finds(&checks::words("docs/x.md", &format!("See https://example.org/{}/x", word.replace(' ', "-"))), &[]);
    }
    finds(&checks::words("src/x.rs", "self.inner.lock(); keys.dedup(); // the block cache"), &[]);
}

#[test]
fn a_mark_of_unfinished_work() {
    for mark in MARKS {
        finds(&checks::marks("src/x.rs", &format!("fn f() {{}}\n    {mark}() later")), &["src/x.rs:2: "]);
    }
    finds(&checks::marks("src/x.rs", "let todo = ignored;"), &[]);
}

#[test]
fn a_path_of_one_machine() {
    for place in MACHINE_PATHS {
        finds(&checks::machine_paths("README.md", &format!("Run `{place}holdfast`."), &[]), &["README.md:1: "]);
    }
    let ours = ["/srv/checkout/holdfast".to_owned()];
    finds(&checks::machine_paths("Makefile", "cd /srv/checkout/holdfast", &ours), &["one machine only"]);
    finds(&checks::machine_paths("docs/x.md", "src/home/mod.rs, /var/lib/holdfast, https://x.org/home/a", &ours), &[]);
}

#[test]
fn a_file_that_is_too_long() {
    finds(&checks::too_long("src/x.rs", &"\n".repeat(601)), &["601 lines, over 600"]);
    finds(&checks::too_long("src/x.rs", &"\n".repeat(600)), &[]);
}

#[test]
fn a_file_that_does_not_say_what_it_is_for() {
    finds(&checks::undocumented("src/x.rs", "use std::fmt;\n"), &["no `//!`"]);
    finds(&checks::undocumented("src/x.rs", ""), &["no `//!`"]);
    finds(&checks::undocumented("src/x.rs", "//! Names.\n"), &[]);
}

fn tree(files: &[(&str, &str)]) -> Tree {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn a_dead_file() {
    let tree = tree(&[
        ("src/lib.rs", "pub mod store;\n#[cfg(test)]\nmod probe;\n// mod dead;\n"),
        ("src/probe.rs", ""),
        ("src/store/mod.rs", "mod log;"),
        ("src/store/log.rs", "mod tail;"),
        ("src/store/log/tail.rs", ""),
        ("src/store/dead.rs", ""),
        ("tests/it/main.rs", "mod reserve;"),
        ("tests/it/reserve.rs", ""),
        ("tests/it/forgotten.rs", ""),
        ("tests/one.rs", ""),
    ]);
    finds(&checks::dead_files(&tree), &["src/store/dead.rs:1:", "tests/it/forgotten.rs:1:"]);
}

#[test]
fn what_is_compiled_for_tests_only() {
    let tree = tree(&[
        ("src/lib.rs", "pub mod cli;"),
        (
            "src/cli/mod.rs",
            "#[cfg(test)]\nmod fake;\n#[cfg(unix)]\nmod signals;\n#[cfg(test)]\nmod tests {}\nmod output;",
        ),
        ("src/cli/fake.rs", "mod desk;"),
        ("src/cli/fake/desk.rs", ""),
        ("src/cli/signals.rs", ""),
        ("src/cli/output.rs", ""),
    ]);
    let found: Vec<String> = checks::test_only(&tree).into_iter().collect();
    finds(&found, &["src/cli/fake.rs", "src/cli/fake/desk.rs"]);
}

#[test]
fn a_link_that_leads_nowhere() {
    let tree = tree(&[
        ("README.md", "# Holdfast"),
        ("docs/GLOSSARY.md", "# Words\n\n## Not used, ever\n"),
        ("docs/adr/0001-x.md", ""),
    ]);
    let page = "[a](GLOSSARY.md) [b](../README.md) [`c`](adr/) [d](#here) [e](GLOSSARY.md#not-used-ever)\n# Here\n\
                `[f](nowhere.md)` [g](https://example.org/x)\n```\n[h](nowhere.md)\n```\n";
    let mut with_page = tree;
    with_page.insert("docs/page.md".to_owned(), page.to_owned());
    finds(&checks::broken_links("docs/page.md", page, &with_page), &[]);
    let broken = "[a](gone.md)\n[b](../../etc/passwd)\n[c](GLOSSARY.md#gone)\n";
    finds(
        &checks::broken_links("docs/page.md", broken, &with_page),
        &[
            "docs/page.md:1: the link gone.md leads nowhere",
            ":2: the link ../../etc/passwd leaves",
            ":3: docs/GLOSSARY.md has no heading",
        ],
    );
}

#[test]
fn a_mention_of_a_page_that_does_not_exist() {
    let tree = tree(&[("docs/GLOSSARY.md", "")]);
    let text = ["//! Words: docs/", "GLOSSARY.md.\n//! See `docs/", "reference/gone.md`.\n"].concat();
    finds(&checks::broken_mentions("src/x.rs", &text, &tree), &["src/x.rs:2: names docs/"]);
}

#[test]
fn groups_of_a_use_are_taken_apart() {
    let used: Vec<String> = paths(&tokens(&code("use a::{b, c::{d, e as f}, self, *};\nx.g();")))
        .into_iter()
        .map(|(_, path)| path.join("::"))
        .filter(|path| path.starts_with("a::"))
        .collect();
    assert_eq!(used, ["a::b", "a::c::d", "a::c::e", "a::c::as", "a::c::f", "a::self", "a::*"]);
}
