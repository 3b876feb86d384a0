//! The gateway's settings: the fields below are the names in its file (TOML) and the rows of docs/reference/gateway.md.
//!
//! What is left out has the default here; what is left out of a route's protection is the store's policy's to say.

use std::net::SocketAddr;

use super::check;
use super::hygiene::Forwarded;
use crate::policy::{FailMode, Stage};
use crate::time::Span;

/// What a gateway starts with.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address and port for clients. Port 0 takes a free one
    #[schemars(with = "String")]
    pub listen: SocketAddr,

    /// Address and port of `/healthz` and `/metrics`. Port 0 takes a free one
    #[schemars(with = "String")]
    pub admin_listen: SocketAddr,

    /// The store's nodes, as `HOST:PORT`. One is enough to find the others; several are needed to find one that works
    pub nodes: Vec<String>,

    /// Whose keys they are
    pub tenant: String,

    /// The methods whose requests are protected; others pass
    pub protect: Vec<String>,

    /// How often the store is asked for its policies
    pub policies_every: Span,

    /// Where the pages of the error codes are, up to the code: `type` of problems is made of it
    pub pages: String,

    /// How a request to an upstream says who it came from
    pub forwarded: Forwarded,

    /// Whether an upstream is told of the execution: key, fencing token, attempt, correlation and trace
    pub propagate: bool,

    /// Connections of clients at a time. One more is closed at once
    pub max_connections: usize,

    /// Bytes of the bodies of protected requests that are held at a time, of all of them together. One that finds no room is refused
    pub max_held_bytes: usize,

    /// WebSockets that are open at a time. One more is refused. They do not count among a route's `max_in_flight`
    pub max_tunnels: usize,

    /// How long a body, of a request or a response, may be silent. A response of type `text/event-stream` may be for ever
    pub body_idle: Span,

    /// How long a connection to an upstream may take to be made
    pub connect_timeout: Span,

    /// How long a connection to an upstream is kept without use. Less than the upstream keeps it, or it is closed while a
    /// request is on its way
    pub idle_timeout: Span,

    /// Connections to one address of an upstream that are kept without use
    pub max_idle: usize,

    /// How often the health of upstreams is asked for, where a route has a `health_path`
    pub health_every: Span,

    /// How long requests in flight get at a shutdown
    pub drain: Span,

    /// How long, after that, what is executed for callers that have gone gets, and outcomes that the store has not heard. What is
    /// still open then is counted in the log; leases run out, and the policy says what follows
    pub settle: Span,

    /// The routes. The most specific path that fits is taken
    pub route: Vec<RouteSettings>,
}

