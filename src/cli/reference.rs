//! docs/reference/cli.md, made from the commands' own help: the test fails when the page is old, and `REWRITE=1` writes it.

use crate::cli::command;

const HEAD: &str = "\
# Command line

<!-- Generated from src/cli by `REWRITE=1 cargo test --release cli_reference`. Do not edit. -->
";

/// Adds a command and, below it, its subcommands.
fn section(command: &mut clap::Command, path: &str, page: &mut String) {
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    page.push_str(&format!("\n## `{path}`\n\n```text\n{}\n```\n", help.join("\n").trim_end()));
    for subcommand in command.get_subcommands_mut().filter(|subcommand| subcommand.get_name() != "help") {
        let path = format!("{path} {}", subcommand.get_name());
        section(subcommand, &path, page);
    }
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut command = command().term_width(100).version("<version>");
    command.build();
    section(&mut command, "holdfast", &mut page);
    page
}

#[test]
fn cli_reference() -> anyhow::Result<()> {
    crate::cli::golden::check("docs/reference/cli.md", &page())
}

#[test]
fn every_command_has_help_that_says_what_it_does() {
    let page = page();
    let commands = [
        "holdfast",
        "holdfast dev",
        "holdfast server",
        "holdfast ctl",
        "holdfast ctl status",
        "holdfast ctl key",
        "holdfast ctl key show",
        "holdfast ctl key history",
        "holdfast ctl key resolve",
        "holdfast ctl members",
        "holdfast ctl members promote",
        "holdfast ctl members remove",
        "holdfast ctl members replace",
        "holdfast ctl transfer",
        "holdfast ctl snapshot",
        "holdfast ctl rotate-cluster-key",
        "holdfast ctl clock accept",
        "holdfast ctl policy",
        "holdfast ctl policy lint",
        "holdfast ctl policy explain",
        "holdfast ctl policy diff",
        "holdfast ctl policy apply",
        "holdfast ctl policy list",
        "holdfast ctl policy show",
        "holdfast ctl policy schema",
        "holdfast ctl tenant create",
        "holdfast ctl tenant set",
        "holdfast ctl tenant close",
        "holdfast ctl tenant reopen",
        "holdfast ctl tenant list",
        "holdfast ctl tenant show",
        "holdfast ctl audit",
        "holdfast ctl plan",
        "holdfast ctl plan capacity",
        "holdfast bench",
    ];
    for command in commands {
        let help = page.split(&format!("\n## `{command}`\n")).nth(1).unwrap_or_default();
        let about = help.lines().nth(2).unwrap_or_default();
        assert!(about.len() > 15 && !about.starts_with("Usage:"), "{command}: {about:?}");
    }
}
