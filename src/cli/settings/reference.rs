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

| setting | meaning | default | bounds | flag | environment |
|---|---|---|---|---|---|
";

/// The page.
fn page() -> String {
    let mut text = HEAD.to_owned();
    for argument in Settings::arguments() {
        let name = argument.get_id().as_str();
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let default = match Settings::default_text(name) {
            Some(default) => format!("`{default}`"),
            None if name == "homes" => "the region".to_owned(),
            None => "none: must be set".to_owned(),
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
fn the_example_of_the_page_is_enough() -> anyhow::Result<()> {
    let example = HEAD.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    let settings = crate::cli::settings::file::parse(std::path::Path::new("example"), example)?;
    crate::cli::settings::resolve::resolve(settings)?;
    Ok(())
}
