//! docs/reference/gateway.md, made from [`Settings`] and the table of metrics: the tests fail when it is old, and `REWRITE=1`
//! writes it.

use std::fmt::Write as _;

use serde_json::Value;

use super::settings::{RetrySettings, RouteSettings, Settings};
use super::table::Table;
use crate::cli::golden;
use crate::clock::Monotonic;
use crate::telemetry::metrics::gateway::SECTIONS;

const HEAD: &str = "\
# The gateway's settings

<!-- Generated from src/gateway/settings.rs by `REWRITE=1 cargo test --release gateway_reference`. Do not edit. -->

`holdfast gateway --config FILE` reads a TOML file with the names below. A name that is no setting is an error, and so is an unfit value: the
gateway does not start, or goes on by the file before. The flags `--listen`, `--admin-listen` and `--nodes` go before the file. What the
gateway does is in [its guide](../guides/gateway.md), and an example in
[deploy/gateway/gateway.toml](../../deploy/gateway/gateway.toml).

Durations are a whole number and its unit: `500ms`, `30s`, `2m`, `1h`, `7d`.
";

/// The rows of one table of settings: every field of a type, with what a value of it has.
fn rows(schema: &schemars::Schema, defaults: &Value, required: &[&str]) -> String {
    let mut text = "| setting | meaning | default |\n|---|---|---|\n".to_owned();
    let properties = schema.as_value().get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let names = defaults.as_object().expect("an object").keys();
    for name in names.filter(|name| !["route", "retry"].contains(&name.as_str())) {
        let meaning = properties[name]["description"].as_str().expect("every setting has a meaning").replace('\n', " ");
        let default = match &defaults[name] {
            _ if required.contains(&name.as_str()) => "must be set".to_owned(),
            Value::Null => String::new(),
            Value::String(text) => format!("`{text:?}`"),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => format!("`{other}`"),
        };
        let _infallible = writeln!(text, "| `{name}` | {meaning}. | {default} |");
    }
    text
}

fn page() -> String {
    let value = |value: Result<Value, serde_json::Error>| value.expect("settings are json");
    let settings = value(serde_json::to_value(Settings::default()));
    let route = value(serde_json::to_value(RouteSettings::to("", Vec::new())));
    let retry = value(serde_json::to_value(RetrySettings::default()));
    let mut text = HEAD.to_owned();
    for (title, rows) in [
        ("Of the gateway", rows(&schemars::schema_for!(Settings), &settings, &[])),
        ("`[[route]]`", rows(&schemars::schema_for!(RouteSettings), &route, &["path", "upstream"])),
        ("`[route.retry]`", rows(&schemars::schema_for!(RetrySettings), &retry, &[])),
    ] {
        let _infallible = write!(text, "\n## {title}\n\n{rows}");
    }
    text.push_str("\nWhat has no default in `[[route]]` is the store's policy's to say, or does not apply.\n");
    for section in SECTIONS {
        let _infallible = write!(
            text,
            "\n## Metrics: {}\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n",
            section.title
        );
        for metric in section.metrics {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, help) = (metric.name, metric.kind.name(), metric.help);
            let _infallible = writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
        }
    }
    text.push_str("\nBeside them stand those of the [process](metrics.md#process).\n");
    text
}

#[test]
fn gateway_reference() -> anyhow::Result<()> {
    golden::check("docs/reference/gateway.md", &page())
}

#[test]
fn the_example_is_a_sound_file() {
    let text = include_str!("../../deploy/gateway/gateway.toml");
    let settings = Settings::parse("gateway.toml", text).expect("settings");
    let table = Table::new(&settings, None, Monotonic::at(std::time::Duration::ZERO)).expect("routes");
    assert_eq!(table.routes().len(), 3);
}
