//! What a settings file may say beyond what its types allow: refused where it is read, with the value that is meant. What would
//! only be taken for something else, such as a method that no request has, is the worst of it: nothing would tell.

use std::ops::RangeInclusive;

use super::settings::{RouteSettings, Settings, Wrong};
use crate::limits;
use crate::time::Span;

/// Checks what was read.
///
/// # Errors
/// The first thing that is wrong, with the route.
pub(super) fn check(settings: &Settings) -> Result<(), Wrong> {
    methods(&settings.protect).map_err(|why| Wrong(format!("protect {why}")))?;
    for (number, said) in settings.route.iter().enumerate() {
        route(said).map_err(|why| Wrong(format!("route {} ({}) {why}", number.saturating_add(1), said.path)))?;
    }
    Ok(())
}

fn route(said: &RouteSettings) -> Result<(), String> {
    methods(said.methods.as_deref().unwrap_or_default())?;
    if let Some(host) = said.host.as_deref().filter(|host| !is_host(host)) {
        return Err(format!("has the host {host:?}: write such as pay.example.com, without a port"));
    }
    let lease = u64::from(*limits::LEASE_MS.start())..=u64::from(*limits::LEASE_MS.end());
    within("lease", said.lease, &lease)?;
    within("retention", said.retention, &limits::RETENTION_MS)?;
    within("wait", said.wait, &(0..=u64::from(limits::MAX_WAIT_MS)))?;
    for (name, bytes) in
        [("max_request_bytes", said.max_request_bytes), ("max_response_bytes", said.max_response_bytes)]
    {
        let most = holdfast_client::http::MAX_BODY_BYTES;
        if let Some(bytes) = bytes.filter(|bytes| *bytes > most) {
            return Err(format!("has {name} = {bytes}: write at most {most}"));
        }
    }
    Ok(())
}

/// Methods are told apart by case (RFC 9110 section 9.1), and those that there are have no lower case.
fn methods(names: &[String]) -> Result<(), String> {
    let is_method = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    match names.iter().find(|name| !is_method(name)) {
        Some(name) => Err(format!("names the method {name:?}: write such as POST")),
        None => Ok(()),
    }
}

/// A name or an address, and nothing after it.
fn is_host(host: &str) -> bool {
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || [b'.', b'-', b'_'].contains(&byte))
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    is_name(host) || address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

fn within(name: &str, said: Option<Span>, bounds: &RangeInclusive<u64>) -> Result<(), String> {
    match said {
        Some(span) if !bounds.contains(&span.ms()) => {
            let (least, most) = (Span::from_ms(*bounds.start()), Span::from_ms(*bounds.end()));
            Err(format!("has {name} = {span}: write {least} to {most}"))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(lines: &str) -> String {
        let text = format!("{lines}\n[[route]]\npath = \"/a\"\nupstream = [\"http://127.0.0.1:1\"]\n");
        Settings::parse("f", &text).err().map(|wrong| wrong.to_string()).unwrap_or_default()
    }

    fn wrong_route(lines: &str) -> String {
        let text = format!("[[route]]\npath = \"/a\"\nupstream = [\"http://127.0.0.1:1\"]\n{lines}\n");
        Settings::parse("f", &text).err().map(|wrong| wrong.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_method_that_no_request_has_is_refused_and_not_left_unprotected() {
        assert_eq!(wrong("protect = [\"POST\", \"M-SEARCH\"]"), "");
        assert_eq!(wrong("protect = [\"post\"]"), "f: protect names the method \"post\": write such as POST");
        assert_eq!(wrong_route("methods = [\"\"]"), "f: route 1 (/a) names the method \"\": write such as POST");
    }

    #[test]
    fn what_would_be_taken_for_something_else_is_refused() {
        for lines in
            ["host = \"pay.example.com\"", "host = \"[::1]\"", "lease = \"50ms\"", "wait = \"60s\"", "wait = \"0ms\""]
        {
            assert_eq!(wrong_route(lines), "", "{lines}");
        }
        for (lines, part) in [
            ("host = \"a:80\"", "host \"a:80\": write such as pay.example.com"),
            ("host = \"a b\"", "without a port"),
            ("host = \"\"", "without a port"),
            ("lease = \"1ms\"", "has lease = 1ms: write 50ms to 1h"),
            ("wait = \"2h\"", "has wait = 2h: write 0"),
            ("retention = \"1ms\"", "has retention = 1ms: write 1s to 400d"),
            ("max_request_bytes = 1048577", "has max_request_bytes = 1048577: write at most 1048576"),
            ("max_response_bytes = 1048577", "has max_response_bytes = 1048577: write at most 1048576"),
        ] {
            let message = wrong_route(lines);
            assert!(message.starts_with("f: route 1 (/a) has ") && message.contains(part), "{message}");
        }
    }
}
