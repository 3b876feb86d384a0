//! The trace that a call belongs to: the `traceparent` header of W3C Trace Context (<https://www.w3.org/TR/trace-context/>).

use tracing::Span;

/// The header's name, in gRPC's metadata too.
pub const TRACEPARENT: &str = "traceparent";

/// The span of a call that comes with a `traceparent`; nothing if the header is not valid, or its lines are not logged.
#[must_use]
pub fn span(traceparent: &str) -> Option<Span> {
    let trace_id = trace_id(traceparent)?;
    let span = tracing::error_span!("call", trace_id);
    (!span.is_disabled()).then_some(span)
}

/// The trace id: 32 digits, as text that cannot be anything else. Versions after 00 may have more at the end.
fn trace_id(traceparent: &str) -> Option<&str> {
    let mut parts = traceparent.split('-');
    let version = hex(parts.next()?, 2)?;
    let trace_id = hex(parts.next()?, 32)?;
    let parent_id = hex(parts.next()?, 16)?;
    hex(parts.next()?, 2)?;
    let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let fits = version != "ff" && (version != "00" || parts.next().is_none()) && !zero(trace_id) && !zero(parent_id);
    fits.then_some(trace_id)
}

fn hex(text: &str, digits: usize) -> Option<&str> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == digits && text.bytes().all(lower)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_header_names_a_trace() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), Some(id));
        assert_eq!(trace_id("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes"), Some(id));
        let invalid = [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-secret\nsecret\nsecret\nsecret\n1234-00f067aa0ba902b7-01",
        ];
        for text in invalid {
            assert_eq!(trace_id(text), None, "{text:?}");
        }
    }
}
