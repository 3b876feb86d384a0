//! What only a region of several nodes can get wrong.

use super::{ANSWER, Forged, complete, envelope, flagged, granted, release, repeated, reserve, reserve_other};
use crate::checker::Rule;
use crate::history::{Answer, Call, Nonce, OnLapse, Recorded};

#[test]
fn a_call_without_an_answer_may_take_effect_long_after_its_node_died() {
    let mut forged = Forged::default();
    forged
        .on(1)
        .call(reserve(1), granted(7))
        .call(complete(7, 1), Answer::Unknown)
        .on(2)
        .call(reserve(2), Answer::InProgress)
        .pass(5_000)
        .call(reserve(3), Answer::InProgress)
        .call(reserve(4), Answer::Replay(envelope(1)))
        .call(complete(7, 1), Answer::Completed(Recorded::Repeated));
    forged.passes(OnLapse::Regrant);
    // But not before it was asked for, and not to be forgotten again.
    forged.on(3).call(reserve(5), Answer::InProgress);
    forged.breaks(OnLapse::Regrant, Rule::CompletionLost);
    let mut early = Forged::default();
    early
        .on(1)
        .call(reserve(1), granted(7))
        .on(2)
        .call(reserve(2), Answer::Replay(envelope(1)))
        .on(1)
        .call(complete(7, 1), Answer::Unknown);
    early.breaks(OnLapse::Regrant, Rule::ReplayInvented);
}

#[test]
fn a_resend_that_another_node_does_later_is_a_new_grant() {
    let mut forged = Forged::default();
    forged
        .on(1)
        .call(reserve(1), Answer::Unknown)
        .on(2)
        .call(reserve(1), granted(7))
        .call(release(7), Answer::Released)
        .call(reserve(2), Answer::InProgress)
        .call(reserve(1), repeated(9));
    forged.passes(OnLapse::Regrant);
}

#[test]
fn a_replay_that_a_failover_lost_is_found() {
    for lost in [granted(9), flagged(9), repeated(7), Answer::InProgress, Answer::OutcomeUnknown] {
        let mut forged = Forged::default();
        forged
            .on(1)
            .call(reserve(1), granted(7))
            .call(complete(7, 1), ANSWER)
            .call(reserve(2), Answer::Replay(envelope(1)))
            .on(2)
            .call(reserve(3), lost);
        forged.breaks(OnLapse::Regrant, Rule::CompletionLost);
    }
}

#[test]
fn a_replay_that_only_a_follower_gave_is_found_when_it_is_lost() {
    let mut forged = Forged::default();
    forged
        .on(1)
        .call(reserve(1), granted(7))
        .call(complete(7, 1), Answer::Unknown)
        .on(3)
        .call(reserve(2), Answer::Replay(envelope(1)))
        .on(2)
        .call(complete(7, 2), ANSWER);
    forged.breaks(OnLapse::Regrant, Rule::CompletionLost);
}

#[test]
fn a_replay_that_is_another_one_on_another_node_is_found() {
    let mut forged = Forged::default();
    forged
        .on(1)
        .call(reserve(1), granted(7))
        .call(complete(7, 1), Answer::Unknown)
        .on(2)
        .call(complete(7, 2), ANSWER)
        .on(3)
        .call(reserve(2), Answer::Replay(envelope(1)));
    forged.breaks(OnLapse::Regrant, Rule::ReplayDiffers);
}

#[test]
fn a_grant_of_a_deposed_leader_is_found() {
    // It grants what its successor holds.
    let mut both = Forged::default();
    both.on(2).call(reserve(1), granted(7)).on(1).call(reserve(2), granted(9));
    both.breaks(OnLapse::Regrant, Rule::GrantedTwice);
    // With what its own log gives it: a token that its successor has passed.
    let mut behind = Forged::default();
    behind.on(2).call(reserve(1), granted(9)).call(release(9), Answer::Released).on(1).call(reserve(2), granted(7));
    behind.breaks(OnLapse::Regrant, Rule::TokenOrder);
    // Its successor grants what it has granted, and neither knows of the other.
    let mut forgotten = Forged::default();
    forgotten.on(1).call(reserve(1), granted(7)).on(2).call(reserve(2), granted(7));
    forgotten.breaks(OnLapse::Regrant, Rule::TokenShared);
    // The same attempt, asked for on both.
    let mut same = Forged::default();
    same.on(1).call(reserve(1), granted(7)).on(2).call(reserve(1), granted(9));
    same.breaks(OnLapse::Regrant, Rule::GrantedTwice);
    // The key is answered where it does not look.
    let mut answered = Forged::default();
    answered.on(2).call(reserve(1), granted(7)).call(complete(7, 1), ANSWER).on(1).call(reserve(2), granted(9));
    answered.breaks(OnLapse::Regrant, Rule::CompletionLost);
}

