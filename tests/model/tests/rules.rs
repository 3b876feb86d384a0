//! With every rule the properties hold; without one of them, one breaks.

use std::time::Duration;

use holdfast_model::{Limits, Rule, Rules, Scenario};

/// Explores more than the other check, for what only longer paths show.
const WIDER: Limits = Limits { states: 1_200_000, ..Limits::SMALL };

#[track_caller]
fn holds(scenario: Scenario, limits: Limits) {
    let report = scenario.check(Rules::all(), limits);
    assert!(report.broken.is_empty(), "{}: {:#?}", scenario.name(), report.broken);
    assert!(report.states > 1000, "{}: {} states are nothing", scenario.name(), report.states);
}

#[track_caller]
fn breaks(scenario: Scenario, rule: Rule, property: &str) {
    let report = scenario.check(Rules::all().without(rule), WIDER);
    let broken: Vec<&str> = report.broken.iter().map(|broken| broken.property).collect();
    assert!(broken.contains(&property), "{} without {rule:?}: {broken:?}", scenario.name());
}

macro_rules! scenarios_hold {
    ($($name:ident: $scenario:ident;)*) => {
        mod every_rule {
            use super::*;

            $(#[test]
            fn $name() {
                holds(Scenario::$scenario, Limits::SMALL);
            })*

            #[test]
            fn is_checked_in_every_scenario() {
                assert_eq!(Scenario::ALL, &[$(Scenario::$scenario),*]);
            }
        }
    };
}

macro_rules! rules_carry {
    ($($name:ident: $scenario:ident, $rule:ident, $property:literal;)*) => {
        mod without {
            use super::*;

            $(#[test]
            fn $name() {
                breaks(Scenario::$scenario, Rule::$rule, $property);
            })*
        }
    };
}

scenarios_hold! {
    renewal: Renewal;
    late_answer: LateAnswer;
    lost: Lost;
    takeover: Takeover;
    fail_open: FailOpen;
    candidates: Candidates;
    failback: Failback;
    minted: Minted;
    remint: Remint;
    nonce: Nonce;
    tail: Tail;
    global: Global;
    global_later: GlobalLater;
    switchover: Switchover;
    switchover_after: SwitchoverAfter;
    replicas: Replicas;
    replicas_apply: ReplicasApply;
    local: Local;
    lapse: Lapse;
    claim: Claim;
    expiry: Expiry;
    retention: Retention;
    restore: Restore;
    destroyed: Destroyed;
}

rules_carry! {
    r1_epoch: Candidates, R1Epoch, "P5";
    r1_renewal: Renewal, R1Renewal, "P2 flag";
    r1_wait: Renewal, R1Wait, "P2 flag";
    r2_gap: Takeover, R2Gap, "P1";
    r3_end: Takeover, R3End, "P1";
    r4_flag: Lost, R4Flag, "P1";
    r5_seal: Takeover, R5Seal, "P1";
    r5_unopened: Failback, R5Unopened, "P5";
    r6_gate: Takeover, R6Gate, "P1";
    r6_replica: Takeover, R6Replica, "P1";
    r6_trust: Destroyed, R6Trust, "P5";
    r7_named: Lapse, R7Named, "P1";
    r7_entry: ReplicasApply, R7Entry, "P5";
    r7_import: Takeover, R7Import, "P5";
    r7_import_ends: Global, R7ImportEnds, "P5";
    r8_lease: LateAnswer, R8Lease, "P2 flag";
    r8_void_untold: Nonce, R8VoidUntold, "P1";
    r9_fresh: Nonce, R9Fresh, "P1";
    r11_keep: FailOpen, R11Keep, "P2";
    r11_envelopes: Tail, R11Envelopes, "P5";
    r11_higher_held: Tail, R11HigherHeld, "P2";
    r12_trust: Global, R12Trust, "P1";
    r12_wait: Global, R12Wait, "P4";
    r12_wholly: GlobalLater, R12Wholly, "P1";
    r13_superseded: Minted, R13Superseded, "P1";
    r13_start: LateAnswer, R13Start, "P2 flag";
    r13_remint: Remint, R13Remint, "P1";
    r14_settled: SwitchoverAfter, R14Settled, "P7";
    r14_end: Switchover, R14End, "P1";
    r14_settles: Switchover, R14Settles, "P7";
    r15_horizon: Retention, R15Horizon, "P5";
    r15_apply: Retention, R15Apply, "P1";
    r15_settled: Expiry, R15Settled, "P5";
    r15_held: Expiry, R15Held, "P5";
    r16_incarnation: Restore, R16Incarnation, "P5";
    r17_region: Local, R17Region, "P2";
    r17_others: Local, R17Others, "P5";
    lapse_flag: Lapse, LapseFlag, "P2";
}

/// Two looks at the grant's own lease, of which either is enough: both must be gone.
#[test]
fn without_both_looks_at_the_grants_lease() {
    let rules = Rules::all().without(Rule::R8Winner).without(Rule::R13Start);
    assert!(!Scenario::Lapse.check(rules, WIDER).broken.is_empty());
}

/// The scenarios with wider bounds, half an hour for all.
#[test]
fn soak_every_scenario() {
    let limits = Limits { regions: 0, epochs: 3, asks: 2, time: Duration::from_secs(75), states: 60_000_000 };
    for scenario in Scenario::ALL {
        holds(*scenario, limits);
    }
}
