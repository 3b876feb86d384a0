//! Random lives of a few keys: what may be asked, with stale tokens, foreign ones, wrong nonces and old lease revisions
//! in it, and what may happen around it: log time, sweeps, epochs that end and open.

use std::collections::BTreeMap;

use holdfast::ids::{Epoch, FencingToken, Fingerprint};
use holdfast::reservation::command::{Complete, Doubt, KeyFacts, Reserve, Verdict};
use holdfast::reservation::record::{Checkpoint, OnLapse, Terms};
use holdfast::reservation::{Command, Kind};
use proptest::prelude::*;

use crate::world::{OPAQUE, World, endpoint, envelope, fingerprint, nonce};

/// The keys: two opaque ones, a tagged one of the first epoch, one of the second.
pub(crate) const KEYS: [(&str, KeyFacts); 4] = [
    ("opaque", OPAQUE),
    ("other", OPAQUE),
    ("tagged", KeyFacts { mint_epoch: Epoch(1), time_ms: Some(3_000) }),
    ("later", KeyFacts { mint_epoch: Epoch(2), time_ms: Some(3_001) }),
];

/// A token that a step names, resolved when it is its turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Named {
    /// The key's last grant but so many.
    Issued(usize),
    /// One that this region never made, of an epoch before all of its own.
    Foreign(u64),
    /// One of an epoch that this region has not reached.
    Ahead(u64),
}

/// The last token that a Reserve's proposer knew.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Known {
    Right,
    Nothing,
    Stale,
}

/// What is asked of a key.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Reserve { request: u8, nonce: Option<u8>, terms: Terms, doubt: Doubt, known: Known },
    Complete { token: Named, envelope: u8, retention_ms: Option<u64> },
    Release { token: Named },
    Extend { token: Named, lease_ms: u32 },
    Checkpoint { token: Named, name: u8 },
    Claim { nonce: Option<u8>, lease_ms: Option<u32> },
    Resolve { token: Named, executed: Option<u8> },
    Lapse { token: Named, older_by: u32 },
    Void { token: Named },
}

/// One step of a partition.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Ask { key: usize, behind: bool, ask: Ask },
    Sweep { key: usize },
    Pass { ms: u64 },
    Seal,
    Open,
}

/// Partitions' lives of up to `most` steps.
pub(crate) fn lives(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..most)
}

fn step() -> impl Strategy<Value = Step> {
    // Most go to one key, so that lives get long.
    let key = prop_oneof![6 => Just(0_usize), 1 => Just(1_usize), 3 => Just(2_usize), 2 => Just(3_usize)];
    prop_oneof![
        40 => (key.clone(), prop::bool::weighted(0.03), ask())
            .prop_map(|(key, behind, ask)| Step::Ask { key, behind, ask }),
        4 => key.prop_map(|key| Step::Sweep { key }),
        4 => prop_oneof![Just(1_u64), Just(99), Just(100), Just(2_001)].prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Seal),
        2 => Just(Step::Open),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    let small = || 0_u8..3;
    let request = || prop_oneof![6 => Just(0_u8), 1 => Just(1_u8), 1 => Just(2_u8)];
    let doubt = prop_oneof![
        8 => Just(Doubt::Settled),
        1 => Just(Doubt::Lost),
        1 => Just(Doubt::UnsettledFailClosed),
        1 => Just(Doubt::UnsettledFailOpen),
    ];
    let known = prop_oneof![9 => Just(Known::Right), 1 => Just(Known::Nothing), 1 => Just(Known::Stale)];
    let lease = || prop_oneof![Just(50_u32), Just(1_000)];
    prop_oneof![
        8 => (request(), prop::option::of(small()), terms(), doubt, known)
            .prop_map(|(request, nonce, terms, doubt, known)| Ask::Reserve { request, nonce, terms, doubt, known }),
        4 => (named(), 0_u8..6, prop::option::weighted(0.2, Just(500_u64)))
            .prop_map(|(token, envelope, retention_ms)| Ask::Complete { token, envelope, retention_ms }),
        2 => named().prop_map(|token| Ask::Release { token }),
        2 => (named(), lease()).prop_map(|(token, lease_ms)| Ask::Extend { token, lease_ms }),
        2 => (named(), small()).prop_map(|(token, name)| Ask::Checkpoint { token, name }),
        3 => (prop::option::of(small()), prop::option::of(lease()))
            .prop_map(|(nonce, lease_ms)| Ask::Claim { nonce, lease_ms }),
        2 => (named(), prop::option::of(0_u8..6)).prop_map(|(token, executed)| Ask::Resolve { token, executed }),
        6 => (named(), prop_oneof![6 => Just(0_u32), 1 => Just(1_u32)])
            .prop_map(|(token, older_by)| Ask::Lapse { token, older_by }),
        1 => named().prop_map(|token| Ask::Void { token }),
    ]
}

