//! The promises, one by one, over the calls of one key. Each looks only at what was acknowledged.

use std::collections::BTreeMap;

use super::{OfKey, Rule};
use crate::history::{Answer, Call, Envelope, Nonce, OnLapse, Op, Recorded, Request, Token};

type Found = Vec<(Rule, String)>;

/// A grant that somebody was told of.
#[derive(Clone, Copy, Debug)]
struct Grant {
    token: Token,
    nonce: Nonce,
    /// Nothing for a claim, which takes the request that is there.
    request: Option<Request>,
    lease_ms: u32,
    flagged: bool,
    /// The earliest moment at which it can have been made.
    from_ns: u64,
    /// When the first answer that bears it was there.
    told_ns: u64,
    /// When the last one was there.
    last_told_ns: u64,
}

/// Judges one key.
pub(crate) fn check(of_key: &OfKey<'_>) -> Found {
    let mut found = Found::new();
    let grants = grants(of_key, &mut found);
    token_order(&grants, &mut found);
    granted_twice(of_key, &grants, &mut found);
    replays(of_key, &grants, &mut found);
    completion_lost(of_key, &mut found);
    seen_ignored(of_key, &mut found);
    found.sort_by_key(|(rule, _)| *rule);
    found.dedup_by_key(|(rule, _)| *rule);
    found
}

fn attempt(op: &Op) -> Option<(Nonce, Option<Request>, u32)> {
    match op.call {
        Call::Reserve { nonce, request, lease_ms } => Some((nonce, Some(request), lease_ms)),
        Call::Claim { nonce, lease_ms } => Some((nonce, None, lease_ms)),
        Call::Complete { .. } | Call::Release { .. } | Call::Extend { .. } | Call::Checkpoint { .. } => None,
    }
}

/// The acknowledged grants, by token. A token belongs to one attempt for ever.
fn grants(of_key: &OfKey<'_>, found: &mut Found) -> BTreeMap<Token, Grant> {
    let mut grants: BTreeMap<Token, Grant> = BTreeMap::new();
    for op in of_key.ops {
        let (Some((nonce, request, lease_ms)), Answer::Granted { token, flagged, .. }) = (attempt(op), op.answer)
        else {
            continue;
        };
        let grant = grants.entry(token).or_insert(Grant {
            token,
            nonce,
            request,
            lease_ms,
            flagged,
            from_ns: op.invoked_ns,
            told_ns: op.returned_ns,
            last_told_ns: op.returned_ns,
        });
        if grant.nonce != nonce {
            found.push((Rule::TokenShared, format!("{token:?} was given to {:?} and to {nonce:?}", grant.nonce)));
        }
        grant.from_ns = grant.from_ns.min(op.invoked_ns);
        grant.told_ns = grant.told_ns.min(op.returned_ns);
        grant.last_told_ns = grant.last_told_ns.max(op.returned_ns);
    }
    // A call of the same attempt that got no answer may have made the grant.
    for op in of_key.ops {
        let (Some((nonce, _, _)), Answer::Unknown) = (attempt(op), op.answer) else { continue };
        for grant in grants.values_mut().filter(|grant| grant.nonce == nonce) {
            grant.from_ns = grant.from_ns.min(op.invoked_ns);
        }
    }
    grants
}

fn token_order(grants: &BTreeMap<Token, Grant>, found: &mut Found) {
    for later in grants.values() {
        let earlier = grants.values().find(|earlier| earlier.told_ns < later.from_ns && earlier.token > later.token);
        if let Some(earlier) = earlier {
            let what = format!("{:?} was granted after {:?} had been", later.token, earlier.token);
            found.push((Rule::TokenOrder, what));
        }
    }
}

