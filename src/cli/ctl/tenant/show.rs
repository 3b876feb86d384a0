//! How tenants are shown: for people, and for scripts.

use holdfast_client::proto::v1;
use serde_json::{Value, json};

use crate::cli::output;

/// A tenant, with its endpoints if the node told them.
pub(super) fn text(tenant: &v1::Tenant) -> String {
    let limits = tenant.limits.unwrap_or_default();
    let home = if tenant.home.is_empty() { "by each key's hash" } else { &tenant.home };
    let keys = format!("{}{}", output::count(tenant.keys), of(limits.max_keys, output::count));
    let bytes = format!("{}{}", output::bytes(tenant.bytes), of(limits.max_bytes, size));
    let rate = |limit: Option<u64>| {
        limit.map_or_else(|| "no limit".to_owned(), |limit| format!("{} a second", output::count(limit)))
    };
    let lines = [
        ("tenant", tenant.tenant.clone()),
        ("state", state(tenant).to_owned()),
        ("home", home.to_owned()),
        ("made", output::time(tenant.made_at_unix_ms)),
        ("keys", keys),
        ("bytes", bytes),
        ("new keys", rate(limits.keys_per_second)),
        ("of a client", rate(limits.keys_per_second_per_client)),
    ];
    let mut text: String = lines.into_iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect();
    if !tenant.endpoints.is_empty() {
        let heads = ["endpoint", "keys", "bytes"].map(str::to_owned).to_vec();
        let row = |usage: &v1::EndpointUsage| {
            vec![usage.endpoint.clone(), output::count(usage.keys), output::bytes(usage.bytes)]
        };
        let rows: Vec<Vec<String>> = std::iter::once(heads).chain(tenant.endpoints.iter().map(row)).collect();
        text.push_str(&format!("\n{}", output::table(&rows)));
    }
    text
}

/// A tenant, with its endpoints if the node told them.
pub(super) fn document(tenant: &v1::Tenant) -> Value {
    let endpoints = tenant
        .endpoints
        .iter()
        .map(|usage| json!({ "endpoint": usage.endpoint, "keys": usage.keys, "bytes": usage.bytes }));
    output::joined(line(tenant), json!({ "endpoints": endpoints.collect::<Vec<_>>() }))
}

/// All tenants.
pub(super) fn list_text(answer: &v1::ListTenantsResponse) -> String {
    let heads = ["tenant", "state", "home", "keys", "of", "bytes", "of"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(answer.tenants.iter().map(|tenant| {
        let limits = tenant.limits.unwrap_or_default();
        let limit = |limit: Option<u64>, shown: fn(u64) -> String| limit.map_or_else(|| "-".to_owned(), shown);
        vec![
            tenant.tenant.clone(),
            if tenant.closed { "closed" } else { "open" }.to_owned(),
            if tenant.home.is_empty() { "-".to_owned() } else { tenant.home.clone() },
            output::count(tenant.keys),
            limit(limits.max_keys, output::count),
            output::bytes(tenant.bytes),
            limit(limits.max_bytes, size),
        ]
    }));
    let others = match answer.registered_only {
        true => "no other tenant may have keys",
        false => "other tenants may have keys too, without limits of their own",
    };
    match answer.tenants.is_empty() {
        true => format!("no tenants were made: {others}\n"),
        false => format!("{}\n{others}\n", output::table(&rows)),
    }
}

/// All tenants.
pub(super) fn list_document(answer: &v1::ListTenantsResponse) -> Value {
    let tenants: Vec<Value> = answer.tenants.iter().map(line).collect();
    json!({ "tenants": tenants, "registered_only": answer.registered_only })
}

fn line(tenant: &v1::Tenant) -> Value {
    let limits = tenant.limits.unwrap_or_default();
    json!({
        "tenant": tenant.tenant,
        "home": (!tenant.home.is_empty()).then_some(&tenant.home),
        "made_at_unix_ms": tenant.made_at_unix_ms,
        "closed": tenant.closed,
        "limits": {
            "max_keys": limits.max_keys,
            "max_bytes": limits.max_bytes,
            "keys_per_second": limits.keys_per_second,
            "keys_per_second_per_client": limits.keys_per_second_per_client,
        },
        "keys": tenant.keys,
        "bytes": tenant.bytes,
    })
}

const fn state(tenant: &v1::Tenant) -> &'static str {
    if tenant.closed { "closed: no new keys" } else { "open" }
}

fn of(limit: Option<u64>, shown: fn(u64) -> String) -> String {
    limit.map_or_else(|| ", no limit".to_owned(), |limit| format!(" of {}", shown(limit)))
}

/// A size exactly, as it can be typed: in the largest unit of which it is a whole number.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden;

    fn acme() -> v1::Tenant {
        let usage = |endpoint: &str, keys, bytes| v1::EndpointUsage { endpoint: endpoint.to_owned(), keys, bytes };
        v1::Tenant {
            tenant: "acme".to_owned(),
            home: "eu".to_owned(),
            made_at_unix_ms: 1_790_000_000_000,
            closed: true,
            limits: Some(v1::TenantLimits {
                max_keys: Some(5_000_000),
                max_bytes: Some(10 << 30),
                keys_per_second: None,
                keys_per_second_per_client: Some(20),
            }),
            keys: 12_345,
            bytes: 34_567_890,
            endpoints: vec![usage("POST /v1/charges", 12_000, 30_000_000), usage("POST /v1/refunds", 345, 4_567_890)],
        }
    }

    #[test]
    fn tenants_print() -> anyhow::Result<()> {
        let bare = v1::Tenant { tenant: "bank".to_owned(), ..v1::Tenant::default() };
        let answer = v1::ListTenantsResponse { tenants: vec![acme(), bare.clone()], registered_only: true };
        let shown = [
            text(&acme()),
            format!("{:#}\n", document(&acme())),
            text(&bare),
            list_text(&answer),
            format!("{:#}\n", list_document(&answer)),
            list_text(&v1::ListTenantsResponse::default()),
        ];
        golden::check("tests/output/tenants.txt", &shown.join("\n"))
    }

    #[test]
    fn a_size_is_shown_as_it_is_typed() {
        let shown = [1_024, 1_500, 10 << 30, (1 << 30) + 1_024, 3 << 50].map(size);
        assert_eq!(shown, ["1KiB", "1500", "10GiB", "1048577KiB", "3072TiB"]);
        for text in shown {
            assert_eq!(crate::cli::parse::size(&text).map(size), Ok(text));
        }
    }
}