/// Where requests go, and how they are protected.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSettings {
    /// The path, with `{name}` for a segment and `{*name}` for all that is left, as in `/v1/accounts/{id}/charges`
    pub path: String,

    /// The methods; every one if left out
    pub methods: Option<Vec<String>>,

    /// The host that the request names, without a port; every one if left out
    pub host: Option<String>,

    /// Where it goes, as `http://HOST:PORT`. Of several addresses each has its turn
    pub upstream: Vec<String>,

    /// Whether the upstream is spoken to in HTTP/2 (with prior knowledge)
    #[serde(default)]
    pub http2: bool,

    /// Whether the upstream gets the host that the client sent. In HTTP/2 it gets its own in any case
    #[serde(default = "yes")]
    pub keep_host: bool,

    /// How long the upstream may take to begin its answer
    #[serde(default = "upstream_timeout")]
    pub upstream_timeout: Span,

    /// How long the key of a request that timed out or broke off is kept from being executed again: the upstream may still be at
    /// work. As long as `upstream_timeout` if left out, and never beyond the end of `work_limit`
    pub grace: Option<Span>,

    /// Requests at a time that the upstream gets
    #[serde(default = "max_in_flight")]
    pub max_in_flight: usize,

    /// Path that answers 2xx at each address that is well. It is not asked for if left out
    pub health_path: Option<String>,

    /// Whether the upstream does a request once however often it comes. Then it is sent again after 502, 503, 504 and a
    /// broken connection
    #[serde(default)]
    pub upstream_idempotent: bool,

    /// Retries to the upstream
    #[serde(default)]
    pub retry: RetrySettings,

    /// The endpoint's name, by which policies find it. Method and `path` if left out
    pub endpoint: Option<String>,

    /// Whether the endpoint's name is the request's own path, with `{id}` for what looks like an identifier
    #[serde(default)]
    pub endpoint_by_path: bool,

    /// Whose conventions clients know: `default`, `ietf`, `stripe` or `oasis`
    #[serde(default)]
    pub profile: ProfileName,

    /// How far the rollout is: `off`, `observe`, `optional`, `required` or `strict`
    pub stage: Option<Stage>,

    /// What becomes of a request while the store is not there: `open` or `closed`
    pub fail: Option<FailMode>,

    /// What becomes of a key whose upstream answered 5xx: `release` or `lapse`. As the policy's `on_lapse` has it if left out
    pub on_failure: Option<OnFailureName>,

    /// What a caller is told whose key is being executed: `conflict` (409) or `locked` (423)
    #[serde(default)]
    pub in_flight: InFlightName,

    /// How long an attempt may be silent before its grant lapses
    pub lease: Option<Span>,

    /// How long an answer is kept
    pub retention: Option<Span>,

    /// How long a request waits for an attempt of its key that runs elsewhere
    pub wait: Option<Span>,

    /// How long a lease is kept alive while the upstream works
    pub work_limit: Option<Span>,

    /// The statuses that are stored: classes such as `2xx`, or single ones
    pub statuses: Option<Vec<String>>,

    /// The headers that are stored
    pub headers: Option<Vec<String>>,

    /// Bytes of a request's body that is compared whole, up to 1048576
    pub max_request_bytes: Option<usize>,

    /// Bytes of the largest response body that is stored, up to 1048576
    pub max_response_bytes: Option<usize>,
}

/// Retries to an upstream.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetrySettings {
    /// Tries of one request, the first included
    pub attempts: u32,
    /// The first pause is at random up to this; each further one up to twice as much
    pub base: Span,
    /// No pause is longer
    pub cap: Span,
    /// Retries for each first try
    pub budget_ratio: f64,
    /// Retries a second that are there whatever the load is
    pub budget_per_second: f64,
    /// The longest `Retry-After` of the upstream that is waited for
    pub max_retry_after: Span,
}

/// Whose conventions clients know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProfileName {
    /// Ours.
    #[default]
    Default,
    /// draft-ietf-httpapi-idempotency-key-header.
    Ietf,
    /// Stripe's.
    Stripe,
    /// OASIS Repeatable Requests 1.0.
    Oasis,
}

/// What a caller is told whose key is being executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InFlightName {
    /// 409.
    #[default]
    Conflict,
    /// 423.
    Locked,
}

/// What becomes of a key whose upstream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailureName {
    /// It is given back.
    Release,
    /// Its lease runs out.
    Lapse,
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

const fn yes() -> bool {
    true
}

const fn upstream_timeout() -> Span {
    Span::from_ms(60_000)
}

const fn max_in_flight() -> usize {
    1_024
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8_080)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9_464)),
            nodes: vec!["127.0.0.1:7400".to_owned()],
            tenant: "default".to_owned(),
            protect: vec!["POST".to_owned(), "PATCH".to_owned()],
            policies_every: Span::from_ms(5_000),
            pages: "/errors/".to_owned(),
            forwarded: Forwarded::default(),
            propagate: true,
            max_connections: crate::limits::MAX_CONNECTIONS,
            max_held_bytes: 256 * 1024 * 1024,
            max_tunnels: 1_024,
            body_idle: Span::from_ms(60_000),
            connect_timeout: Span::from_ms(2_000),
            idle_timeout: Span::from_ms(15_000),
            max_idle: 64,
            health_every: Span::from_ms(5_000),
            drain: Span::from_ms(crate::limits::DEFAULT_DRAIN_MS),
            settle: Span::from_ms(10_000),
            route: Vec::new(),
        }
    }
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: 3,
            base: Span::from_ms(50),
            cap: Span::from_ms(1_000),
            budget_ratio: 0.1,
            budget_per_second: 1.0,
            max_retry_after: Span::from_ms(2_000),
        }
    }
}

