use super::*;
use crate::home::evidence::{Commit, Completion, LOCAL, Placed, Token};
use crate::home::merge::Record as Merged;
use crate::home::state::Limits;
use crate::ids::{Digest, EndpointName, FencingToken, Fingerprint, RegionName};
use crate::reservation::command::{Context, KeyFacts};
use crate::reservation::import::import;
use crate::reservation::record::{Checkpoint, OnLapse, State, Terms};
use crate::time::LogTime;

/// Decides, keeps what changed, and gives the reply.
fn then(state: &mut Regional, command: Command) -> Reply {
    let (reply, next) = decide(state, command);
    assert!(!matches!(reply, Reply::Refused(_)) || next.is_none(), "a refusal changes nothing");
    assert_ne!(next.as_ref(), Some(&*state), "what is as it was is no change");
    if let Some(next) = next {
        *state = next;
    }
    reply
}

const fn seal(epoch: u64) -> Command {
    Command::Seal { epoch: Epoch(epoch) }
}

const fn open(epoch: u64, incarnation: u64) -> Command {
    Command::Open { epoch: Epoch(epoch), incarnation }
}

#[test]
fn an_epoch_opens_once_and_ends_with_its_seal() {
    let mut state = Regional::default();
    assert_eq!(state.place(), None, "nothing commits before the first Open");
    assert_eq!(then(&mut state, open(1, 0)), Reply::Opened);
    assert_eq!(then(&mut state, open(1, 0)), Reply::Opened, "sent twice");
    state.wrote();
    state.wrote();
    assert_eq!(state.place(), Some((Epoch(1), 3)));
    assert_eq!(then(&mut state, open(2, 0)), Reply::Refused(Refused::StillOpen { open: Epoch(1) }));
    assert_eq!(then(&mut state, seal(1)), Reply::Sealed { end: 3 });
    assert_eq!(state.place(), None, "after the seal all of the epoch is void");
    state.wrote();
    assert_eq!(then(&mut state, seal(1)), Reply::Sealed { end: 3 }, "it is where it was");
    assert_eq!(then(&mut state, open(1, 0)), Reply::Refused(Refused::NotLater { last: Epoch(1) }));
    assert_eq!(then(&mut state, open(4, 0)), Reply::Opened);
    assert_eq!(state.place(), Some((Epoch(4), 1)), "each epoch has a stream of its own");
}

#[test]
fn an_epoch_that_was_never_opened_is_sealed_and_never_opens() {
    let mut state = Regional::default();
    then(&mut state, open(1, 0));
    then(&mut state, seal(1));
    assert_eq!(then(&mut state, seal(3)), Reply::Sealed { end: 1 });
    assert_eq!(then(&mut state, open(3, 0)), Reply::Refused(Refused::NotLater { last: Epoch(3) }));
    assert_eq!(then(&mut state, open(2, 0)), Reply::Refused(Refused::NotLater { last: Epoch(3) }));
    // A later one is open when an older one is sealed: it stays open.
    then(&mut state, open(5, 0));
    assert_eq!(then(&mut state, seal(4)), Reply::Sealed { end: 1 });
    assert_eq!(state.place(), Some((Epoch(5), 1)));
}

#[test]
fn a_restored_region_waits_for_its_own_entry() {
    let mut state = Regional { incarnation: 2, is_unconfirmed: true, ..Regional::default() };
    let unconfirmed = Reply::Refused(Refused::Unconfirmed { incarnation: 2 });
    assert_eq!(then(&mut state, seal(1)), unconfirmed);
    assert_eq!(then(&mut state, open(2, 2)), unconfirmed);
    let other = Reply::Refused(Refused::Incarnation { named: 1, own: 2 });
    assert_eq!(then(&mut state, Command::Confirm { incarnation: 1 }), other);
    assert_eq!(then(&mut state, Command::Confirm { incarnation: 2 }), Reply::Confirmed);
    assert_eq!(then(&mut state, open(2, 1)), other);
    assert_eq!(then(&mut state, open(2, 2)), Reply::Opened);
}

#[test]
fn a_stream_goes_when_it_is_settled_and_its_epoch_is_remembered() {
    let mut state = Regional::default();
    let forget = |epoch| Command::Forget { epoch: Epoch(epoch) };
    then(&mut state, open(1, 0));
    assert_eq!(then(&mut state, forget(1)), Reply::Refused(Refused::NotSealed { epoch: Epoch(1) }));
    then(&mut state, seal(1));
    assert_eq!(then(&mut state, forget(1)), Reply::Forgotten);
    assert_eq!(then(&mut state, open(1, 0)), Reply::Refused(Refused::NotLater { last: Epoch(1) }));
    then(&mut state, open(2, 0));
    assert_eq!(then(&mut state, forget(1)), Reply::Forgotten);
    assert_eq!(then(&mut state, forget(1)), Reply::Forgotten, "sent twice");
    assert_eq!(state.streams.len(), 1);
}

