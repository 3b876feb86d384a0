//! Merge is a join: in any order and however often, the same record, winner and losers. A second opinion says what they are.

use std::collections::{BTreeMap, BTreeSet};

use holdfast::home::evidence::{Attempt, Commit, Completion, Phase, Placed, Token};
use holdfast::home::ledger::Loser;
use holdfast::home::merge::Winner;
use holdfast::home::{Limits, Record};
use holdfast::ids::{Digest, Epoch};
use holdfast::reservation::record::Checkpoint;
use holdfast::time::LogTime;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::home::world::{attempt, region, token};
use crate::world::envelope;

/// Runs a property with a fixed seed; a failure shows the smallest values found.
pub(crate) fn hold<S: Strategy>(
    cases: u32,
    values: S,
    property: impl Fn(S::Value) -> Result<(), proptest::test_runner::TestCaseError>,
) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
    if let Err(why) = runner.run(&values, property) {
        panic!("{why}");
    }
}

fn tokens() -> Vec<Token> {
    vec![token(0, 1, "eu"), token(0, 1, "us"), token(1, 1, "eu"), token(1, 2, "eu"), token(2, 1, "us")]
}

fn completion() -> impl Strategy<Value = Completion> {
    (select(vec!["e1", "e2", "e3"]), 0..3_u64, 3..6_u64, any::<bool>()).prop_map(|(name, epoch, position, late)| {
        let commit = Commit { epoch: Epoch(epoch), position, region: region(if epoch == 2 { "us" } else { "eu" }) };
        let completed_at = LogTime::from_unix_ms(position);
        Completion { envelope: envelope(name), commit, late, completed_at }
    })
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        (0..3_u32).prop_map(|lease_revision| Phase::Held { lease_ms: 500 + lease_revision, lease_revision }),
        Just(Phase::Lapsed),
        Just(Phase::Released),
        proptest::collection::vec(completion(), 1..4).prop_map(Phase::Completed),
    ]
}

pub(crate) fn evidence() -> impl Strategy<Value = Attempt> {
    (select(tokens()), any::<bool>(), phase(), 1..4_u32)
        .prop_map(|(token, flagged, phase, number)| Attempt { number, ..attempt(token, flagged, phase) })
}

fn placed() -> impl Strategy<Value = Placed> {
    (1..5_u64).prop_map(|position| Placed {
        commit: Commit { epoch: Epoch(1), position, region: region("eu") },
        checkpoint: (position != 3).then(|| Checkpoint { name: format!("c{position}").into(), data: [1].into() }),
    })
}

fn merged(evidence: &[Attempt], words: &[Placed], limits: &Limits) -> Record {
    let mut record = Record::new(region("eu"));
    for attempt in evidence {
        assert!(record.admit(attempt.clone(), limits).is_empty() || limits.envelopes < 16);
    }
    words.iter().for_each(|placed| record.place(placed.clone()));
    record
}

/// A list in another order, with some of it twice.
fn shuffled<T: Clone>(list: &[T], order: &[Index]) -> Vec<T> {
    let mut rest = list.to_vec();
    let mut out = Vec::new();
    for at in order {
        if rest.is_empty() {
            break;
        }
        out.push(rest.remove(at.index(rest.len())));
        let again = at.index(out.len());
        out.push(out[again].clone());
    }
    out.extend(rest);
    out
}

#[test]
fn evidence_in_any_order_and_repetition_is_the_same_record() {
    let all = proptest::collection::vec(evidence(), 1..10);
    let words = proptest::collection::vec(placed(), 0..4);
    let orders = proptest::collection::vec(any::<Index>(), 12);
    // With a small bound on envelopes too: the best are kept, in whatever order they come.
    let envelopes = select(vec![1_usize, 2, 16]);
    hold(20_000, (all, words, orders, envelopes), |(all, words, order, envelopes)| {
        let limits = Limits { envelopes, ..Limits::STANDARD };
        let one = merged(&all, &words, &limits);
        let other = merged(&shuffled(&all, &order), &shuffled(&words, &order), &limits);
        proptest::prop_assert_eq!(&one, &other);
        proptest::prop_assert_eq!(one.losers(), other.losers());
        Ok(())
    });
}

#[test]
fn records_join_as_their_evidence_does() {
    let some = || proptest::collection::vec(evidence(), 1..5);
    hold(20_000, (some(), some(), some()), |(a, b, c)| {
        let limits = Limits::STANDARD;
        let join = |lists: &[&[Attempt]]| {
            let of_each: Vec<Record> = lists.iter().map(|list| merged(list, &[], &limits)).collect();
            let attempts: Vec<Attempt> = of_each.into_iter().flat_map(|record| record.attempts).collect();
            merged(&attempts, &[], &limits)
        };
        let (ab, bc) = (join(&[&a, &b]), join(&[&b, &c]));
        proptest::prop_assert_eq!(join(&[&ab.attempts, &c]), join(&[&a, &bc.attempts]));
        proptest::prop_assert_eq!(join(&[&a, &b]), join(&[&b, &a]));
        proptest::prop_assert_eq!(join(&[&a, &a]), merged(&a, &[], &limits));
        Ok(())
    });
}

/// What a record should say, from the rules' words: all evidence of a grant is looked at together.
pub(crate) struct Opinion {
    grants: BTreeMap<Token, Grant>,
}

