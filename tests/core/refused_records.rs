//! What is no valid record is refused when it is read: a damaged one must neither answer, nor pass for a new key.

use holdfast::codec::{CodecError, record};
use holdfast::ids::Digest;
use holdfast::reservation::record::{Attempt, Phase, Record};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

use crate::samples;

const NO_ATTEMPTS: &str = "attempts: there is none";
const ORDER: &str = "attempts: their tokens do not ascend";
const FINGERPRINT: &str = "fingerprint: its digest is empty";
const NO_ENVELOPES: &str = "envelopes: a completed attempt has none";
const ANSWER: &str = "answer: its attempt did not complete with its envelope";

/// What reading a record's bytes refuses, if it does.
///
/// # Panics
/// When the record is read as another, or is refused for what is no field.
fn refused(value: &Record) -> Option<&'static str> {
    match record::decode(&record::encode(value)) {
        Ok(read) => {
            assert_eq!(read, *value, "a record is read as it was written");
            None
        }
        Err(CodecError::Field { what: "a record", field }) => Some(field),
        Err(other) => panic!("{other} is not about a field"),
    }
}

fn broken(how: impl Fn(&mut Record)) -> Option<&'static str> {
    let mut value = samples::full_record();
    how(&mut value);
    refused(&value)
}

fn completed(envelopes: Vec<Digest>) -> Phase {
    Phase::Completed { envelopes, late: false }
}

fn first(value: &mut Record) -> &mut Attempt {
    value.attempts.first_mut().expect("the sample has attempts")
}

#[test]
fn what_is_valid_is_read() {
    assert_eq!(refused(&samples::full_record()), None);
    assert_eq!(refused(&samples::minimal_record()), None);
}

#[test]
fn a_record_has_attempts_in_the_order_of_their_tokens() {
    assert_eq!(broken(|value| value.attempts.clear()), Some(NO_ATTEMPTS));
    assert_eq!(broken(|value| value.attempts.reverse()), Some(ORDER));
    let twice = broken(|value| {
        let again = first(value).clone();
        value.attempts.insert(1, again);
    });
    assert_eq!(twice, Some(ORDER), "a token has one attempt");
}

#[test]
fn a_completed_attempt_has_envelopes() {
    assert_eq!(broken(|value| first(value).phase = completed(Vec::new())), Some(NO_ENVELOPES));
}

#[test]
fn an_answer_is_of_an_attempt_that_completed_with_it() {
    let Some(answer) = samples::full_record().answer else { panic!("the sample is answered") };
    assert_eq!(broken(|value| value.attempts = value.attempts.split_off(1)), Some(ANSWER), "its attempt is gone");
    assert_eq!(broken(|value| first(value).phase = Phase::Lapsed), Some(ANSWER), "its attempt is not completed");
    assert_eq!(broken(|value| first(value).phase = completed(vec![Digest([9; 32])])), Some(ANSWER), "another envelope");
    // The second attempt has the envelope too. The answer is of the first.
    let elsewhere = broken(|value| {
        first(value).phase = completed(vec![Digest([9; 32])]);
        if let Some(second) = value.attempts.get_mut(1) {
            second.phase = completed(vec![answer.envelope]);
        }
    });
    assert_eq!(elsewhere, Some(ANSWER), "the envelope is of another attempt");
}

#[test]
fn a_fingerprint_has_a_digest() {
    assert_eq!(broken(|value| first(value).fingerprint.digest = Box::default()), Some(FINGERPRINT));
}

/// A list of attempts with some left out, swapped, made again or emptied.
fn shuffled() -> impl Strategy<Value = Record> {
    let change = (0_u8..5, any::<Index>(), any::<Index>());
    prop::collection::vec(change, 0..4).prop_map(|changes| {
        let mut value = samples::full_record();
        for (how, one, other) in changes {
            let attempts = &mut value.attempts;
            if attempts.is_empty() {
                continue;
            }
            let (one, other) = (one.index(attempts.len()), other.index(attempts.len()));
            match how {
                0 => drop(attempts.remove(one)),
                1 => attempts.swap(one, other),
                2 => attempts.insert(other, attempts.get(one).expect("an index within").clone()),
                3 => attempts.get_mut(one).expect("an index within").phase = completed(Vec::new()),
                _ => attempts.get_mut(one).expect("an index within").fingerprint.digest = Box::default(),
            }
        }
        value
    })
}

/// The rules once more, each as a question.
fn breaks(value: &Record) -> Vec<&'static str> {
    let pairs = value.attempts.iter().zip(value.attempts.iter().skip(1));
    let completed = value.attempts.iter().filter_map(|attempt| match &attempt.phase {
        Phase::Completed { envelopes, .. } => Some((attempt.token, envelopes)),
        Phase::Held { .. } | Phase::Lapsed | Phase::Released => None,
    });
    let completed: Vec<_> = completed.collect();
    let told = |token, envelope| completed.iter().any(|(of, has)| *of == token && has.contains(&envelope));
    let rules = [
        (NO_ATTEMPTS, value.attempts.is_empty()),
        (ORDER, pairs.into_iter().any(|(one, next)| one.token >= next.token)),
        (FINGERPRINT, value.attempts.iter().any(|attempt| attempt.fingerprint.digest.is_empty())),
        (NO_ENVELOPES, completed.iter().any(|(_, envelopes)| envelopes.is_empty())),
        (ANSWER, value.answer.is_some_and(|answer| !told(answer.token, answer.envelope))),
    ];
    rules.into_iter().filter(|(_, broken)| *broken).map(|(rule, _)| rule).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    /// Refused for a rule that is broken, and for none otherwise.
    #[test]
    fn only_what_breaks_a_rule_is_refused(value in shuffled()) {
        let broken = breaks(&value);
        match refused(&value) {
            Some(field) => prop_assert!(broken.contains(&field), "{} is not among {:?}", field, broken),
            None => prop_assert!(broken.is_empty(), "{:?} goes by", broken),
        }
    }

    /// Whatever damage still reads as a record, it is a valid one.
    #[test]
    fn damage_is_refused_or_valid(changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6)) {
        let mut bytes = record::encode(&samples::full_record());
        let length = bytes.len();
        for (at, byte) in changes {
            if let Some(there) = bytes.get_mut(at.index(length)) {
                *there = byte;
            }
        }
        if let Ok(value) = record::decode(&bytes) {
            prop_assert!(breaks(&value).is_empty());
        }
    }
}