fn told(epoch: u64, sequence: u64, phase: Phase) -> Attempt {
    let region = (Epoch(epoch) == LOCAL).then(|| RegionName::parse("eu").unwrap());
    Attempt {
        token: Token { fencing: FencingToken { epoch: Epoch(epoch), sequence }, region },
        number: 1,
        endpoint: EndpointName::parse("pay").unwrap(),
        terms: Terms { policy_revision: 0, lease_ms: 500, on_lapse: OnLapse::Regrant, retention_ms: 1_000 },
        fingerprint: Fingerprint { version: 0, selection: 0, digest: [7].into() },
        nonce: None,
        flagged: false,
        phase,
    }
}

const HELD: Phase = Phase::Held { lease_ms: 500, lease_revision: 0 };

fn merged(attempts: &[Attempt]) -> Merged {
    let mut record = Merged::new(RegionName::parse("eu").unwrap());
    for attempt in attempts {
        assert!(record.admit(attempt.clone(), &Limits::STANDARD).is_empty());
    }
    record
}

fn context() -> Context {
    let key = KeyFacts { mint_epoch: Epoch::FIRST, time_ms: None };
    Context { open_epoch: Some(Epoch(3)), next_position: 1, now: LogTime::default(), key, horizon_ms: None }
}

/// Which tokens are news.
fn tokens(import: Option<&Import>) -> Vec<(u64, u64)> {
    let attempts = import.iter().flat_map(|import| &import.attempts);
    attempts.map(|attempt| (attempt.token.epoch.0, attempt.token.sequence)).collect()
}

#[test]
fn held_grants_of_trusted_epochs_are_news_once() {
    let completion = Completion {
        envelope: Digest([1; 32]),
        commit: Commit { epoch: Epoch(1), position: 9, region: RegionName::parse("eu").unwrap() },
        late: false,
        completed_at: LogTime::default(),
    };
    let all = merged(&[
        told(0, 1, HELD),
        told(1, 1, HELD),
        told(1, 2, Phase::Lapsed),
        told(1, 3, Phase::Completed(vec![completion])),
        told(2, 1, HELD),
    ]);
    let settled = news(None, &all, true, |epoch| epoch == Epoch(1));
    assert_eq!(tokens(settled.as_ref()), [(1, 1)], "neither local, nor ended, nor of an epoch in doubt");
    let both = news(None, &all, true, |_| true);
    assert_eq!(tokens(both.as_ref()), [(1, 1), (2, 1)], "a wholly global epoch counts at once");
    let own = import(None, &both.unwrap(), &context()).unwrap();
    assert_eq!(own.state(), State::Held);
    assert_eq!(news(Some(&own), &all, true, |_| true), None);
    // How own records ended elsewhere comes too.
    let ended = merged(&[told(1, 1, Phase::Released), told(2, 1, Phase::Lapsed)]);
    let ends = news(Some(&own), &ended, true, |_| true).unwrap();
    assert_eq!(tokens(Some(&ends)), [(1, 1), (2, 1)]);
    let own = import(Some(&own), &ends, &context()).unwrap();
    assert_eq!(own.state(), State::Lapsed);
    assert_eq!(news(Some(&own), &all, true, |_| true), None, "nothing goes back");
}

#[test]
fn the_recovery_point_comes_when_the_region_has_no_later_one() {
    let mut all = merged(&[told(1, 1, HELD), told(2, 1, HELD)]);
    let commit = Commit { epoch: Epoch(2), position: 2, region: RegionName::parse("us").unwrap() };
    let checkpoint = Checkpoint { name: "booked".into(), data: [1].into() };
    all.place(Placed { commit, checkpoint: Some(checkpoint.clone()) });
    let first = news(None, &all, false, |epoch| epoch == Epoch(1)).unwrap();
    assert_eq!(first.checkpoint, Some(checkpoint.clone()));
    let own = import(None, &first, &context()).unwrap();
    assert_eq!(news(Some(&own), &all, false, |_| true).unwrap().checkpoint, None);
    assert_eq!(news(Some(&own), &all, true, |_| true).unwrap().checkpoint, Some(checkpoint));
}
