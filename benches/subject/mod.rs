//! What the benchmarks work on: one key's usual life, with names and sizes as they are in use.

use holdfast::ids::{Digest, EndpointName, Epoch, FencingToken, Fingerprint, Nonce};
use holdfast::policy::Severity;
use holdfast::reservation::command::{Complete, Doubt, KeyFacts, Reserve};
use holdfast::reservation::{Command, Context, Kind, Record, decide};
use holdfast::time::LogTime;

/// The grant that the benchmarks' commands name.
pub(crate) const TOKEN: FencingToken = FencingToken { epoch: Epoch::FIRST, sequence: 1_234_567 };

/// The endpoint contract's name.
pub(crate) fn endpoint() -> EndpointName {
    EndpointName::parse("POST /v1/charges").expect("the endpoint is valid")
}

/// The request.
pub(crate) fn fingerprint() -> Fingerprint {
    Fingerprint { version: 1, selection: 1, digest: Box::from([0x5a; 32]) }
}

/// The entry's context, at the stream position that [`TOKEN`] has.
pub(crate) fn context() -> Context {
    Context {
        open_epoch: Some(Epoch::FIRST),
        next_position: TOKEN.sequence,
        now: LogTime::from_unix_ms(1_760_000_000_000),
        key: KeyFacts { mint_epoch: Epoch::FIRST, time_ms: Some(1_759_999_999_000) },
        horizon_ms: None,
    }
}

/// Asks to execute.
pub(crate) fn reserve() -> Command {
    Command {
        epoch: Epoch::FIRST,
        kind: Kind::Reserve(Box::new(Reserve {
            fingerprint: fingerprint(),
            endpoint: endpoint(),
            terms: Severity::High.terms(),
            nonce: nonce(),
            doubt: Doubt::Settled,
            known: None,
        })),
    }
}

/// Completes the grant.
pub(crate) fn complete() -> Command {
    Command {
        epoch: Epoch::FIRST,
        kind: Kind::Complete(Box::new(Complete {
            token: TOKEN,
            fingerprint: fingerprint(),
            endpoint: endpoint(),
            nonce: nonce(),
            terms: Severity::High.terms(),
            envelope: Digest([7; 32]),
            retention_ms: None,
        })),
    }
}

/// The record as the grant leaves it.
pub(crate) fn held() -> Record {
    decide(None, &reserve(), &context()).record.expect("a fresh key is granted")
}

/// The record as the completion leaves it.
pub(crate) fn completed() -> Record {
    decide(Some(&held()), &complete(), &context()).record.expect("a held key is completed")
}

/// The attempt's random name.
pub(crate) fn nonce() -> Option<Nonce> {
    Some(Nonce::parse(&[9; 16]).expect("the nonce is valid"))
}