fn named() -> impl Strategy<Value = Named> {
    prop_oneof![
        14 => Just(Named::Issued(0)),
        4 => (1_usize..4).prop_map(Named::Issued),
        1 => (0_u64..3).prop_map(Named::Foreign),
        1 => (0_u64..2).prop_map(Named::Ahead),
    ]
}

fn terms() -> impl Strategy<Value = Terms> {
    (any::<bool>(), prop_oneof![Just(100_u64), Just(2_000)], 0_u32..2).prop_map(|(hold, retention_ms, revision)| {
        Terms {
            policy_revision: revision,
            lease_ms: 1_000,
            on_lapse: if hold { OnLapse::Hold } else { OnLapse::Regrant },
            retention_ms,
        }
    })
}

/// The grants that were handed out for each key, oldest first: the token and the request, which its claims bear.
pub(crate) type Issued = BTreeMap<String, Vec<(FencingToken, Fingerprint)>>;

/// Turns a step's question into the command that the region would propose.
pub(crate) fn command(world: &World, issued: &Issued, key: &str, behind: bool, ask: &Ask) -> Command {
    let open = world.open.unwrap_or(Epoch::FIRST);
    let epoch = if behind { Epoch(open.0 + 1) } else { open };
    let token = |named| resolve(named, issued.get(key), open);
    let kind = match ask {
        Ask::Reserve { request, nonce: name, terms, doubt, known } => Kind::Reserve(Box::new(Reserve {
            // The last of them is the first as another selection takes it.
            fingerprint: fingerprint(&if *request == 2 {
                "request 0@2".to_owned()
            } else {
                format!("request {request}")
            }),
            endpoint: endpoint("pay"),
            terms: *terms,
            nonce: name.map(|name| nonce(&format!("nonce {name}"))),
            doubt: *doubt,
            known: match known {
                Known::Right => world.records.get(key).and_then(|record| record.last_token()),
                Known::Nothing => None,
                Known::Stale => Some(token(Named::Issued(1))),
            },
        })),
        Ask::Complete { token: named, envelope: name, retention_ms } => Kind::Complete(Box::new(Complete {
            token: token(*named),
            fingerprint: claimed(token(*named), issued.get(key)),
            endpoint: endpoint("pay"),
            nonce: None,
            terms: Terms { policy_revision: 9, lease_ms: 50, on_lapse: OnLapse::Hold, retention_ms: 300 },
            envelope: envelope(&format!("envelope {name}")),
            retention_ms: *retention_ms,
        })),
        Ask::Release { token: named } => Kind::Release { token: token(*named) },
        Ask::Extend { token: named, lease_ms } => Kind::Extend { token: token(*named), lease_ms: *lease_ms },
        Ask::Checkpoint { token: named, name } => Kind::Checkpoint {
            token: token(*named),
            checkpoint: Checkpoint { name: format!("step {name}").into(), data: [*name].into() },
        },
        Ask::Claim { nonce: name, lease_ms } => Kind::Claim {
            nonce: name.map(|name| nonce(&format!("nonce {name}"))),
            lease_ms: *lease_ms,
            worker: "worker".into(),
        },
        Ask::Resolve { token: named, executed } => Kind::Resolve {
            token: token(*named),
            verdict: match executed {
                Some(name) => Verdict::Executed(envelope(&format!("envelope {name}"))),
                None => Verdict::NotExecuted,
            },
            actor: "actor".into(),
            reason: "reason".into(),
        },
        Ask::Lapse { token: named, older_by } => {
            let held = world.records.get(key).and_then(|record| record.holding());
            let current = held.map_or(0, |holding| holding.lease_revision);
            Kind::Lapse { token: token(*named), lease_revision: current.wrapping_sub(*older_by) }
        }
        Ask::Void { token: named } => Kind::Void { token: token(*named) },
    };
    Command { epoch, kind }
}

/// The request in a token's claims. A token from elsewhere has always the same, too.
fn claimed(token: FencingToken, issued: Option<&Vec<(FencingToken, Fingerprint)>>) -> Fingerprint {
    let own = issued.and_then(|grants| grants.iter().find(|(of, _)| *of == token));
    own.map_or_else(|| fingerprint(&format!("request {}", token.sequence % 2)), |(_, request)| request.clone())
}

fn resolve(named: Named, issued: Option<&Vec<(FencingToken, Fingerprint)>>, open: Epoch) -> FencingToken {
    match named {
        Named::Issued(back) => {
            let grant = issued.and_then(|grants| grants.iter().rev().nth(back));
            grant.map_or(FencingToken { epoch: Epoch(0), sequence: 9 }, |(token, _)| *token)
        }
        Named::Foreign(sequence) => FencingToken { epoch: Epoch(0), sequence },
        Named::Ahead(sequence) => FencingToken { epoch: Epoch(open.0 + 1), sequence: 1_000_000 + sequence },
    }
}
