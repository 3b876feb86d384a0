//! How a record looks: for people, and as the JSON that scripts read. The names are those of the HTTP API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_client::proto::v1;
use serde_json::{Value, json};

use crate::cli::output;

/// Bytes of a body that a person is shown; `--output json` has all of it.
const SHOWN_BODY_BYTES: usize = 512;

/// A state's name, as the API writes it.
pub(super) fn state(state: i32) -> &'static str {
    match v1::KeyState::try_from(state) {
        Ok(v1::KeyState::Absent) => "absent",
        Ok(v1::KeyState::Held) => "held",
        Ok(v1::KeyState::Lapsed) => "lapsed",
        Ok(v1::KeyState::OutcomeUnknown) => "outcome_unknown",
        Ok(v1::KeyState::Released) => "released",
        Ok(v1::KeyState::Completed) => "completed",
        Ok(v1::KeyState::Unspecified) | Err(_) => "unknown to this version of holdfast",
    }
}

/// A fencing token as it is typed.
pub(super) fn fencing(token: Option<&v1::FencingToken>) -> String {
    token.map_or_else(|| "none".to_owned(), |token| format!("{}.{}", token.epoch, token.sequence))
}

/// A record for people.
pub(super) fn record_text(record: &v1::Record) -> String {
    let mut rows: Vec<(&str, String)> = vec![
        ("state", state(record.state).to_owned()),
        ("endpoint", record.endpoint.clone()),
        ("fingerprint", format!("v{} {}", record.fingerprint_version, hex(&record.fingerprint))),
        ("fencing", fencing(record.fencing.as_ref())),
        ("attempt", record.attempt.to_string()),
        ("lease", format!("{} ms", record.lease_ms)),
        ("retention", format!("{} ms", record.retention_ms)),
    ];
    if let Some(checkpoint) = &record.checkpoint {
        rows.push(("checkpoint", format!("{} ({} bytes)", checkpoint.name, checkpoint.data.len())));
    }
    if record.completed_at_unix_ms > 0 {
        rows.push(("completed", output::time(record.completed_at_unix_ms)));
    }
    if record.expires_at_unix_ms > 0 {
        rows.push(("expires", output::time(record.expires_at_unix_ms)));
    }
    let mut text: String = rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect();
    if let Some(envelope) = &record.envelope {
        text.push_str(&envelope_text(envelope));
    }
    text
}

fn envelope_text(envelope: &v1::Envelope) -> String {
    let mut text = format!("{:<12} {}\n", "status", envelope.status);
    for header in &envelope.headers {
        text.push_str(&format!("{:<12} {}: {}\n", "header", printable(&header.name), header_value(&header.value)));
    }
    text.push_str(&format!("{:<12} {} bytes\n", "body", envelope.body.len()));
    let shown = envelope.body.get(..SHOWN_BODY_BYTES).unwrap_or(&envelope.body);
    match std::str::from_utf8(shown) {
        Ok(body) if !body.is_empty() => text.push_str(&format!("\n{}\n", printable(body))),
        Ok(_) => {}
        Err(_) => text.push_str("\n(not text: see --output json)\n"),
    }
    if shown.len() < envelope.body.len() {
        text.push_str(&format!("(the first {SHOWN_BODY_BYTES} bytes: see --output json for all)\n"));
    }
    text
}

fn header_value(value: &[u8]) -> String {
    printable(&output::header_text(value))
}

