//! docs/reference/policies.md and docs/reference/policy.schema.json, made from [`Document`] and the lint's codes: the tests
//! fail when they are old, and `REWRITE=1` writes them.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::golden;
use crate::limits;
use crate::policy::Severity;
use crate::policy::document::{Document, FIELDS};
use crate::policy::lint::Code;
use crate::policy::schema::schema;
use crate::policy::set::{PolicySet, Source};
use crate::time::Span;

const HEAD: &str = "\
# Policies

<!-- Generated from src/policy by `REWRITE=1 cargo test --release policies_reference`. Do not edit. -->

A **policy** is the contract of some endpoints: what their idempotency keys are promised. An organisation writes its policies
in TOML files, keeps them where its code is, checks them with `holdfast ctl policy lint`, and applies them with
`holdfast ctl policy apply` ([how to roll them out](../guides/policies.md)).

**What a node does with them:** it follows `on_lapse`, `lease`, `retention`, what a fingerprint takes, and the limits, for keys that are
granted from then on. `response.*`, `stage` and `fail` are kept and shown, and the
[gateway](../guides/gateway.md) follows them; `consistency` is for several regions. No node of one region asks them. An endpoint that no policy names gets the defaults of the
setting `severity` ([configuration](configuration.md)).

```toml
[policy.charges]                     # its name: 1-64 of A-Z a-z 0-9 _ -
endpoints = [\"POST /v1/charges\"]
severity = \"critical\"
stage = \"required\"
owner = \"payments on call\"
retry_window = \"3d\"

[policy.charges.fingerprint]
leave_out = [\"/metadata/sent_at\"]

[policy.writes]
endpoints = [\"POST /v1/*\"]
severity = \"high\"
```

`endpoints` and `severity` must be there; what else is left out has the default of the severity. A name that is no field is an
error. A longer example: `deploy/policies/payments.toml`. For editors and other checks: [the JSON Schema](policy.schema.json).

## Which policy an endpoint gets

One, and the most specific:

1. A policy that names the tenant goes before one for every tenant.
2. An endpoint's own name goes before a pattern.
3. The pattern with more characters beside its `*` goes before the one with fewer.

In a pattern one `*` stands for any characters, also `/` and none. If two policies name endpoints of the same tenant that are
equally specific, and one endpoint fits both, the files are refused. The order of policies and files means nothing. Policies
are not merged: what the most specific one leaves out is not taken from another that fits as well. An endpoint that no policy is for has the
defaults of the node's setting `severity`; where files are read and no node is asked, those of `high`.

`holdfast ctl policy explain ENDPOINT --tenant TENANT` shows which policy it is, and where each value comes from; with `--file FILE`
it is about files, and no node is asked.
";

/// The properties of the schema in the order of [`FIELDS`], each with the field's full name.
fn properties() -> Vec<(String, Value)> {
    let schema = schema();
    let document = &schema["$defs"]["Document"]["properties"];
    let section = |name: &str| {
        let target = document[name]["$ref"].as_str().unwrap_or_default().trim_start_matches('#').to_owned();
        schema.pointer(&target).map(|section| section["properties"].clone()).unwrap_or_default()
    };
    let of = |field: &&str| match field.split_once('.') {
        Some((group, name)) => section(group)[name].clone(),
        None => document[*field].clone(),
    };
    ["endpoints", "tenants"].iter().chain(&FIELDS).map(|field| ((*field).to_owned(), of(field))).collect()
}