struct Grant {
    flagged: bool,
    held: bool,
    may_have_run: bool,
    reports: Vec<Completion>,
}

impl Opinion {
    pub(crate) fn of(evidence: &[Attempt]) -> Self {
        let mut grants: BTreeMap<Token, Vec<&Attempt>> = BTreeMap::new();
        for attempt in evidence {
            grants.entry(attempt.token.clone()).or_default().push(attempt);
        }
        let grants = grants.into_iter().map(|(token, all)| {
            let reports: Vec<Completion> = all.iter().flat_map(|attempt| attempt.completions().to_vec()).collect();
            let said = |phase: Phase| all.iter().any(|attempt| attempt.phase == phase);
            let (released, lapsed) = (said(Phase::Released), said(Phase::Lapsed));
            let grant = Grant {
                flagged: all.iter().all(|attempt| attempt.flagged),
                held: reports.is_empty() && !released && !lapsed,
                may_have_run: !reports.is_empty() || !released,
                reports,
            };
            (token, grant)
        });
        Self { grants: grants.collect() }
    }

    fn reports(&self) -> Vec<(&Token, &Completion)> {
        self.grants.iter().flat_map(|(token, grant)| grant.reports.iter().map(move |report| (token, report))).collect()
    }

    pub(crate) fn winner(&self) -> Option<Winner> {
        let reports = self.reports();
        let in_time: Vec<_> = reports.iter().filter(|(_, report)| !report.late).copied().collect();
        let candidates = if in_time.is_empty() { reports } else { in_time };
        let epoch = candidates.iter().map(|(_, report)| report.commit.epoch).max();
        let in_last = candidates.into_iter().filter(|(_, report)| Some(report.commit.epoch) == epoch);
        let first = in_last.min_by_key(|(token, report)| {
            (report.commit.position, report.commit.region.clone(), report.envelope, *token)
        });
        if let Some((token, report)) = first {
            return Some(Winner { token: token.clone(), envelope: Some(report.envelope) });
        }
        let held = self.grants.iter().rfind(|(_, grant)| grant.held);
        held.map(|(token, _)| Winner { token: token.clone(), envelope: None })
    }

    pub(crate) fn losers(&self) -> BTreeSet<Loser> {
        let winner = self.winner();
        let mut losers = BTreeSet::new();
        for (token, grant) in &self.grants {
            let wins = winner.as_ref().is_some_and(|winner| winner.token == *token);
            let envelopes: BTreeSet<Digest> = grant.reports.iter().map(|report| report.envelope).collect();
            for envelope in envelopes {
                if !wins || winner.as_ref().and_then(|winner| winner.envelope) != Some(envelope) {
                    losers.insert(Loser { token: token.clone(), envelope: Some(envelope) });
                }
            }
            let above = winner.as_ref().is_some_and(|winner| *token > winner.token);
            if grant.held && !wins && (!grant.flagged || above) {
                losers.insert(Loser { token: token.clone(), envelope: None });
            }
        }
        // Of all that ran unwarned, one may stay unnamed: the winner, or the first.
        let unwarned: Vec<&Token> = self
            .grants
            .iter()
            .filter(|(_, grant)| grant.may_have_run && !grant.flagged)
            .map(|(token, _)| token)
            .collect();
        let spared = unwarned
            .iter()
            .find(|token| winner.as_ref().is_some_and(|winner| winner.token == ***token))
            .or(unwarned.first())
            .copied();
        for token in unwarned {
            let reported = self.grants.get(token).is_some_and(|grant| !grant.reports.is_empty() || grant.held);
            if !reported && Some(token) != spared {
                losers.insert(Loser { token: token.clone(), envelope: None });
            }
        }
        losers
    }
}

#[test]
fn the_second_opinion_agrees() {
    hold(50_000, proptest::collection::vec(evidence(), 1..8), |all| {
        let record = merged(&all, &[], &Limits::STANDARD);
        let opinion = Opinion::of(&all);
        // Two grants of one place are no history: of those the order is only fixed.
        proptest::prop_assert_eq!(record.losers(), opinion.losers());
        proptest::prop_assert_eq!(record.winner(), opinion.winner());
        Ok(())
    });
}

/// P2: of two grants that may have run unwarned, one is named.
#[test]
fn of_two_unwarned_runs_one_is_named() {
    hold(50_000, proptest::collection::vec(evidence(), 1..8), |all| {
        let record = merged(&all, &[], &Limits::STANDARD);
        let losers = record.losers();
        let unwarned = record.attempts.iter().filter(|attempt| attempt.may_have_run() && !attempt.flagged);
        let unnamed = unwarned.filter(|attempt| losers.iter().all(|loser| loser.token != attempt.token)).count();
        proptest::prop_assert!(unnamed <= 1, "{} unnamed in {:#?}", unnamed, record);
        Ok(())
    });
}

/// A key that ran is never without an answer.
#[test]
fn whatever_completed_has_an_answer() {
    hold(20_000, proptest::collection::vec(evidence(), 1..8), |all| {
        let record = merged(&all, &[], &Limits::STANDARD);
        proptest::prop_assert_eq!(record.answer().is_some(), record.completions().next().is_some());
        Ok(())
    });
}
