//! The published JSON Schema of policy files, made from the types that they are parsed into.

use serde_json::Value;

use crate::policy::document::PolicyFile;

/// The JSON Schema (draft 2020-12) of [`PolicyFile`].
#[must_use]
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(PolicyFile).to_value();
    in_toml(&mut schema);
    schema
}

/// Takes from a schema what is not true of a policy: TOML has no null, and defaults are the severity's. Descriptions get
/// one line.
fn in_toml(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.remove("default");
            if let Some(Value::String(description)) = members.get_mut("description") {
                *description = description.replace('\n', " ");
            }
            for (name, value) in members.iter_mut() {
                if let ("type" | "anyOf", Some(options)) = (name.as_str(), value.as_array_mut()) {
                    options.retain(|option| option != "null" && option.get("type").is_none_or(|name| name != "null"));
                }
                in_toml(value);
            }
            // One option is no choice.
            let only = |options: Option<&Value>| match options?.as_array()?.as_slice() {
                [only] => Some(only.clone()),
                _ => None,
            };
            if let Some(only) = only(members.get("type")) {
                members.insert("type".to_owned(), only);
            }
            if let Some(Value::Object(only)) = only(members.get("anyOf")) {
                members.remove("anyOf");
                members.extend(only);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(in_toml),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::document::{Document, FIELDS};

    #[test]
    fn the_schema_has_the_fields_of_the_parser() {
        let mut fields: Vec<String> = FIELDS.iter().map(|field| (*field).to_owned()).collect();
        fields.extend(["endpoints", "tenants"].map(str::to_owned));
        fields.sort();
        let mut found: Vec<String> = leaves().into_iter().map(|(field, _)| field).collect();
        found.sort();
        assert_eq!(found, fields);
        assert!(!schema().to_string().contains("null"), "toml has no null: {:#}", schema());
    }

    #[test]
    fn the_parser_takes_what_the_schema_allows_and_no_more() {
        for (field, property) in leaves() {
            if let (Some(least), Some(most)) = (property["minimum"].as_u64(), property["maximum"].as_u64()) {
                for (count, fits) in [(least, true), (most, true), (least - 1, false), (most + 1, false)] {
                    assert_eq!(accepts(&field, json!(count)), fits, "{field} = {count}");
                }
            }
            if let Some(most) = property["maxLength"].as_u64().and_then(|most| usize::try_from(most).ok()) {
                for (length, fits) in [(1, true), (most, true), (0, false), (most + 1, false)] {
                    assert_eq!(accepts(&field, json!("x".repeat(length))), fits, "{field} of {length}");
                }
            }
            for choice in property["oneOf"].as_array().into_iter().flatten() {
                assert!(accepts(&field, choice["const"].clone()), "{field} = {choice}");
            }
            if property["pattern"].is_string() {
                assert!(accepts(&field, json!("1h")) && !accepts(&field, json!("1 h")), "{field}");
            }
        }
    }

    /// Whether a policy that is sound otherwise may say so.
    fn accepts(field: &str, value: Value) -> bool {
        let mut policy =
            json!({ "endpoints": ["a"], "severity": "high", "fingerprint": {}, "response": {}, "limits": {} });
        let (section, name) = field.split_once('.').unwrap_or(("", field));
        let section = if section.is_empty() { &mut policy } else { &mut policy[section] };
        section[name] = value;
        serde_json::from_value::<Document>(policy).is_ok_and(|document| document.complete().is_ok())
    }

    /// Every field with its schema.
    fn leaves() -> Vec<(String, Value)> {
        let schema = schema();
        let mut leaves = Vec::new();
        collect(&schema, &schema["$defs"]["Document"], "", &mut leaves);
        leaves
    }

    fn collect(root: &Value, object: &Value, prefix: &str, leaves: &mut Vec<(String, Value)>) {
        assert_eq!(object["additionalProperties"], false, "{prefix}: the parser refuses what it does not know");
        for (name, property) in object["properties"].as_object().into_iter().flatten() {
            let target = property["$ref"].as_str().and_then(|target| root.pointer(target.trim_start_matches('#')));
            let definition = target.unwrap_or(property);
            match definition["properties"].is_object() {
                true => collect(root, definition, &format!("{prefix}{name}."), leaves),
                false => leaves.push((format!("{prefix}{name}"), definition.clone())),
            }
        }
    }
}
