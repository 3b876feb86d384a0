//! docs/reference/configuration.md, made from [`Settings`]: the test fails when the page is old, and `REWRITE=1` writes it.

use std::fmt::Write as _;

use crate::cli::settings::{Settings, bounds};

const HEAD: &str = "\
# Configuration

<!-- Generated from src/cli/settings by `REWRITE=1 cargo test --release configuration_reference`. Do not edit. -->

`holdfast server --config FILE` reads the settings below from a TOML file, all on its top level. Each can also be given
in the environment and as a flag. A setting is taken from its flag, else from its environment variable, else from the
file, else it has its default. A name in the file that is no setting is an error, and so is an unfit value: the node does
not start, says which values do not go together, and exits with code 2.

`holdfast dev` reads none of this: it takes the few flags that `holdfast dev --help` shows.

```toml
# The least that a server needs.
data_dir = \"/var/lib/holdfast\"
region = \"eu\"
```

A cluster comes from one of three: the settings `region`, `partitions` and `homes` alone, for a cluster of one node; the
**region file** that `region_file` names, for nodes that make a region together; or the members that `join` names, for a node
that comes later. A setting that contradicts the region file or the members is refused, with both values.

```toml
# A region file, the same on all of its nodes.
cluster_id = \"payments-eu\"   # 1-64 of a-z 0-9 -, chosen once
region = \"eu\"
partitions = 16              # fixed for ever
homes = [\"eu\"]               # the region, if it is left out; fixed for ever

[[node]]                     # one for each node, 1 to 9
id = 1                       # its node_id
api = \"10.0.0.1:7400\"        # where clients reach it
peer = \"10.0.0.1:7401\"       # where the other nodes reach it
```

How to go about it: [make a region](../operations/make-a-region.md), [add a node](../operations/members.md).

| setting | meaning | default | bounds | flag | environment |
|---|---|---|---|---|---|
";

/// What holds where nothing is set and there is no fixed default.
fn without_default(name: &str) -> &'static str {
    match name {
        "homes" => "the region",
        "tenants" => "as the data directory was made; `registered` in a new one",
        "advertise" => "`listen`",
        "peer_advertise" => "`peer_listen`",
        "peer_listen" | "region_file" | "join" => "none",
        _ => "none: must be set",
    }
}

/// The page.
fn page() -> String {
    let mut text = HEAD.to_owned();
    for argument in Settings::arguments() {
        let name = argument.get_id().as_str();
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let default = match Settings::default_text(name) {
            Some(default) => format!("`{default}`"),
            None => without_default(name).to_owned(),
        };
        let bounds = bounds::of(name).map_or_else(String::new, |bounds| bounds.to_string());
        let flag = argument.get_long().unwrap_or_default();
        let variable = argument.get_env().and_then(|env| env.to_str()).unwrap_or_default();
        let _infallible = writeln!(text, "| `{name}` | {help}. | {default} | {bounds} | `--{flag}` | `{variable}` |");
    }
    text
}

#[test]
fn configuration_reference() -> anyhow::Result<()> {
    crate::cli::golden::check("docs/reference/configuration.md", &page())
}

#[test]
fn the_examples_of_the_page_are_enough() -> anyhow::Result<()> {
    let example = HEAD.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    let settings = crate::cli::settings::file::parse(std::path::Path::new("example"), example)?;
    crate::cli::settings::resolve::resolve(settings)?;
    let region = HEAD.split("```toml\n").nth(2).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    crate::cli::settings::region::parse(std::path::Path::new("example"), region)?;
    Ok(())
}
