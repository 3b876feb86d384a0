//! What holds for a request: what its route says, else what the store's policy promises the endpoint.
//!
//! Severity and what a lapse means are the policy's alone: the store goes by it, whatever a gateway thinks.
//! Lease and retention are left to the store unless the route says them: the store knows them, and grants under them.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_client::http::{self as sdk, InFlight, OnFailure, Profile, Rules};

use super::settings::{InFlightName, OnFailureName, ProfileName, RouteSettings, Wrong};
use crate::policy::contract::status_range;
use crate::policy::document::{Document, Promise};
use crate::policy::{FailMode, Severity, Stage};
use crate::reservation::record::OnLapse;
use crate::time::Span;

/// The rules of a route's request whose endpoint is promised this.
///
/// # Errors
/// When the route names a header or a status that has no meaning.
pub(super) fn rules(promise: &Promise, route: &RouteSettings) -> Result<Rules, Wrong> {
    let contract = &promise.contract;
    let mut rules = Rules::of(severity_of(contract.severity))
        .with_stage(stage_of(route.stage.unwrap_or(contract.stage)))
        .with_fail(fail_of(route.fail.unwrap_or(contract.fail)))
        .with_on_lapse(on_lapse_of(contract.on_lapse))
        .with_profile(profile_of(route.profile))
        .with_in_flight(in_flight_of(route.in_flight))
        .with_window(Duration::from_millis(contract.retention_ms))
        .with_most_response_bytes(usize::try_from(contract.max_body_bytes).unwrap_or(usize::MAX));
    rules = rules.with_headers(&contract.headers).map_err(|error| Wrong(error.to_string()))?;
    // Where nobody said which statuses are stored, the profile does.
    let unsaid = Document::defaults(contract.severity).promise().contract.statuses;
    if contract.statuses != unsaid {
        rules = rules.with_statuses(contract.statuses.iter().copied());
    }
    said(rules, route)
}

/// The rules with what the route says beside what a severity decides.
fn said(mut rules: Rules, route: &RouteSettings) -> Result<Rules, Wrong> {
    let duration = |span: Span| Duration::from_millis(span.ms());
    if let Some(on_failure) = route.on_failure {
        rules = rules.with_on_failure(match on_failure {
            OnFailureName::Release => OnFailure::Release,
            OnFailureName::Lapse => OnFailure::Lapse,
        });
    }
    if let Some(lease) = route.lease {
        rules = rules.with_lease(duration(lease));
    }
    if let Some(retention) = route.retention {
        rules = rules.with_retention(duration(retention));
    }
    if let Some(wait) = route.wait {
        rules = rules.with_wait(duration(wait));
    }
    if let Some(work_limit) = route.work_limit {
        rules = rules.with_work_limit(duration(work_limit));
    }
    if let Some(written) = &route.statuses {
        let mut statuses = BTreeSet::new();
        for text in written {
            let range = status_range(text);
            let range =
                range.ok_or_else(|| Wrong(format!("{text:?} is no status: write 200 to 599, or such as 2xx")))?;
            statuses.extend(range);
        }
        rules = rules.with_statuses(statuses);
    }
    if let Some(headers) = &route.headers {
        rules = rules.with_headers(headers).map_err(|error| Wrong(error.to_string()))?;
    }
    if let Some(bytes) = route.max_request_bytes {
        rules = rules.with_most_request_bytes(bytes);
    }
    if let Some(bytes) = route.max_response_bytes {
        rules = rules.with_most_response_bytes(bytes);
    }
    Ok(rules)
}

const fn severity_of(severity: Severity) -> sdk::Severity {
    match severity {
        Severity::Critical => sdk::Severity::Critical,
        Severity::High => sdk::Severity::High,
        Severity::Medium => sdk::Severity::Medium,
        Severity::Low => sdk::Severity::Low,
    }
}

const fn stage_of(stage: Stage) -> sdk::Stage {
    match stage {
        Stage::Off => sdk::Stage::Off,
        Stage::Observe => sdk::Stage::Observe,
        Stage::Optional => sdk::Stage::Optional,
        Stage::Required => sdk::Stage::Required,
        Stage::Strict => sdk::Stage::Strict,
    }
}

const fn fail_of(fail: FailMode) -> sdk::FailMode {
    match fail {
        FailMode::Open => sdk::FailMode::Open,
        FailMode::Closed => sdk::FailMode::Closed,
    }
}

const fn on_lapse_of(on_lapse: OnLapse) -> sdk::OnLapse {
    match on_lapse {
        OnLapse::Regrant => sdk::OnLapse::Regrant,
        OnLapse::Hold => sdk::OnLapse::Hold,
    }
}

const fn profile_of(profile: ProfileName) -> Profile {
    match profile {
        ProfileName::Default => Profile::Default,
        ProfileName::Ietf => Profile::Ietf,
        ProfileName::Stripe => Profile::Stripe,
        ProfileName::Oasis => Profile::Oasis,
    }
}

