//! What an upstream is told of the execution that its request is, so that it can refuse a late one, find an earlier one, and
//! be found in traces.

use holdfast_client::client::FencingToken;
use holdfast_client::http::FENCING_TOKEN;
use holdfast_client::layer::Execution;
use http::{HeaderMap, HeaderName, HeaderValue};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const ATTEMPT: HeaderName = HeaderName::from_static("holdfast-attempt");
const POSSIBLE_DUPLICATE: HeaderName = HeaderName::from_static("holdfast-possible-duplicate");
const CORRELATION_ID: HeaderName = HeaderName::from_static("correlation-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Tells of an execution. `random` is what correlation and trace are named by where the client named none.
pub(super) fn tell(headers: &mut HeaderMap, execution: &Execution, random: [u8; 24]) {
    let told = Told {
        key: execution.key(),
        fencing: execution.fencing(),
        attempt: execution.attempt(),
        possible_duplicate: execution.possible_duplicate(),
    };
    told.write(headers, random);
}

/// What is told.
struct Told<'a> {
    key: &'a str,
    fencing: FencingToken,
    attempt: u32,
    possible_duplicate: bool,
}

impl Told<'_> {
    fn write(&self, headers: &mut HeaderMap, random: [u8; 24]) {
        let mut put = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        put(FENCING_TOKEN, self.fencing.to_string());
        put(ATTEMPT, self.attempt.to_string());
        if self.possible_duplicate {
            put(POSSIBLE_DUPLICATE, "true".to_owned());
        }
        let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let (trace, span) = hex.split_at_checked(32).unwrap_or_default();
        // W3C Trace Context: version 00, not sampled. What stands there is the client's.
        let made = [
            (KEY, format!("\"{}\"", self.key)),
            (CORRELATION_ID, trace.to_owned()),
            (TRACEPARENT, format!("00-{trace}-{span}-00")),
        ];
        for (name, value) in made {
            if !headers.contains_key(&name)
                && let Ok(value) = HeaderValue::try_from(value)
            {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(possible_duplicate: bool, before: &[(&'static str, &'static str)]) -> String {
        let mut headers: HeaderMap = before
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let fencing = FencingToken { epoch: 3, sequence: 9 };
        let told = Told { key: "k-1", fencing, attempt: 2, possible_duplicate };
        told.write(&mut headers, std::array::from_fn(|at| u8::try_from(at).unwrap_or_default()));
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("ascii"))).collect();
        lines.sort();
        lines.join(" | ")
    }

    #[test]
    fn an_upstream_is_told_which_execution_it_is() {
        assert_eq!(
            told(true, &[("holdfast-attempt", "77")]),
            "correlation-id: 000102030405060708090a0b0c0d0e0f | holdfast-attempt: 2 | holdfast-fencing-token: 3.9 | \
             holdfast-possible-duplicate: true | idempotency-key: \"k-1\" | \
             traceparent: 00-000102030405060708090a0b0c0d0e0f-1011121314151617-00"
        );
    }

    #[test]
    fn what_the_client_named_stays() {
        let client = [("idempotency-key", "k-1"), ("correlation-id", "order-7"), ("traceparent", "00-a-b-01")];
        assert_eq!(
            told(false, &client),
            "correlation-id: order-7 | holdfast-attempt: 2 | holdfast-fencing-token: 3.9 | idempotency-key: k-1 | \
             traceparent: 00-a-b-01"
        );
    }
}
