//! What becomes of a request before the store is asked: decided from its headers and the rules.

use http::{HeaderMap, Method};

use super::date::imf_fixdate;
use super::key::{KeyLine, read_key};
use super::profile::{FIRST_SENT, Profile};
use super::refusal::Refusal;
use super::rules::{Rules, Stage};

/// A request that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Whether its method is one that is protected.
    pub method_is_protected: bool,
    /// When it arrived, in milliseconds since the Unix epoch: for the age that an OASIS request states itself. Nothing else
    /// is decided by it.
    pub now_unix_ms: u64,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It runs, as if there were no store.
    Pass,
    /// It runs, and what would have become of it is counted: the key that it has, or why it would have been refused.
    Observe(Box<Result<KeyLine, Refusal>>),
    /// It runs if the store grants its key.
    Protect(KeyLine),
    /// It does not run.
    Refuse(Refusal),
}

/// How far ahead the time of a first sending may be: a client's clock, and its zone.
const MOST_AHEAD_MS: u64 = 24 * 3_600_000;

/// What becomes of a request.
#[must_use]
pub fn admit(arrived: &Arrived<'_>, rules: &Rules) -> Admission {
    if rules.stage() == Stage::Off {
        return Admission::Pass;
    }
    let refusal = match decide(arrived, rules) {
        Ok(None) => return Admission::Pass,
        Ok(Some(key)) if rules.stage() == Stage::Observe => return Admission::Observe(Box::new(Ok(key))),
        Ok(Some(key)) => return Admission::Protect(key),
        Err(refusal) => refusal,
    };
    match rules.stage() {
        Stage::Off | Stage::Observe => Admission::Observe(Box::new(Err(refusal))),
        Stage::Optional | Stage::Required | Stage::Strict => Admission::Refuse(refusal),
    }
}

/// The key that a request is to be protected by, none if it is not, or why it is refused.
fn decide(arrived: &Arrived<'_>, rules: &Rules) -> Result<Option<KeyLine>, Refusal> {
    let Arrived { method, headers, method_is_protected, now_unix_ms } = *arrived;
    let name = rules.profile().key_header();
    if !method_is_protected {
        // Elsewhere a key on such a request means nothing. OASIS has a client be told that it does not.
        let unsupported = rules.profile() == Profile::Oasis && !method.is_safe() && headers.contains_key(&name);
        return if unsupported { Err(Refusal::Unsupported) } else { Ok(None) };
    }
    let key = read_key(headers, &name).map_err(|error| Refusal::KeyInvalid { detail: error.to_string() })?;
    if rules.profile() == Profile::Oasis {
        first_sent(headers, key.is_some(), now_unix_ms, rules)?;
    }
    match (key, rules.stage()) {
        (Some(key), _) => Ok(Some(key)),
        (None, Stage::Off | Stage::Optional) => Ok(None),
        (None, Stage::Observe | Stage::Required | Stage::Strict) => Err(Refusal::KeyMissing),
    }
}

