//! The checker proves itself: a right history passes, and one planted bug a check does not.

use super::{Rule, check};
use crate::history::{
    Answer, Call, Checkpoint, Envelope, History, KeyId, Nonce, OnLapse, Op, Recorded, Request, Token,
};

mod region;

const MS: u64 = 1_000_000;
const LEASE_MS: u32 = 30_000;
const SHORT_MS: u32 = 200;

/// A history of one key, its calls one after another unless a test says otherwise. Times in milliseconds.
#[derive(Clone, Default)]
struct Forged {
    history: History,
    now_ms: u64,
    node: u64,
}

impl Forged {
    fn call(&mut self, call: Call, answer: Answer) -> &mut Self {
        let from = self.now_ms + 1;
        self.between(from, from + 1, call, answer)
    }

    fn between(&mut self, from_ms: u64, to_ms: u64, call: Call, answer: Answer) -> &mut Self {
        let (invoked_ns, returned_ns) = (from_ms * MS, to_ms * MS);
        let op =
            Op { key: KeyId(1), call, answer, invoked_ns, returned_ns, node: self.node, seen: None, position: None };
        self.history.ops.push(op);
        self.now_ms = self.now_ms.max(to_ms);
        self
    }

    /// What follows is asked of that node.
    fn on(&mut self, node: u64) -> &mut Self {
        self.node = node;
        self
    }

    /// The last call was to be no older than one position, and was answered at the other.
    fn seen(&mut self, seen: u64, position: u64) -> &mut Self {
        if let Some(op) = self.history.ops.last_mut() {
            (op.seen, op.position) = (Some(seen), Some(position));
        }
        self
    }

    /// The same, had no refusal been called definite.
    fn with_unknown_for_refused(mut self) -> Self {
        for op in self.history.ops.iter_mut().filter(|op| op.answer == Answer::Refused) {
            op.answer = Answer::Unknown;
        }
        self
    }

    fn pass(&mut self, ms: u64) -> &mut Self {
        self.now_ms += ms;
        self
    }

    fn death(&mut self) -> &mut Self {
        self.now_ms += 1;
        self.history.deaths_ns.push(self.now_ms * MS);
        self
    }

    #[track_caller]
    fn passes(&self, on_lapse: OnLapse) {
        let found = check(&self.history, on_lapse);
        assert!(found.is_empty(), "a right history was refused: {found:?}");
    }

    #[track_caller]
    fn breaks(&self, on_lapse: OnLapse, rule: Rule) {
        let found = check(&self.history, on_lapse);
        assert!(found.iter().any(|violation| violation.rule == rule), "{rule:?} was not found, but {found:?}");
    }
}

fn token(sequence: u64) -> Token {
    Token { epoch: 1, sequence }
}

fn envelope(byte: u8) -> Envelope {
    Envelope([byte; 32])
}

fn reserve(nonce: u64) -> Call {
    Call::Reserve { nonce: Nonce(nonce), request: Request(0), lease_ms: LEASE_MS }
}

fn reserve_short(nonce: u64) -> Call {
    Call::Reserve { nonce: Nonce(nonce), request: Request(0), lease_ms: SHORT_MS }
}

fn reserve_other(nonce: u64) -> Call {
    Call::Reserve { nonce: Nonce(nonce), request: Request(1), lease_ms: LEASE_MS }
}

fn complete(sequence: u64, byte: u8) -> Call {
    Call::Complete { token: token(sequence), envelope: envelope(byte) }
}

fn release(sequence: u64) -> Call {
    Call::Release { token: token(sequence) }
}

fn granted(sequence: u64) -> Answer {
    Answer::Granted { token: token(sequence), repeated: false, flagged: false, checkpoint: None }
}

fn repeated(sequence: u64) -> Answer {
    Answer::Granted { token: token(sequence), repeated: true, flagged: false, checkpoint: None }
}

fn flagged(sequence: u64) -> Answer {
    Answer::Granted { token: token(sequence), repeated: false, flagged: true, checkpoint: None }
}

const ANSWER: Answer = Answer::Completed(Recorded::Answer);

#[test]
fn right_histories_pass() {
    let mut life = Forged::default();
    life.call(reserve(1), Answer::Unknown)
        .death()
        .call(reserve(1), repeated(7))
        .call(reserve(2), Answer::InProgress)
        .call(reserve_other(3), Answer::Mismatch)
        .call(complete(7, 1), Answer::Unknown)
        .death()
        .call(complete(7, 1), Answer::Completed(Recorded::Repeated))
        .call(complete(7, 2), Answer::Completed(Recorded::Late))
        .call(reserve(4), Answer::Replay(envelope(1)))
        .call(reserve_other(5), Answer::Mismatch)
        .call(release(7), Answer::StaleToken);
    life.passes(OnLapse::Regrant);

    let mut lost_before = Forged::default();
    lost_before.call(reserve(1), Answer::Unknown).death().call(reserve(1), granted(7)).call(complete(7, 1), ANSWER);
    lost_before.passes(OnLapse::Regrant);

    let mut given_back = Forged::default();
    given_back
        .call(reserve(1), granted(7))
        .call(release(7), Answer::Unknown)
        .call(release(7), Answer::Released)
        .call(reserve_other(2), granted(9))
        .call(release(7), Answer::StaleToken);
    given_back.passes(OnLapse::Hold);

    let mut lapsed_again = Forged::default();
    lapsed_again
        .call(reserve_short(1), granted(7))
        .pass(200)
        .call(Call::Claim { nonce: Nonce(2), lease_ms: LEASE_MS }, flagged(9))
        .call(release(9), Answer::Released)
        .call(reserve(3), Answer::OutcomeUnknown)
        .call(Call::Claim { nonce: Nonce(4), lease_ms: LEASE_MS }, flagged(11));
    lapsed_again.passes(OnLapse::Hold);

    let mut taken_back = Forged::default();
    taken_back.call(reserve_short(1), Answer::Unknown).call(reserve_short(2), granted(9));
    taken_back.passes(OnLapse::Regrant);
}