/// What may be written, from the schema of the field.
fn values(field: &str, property: &Value, schema: &Value) -> String {
    let definition = property["$ref"].as_str().and_then(|target| schema.pointer(target.trim_start_matches('#')));
    let choices = definition.and_then(|definition| definition["oneOf"].as_array());
    if let Some(choices) = choices {
        return choices
            .iter()
            .filter_map(|choice| choice["const"].as_str())
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let to = |least: u64, most: u64| format!("{} to {}", Span::from_ms(least), Span::from_ms(most));
    match (field, property["type"].as_str()) {
        ("lease", _) => to((*limits::LEASE_MS.start()).into(), (*limits::LEASE_MS.end()).into()),
        ("retention" | "retry_window", _) => to(*limits::RETENTION_MS.start(), *limits::RETENTION_MS.end()),
        (_, Some("integer")) => format!("{} to {}", property["minimum"], property["maximum"]),
        (_, Some("array")) => {
            format!("{} to {} texts", property["minItems"].as_u64().unwrap_or_default(), property["maxItems"])
        }
        (_, Some("string")) => format!("{} to {} bytes", property["minLength"], property["maxLength"]),
        (_, other) => panic!("{field} is {other:?}: say here what may be written"),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => format!("`{value}`"),
    }
}

/// One default, or one for each severity.
fn default_of(field: &str) -> String {
    let of = |severity| {
        let values = Document::defaults(severity).values();
        values.into_iter().find(|(name, _)| *name == field).map(|(_, value)| shown(&value)).unwrap_or_default()
    };
    let defaults = Severity::ALL.map(of);
    match defaults.iter().all(|default| Some(default) == defaults.first()) {
        true => defaults.first().cloned().unwrap_or_default(),
        false => Severity::ALL
            .iter()
            .zip(&defaults)
            .map(|(severity, value)| format!("{severity} {value}"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn page() -> String {
    let schema = schema();
    let mut text = HEAD.to_owned();
    text.push_str("\n## Fields\n\nA field with a dot stands in the table of that name, such as `[policy.charges.limits]`. Durations are a whole\nnumber and a unit: `500ms`, `30s`, `2m`, `1h`, `7d`.\n\n");
    text.push_str("| field | meaning | values | default |\n|---|---|---|---|\n");
    for (field, property) in properties() {
        let meaning = property["description"].as_str().unwrap_or_default();
        let default = match field.as_str() {
            "endpoints" | "severity" => "must be there".to_owned(),
            "tenants" => "every tenant".to_owned(),
            _ => default_of(&field),
        };
        let values = values(&field, &property, &schema);
        let _infallible = writeln!(text, "| `{field}` | {meaning}. | {values} | {default} |");
    }
    text.push('\n');
    for section in ["fingerprint", "response", "limits"] {
        let meaning = schema["$defs"]["Document"]["properties"][section]["description"].as_str().unwrap_or_default();
        let _infallible = writeln!(text, "* `{section}`: {meaning}.");
    }
    for (title, name) in [
        ("severity", "Severity"),
        ("stage", "Stage"),
        ("consistency", "Consistency"),
        ("fail", "FailMode"),
        ("on_lapse", "OnLapse"),
    ] {
        let _infallible = writeln!(text, "\n### `{title}`\n\n| value | meaning |\n|---|---|");
        for choice in schema["$defs"][name]["oneOf"].as_array().into_iter().flatten() {
            let meaning = choice["description"].as_str().unwrap_or_default();
            let _infallible = writeln!(text, "| `{}` | {meaning} |", choice["const"].as_str().unwrap_or_default());
        }
    }
    text.push_str("\n## What `lint` finds\n\n`holdfast ctl policy lint FILE…` ends with 1 if it finds an error. The code `refused` is for what is no policy at all.\n\n");
    text.push_str("| code | level | meaning |\n|---|---|---|\n");
    for code in Code::ALL {
        let _infallible = writeln!(text, "| `{}` | {} | {}. |", code.as_str(), code.level().as_str(), code.meaning());
    }
    text
}

#[test]
fn policies_reference() -> anyhow::Result<()> {
    golden::check("docs/reference/policies.md", &page())
}

#[test]
fn policies_reference_schema() -> anyhow::Result<()> {
    golden::check("docs/reference/policy.schema.json", &format!("{:#}\n", schema()))
}

#[test]
fn the_example_of_the_page_is_sound() {
    let text = HEAD.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    let set = PolicySet::parse(&[Source { name: "example", text }]);
    assert_eq!(set.map(|set| crate::policy::lint::lint(&set)), Ok(Vec::new()));
}