/// Checks when an OASIS request says that it was first sent: with a key it must, and within what is remembered.
fn first_sent(headers: &HeaderMap, has_key: bool, now_unix_ms: u64, rules: &Rules) -> Result<(), Refusal> {
    let invalid = |detail: &str| Err(Refusal::KeyInvalid { detail: detail.to_owned() });
    let mut lines = headers.get_all(FIRST_SENT).iter();
    let line = match (lines.next(), lines.next(), has_key) {
        (None, _, false) => return Ok(()),
        (Some(line), None, true) => line,
        (None, _, true) => return invalid("repeatability-first-sent is missing: send it with the request's id"),
        (Some(_), _, false) => return invalid("repeatability-request-id is missing: send it with the time"),
        (Some(_), Some(_), true) => return invalid("repeatability-first-sent was sent more than once: send one time"),
    };
    let Some(sent_ms) = line.to_str().ok().and_then(imf_fixdate) else {
        return invalid("repeatability-first-sent is no date like Sun, 06 Nov 1994 08:49:37 GMT");
    };
    if sent_ms > now_unix_ms.saturating_add(MOST_AHEAD_MS) {
        return invalid("repeatability-first-sent is over 24 hours ahead: check the clock of the client");
    }
    let window_ms = u64::try_from(rules.window().as_millis()).unwrap_or(u64::MAX);
    match now_unix_ms.saturating_sub(sent_ms) > window_ms {
        true => Err(Refusal::KeyExpired),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::super::Severity;
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, and a minute later.
    const NOW_MS: u64 = 784_111_837_000;

    fn of(rules: &Rules, method: &Method, lines: &[(&'static str, &'static str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let method_is_protected = [Method::POST, Method::PATCH].contains(method);
        let arrived = Arrived { method, headers: &headers, method_is_protected, now_unix_ms: NOW_MS };
        match admit(&arrived, rules) {
            Admission::Pass => "passes".to_owned(),
            Admission::Protect(key) => format!("{} is protected", key.key),
            Admission::Refuse(refusal) => refusal.code().to_owned(),
            Admission::Observe(seen) => match *seen {
                Ok(key) => format!("{} is seen", key.key),
                Err(refusal) => format!("{} is seen", refusal.code()),
            },
        }
    }

    #[test]
    fn stages() {
        let key = ("idempotency-key", "k");
        let wrong = ("idempotency-key", "a b");
        for (stage, expected) in [
            (Stage::Off, ["passes", "passes", "passes", "passes"]),
            (Stage::Observe, ["key-missing is seen", "k is seen", "key-invalid is seen", "passes"]),
            (Stage::Optional, ["passes", "k is protected", "key-invalid", "passes"]),
            (Stage::Required, ["key-missing", "k is protected", "key-invalid", "passes"]),
            (Stage::Strict, ["key-missing", "k is protected", "key-invalid", "passes"]),
        ] {
            let rules = Rules::of(Severity::High).with_stage(stage);
            let post = |lines: &[_]| of(&rules, &Method::POST, lines);
            let got = [post(&[]), post(&[key]), post(&[wrong]), of(&rules, &Method::GET, &[key])];
            assert_eq!(got, expected, "{stage:?}");
            let twice = post(&[key, key]);
            assert_eq!(twice, post(&[wrong]), "{stage:?}: twice is invalid");
        }
    }

    #[test]
    fn an_oasis_request_says_when_it_was_first_sent() {
        let rules = Rules::of(Severity::Low).with_profile(Profile::Oasis);
        let id = ("repeatability-request-id", "7b7d");
        let at = |text| ("repeatability-first-sent", text);
        let sent = at("Sun, 06 Nov 1994 08:49:37 GMT");
        let post = |lines: &[_]| of(&rules, &Method::POST, lines);
        assert_eq!(post(&[]), "passes");
        assert_eq!(post(&[("idempotency-key", "k")]), "passes", "another profile's header");
        assert_eq!(post(&[id, sent]), "7b7d is protected");
        assert_eq!(post(&[id, at("Sun, 06 Nov 1994 07:50:38 GMT")]), "7b7d is protected", "just within the hour");
        assert_eq!(post(&[id, at("Sun, 06 Nov 1994 07:50:36 GMT")]), "key-expired");
        assert_eq!(post(&[id, at("Mon, 07 Nov 1994 08:50:37 GMT")]), "7b7d is protected", "a clock that is ahead");
        for lines in
            [&[id][..], &[sent], &[id, sent, sent], &[id, at("yesterday")], &[id, at("Mon, 07 Nov 1994 08:50:38 GMT")]]
        {
            assert_eq!(post(lines), "key-invalid", "{lines:?}");
        }
        assert_eq!(of(&rules, &Method::PUT, &[id, sent]), "repeatability-unsupported");
        assert_eq!(of(&rules, &Method::PUT, &[]), "passes");
        assert_eq!(of(&rules, &Method::GET, &[id, sent]), "passes", "it is safe to repeat");
        let off = rules.with_stage(Stage::Off);
        assert_eq!(of(&off, &Method::PUT, &[id, sent]), "passes");
    }
}