#[test]
fn right_histories_with_lapses_pass() {
    let mut regrant = Forged::default();
    regrant
        .call(reserve_short(1), granted(7))
        .pass(200)
        .call(reserve_short(2), flagged(9))
        .call(complete(7, 1), ANSWER)
        .call(complete(9, 2), Answer::Completed(Recorded::Late))
        .call(reserve(3), Answer::Replay(envelope(1)));
    regrant.passes(OnLapse::Regrant);

    let mut hold = Forged::default();
    hold.call(reserve_short(1), granted(7))
        .pass(200)
        .call(reserve(2), Answer::OutcomeUnknown)
        .call(Call::Claim { nonce: Nonce(3), lease_ms: LEASE_MS }, flagged(9))
        .call(reserve(4), Answer::InProgress)
        .call(complete(9, 2), ANSWER)
        .call(Call::Claim { nonce: Nonce(5), lease_ms: LEASE_MS }, Answer::NotClaimable);
    hold.passes(OnLapse::Hold);
}

#[test]
fn many_lost_answers_are_searched_through() {
    let mut forged = Forged::default();
    forged.call(reserve_short(1), granted(7));
    let extend = Call::Extend { token: token(7), lease_ms: SHORT_MS };
    for call in [extend, complete(7, 1), complete(7, 2), release(7), reserve_other(3)] {
        for _ in 0..12 {
            forged.call(call, Answer::Unknown);
        }
    }
    forged.death().pass(500).call(reserve(2), flagged(9));
    forged.passes(OnLapse::Regrant);
    forged.call(reserve(4), Answer::Replay(envelope(1)));
    forged.breaks(OnLapse::Regrant, Rule::NotLinear);
}

#[test]
fn a_second_grant_within_the_lease_is_found() {
    let mut forged = Forged::default();
    forged.call(reserve_short(1), granted(7)).pass(100).call(reserve_short(2), flagged(9));
    forged.breaks(OnLapse::Regrant, Rule::GrantedTwice);
}

#[test]
fn a_second_grant_within_an_extended_lease_is_found() {
    let mut forged = Forged::default();
    let extend = Call::Extend { token: token(7), lease_ms: LEASE_MS };
    forged.call(reserve_short(1), granted(7)).call(extend, Answer::Extended).pass(1_000).call(reserve(2), flagged(9));
    forged.breaks(OnLapse::Regrant, Rule::GrantedTwice);
}

#[test]
fn a_grant_that_a_crash_forgot_is_found() {
    let mut forged = Forged::default();
    forged.call(reserve(1), granted(7)).death().call(reserve(1), granted(9));
    forged.breaks(OnLapse::Regrant, Rule::GrantedTwice);
}

#[test]
fn a_grant_of_a_held_key_after_its_lapse_is_found() {
    let mut forged = Forged::default();
    forged.call(reserve_short(1), granted(7)).pass(1_000).call(reserve(2), flagged(9));
    forged.breaks(OnLapse::Hold, Rule::GrantedTwice);
}

#[test]
fn a_grant_that_hides_the_one_before_is_found() {
    let mut forged = Forged::default();
    forged.call(reserve_short(1), granted(7)).pass(1_000).call(reserve(2), granted(9));
    forged.breaks(OnLapse::Regrant, Rule::DuplicateHidden);
}

#[test]
fn a_lost_completion_is_found() {
    for lost in [granted(9), repeated(7), Answer::InProgress, Answer::OutcomeUnknown] {
        let mut forged = Forged::default();
        forged.call(reserve(1), granted(7)).call(complete(7, 1), ANSWER).death().call(reserve(1), lost);
        forged.breaks(OnLapse::Regrant, Rule::CompletionLost);
    }
}

#[test]
fn a_replayed_completion_that_is_lost_is_found_though_nobody_acknowledged_it() {
    let mut forged = Forged::default();
    forged
        .call(reserve(1), granted(7))
        .call(complete(7, 1), Answer::Unknown)
        .call(reserve(2), Answer::Replay(envelope(1)))
        .death()
        .call(reserve(3), Answer::InProgress);
    forged.breaks(OnLapse::Regrant, Rule::CompletionLost);
}