#[test]
fn a_lease_that_a_new_leader_shortened_is_found() {
    let mut regrant = Forged::default();
    regrant.on(1).call(reserve(1), granted(7)).pass(2_000).on(2).call(reserve(2), flagged(9));
    regrant.breaks(OnLapse::Regrant, Rule::GrantedTwice);
    let mut hold = Forged::default();
    hold.on(1).call(reserve(1), granted(7)).pass(2_000).on(2).call(reserve(2), Answer::OutcomeUnknown);
    hold.breaks(OnLapse::Hold, Rule::NotLinear);
}

#[test]
fn a_stale_read_is_found() {
    let mut released = Forged::default();
    released
        .on(2)
        .call(reserve(1), granted(7))
        .call(release(7), Answer::Released)
        .on(1)
        .call(reserve(2), Answer::InProgress);
    released.breaks(OnLapse::Regrant, Rule::NotLinear);

    let mut mismatch = Forged::default();
    mismatch
        .on(2)
        .call(reserve(1), granted(7))
        .call(release(7), Answer::Released)
        .on(1)
        .call(reserve_other(2), Answer::Mismatch);
    mismatch.breaks(OnLapse::Regrant, Rule::NotLinear);

    let mut claimed = Forged::default();
    claimed
        .on(2)
        .call(super::reserve_short(1), granted(7))
        .pass(300)
        .call(Call::Claim { nonce: Nonce(2), lease_ms: super::LEASE_MS }, flagged(9))
        .on(1)
        .call(reserve(3), Answer::OutcomeUnknown);
    claimed.breaks(OnLapse::Hold, Rule::NotLinear);

    let mut token = Forged::default();
    token.on(2).call(reserve(1), granted(7)).on(1).call(release(7), Answer::StaleToken);
    token.breaks(OnLapse::Regrant, Rule::NotLinear);

    // While the release is on its way, either is right.
    let mut under_way = Forged::default();
    under_way.on(2).call(reserve(1), granted(7)).between(10, 30, release(7), Answer::Released).on(1).between(
        12,
        20,
        reserve(2),
        Answer::InProgress,
    );
    under_way.passes(OnLapse::Regrant);
}

#[test]
fn an_answer_older_than_what_was_seen_is_found() {
    let mut forged = Forged::default();
    forged
        .on(1)
        .call(reserve(1), granted(7))
        .call(complete(7, 1), ANSWER)
        .on(3)
        .call(reserve(2), Answer::Replay(envelope(1)))
        .seen(40, 40);
    forged.passes(OnLapse::Regrant);
    forged.call(reserve(3), Answer::Replay(envelope(1))).seen(41, 40);
    forged.breaks(OnLapse::Regrant, Rule::SeenIgnored);
}

#[test]
fn a_definite_refusal_that_took_effect_is_found() {
    let mut grant = Forged::default();
    grant.on(1).call(reserve(1), Answer::Refused).on(2).call(reserve(1), repeated(7));
    grant.breaks(OnLapse::Regrant, Rule::NotLinear);

    let mut completion = Forged::default();
    completion
        .on(1)
        .call(reserve(1), granted(7))
        .call(complete(7, 1), Answer::Refused)
        .on(2)
        .call(reserve(2), Answer::Replay(envelope(1)));
    completion.breaks(OnLapse::Regrant, Rule::NotLinear);

    let mut given_back = Forged::default();
    given_back.on(1).call(reserve(1), granted(7)).call(release(7), Answer::Refused).on(2).call(reserve(2), granted(9));
    given_back.breaks(OnLapse::Regrant, Rule::GrantedTwice);

    // Had it been said of none of them, each would be right.
    for forged in [grant, completion, given_back] {
        forged.with_unknown_for_refused().passes(OnLapse::Regrant);
    }
}

#[test]
fn many_calls_that_stay_open_are_searched_through() {
    let mut forged = Forged::default();
    forged.on(1).call(super::reserve_short(1), granted(7));
    for round in 0..12 {
        let node = 1 + round % 3;
        forged
            .on(node)
            .call(reserve(100 + round), Answer::Unknown)
            .call(complete(7, 1), Answer::Unknown)
            .call(release(7), Answer::Unknown)
            .call(reserve_other(200 + round / 3), Answer::Unknown);
    }
    forged.pass(500).call(reserve(2), flagged(90));
    forged.passes(OnLapse::Regrant);
    forged.call(complete(90, 9), ANSWER).call(reserve(3), Answer::Replay(envelope(9)));
    forged.passes(OnLapse::Regrant);
    forged.call(reserve(4), Answer::InProgress);
    forged.breaks(OnLapse::Regrant, Rule::CompletionLost);
}
