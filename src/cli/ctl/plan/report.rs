//! How a plan looks: for people, as JSON with stable names that bear their units, and a workload as a file.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cli::ctl::plan::observed::Observed;
use crate::cli::output::{bytes, count, table};
use crate::limits;
use crate::plan::carried::Carried;
use crate::plan::figures::PERFORMANCE;
use crate::plan::workload::{Endpoint, Workload};
use crate::plan::{Plan, Sum};
use crate::time::Span;

/// The plan for people.
pub(super) fn text(workload: &Workload, plan: &Plan, observed: Option<&Observed>) -> String {
    let mut text = endpoints(workload, plan);
    if let Some(observed) = observed {
        text.push_str(&seen(plan, observed));
    }
    text.push_str(&rate(plan));
    text.push_str(&partitions(plan));
    for (what, sum) in [("disk", &plan.disk), ("memory", &plan.memory)] {
        text.push_str(&sized(what, sum, workload.headroom));
    }
    text.push_str(&settings(plan));
    for finding in &plan.findings {
        line(&mut text, format_args!("{}: {} [{}]", finding.level.as_str(), finding.text, finding.code));
    }
    text
}

/// Adds a line. Writing to a string cannot fail.
fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    let _infallible = writeln!(text, "{line}");
}

fn endpoints(workload: &Workload, plan: &Plan) -> String {
    let heads =
        ["endpoint", "keys a day", "keys/s at peak", "held at most", "kept for", "records", "bytes each", "live bytes"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(workload.endpoints.iter().zip(&plan.endpoints).map(|(endpoint, carried)| {
        vec![
            endpoint.name.to_string(),
            count(endpoint.keys_per_day as u64),
            count(carried.peak_per_s.ceil() as u64),
            count(carried.held),
            Span::from_ms(endpoint.retention_ms).to_string(),
            count(carried.records),
            count(each(carried)),
            bytes((carried.table_bytes() + carried.blob_bytes()) as u64),
        ]
    }));
    table(&rows)
}

fn each(carried: &Carried) -> u64 {
    (carried.stored.table + carried.stored.blob).ceil() as u64
}

/// What the plan counts for a record, in the mean over all of them, in bytes.
fn mean(plan: &Plan) -> u64 {
    let records = plan.endpoints.iter().fold(0_u64, |sum, endpoint| sum.saturating_add(endpoint.records));
    (plan.state_bytes / records.max(1) as f64).ceil() as u64
}

/// Bytes of tables, of those that are only in memory, from which on the size of a record is worth a look.
const COMPARABLE: u64 = 4;

fn seen(plan: &Plan, observed: &Observed) -> String {
    let now = observed.now;
    let mut text = format!(
        "\nnow         node {} has {} of tables and blob files, and {} of memory\n            about {} to {} records: ",
        now.node_id,
        bytes(now.stored_bytes),
        bytes(now.resident_bytes),
        count(now.records_at_least),
        count(now.records_at_most),
    );
    match now.stored_bytes > now.unwritten_bytes.saturating_mul(COMPARABLE) {
        true => {
            let each = |records: u64| count(now.stored_bytes / records.max(1));
            let (least, most) = (each(now.records_at_most), each(now.records_at_least));
            line(&mut text, format_args!("{least} to {most} bytes each, where the plan counts {}", count(mean(plan))));
        }
        false => line(&mut text, format_args!("too few of them are in tables to say how large they are")),
    }
    for note in &observed.notes {
        line(&mut text, format_args!("            {note}"));
    }
    text
}

fn rate(plan: &Plan) -> String {
    let rate = &plan.rate;
    let measured = rate.measured;
    format!(
        "\nspeed       {} keys/s in the mean, {} at the peak: {} calls/s\n            {:.1} % of {} calls/s ({} cycles/s): {}, on 2 \
         cores ({PERFORMANCE})\n            {}/s of log to each disk, and from leaders to every other node\n",
        count(rate.mean_keys_per_s.ceil() as u64),
        count(rate.peak_keys_per_s.ceil() as u64),
        count(rate.peak_operations_per_s.ceil() as u64),
        rate.share * 100.0,
        count(measured.operations_per_s() as u64),
        count(measured.cycles_per_s),
        measured.row,
        bytes(rate.log_bytes_per_s)
    )
}

fn partitions(plan: &Plan) -> String {
    let partitions = &plan.partitions;
    let chosen = if partitions.is_chosen { "the next power of two of what is needed" } else { "as they are" };
    let mut text = format!("\npartitions  {}: {chosen}\n", partitions.count);
    let longest = partitions.needs.iter().map(|need| count(need.count).len()).max().unwrap_or_default();
    for need in &partitions.needs {
        line(
            &mut text,
            format_args!("  {:>longest$}  {:<10}{} ({})", count(need.count), need.name, need.why, need.source),
        );
    }
    text
}

fn sized(what: &str, sum: &Sum, headroom: f64) -> String {
    let mut text = format!(
        "\n{what} of each node: {}, and {} with {:.0} % left free\n",
        bytes(sum.bytes),
        bytes(sum.with_headroom_bytes),
        headroom * 100.0
    );
    let sizes: Vec<String> = sum.items.iter().map(|item| bytes(item.bytes)).collect();
    let widest = sizes.iter().map(String::len).max().unwrap_or_default();
    let longest = sum.items.iter().map(|item| item.name.len()).max().unwrap_or_default();
    for (item, size) in sum.items.iter().zip(&sizes) {
        line(&mut text, format_args!("  {size:>widest$}  {:<longest$}  {} ({})", item.name, item.why, item.source));
    }
    text
}

/// The settings that are not their defaults.
fn settings(plan: &Plan) -> String {
    let machines = plan.machines;
    let settings = [
        ("partitions", machines.partitions, u64::from(limits::DEFAULT_PARTITIONS)),
        ("block_cache_bytes", machines.block_cache_bytes, limits::DEFAULT_BLOCK_CACHE_BYTES),
        ("write_buffer_bytes", machines.write_buffer_bytes, limits::DEFAULT_WRITE_BUFFER_BYTES),
    ];
    let mut text = "\nsettings    (docs/reference/configuration.md)\n".to_owned();
    for (name, value, default) in settings {
        let note = if value == default { "the default" } else { "not the default" };
        line(&mut text, format_args!("  {:<34} # {note}", format!("{name} = {value}")));
    }
    text.push('\n');
    text
}

/// The plan for programs.
pub(super) fn document(workload: &Workload, plan: &Plan, observed: Option<&Observed>) -> Value {
    let rate = &plan.rate;
    let needs = plan.partitions.needs.iter();
    let findings = plan.findings.iter();
    let endpoints = workload.endpoints.iter().zip(&plan.endpoints);
    json!({
        "nodes": workload.nodes,
        "headroom": workload.headroom,
        "growth": workload.growth,
        "endpoints": endpoints.map(|(endpoint, carried)| endpoint_document(endpoint, carried)).collect::<Vec<_>>(),
        "observed": observed.map(|observed| json!({
            "node_id": observed.now.node_id,
            "records_at_least": observed.now.records_at_least,
            "records_at_most": observed.now.records_at_most,
            "stored_bytes": observed.now.stored_bytes,
            "unwritten_bytes": observed.now.unwritten_bytes,
            "resident_bytes": observed.now.resident_bytes,
            "planned_bytes_per_record": mean(plan),
            "notes": observed.notes,
        })),
        "rate": {
            "mean_keys_per_s": rate.mean_keys_per_s,
            "peak_keys_per_s": rate.peak_keys_per_s,
            "peak_operations_per_s": rate.peak_operations_per_s,
            "log_bytes_per_s": rate.log_bytes_per_s,
            "measured": rate.measured.row,
            "measured_cycles_per_s": rate.measured.cycles_per_s,
            "measured_operations_per_s": rate.measured.operations_per_s(),
            "share": rate.share,
            "source": PERFORMANCE,
        },
        "partitions": {
            "count": plan.partitions.count,
            "chosen": plan.partitions.is_chosen,
            "needs": needs.map(|need| json!({
                "name": need.name, "count": need.count, "why": need.why, "source": need.source,
            })).collect::<Vec<_>>(),
        },
        "disk_of_each_node": sum_document(&plan.disk),
        "memory_of_each_node": sum_document(&plan.memory),
        "settings": {
            "partitions": plan.machines.partitions,
            "block_cache_bytes": plan.machines.block_cache_bytes,
            "write_buffer_bytes": plan.machines.write_buffer_bytes,
        },
        "findings": findings.map(|finding| json!({
            "level": finding.level.as_str(), "code": finding.code, "text": finding.text,
        })).collect::<Vec<_>>(),
    })
}

fn endpoint_document(endpoint: &Endpoint, carried: &Carried) -> Value {
    json!({
        "name": endpoint.name.as_str(),
        "keys_per_day": endpoint.keys_per_day,
        "peak_factor": endpoint.peak_factor,
        "replays_per_key": endpoint.replays_per_key,
        "envelope_bytes": endpoint.envelope_bytes,
        "retention_ms": endpoint.retention_ms,
        "lease_ms": endpoint.lease_ms,
        "peak_keys_per_s": carried.peak_per_s,
        "records": carried.records,
        "held_at_most": carried.held,
        "table_bytes_per_record": carried.stored.table,
        "blob_bytes_per_record": carried.stored.blob,
        "log_bytes_per_key": carried.stored.log,
    })
}

fn sum_document(sum: &Sum) -> Value {
    let items = sum.items.iter();
    json!({
        "bytes": sum.bytes,
        "with_headroom_bytes": sum.with_headroom_bytes,
        "items": items.map(|item| json!({
            "name": item.name, "bytes": item.bytes, "why": item.why, "source": item.source,
        })).collect::<Vec<_>>(),
    })
}

/// A workload as a file that `--file` reads.
pub(super) fn file(workload: &Workload, observed: Option<&Observed>) -> String {
    let mut text =
        "# A workload for `holdfast ctl plan capacity --file`, as nodes' metrics show it. Every field is in\n\
                    # docs/guides/capacity.md.\n"
            .to_owned();
    for note in observed.iter().flat_map(|observed| &observed.notes) {
        line(&mut text, format_args!("# {note}"));
    }
    line(&mut text, format_args!("\nnodes = {}", workload.nodes));
    if let Some(partitions) = workload.partitions {
        line(&mut text, format_args!("partitions = {}", partitions.get()));
    }
    line(&mut text, format_args!("headroom = {}\ngrowth = {}", workload.headroom, workload.growth));
    line(&mut text, format_args!("sessions = {}\nconnections = {}", workload.sessions, workload.connections));
    for endpoint in &workload.endpoints {
        line(&mut text, format_args!("\n[[endpoint]]\nname = {:?}", endpoint.name.as_str()));
        line(&mut text, format_args!("keys_per_day = {}", endpoint.keys_per_day as u64));
        line(&mut text, format_args!("envelope_bytes = {}", endpoint.envelope_bytes));
        line(&mut text, format_args!("retention = \"{}\"", Span::from_ms(endpoint.retention_ms)));
        line(&mut text, format_args!("lease = \"{}\"", Span::from_ms(endpoint.lease_ms)));
        line(&mut text, format_args!("peak_factor = {}", endpoint.peak_factor));
        line(&mut text, format_args!("replays_per_key = {}", endpoint.replays_per_key));
        line(&mut text, format_args!("key_bytes = {}", endpoint.key_bytes));
        line(&mut text, format_args!("compresses_to = {}", endpoint.compresses_to));
    }
    text
}
