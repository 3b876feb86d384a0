//! What of a message's head goes on: nothing that is of one connection (RFC 9110 section 7.6.1), nothing that a client could
//! only pretend, and who it came from. Functions over headers.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, Method, Uri, Version};

/// How a request says who it came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Forwarded {
    /// What stands there is kept, and this hop added: for a gateway behind one that is trusted.
    #[default]
    Append,
    /// What stands there is replaced: for a gateway that clients reach directly.
    Replace,
    /// Nothing is added, and what stands there is passed on.
    Off,
}

/// Headers of one connection, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    TRANSFER_ENCODING,
    UPGRADE,
];
/// Beginnings of names that the gateway alone says, in both directions.
const OWN: [&str; 3] = ["holdfast-", "idempotent-", "idempotency-"];
/// Those among them that a client says.
const CLIENTS: [&str; 1] = ["idempotency-key"];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Why a request's head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// No host, or several.
    #[error("the request has no host, or more than one")]
    Host,
    /// Two ways to tell its length.
    #[error("the request says its length in more than one way")]
    Length,
    /// A target that is no path.
    #[error("the request's target is no path")]
    Target,
}

/// Checks what the HTTP library lets pass. Returns the host, as it was sent.
///
/// # Errors
/// [`Refused`].
pub(super) fn checked(uri: &Uri, headers: &HeaderMap) -> Result<String, Refused> {
    if !uri.path().starts_with('/') {
        return Err(Refused::Target);
    }
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    if lengths > 1 || (lengths == 1 && headers.contains_key(TRANSFER_ENCODING)) {
        return Err(Refused::Length);
    }
    let mut hosts = headers.get_all(HOST).iter();
    let said = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Refused::Host),
        (said, _) => said,
    };
    // RFC 9112 section 3.2.2: a target with an authority goes before the header.
    let host = match (uri.authority(), said) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(said)) => said.to_str().map_err(|_| Refused::Host)?,
        (None, None) => return Err(Refused::Host),
    };
    if host.is_empty() || host.parse::<http::uri::Authority>().is_err() || host.contains('@') {
        return Err(Refused::Host);
    }
    Ok(host.to_owned())
}

/// Whether a WebSocket is asked for (RFC 6455 section 4.1). Every other protocol is one that requests could hide in, so it is not
/// switched to: the request is served as if nobody had asked.
pub(super) fn asks_for_websocket(method: &Method, headers: &HeaderMap) -> bool {
    let is_websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    let mut asked = headers.get_all(UPGRADE).iter();
    let alone = asked.next().is_some_and(is_websocket) && asked.next().is_none();
    method == Method::GET && alone && connection_names(headers).iter().any(|name| name == UPGRADE.as_str())
}

/// Removes what is of one connection.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in connection_names(headers) {
        headers.remove(name.as_str());
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Removes what the gateway alone says. A client's key stays.
pub(super) fn remove_own(headers: &mut HeaderMap) {
    let is_own = |name: &str| OWN.iter().any(|own| name.starts_with(own)) && !CLIENTS.contains(&name);
    let own: Vec<HeaderName> = headers.keys().filter(|name| is_own(name.as_str())).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

/// Who sent a request, and how.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) client: IpAddr,
    pub(super) host: String,
    pub(super) version: Version,
}

/// Makes the head of a client's request that of the request to an upstream, but for its host.
pub(super) fn to_upstream(headers: &mut HeaderMap, hop: &Hop, forwarded: Forwarded) {
    let takes_trailers = headers.get_all(TE).iter().any(|value| has_token(value, "trailers"));
    remove_hop_by_hop(headers);
    for name in [TE, EXPECT, CONTENT_LENGTH] {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let protocol = match hop.version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    append(headers, &VIA, &format!("{protocol} holdfast"));
    let Forwarded::Append = forwarded else {
        if forwarded == Forwarded::Replace {
            for name in [&X_FORWARDED_FOR, &X_FORWARDED_PROTO, &X_FORWARDED_HOST, &FORWARDED] {
                headers.remove(name);
            }
            say(headers, hop);
        }
        return;
    };
    say(headers, hop);
}

/// Adds this hop.
fn say(headers: &mut HeaderMap, hop: &Hop) {
    let Hop { client, host, .. } = hop;
    append(headers, &X_FORWARDED_FOR, &client.to_string());
    for (name, value) in [(&X_FORWARDED_PROTO, "http"), (&X_FORWARDED_HOST, host.as_str())] {
        // The first hop knows best.
        if !headers.contains_key(name)
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(name, value);
        }
    }
    let node = match client {
        IpAddr::V4(client) => client.to_string(),
        IpAddr::V6(client) => format!("\"[{client}]\""),
    };
    append(headers, &FORWARDED, &format!("for={node};host=\"{host}\";proto=http"));
}

