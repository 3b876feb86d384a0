//! What becomes of a key when its request was executed and answered: decided from the answer's status and the rules.

use core::time::Duration;

use http::StatusCode;
use tonic::Code;

use super::grpc;
use super::rules::{OnFailure, Rules};

/// What becomes of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The response is stored: every retry gets it.
    Stored,
    /// The key is given back: a retry runs the request.
    Released,
    /// The lease runs out: what follows is what the store's policy says of a lapse.
    Lapses,
}

/// Said by the application among a response's extensions: an earlier try of the same request may have been executed, whatever
/// this response says. So the key is never given back; where it would be, its lease runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriedBefore;

/// Said by the application among a response's extensions, beside [`Fate::Lapses`] or [`TriedBefore`]: what it asked for may
/// still be done somewhere, for so long. The lease is made to last as long, so that no retry runs beside it. A response that breaks
/// off is followed by the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace(pub Duration);

/// The fate of a key whose request was answered with this status.
///
/// A refusal that is not stored (4xx) says that nothing was done, so the key is given back. A failure (5xx) does not say
/// that: the rules decide. Neither does anything below 400 that the rules do not store: it lapses.
#[must_use]
pub fn fate(status: StatusCode, rules: &Rules) -> Fate {
    if rules.stores_status(status) {
        return Fate::Stored;
    }
    match status.as_u16() {
        400..=499 => Fate::Released,
        500..=599 => failed(rules),
        _ => Fate::Lapses,
    }
}

/// The fate of a key whose call ended with this gRPC code.
#[must_use]
pub fn grpc_fate(code: Code, rules: &Rules) -> Fate {
    grpc::fate_of(code).unwrap_or_else(|| match rules.profile().stores_failures() {
        true => Fate::Stored,
        false => failed(rules),
    })
}

fn failed(rules: &Rules) -> Fate {
    match rules.on_failure() {
        OnFailure::Release => Fate::Released,
        OnFailure::Lapse => Fate::Lapses,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Profile, Severity};
    use super::*;

    fn of(status: u16, rules: &Rules) -> Fate {
        fate(StatusCode::from_u16(status).expect("a status"), rules)
    }

    #[test]
    fn refusals_are_given_back_and_failures_follow_the_rules() {
        let (critical, high) = (Rules::of(Severity::Critical), Rules::of(Severity::High));
        for rules in [&critical, &high] {
            for status in [200, 201, 204, 302, 304, 400, 402, 404, 422, 451] {
                assert_eq!(of(status, rules), Fate::Stored, "{status}");
            }
            for status in [401, 403, 408, 409, 425, 429] {
                assert_eq!(of(status, rules), Fate::Released, "{status}");
            }
        }
        for status in [500, 502, 503, 504, 599] {
            assert_eq!(of(status, &critical), Fate::Lapses, "{status}");
            assert_eq!(of(status, &high), Fate::Released, "{status}");
            assert_eq!(of(status, &critical.clone().with_profile(Profile::Stripe)), Fate::Stored, "{status}");
        }
    }

    #[test]
    fn a_success_that_is_not_stored_is_never_run_again_as_if_nothing_had_happened() {
        let rules = Rules::of(Severity::High).with_statuses([404]);
        assert_eq!([of(200, &rules), of(302, &rules), of(404, &rules)], [Fate::Lapses, Fate::Lapses, Fate::Stored]);
    }

    #[test]
    fn every_grpc_code_has_a_fate() {
        let (critical, high) = (Rules::of(Severity::Critical), Rules::of(Severity::High));
        let stripe = high.clone().with_profile(Profile::Stripe);
        let of = |rules: &Rules| -> String {
            (0..=16)
                .map(|code| match grpc_fate(Code::from_i32(code), rules) {
                    Fate::Stored => 's',
                    Fate::Released => 'r',
                    Fate::Lapses => 'l',
                })
                .collect()
        };
        // From OK to UNAUTHENTICATED, in the order of their numbers.
        assert_eq!(of(&critical), "sllslssrrsrsrlllr");
        assert_eq!(of(&high), "srrsrssrrsrsrrrrr");
        assert_eq!(of(&stripe), "sssssssrrsrsrsssr");
    }
}
