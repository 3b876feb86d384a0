//! What idempotency means in HTTP and gRPC: which requests are protected, what is stored of a response, and how each answer
//! looks on the wire. The layer and the gateway are made of it.
//!
//! * [`Rules`]: what holds for an endpoint, with the defaults of each severity; [`Profile`]: whose conventions clients know.
//! * [`admit`]: what becomes of a request before anybody is asked.
//! * [`request_digest`]: what it is compared by.
//! * [`fate`]: whether a response is stored; [`store`] and [`open`]: how, and how it comes back.
//! * [`Mark`]: the headers of an answer that has the application's response in it; [`Refusal`]: every answer that has not.
//!
//! Pure: no clock, no randomness, no input or output. Deliberately absent: who asks the store and runs the request (the
//! layer), and the failures of nodes, which clients of a layer never see.

mod admit;
mod compared;
mod date;
mod fate;
mod key;
mod mark;
mod profile;
mod refusal;
mod rules;
mod stored;

pub mod grpc;

pub use self::admit::{Admission, Arrived, admit};
pub use self::compared::{Compared, described_headers, request_digest};
pub use self::fate::{Fate, Grace, TriedBefore, fate, grpc_fate};
pub use self::key::{KeyHeaderError, KeyLine, read_key};
pub use self::mark::{FENCING_TOKEN, Mark, Status};
pub use self::profile::{InFlight, Profile};
pub use self::refusal::{About, Answer, Facts, Limit, Quota, Refusal};
pub use self::rules::{
    DEFAULT_HEADERS, DEFAULT_SKIPPED, FailMode, MAX_BODY_BYTES, NEVER_STORED, OnFailure, OnLapse, Rules, RulesError,
    Severity, Stage, is_never_stored,
};
pub use self::stored::{Response, Stored, Unavailable, open, store, store_outcome};

/// The longest name that an endpoint may have, in bytes.
const MAX_ENDPOINT_BYTES: usize = 256;

/// The default name of an endpoint: method and path, without the query. What is too long, or not printable ASCII, is cut and
/// told apart by a digest of the whole.
#[must_use]
pub fn endpoint_name(method: &str, path: &str) -> String {
    let name = format!("{method} {path}");
    if name.len() <= MAX_ENDPOINT_BYTES && name.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return name;
    }
    const KEPT: usize = 180;
    let digest = hex(&sha256(name.as_bytes()));
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    let mut cut: String = name.chars().map(printable).take(KEPT).collect();
    cut.push('#');
    cut.push_str(&digest);
    cut
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}

/// Bytes in lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A duration in whole seconds, never less than it is.
fn seconds_up(ms: u64) -> u64 {
    ms.div_ceil(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_called_by_method_and_path_and_always_a_valid_name() {
        assert_eq!(endpoint_name("POST", "/v1/charges"), "POST /v1/charges");
        let (one, other) = ("/ä".repeat(300), format!("{}b", "/ä".repeat(300)));
        let names = [endpoint_name("POST", &one), endpoint_name("POST", &other), endpoint_name("POST", "/ä")];
        for name in &names {
            assert!(
                name.len() <= MAX_ENDPOINT_BYTES && name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
            );
        }
        assert!(names[0] != names[1], "the whole path counts");
    }
}
