//! Each code fires on a planted policy, and on none that is as it should be.

use super::*;
use crate::policy::set::Source;

fn codes(text: &str) -> Vec<Code> {
    let set = PolicySet::parse(&[Source { name: "f", text }]).expect("policies of a test");
    lint(&set).into_iter().map(|finding| finding.code).collect()
}

const CRITICAL: &str = "[policy.a]\nendpoints = [\"a\"]\nseverity = \"critical\"\nstage = \"required\"\nowner = \"o\"\n\
                        retry_window = \"1d\"\njustification = \"j\"\n";
const HIGH: &str = "[policy.a]\nendpoints = [\"a\"]\nseverity = \"high\"\n";

/// A policy that is as it should be, what is planted in it, and the code that must be found then.
const PLANTED: &[(Code, &str, &str)] = &[
    (Code::CriticalFailsOpen, CRITICAL, "fail = \"open\""),
    (Code::CriticalLocal, CRITICAL, "consistency = \"local\""),
    (Code::CriticalOff, "[policy.a]\nendpoints = [\"a\"]\nseverity = \"critical\"\n", "stage = \"off\""),
    (Code::StrictFailsOpen, HIGH, "stage = \"strict\"\nfail = \"open\""),
    (Code::RetentionBelowRetryWindow, HIGH, "retry_window = \"4d\""),
    (Code::RetentionBelowLease, HIGH, "lease = \"1h\"\nretention = \"30m\""),
    (Code::SuccessNotStored, HIGH, "response.statuses = [\"4xx\"]"),
    (Code::CriticalNotRequired, "", "[policy.a]\nendpoints = [\"a\"]\nseverity = \"critical\""),
    (Code::CriticalRegrants, CRITICAL, "on_lapse = \"regrant\""),
    (Code::CriticalWithoutOwner, "", "[policy.a]\nendpoints = [\"a\"]\nseverity = \"critical\""),
    (Code::LoweredWithoutJustification, HIGH, "retention = \"1d\""),
    (Code::HoldButDuplicates, "[policy.a]\nendpoints = [\"a\"]\nseverity = \"medium\"\n", "on_lapse = \"hold\""),
    (Code::LeaseShort, HIGH, "lease = \"999ms\""),
    (Code::LeaseLong, HIGH, "lease = \"11m\""),
    (Code::CriticalNotRequired, "", "[policy.a]\nendpoints = [\"a\"]\nseverity = \"critical\"\nstage = \"observe\""),
    (Code::RetryWindowUnknown, "", "[policy.a]\nendpoints = [\"a\"]\nseverity = \"critical\""),
    (Code::FingerprintVolatile, HIGH, "fingerprint.headers = [\"content-type\", \"X-Request-Id\"]"),
    (Code::FingerprintIgnoresMoney, HIGH, "fingerprint.leave_out = [\"/order/total_amount\"]"),
    (Code::FingerprintNarrow, HIGH, "fingerprint.keep = [\"/order_id\"]"),
    (Code::StoresPassingFailure, HIGH, "response.statuses = [\"2xx\", \"5xx\"]"),
    (Code::ClientRateWithoutEffect, HIGH, "limits = { keys_per_second = 1, keys_per_second_per_client = 2 }"),
    (Code::QuotaBelowRate, HIGH, "limits = { keys_per_second = 1, max_keys = 259_199 }"),
    (
        Code::LoweredForTenant,
        HIGH,
        "[policy.b]\nendpoints = [\"*\"]\ntenants = [\"acme\"]\nseverity = \"high\"\n[policy.c]\nendpoints = [\"x\"]\n\
         severity = \"critical\"\n",
    ),
    (Code::CatchAllLowersDefault, HIGH, "[policy.b]\nendpoints = [\"*\"]\nseverity = \"medium\""),
];

#[test]
fn every_code_fires_where_it_is_planted_and_not_before() {
    for code in Code::ALL {
        let cases: Vec<_> = PLANTED.iter().filter(|(planted, _, _)| planted == code).collect();
        assert!(!cases.is_empty(), "{} has no case: plant one", code.as_str());
        for (_, good, planted) in cases {
            assert!(!codes(good).contains(code), "{} is found in a policy that is as it should be", code.as_str());
            assert!(codes(&format!("{good}{planted}\n")).contains(code), "{} is not found: {planted}", code.as_str());
        }
    }
}

#[test]
fn nothing_is_said_of_good_policies() {
    let values_at_their_edge = "[policy.a]\nendpoints = [\"a\"]\nseverity = \"high\"\nlease = \"10m\"\nretry_window = \"3d\"\n\
                                limits = { keys_per_second = 1, keys_per_second_per_client = 1, max_keys = 259_200 }\n";
    let low_lease = "[policy.a]\nendpoints = [\"a\"]\nseverity = \"high\"\nlease = \"1s\"\n";
    let explained = "[policy.a]\nendpoints = [\"a\"]\nseverity = \"high\"\nretention = \"1d\"\njustification = \"j\"\n";
    // What nobody needs to explain: a lower severity, which says it itself, and limits.
    let low = "[policy.a]\nendpoints = [\"a\"]\nseverity = \"low\"\nretention = \"10m\"\n";
    let catch_all = "[policy.a]\nendpoints = [\"*\"]\nseverity = \"high\"\n";
    let stricter_tenant = "[policy.a]\nendpoints = [\"a\"]\nseverity = \"high\"\n[policy.b]\nendpoints = [\"*\"]\n\
                           tenants = [\"t\"]\nseverity = \"high\"\n";
    let sample = include_str!("../../../deploy/policies/payments.toml");
    for good in [CRITICAL, HIGH, values_at_their_edge, low_lease, explained, low, catch_all, stricter_tenant, sample] {
        assert_eq!(codes(good), [], "{good}");
    }
}

#[test]
fn codes_are_unlike_and_worst_first() {
    let mut texts: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), Code::ALL.len());
    assert!(Code::ALL.iter().all(|code| !code.meaning().ends_with('.') && code.as_str().len() < 40));
}

#[test]
fn a_finding_says_where_and_what_to_do() {
    let set = PolicySet::parse(&[Source { name: "f", text: &format!("{HIGH}lease = \"1s\"\nretention = \"1s\"\n") }]);
    let found: Vec<String> = set.map(|set| lint(&set)).unwrap_or_default().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        ["warning: f: policy a: justification: less than high promises by default in retention: say why \
          [lowered-without-justification]"]
    );
}