const fn in_flight_of(in_flight: InFlightName) -> InFlight {
    match in_flight {
        InFlightName::Conflict => InFlight::Conflict,
        InFlightName::Locked => InFlight::Locked,
    }
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderName, StatusCode};

    use super::*;
    use crate::policy::set::{PolicySet, Source};

    /// The rules under a policy with these lines, of a route that `said` changes.
    fn under(policy: &str, said: impl FnOnce(&mut RouteSettings)) -> Rules {
        let text = format!("[policy.a]\nendpoints = [\"*\"]\n{policy}\n");
        let set = PolicySet::parse(&[Source { name: "a.toml", text: &text }]).expect("a policy");
        let promise = &set.policies().values().next().expect("one").promise;
        let mut route = RouteSettings::to("/", Vec::new());
        said(&mut route);
        rules(promise, &route).expect("rules")
    }

    const HIGH: &str = "severity = \"high\"";

    fn stored(rules: &Rules, status: u16) -> bool {
        rules.stores_status(StatusCode::from_u16(status).expect("a status"))
    }

    #[test]
    fn the_policy_decides_what_the_route_leaves_unsaid() {
        let of = |lines: &str| under(&format!("{HIGH}\n{lines}"), |_| {});
        assert_eq!(of(""), Rules::of(sdk::Severity::High), "the defaults of both are the same");
        for severity in Severity::ALL {
            let expected = Rules::of(severity_of(severity));
            assert_eq!(under(&format!("severity = \"{severity}\""), |_| {}), expected, "{severity}");
        }
        assert_eq!(of("stage = \"observe\"").stage(), sdk::Stage::Observe);
        assert_eq!(of("fail = \"open\"").fail(), sdk::FailMode::Open);
        assert_eq!(of("on_lapse = \"hold\"").on_lapse(), sdk::OnLapse::Hold);
        let retention = of("retention = \"2h\"");
        assert_eq!((retention.window(), retention.retention()), (Duration::from_secs(7_200), None));
        assert_eq!(of("lease = \"2s\"").lease(), None, "the store knows it");
        let statuses = of("[policy.a.response]\nstatuses = [\"2xx\", \"500\"]\nskip_statuses = [\"201\"]");
        assert_eq!([200, 201, 404, 500].map(|status| stored(&statuses, status)), [true, false, false, true]);
        let headers = of("[policy.a.response]\nheaders = [\"x-charge\"]");
        assert!(headers.stores_header(&HeaderName::from_static("x-charge")));
        assert!(!headers.stores_header(&HeaderName::from_static("location")));
        assert_eq!(of("[policy.a.response]\nmax_body_bytes = 7").most_response_bytes(), 7);
        let skipped = under(&format!("{HIGH}\n[policy.a.response]\nskip_statuses = []"), |_| {});
        assert!(stored(&skipped, 429));
    }

    #[test]
    fn what_the_route_says_goes_before_the_policy() {
        let policy = "severity = \"low\"\nstage = \"off\"\nlease = \"9s\"\n[policy.a.response]\nstatuses = [\"2xx\"]";
        let rules = under(policy, |route| {
            route.stage = Some(Stage::Required);
            route.on_failure = Some(OnFailureName::Release);
            route.in_flight = InFlightName::Locked;
            route.lease = Some(Span::from_ms(5_000));
            route.retention = Some(Span::from_ms(60_000));
            route.wait = Some(Span::from_ms(1));
            route.work_limit = Some(Span::from_ms(2));
            route.statuses = Some(vec!["404".to_owned()]);
            route.headers = Some(vec!["X-A".to_owned()]);
            route.max_request_bytes = Some(3);
            route.max_response_bytes = Some(4);
        });
        let expected = Rules::of(sdk::Severity::Low)
            .with_stage(sdk::Stage::Required)
            .with_on_failure(OnFailure::Release)
            .with_in_flight(InFlight::Locked)
            .with_lease(Duration::from_secs(5))
            .with_retention(Duration::from_secs(60))
            .with_wait(Duration::from_millis(1))
            .with_work_limit(Duration::from_millis(2))
            .with_statuses([404])
            .with_headers(["x-a"])
            .expect("a header")
            .with_most_request_bytes(3)
            .with_most_response_bytes(4);
        assert_eq!(rules, expected);
        let rules = under(policy, |route| route.fail = Some(FailMode::Closed));
        assert_eq!(rules.fail(), sdk::FailMode::Closed);
    }

    #[test]
    fn a_profile_says_what_is_stored_where_the_policy_does_not() {
        let stripe = |lines: &str| under(&format!("{HIGH}\n{lines}"), |route| route.profile = ProfileName::Stripe);
        assert!(stored(&stripe(""), 500));
        assert!(!stored(&stripe("[policy.a.response]\nstatuses = [\"2xx\"]"), 500));
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let promise = Document::defaults(Severity::High).promise();
        let wrong = |said: fn(&mut RouteSettings)| {
            let mut route = RouteSettings::to("/", Vec::new());
            said(&mut route);
            rules(&promise, &route).is_err()
        };
        assert!(wrong(|route| route.statuses = Some(vec!["7xx".to_owned()])));
        assert!(wrong(|route| route.headers = Some(vec!["set-cookie".to_owned()])));
    }
}