impl Settings {
    /// Reads a settings file's text; `name` is for the message.
    ///
    /// # Errors
    /// When it is not TOML, or a name or a value has no meaning.
    pub fn parse(name: &str, text: &str) -> Result<Self, Wrong> {
        let settings = toml::from_str(text).map_err(|error| {
            let before = text.bytes().take(error.span().map_or(0, |span| span.start));
            let number = before.filter(|byte| *byte == b'\n').count();
            // Some errors do not say which setting they are about.
            let line = text.lines().nth(number).map(str::trim).unwrap_or_default();
            Wrong(format!("{name}:{}: {} ({line})", number.saturating_add(1), error.message()))
        })?;
        check::check(&settings).map_err(|Wrong(why)| Wrong(format!("{name}: {why}")))?;
        Ok(settings)
    }

    /// A gateway without configuration: everything goes to these addresses.
    #[must_use]
    pub fn catch_all(upstream: Vec<String>) -> Self {
        let route = RouteSettings { endpoint_by_path: true, ..RouteSettings::to("/{*path}", upstream) };
        Self { route: vec![route], ..Self::default() }
    }

    /// The settings that a running gateway does not take from a changed file, where the two differ.
    #[must_use]
    pub fn fixed(&self, new: &Self) -> Vec<&'static str> {
        let differ = [
            ("listen", self.listen != new.listen),
            ("admin_listen", self.admin_listen != new.admin_listen),
            ("nodes", self.nodes != new.nodes),
            ("tenant", self.tenant != new.tenant),
            ("protect", self.protect != new.protect),
            ("pages", self.pages != new.pages),
            ("max_connections", self.max_connections != new.max_connections),
            ("max_held_bytes", self.max_held_bytes != new.max_held_bytes),
            ("max_tunnels", self.max_tunnels != new.max_tunnels),
            ("connect_timeout", self.connect_timeout != new.connect_timeout),
            ("idle_timeout", self.idle_timeout != new.idle_timeout),
            ("max_idle", self.max_idle != new.max_idle),
            ("drain", self.drain != new.drain),
            ("settle", self.settle != new.settle),
        ];
        differ.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

impl RouteSettings {
    /// A route with every default.
    #[must_use]
    pub fn to(path: &str, upstream: Vec<String>) -> Self {
        Self {
            path: path.to_owned(),
            methods: None,
            host: None,
            upstream,
            http2: false,
            keep_host: true,
            upstream_timeout: upstream_timeout(),
            grace: None,
            max_in_flight: max_in_flight(),
            health_path: None,
            upstream_idempotent: false,
            retry: RetrySettings::default(),
            endpoint: None,
            endpoint_by_path: false,
            profile: ProfileName::default(),
            stage: None,
            fail: None,
            on_failure: None,
            in_flight: InFlightName::default(),
            lease: None,
            retention: None,
            wait: None,
            work_limit: None,
            statuses: None,
            headers: None,
            max_request_bytes: None,
            max_response_bytes: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_in_a_file_has_the_defaults() {
        let text = "[[route]]\npath = \"/a\"\nupstream = [\"http://127.0.0.1:1\"]\n";
        let settings = Settings::parse("f", text).expect("settings");
        let route = RouteSettings::to("/a", vec!["http://127.0.0.1:1".to_owned()]);
        assert_eq!(settings, Settings { route: vec![route], ..Settings::default() });
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_line() {
        for (text, expected) in [
            ("listen = \"nope\"", "f:1: invalid socket address syntax (listen = \"nope\")"),
            ("\nlisten_on = \"127.0.0.1:1\"", "f:2: unknown field `listen_on`"),
            ("[[route]]\nupstream = []", "missing field `path`"),
            ("[[route]]\npath = \"/\"\nupstream = []\nstage = \"on\"", "f:4: unknown variant `on`"),
            ("policies_every = \"5\"", "has no unit"),
        ] {
            let message = Settings::parse("f", text).err().map(|wrong| wrong.to_string()).unwrap_or_default();
            assert!(message.contains(expected) && !message.contains('\n'), "{text}: {message}");
        }
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = Settings::default();
        let mut new = old.clone();
        new.policies_every = Span::from_ms(1);
        new.route.push(RouteSettings::to("/", Vec::new()));
        assert!(old.fixed(&new).is_empty());
        new.tenant = "other".to_owned();
        assert_eq!(old.fixed(&new), ["tenant"]);
    }
}
