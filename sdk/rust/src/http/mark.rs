//! The headers of an answer that has the application's response in it: what was done with the key, and for how long.

use core::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::date::rfc3339;
use super::key::KeyLine;
use super::profile::{Profile, RESULT};
use super::stored::Unavailable;

/// What a request to an effect's target bears: the fencing token of the grant that it is executed under, as
/// [`FencingToken`](crate::client::FencingToken) writes it.
pub const FENCING_TOKEN: HeaderName = HeaderName::from_static("holdfast-fencing-token");

/// What was done, as the header `Idempotency-Status` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The request was executed just now, and its outcome is stored.
    Executed,
    /// The request was executed before: this is its response.
    Replayed,
    /// The request was executed just now, and its response is not stored: a retry runs it again.
    Released,
    /// The request was executed just now, its response is not stored, and its key is held as one whose outcome is unknown.
    Unknown,
    /// The request was executed just now, and the store could not be told in time. It is told later if it can be.
    Unrecorded,
    /// The store was not there, and the request was executed without it.
    Unprotected,
}

/// What an answer says of its key.
#[derive(Clone, Debug)]
pub struct Mark<'a> {
    /// What was done.
    pub status: Status,
    /// The key, as it was sent.
    pub key: &'a KeyLine,
    /// Whose conventions hold.
    pub profile: Profile,
    /// When the record may go, in milliseconds since the Unix epoch, where there is one that ended.
    pub expires_at_unix_ms: Option<u64>,
    /// `<home>/<partition>=<epoch>`, where the store said it.
    pub epoch: Option<&'a str>,
    /// Why a retry will not get this response.
    pub unavailable: Option<Unavailable>,
}

pub(super) const EPOCH: HeaderName = HeaderName::from_static("holdfast-epoch");
const STATUS: HeaderName = HeaderName::from_static("idempotency-status");
const EXPIRES: HeaderName = HeaderName::from_static("idempotency-expires");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const UNAVAILABLE: HeaderName = HeaderName::from_static("idempotency-replay-unavailable");

impl Status {
    /// The header's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Replayed => "replayed",
            Self::Released => "released",
            Self::Unknown => "unknown",
            Self::Unrecorded => "unrecorded",
            Self::Unprotected => "unprotected",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Mark<'_> {
    /// Writes the headers, in place of whatever the application said under their names.
    pub fn write(&self, headers: &mut HeaderMap) {
        for name in [EXPIRES, REPLAYED, UNAVAILABLE, EPOCH, RESULT] {
            headers.remove(name);
        }
        headers.insert(STATUS, HeaderValue::from_static(self.status.as_str()));
        let protected = match self.status {
            Status::Executed | Status::Replayed | Status::Released | Status::Unknown | Status::Unrecorded => true,
            Status::Unprotected => false,
        };
        if !protected {
            return;
        }
        headers.insert(self.profile.key_header(), self.key.line.clone());
        if self.status == Status::Replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        if let Some(expires) = self.expires_at_unix_ms.and_then(|at| HeaderValue::try_from(rfc3339(at)).ok()) {
            headers.insert(EXPIRES, expires);
        }
        if let Some(epoch) = self.epoch.and_then(|epoch| HeaderValue::try_from(epoch).ok()) {
            headers.insert(EPOCH, epoch);
        }
        if let Some(why) = self.unavailable {
            headers.insert(UNAVAILABLE, HeaderValue::from_static(why.as_str()));
        }
        if self.profile == Profile::Oasis {
            headers.insert(RESULT, HeaderValue::from_static("accepted"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_key;
    use super::*;

    /// What an answer says, sorted; the application had said some of it before.
    fn shown(status: Status, profile: Profile, unavailable: Option<Unavailable>) -> String {
        let name = profile.key_header();
        let sent = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("\"k\""))]);
        let key = read_key(&sent, &name).ok().flatten().expect("a key");
        let mut headers = HeaderMap::new();
        for forged in [STATUS, REPLAYED, EXPIRES, UNAVAILABLE, EPOCH, RESULT] {
            headers.append(forged.clone(), HeaderValue::from_static("forged"));
            headers.append(forged, HeaderValue::from_static("twice"));
        }
        let expires_at_unix_ms = (status == Status::Executed || status == Status::Replayed).then_some(784_111_777_123);
        Mark { status, key: &key, profile, expires_at_unix_ms, epoch: Some("eu/3=7"), unavailable }.write(&mut headers);
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("ascii"))).collect();
        lines.sort();
        lines.join(" | ")
    }

    #[test]
    fn answers_say_what_was_done_and_for_how_long() {
        let executed = shown(Status::Executed, Profile::Default, None);
        assert_eq!(
            executed,
            "holdfast-epoch: eu/3=7 | idempotency-expires: 1994-11-06T08:49:37Z | idempotency-key: \"k\" | \
             idempotency-status: executed"
        );
        assert_eq!(
            shown(Status::Replayed, Profile::Default, None),
            executed.replace("executed", "replayed") + " | idempotent-replayed: true"
        );
        assert_eq!(
            shown(Status::Executed, Profile::Oasis, None),
            executed.replace(" | idempotency-key: \"k\"", "")
                + " | repeatability-request-id: \"k\" | repeatability-result: accepted"
        );
        assert_eq!(
            shown(Status::Executed, Profile::Ietf, Some(Unavailable::SizeExceeded)),
            executed
                .replace("idempotency-status", "idempotency-replay-unavailable: size-exceeded | idempotency-status")
        );
        let unended = "holdfast-epoch: eu/3=7 | idempotency-key: \"k\" | idempotency-status: ";
        for status in [Status::Released, Status::Unknown, Status::Unrecorded] {
            assert_eq!(shown(status, Profile::Stripe, None), format!("{unended}{status}"));
        }
        assert_eq!(shown(Status::Unprotected, Profile::Oasis, None), "idempotency-status: unprotected");
    }
}