/// What others stored is shown without its control characters, which could drive the operator's terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// As [`printable`], on one line.
pub(super) fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// A record's history for people.
pub(super) fn history_text(record: &v1::Record) -> String {
    let mut text = String::new();
    if record.history_dropped > 0 {
        text.push_str(&format!("({} older events are no longer kept)\n", record.history_dropped));
    }
    for event in &record.history {
        let line = format!(
            "{}  {:<12} {:<12} {}",
            output::time(event.at_unix_ms),
            event.kind,
            fencing(event.fencing.as_ref()),
            printable(&event.detail).replace('\n', " "),
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A lookup's answer for scripts.
pub(super) fn document(name: &super::key::Name, found: &v1::LookupResponse) -> Value {
    let epoch = found.epoch.as_ref();
    json!({
        "tenant": name.tenant,
        "key": name.key,
        "epoch": epoch.map(|epoch| json!({"home": epoch.home, "partition": epoch.partition, "epoch": epoch.epoch})),
        "record": found.record.as_ref().map(record_document),
    })
}

fn record_document(record: &v1::Record) -> Value {
    json!({
        "state": state(record.state),
        "endpoint": record.endpoint,
        "fingerprint_version": record.fingerprint_version,
        "fingerprint": hex(&record.fingerprint),
        "fencing": fencing_document(record.fencing.as_ref()),
        "attempt": record.attempt,
        "lease_ms": record.lease_ms,
        "retention_ms": record.retention_ms,
        "checkpoint": record.checkpoint.as_ref().map(|checkpoint| json!({
            "name": checkpoint.name,
            "data_base64": STANDARD.encode(&checkpoint.data),
        })),
        "envelope": record.envelope.as_ref().map(envelope_document),
        "completed_at_unix_ms": (record.completed_at_unix_ms > 0).then_some(record.completed_at_unix_ms),
        "expires_at_unix_ms": (record.expires_at_unix_ms > 0).then_some(record.expires_at_unix_ms),
        "history": history_document(record),
        "history_dropped": record.history_dropped,
    })
}

/// A record's history for scripts.
pub(super) fn history_document(record: &v1::Record) -> Value {
    let event = |event: &v1::Event| {
        json!({
            "at_unix_ms": event.at_unix_ms,
            "kind": event.kind,
            "fencing": fencing_document(event.fencing.as_ref()),
            "detail": event.detail,
        })
    };
    record.history.iter().map(event).collect()
}

fn envelope_document(envelope: &v1::Envelope) -> Value {
    let headers: Vec<Value> =
        envelope.headers.iter().map(|header| json!([header.name, output::header_text(&header.value)])).collect();
    json!({ "status": envelope.status, "headers": headers, "body_base64": STANDARD.encode(&envelope.body) })
}

fn fencing_document(token: Option<&v1::FencingToken>) -> Value {
    token.map_or(Value::Null, |token| json!({ "epoch": token.epoch, "sequence": token.sequence }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> v1::Record {
        let token = Some(v1::FencingToken { epoch: 1, sequence: 42 });
        v1::Record {
            state: v1::KeyState::Completed.into(),
            endpoint: "POST /v1/charges".to_owned(),
            fingerprint: (&[0x0a, 0xff][..]).into(),
            fencing: token,
            attempt: 1,
            envelope: Some(v1::Envelope {
                status: 201,
                headers: vec![v1::Header { name: "x".to_owned(), value: (&b"\x1b[31mred"[..]).into() }],
                body: vec![b'a'; 600].into(),
            }),
            history: vec![v1::Event {
                at_unix_ms: 1,
                kind: "granted".to_owned(),
                fencing: token,
                ..Default::default()
            }],
            history_dropped: 3,
            ..v1::Record::default()
        }
    }

    #[test]
    fn people_see_the_record_and_no_terminal_escapes() {
        let text = record_text(&record());
        for part in ["completed", "v0 0aff", "1.42", "x: \u{fffd}[31mred", "600 bytes", "the first 512 bytes"] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
        let history = history_text(&record());
        assert!(history.contains("3 older events") && history.contains("granted      1.42"), "{history}");
    }

    #[test]
    fn scripts_get_every_byte() {
        let name = crate::cli::ctl::key::Name { tenant: "t".to_owned(), key: "k".to_owned() };
        let found = v1::LookupResponse { record: Some(record()), epoch: None };
        let document = document(&name, &found);
        assert_eq!(document["record"]["state"], "completed");
        assert_eq!(document["record"]["fencing"], json!({"epoch": 1, "sequence": 42}));
        assert_eq!(document["record"]["envelope"]["headers"], json!([["x", "\u{1b}[31mred"]]));
        let body = document["record"]["envelope"]["body_base64"].as_str().map(|text| STANDARD.decode(text));
        assert_eq!(body, Some(Ok(vec![b'a'; 600])));
    }
}