/// Between one grant and the next there must have been room for the first to end.
fn granted_twice(of_key: &OfKey<'_>, grants: &BTreeMap<Token, Grant>, found: &mut Found) {
    for (first, second) in grants.values().zip(grants.values().skip(1)) {
        let given_back = of_key.ops.iter().any(|op| {
            op.call == Call::Release { token: first.token }
                && matches!(op.answer, Answer::Released | Answer::Unknown)
                && op.invoked_ns < second.last_told_ns
        });
        if given_back {
            continue;
        }
        let (mut from_ns, mut lease_ms) = (first.from_ns, first.lease_ms);
        for op in of_key.ops {
            if let (Call::Extend { token, lease_ms: longer }, Answer::Extended) = (op.call, op.answer)
                && token == first.token
                && op.returned_ns < second.told_ns
            {
                (from_ns, lease_ms) = (op.invoked_ns, longer);
            }
        }
        let pair = format!("{:?} and then {:?}", first.token, second.token);
        let lapsed = second.last_told_ns >= from_ns.saturating_add(u64::from(lease_ms) * 1_000_000);
        let claimed = second.request.is_none();
        if !lapsed || (of_key.on_lapse == OnLapse::Hold && !claimed) {
            found.push((Rule::GrantedTwice, pair));
        } else if !second.flagged {
            found.push((Rule::DuplicateHidden, pair));
        }
    }
}

/// Every replay is an envelope that a grant of the same request was completed with, and always the same one.
fn replays(of_key: &OfKey<'_>, grants: &BTreeMap<Token, Grant>, found: &mut Found) {
    let mut answer: Option<Envelope> = None;
    for op in of_key.ops {
        let envelope = match (op.call, op.answer) {
            (Call::Reserve { .. }, Answer::Replay(envelope))
            | (Call::Complete { envelope, .. }, Answer::Completed(Recorded::Answer)) => envelope,
            _ => continue,
        };
        if answer.is_some_and(|answer| answer != envelope) {
            found.push((Rule::ReplayDiffers, format!("{answer:?} and {envelope:?}")));
        }
        answer = Some(envelope);
        let Call::Reserve { request, .. } = op.call else { continue };
        let completions: Vec<Token> = of_key
            .ops
            .iter()
            .filter(|other| other.invoked_ns < op.returned_ns)
            .filter_map(|other| {
                if let Call::Complete { token, envelope } = other.call { Some((token, envelope)) } else { None }
            })
            .filter_map(|(token, completed)| (completed == envelope).then_some(token))
            .collect();
        if completions.is_empty() {
            found.push((Rule::ReplayInvented, format!("{envelope:?} was replayed, nobody had sent it")));
        }
        let asked = |token: &Token| grants.get(token).and_then(|grant| grant.request);
        let requests: Vec<Request> = completions.iter().filter_map(asked).collect();
        if !requests.is_empty() && !requests.contains(&request) {
            found.push((Rule::MismatchReplayed, format!("{request:?} got the answer of {requests:?}")));
        }
    }
}

/// Once an answer was acknowledged or replayed, it is all that the key says.
fn completion_lost(of_key: &OfKey<'_>, found: &mut Found) {
    let answered_ns = of_key
        .ops
        .iter()
        .filter(|op| match op.answer {
            Answer::Completed(_) | Answer::Replay(_) => true,
            Answer::Granted { .. }
            | Answer::Mismatch
            | Answer::InProgress
            | Answer::OutcomeUnknown
            | Answer::Released
            | Answer::Extended
            | Answer::Checkpointed
            | Answer::NotClaimable
            | Answer::StaleToken
            | Answer::Refused
            | Answer::Unknown => false,
        })
        .map(|op| op.returned_ns)
        .min();
    let Some(answered_ns) = answered_ns else { return };
    for op in of_key.ops.iter().filter(|op| op.invoked_ns > answered_ns) {
        let lost = match op.answer {
            Answer::Granted { .. }
            | Answer::InProgress
            | Answer::OutcomeUnknown
            | Answer::Released
            | Answer::Extended
            | Answer::Checkpointed
            | Answer::Completed(Recorded::Answer) => true,
            Answer::Replay(_)
            | Answer::Mismatch
            | Answer::Completed(Recorded::Repeated | Recorded::Late)
            | Answer::NotClaimable
            | Answer::StaleToken
            | Answer::Refused
            | Answer::Unknown => false,
        };
        if lost {
            found.push((Rule::CompletionLost, format!("after its answer: {:?} -> {:?}", op.call, op.answer)));
        }
    }
}

/// An answer is no older than what the caller says it has seen.
fn seen_ignored(of_key: &OfKey<'_>, found: &mut Found) {
    for op in of_key.ops {
        if let (Some(seen), Some(position)) = (op.seen, op.position)
            && position < seen
        {
            let what = format!("{:?} -> {:?} at {position}, and {seen} had been seen", op.call, op.answer);
            found.push((Rule::SeenIgnored, what));
        }
    }
}