#[test]
fn a_token_of_two_attempts_is_found() {
    let mut forged = Forged::default();
    forged.call(reserve(1), granted(7)).call(release(7), Answer::Released).call(reserve(2), granted(7));
    forged.breaks(OnLapse::Regrant, Rule::TokenShared);
}

#[test]
fn a_token_that_is_no_larger_is_found() {
    let mut forged = Forged::default();
    forged.call(reserve(1), granted(7)).call(release(7), Answer::Released).death().call(reserve(2), granted(5));
    forged.breaks(OnLapse::Regrant, Rule::TokenOrder);
}

#[test]
fn a_replay_to_another_request_is_found() {
    let mut forged = Forged::default();
    forged
        .call(reserve(1), granted(7))
        .call(complete(7, 1), ANSWER)
        .call(reserve_other(2), Answer::Replay(envelope(1)));
    forged.breaks(OnLapse::Regrant, Rule::MismatchReplayed);
}

#[test]
fn a_replay_with_another_byte_is_found() {
    let mut forged = Forged::default();
    forged.call(reserve(1), granted(7)).call(complete(7, 1), ANSWER).call(reserve(2), Answer::Replay(envelope(2)));
    forged.breaks(OnLapse::Regrant, Rule::ReplayDiffers);
    forged.breaks(OnLapse::Regrant, Rule::ReplayInvented);
}

#[test]
fn two_replays_that_differ_are_found() {
    let mut forged = Forged::default();
    forged
        .call(reserve(1), granted(7))
        .call(complete(7, 1), Answer::Unknown)
        .call(complete(7, 2), Answer::Unknown)
        .call(reserve(2), Answer::Replay(envelope(1)))
        .call(reserve(3), Answer::Replay(envelope(2)));
    forged.breaks(OnLapse::Regrant, Rule::ReplayDiffers);
}

#[test]
fn what_no_rule_names_is_not_linear() {
    let mut stale = Forged::default();
    stale.call(reserve(1), granted(7)).death().call(release(7), Answer::StaleToken);
    stale.breaks(OnLapse::Regrant, Rule::NotLinear);

    let mut release_lost = Forged::default();
    release_lost
        .call(reserve(1), granted(7))
        .call(release(7), Answer::Released)
        .death()
        .call(reserve(2), Answer::InProgress);
    release_lost.breaks(OnLapse::Regrant, Rule::NotLinear);

    let mut held_by_nobody = Forged::default();
    held_by_nobody.call(reserve(1), Answer::InProgress);
    held_by_nobody.breaks(OnLapse::Regrant, Rule::NotLinear);

    let mut refused_and_done = Forged::default();
    refused_and_done.call(reserve(1), Answer::Refused).call(reserve(2), Answer::InProgress);
    refused_and_done.breaks(OnLapse::Regrant, Rule::NotLinear);

    let mut lapsed_early = Forged::default();
    lapsed_early.call(reserve(1), granted(7)).pass(1_000).call(reserve(2), Answer::OutcomeUnknown);
    lapsed_early.breaks(OnLapse::Hold, Rule::NotLinear);

    let mut mismatch_of_the_same = Forged::default();
    mismatch_of_the_same.call(reserve(1), granted(7)).call(reserve(2), Answer::Mismatch);
    mismatch_of_the_same.breaks(OnLapse::Regrant, Rule::NotLinear);
}

#[test]
fn a_lost_checkpoint_is_not_linear() {
    let checkpoint = Call::Checkpoint { token: token(7), checkpoint: Checkpoint(1) };
    let mut forged = Forged::default();
    forged.call(reserve(1), granted(7)).call(checkpoint, Answer::Checkpointed).death().call(reserve(1), repeated(7));
    forged.breaks(OnLapse::Regrant, Rule::NotLinear);
}

#[test]
fn a_completion_that_died_with_its_process_may_not_come_back() {
    let mut forged = Forged::default();
    forged
        .call(reserve(1), granted(7))
        .call(complete(7, 1), Answer::Unknown)
        .death()
        .call(reserve(2), Answer::InProgress)
        .call(reserve(3), Answer::Replay(envelope(1)));
    forged.breaks(OnLapse::Regrant, Rule::NotLinear);
}

#[test]
fn calls_at_the_same_time_may_be_ordered_either_way() {
    let mut forged = Forged::default();
    forged
        .between(1, 20, reserve(1), granted(7))
        .between(2, 19, reserve(2), Answer::InProgress)
        .between(30, 50, complete(7, 1), ANSWER)
        .between(31, 49, reserve(3), Answer::InProgress)
        .between(32, 48, reserve(4), Answer::Replay(envelope(1)));
    forged.passes(OnLapse::Regrant);
    let mut forged = Forged::default();
    forged
        .between(1, 20, reserve(1), granted(7))
        .between(30, 50, complete(7, 1), ANSWER)
        .between(31, 35, reserve(4), Answer::Replay(envelope(1)))
        .between(36, 49, reserve(3), Answer::InProgress);
    forged.breaks(OnLapse::Regrant, Rule::CompletionLost);
}