/// Adds an element to a list.
fn append(headers: &mut HeaderMap, name: &HeaderName, element: &str) {
    let before: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    let list = before.into_iter().chain([element]).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&list) {
        headers.insert(name, value);
    }
}

/// The names that `Connection` has, in lower case.
fn connection_names(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    let elements = value.to_str().unwrap_or_default().split(',');
    elements.map(|element| element.split(';').next().unwrap_or_default().trim()).any(|name| name == token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        )
    }

    fn shown(headers: &HeaderMap) -> String {
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("ascii"))).collect();
        lines.sort();
        lines.join(" | ")
    }

    fn hop(version: Version) -> Hop {
        Hop { client: IpAddr::from([10, 0, 0, 7]), host: "shop.example".to_owned(), version }
    }

    #[test]
    fn what_is_of_one_connection_does_not_go_on() {
        let mut request = headers(&[
            ("connection", "close, X-One"),
            ("connection", "x-two"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("x-three", "3b"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers;q=1"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("upgrade", "h2c"),
            ("trailer", "x-sum"),
        ]);
        to_upstream(&mut request, &hop(Version::HTTP_11), Forwarded::Off);
        assert_eq!(shown(&request), "te: trailers | trailer: x-sum | via: 1.1 holdfast | x-three: 3 | x-three: 3b");
    }

    #[test]
    fn a_hop_is_added_replaces_what_stands_there_or_says_nothing() {
        let before = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https"), ("forwarded", "for=1.2.3.4")];
        let of = |forwarded, version| {
            let mut request = headers(&before);
            to_upstream(&mut request, &hop(version), forwarded);
            shown(&request)
        };
        assert_eq!(
            of(Forwarded::Append, Version::HTTP_11),
            "forwarded: for=1.2.3.4, for=10.0.0.7;host=\"shop.example\";proto=http | via: 1.1 holdfast | \
             x-forwarded-for: 1.2.3.4, 10.0.0.7 | x-forwarded-host: shop.example | x-forwarded-proto: https"
        );
        assert_eq!(
            of(Forwarded::Replace, Version::HTTP_2),
            "forwarded: for=10.0.0.7;host=\"shop.example\";proto=http | via: 2 holdfast | \
             x-forwarded-for: 10.0.0.7 | x-forwarded-host: shop.example | x-forwarded-proto: http"
        );
        assert_eq!(
            of(Forwarded::Off, Version::HTTP_10),
            "forwarded: for=1.2.3.4 | via: 1.0 holdfast | x-forwarded-for: 1.2.3.4 | x-forwarded-proto: https"
        );
    }

    #[test]
    fn what_the_gateway_says_nobody_else_does() {
        let mut request = headers(&[
            ("idempotency-key", "k"),
            ("idempotency-status", "executed"),
            ("idempotent-replayed", "true"),
            ("idempotency-expires", "x"),
            ("holdfast-fencing-token", "9"),
            ("x-holdfast", "1"),
        ]);
        remove_own(&mut request);
        assert_eq!(shown(&request), "idempotency-key: k | x-holdfast: 1");
    }

    #[test]
    fn a_request_has_one_host_and_one_length() {
        let of = |uri: &str, lines: &[(&'static str, &'static str)]| {
            checked(&uri.parse().expect("a target"), &headers(lines))
        };
        assert_eq!(of("/", &[("host", "a.example:80")]), Ok("a.example:80".to_owned()));
        assert_eq!(of("http://b.example/", &[("host", "a")]), Ok("b.example".to_owned()));
        for lines in [&[][..], &[("host", "")], &[("host", "a"), ("host", "a")], &[("host", "a b")], &[("host", "u@a")]]
        {
            assert_eq!(of("/", lines), Err(Refused::Host), "{lines:?}");
        }
        let both = [("host", "a"), ("content-length", "1"), ("transfer-encoding", "chunked")];
        let twice = [("host", "a"), ("content-length", "1"), ("content-length", "1")];
        assert_eq!([of("/", &both), of("/", &twice)], [Err(Refused::Length), Err(Refused::Length)]);
        assert_eq!(of("*", &[("host", "a")]), Err(Refused::Target));
    }

    #[test]
    fn a_websocket_is_asked_for_with_get_in_two_headers_and_nothing_else_is_switched_to() {
        let asks = |method: Method, lines: &[_]| asks_for_websocket(&method, &headers(lines));
        assert!(asks(Method::GET, &[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]));
        assert!(!asks(Method::POST, &[("connection", "upgrade"), ("upgrade", "websocket")]));
        assert!(!asks(Method::GET, &[("upgrade", "websocket")]));
        assert!(!asks(Method::GET, &[("connection", "upgrade")]));
        assert!(!asks(Method::GET, &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")]));
        assert!(!asks(Method::GET, &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")]));
    }
}
