//! One route: where its requests go, and what it has under way. What is under way outlives the settings: a route that is the same after
//! a change has it still.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_client::http::{Grace, endpoint_name};
use http::Method;

use super::addresses::Addresses;
use super::budget::{self, Budget, Next, RetryRules, Tried};
use super::endpoint;
use super::rules::rules;
use super::settings::{RetrySettings, RouteSettings, Wrong};
use crate::clock::Monotonic;
use crate::ids::EndpointName;
use crate::policy::Severity;
use crate::policy::document::Document;

/// A route, and what it has under way.
#[derive(Debug)]
pub(super) struct Route {
    /// Its place in the file, from 0.
    pub(super) number: usize,
    /// What is said of it.
    pub(super) said: RouteSettings,
    /// What it is called in metrics and logs.
    pub(super) name: String,
    /// Where its requests go.
    pub(super) addresses: Addresses,
    retry: RetryRules,
    budget: Arc<Mutex<Budget>>,
    in_flight: Arc<AtomicUsize>,
}

/// A request that an upstream has. Dropped, it has it no more.
#[derive(Debug)]
pub(super) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Route {
    /// Checks what is said of a route, and makes it. `before` is what was the same route, if there was one.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn new(
        number: usize,
        said: &RouteSettings,
        before: Option<&Self>,
        now: Monotonic,
    ) -> Result<Self, Wrong> {
        let RetrySettings { attempts, base, cap, budget_ratio, budget_per_second, max_retry_after } =
            said.retry.clone();
        let is_share = |number: f64| number.is_finite() && (0.0..=1_000_000.0).contains(&number);
        if attempts == 0 || !is_share(budget_ratio) || !is_share(budget_per_second) {
            return Err(Wrong("has a retry that is none: write attempts from 1 on, and rates from 0 on".to_owned()));
        }
        let duration = |ms: u64| Duration::from_millis(ms);
        let retry = RetryRules {
            attempts,
            base: duration(base.ms()),
            cap: duration(cap.ms()),
            ratio: budget_ratio,
            per_second: budget_per_second,
            most_retry_after: duration(max_retry_after.ms()),
        };
        if let Some(path) = said.health_path.as_deref().filter(|path| !is_path(path)) {
            return Err(Wrong(format!("has the health_path {path:?}: write such as /healthz")));
        }
        if said.max_in_flight == 0 {
            return Err(Wrong("has max_in_flight = 0: nothing would pass".to_owned()));
        }
        // What is wrong with the rest of it is found now, not at its first request.
        rules(&Document::defaults(Severity::High).promise(), said)?;
        let methods = said.methods.as_deref().unwrap_or_default().join(",");
        let host = said.host.as_deref().unwrap_or_default();
        let words = [methods.as_str(), &format!("{host}{}", said.path)];
        let name = said.endpoint.clone().unwrap_or_else(|| words.join(" ").trim().to_owned());
        if let Some(endpoint) = &said.endpoint {
            EndpointName::parse(endpoint).map_err(|error| Wrong(format!("endpoint: {error}")))?;
        }
        let (said, mut addresses) = (said.clone(), Addresses::parse(&said.upstream)?);
        let Some(before) = before else {
            let budget = Arc::new(Mutex::new(Budget::new(&retry, now)));
            return Ok(Self { number, said, name, addresses, retry, budget, in_flight: Arc::default() });
        };
        // Nobody asks any more how an address is that was asked in another way.
        addresses.keep(&before.addresses, said.health_path == before.said.health_path);
        let (budget, in_flight) = (Arc::clone(&before.budget), Arc::clone(&before.in_flight));
        Ok(Self { number, said, name, addresses, retry, budget, in_flight })
    }

    /// Whether another one, of other settings, takes the same requests.
    pub(super) fn is_of(&self, said: &RouteSettings) -> bool {
        let of = |said: &RouteSettings| {
            let mut methods = said.methods.clone().unwrap_or_default();
            methods.sort();
            (said.host.as_deref().map(str::to_ascii_lowercase), methods, said.path.clone())
        };
        of(&self.said) == of(said)
    }

    /// How long the upstream may still be at work on a request that timed out or broke off.
    pub(super) fn grace(&self) -> Grace {
        Grace(Duration::from_millis(self.said.grace.unwrap_or(self.said.upstream_timeout).ms()))
    }

    /// The endpoint of a request that takes this route.
    pub(super) fn endpoint(&self, method: &Method, path: &str) -> String {
        match &self.said.endpoint {
            Some(endpoint) => endpoint.clone(),
            None if self.said.endpoint_by_path => endpoint::named(method.as_str(), &self.on_host(path)),
            None => endpoint_name(method.as_str(), &self.on_host(&self.said.path)),
        }
    }

    /// A path with the route's host, if it has one: what is told apart by its host is another endpoint.
    fn on_host<'a>(&self, path: &'a str) -> Cow<'a, str> {
        match &self.said.host {
            Some(host) => Cow::Owned(format!("{host}{path}")),
            None => Cow::Borrowed(path),
        }
    }

    /// A place for a request at the upstream, if there is one.
    pub(super) fn enter(&self) -> Option<InFlight> {
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        let place = InFlight(Arc::clone(&self.in_flight));
        (before < self.said.max_in_flight).then_some(place)
    }

    /// Requests that the upstream has.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// A request is sent for the first time.
    pub(super) fn first_try(&self) {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).first(&self.retry);
    }

    /// What follows a failed try.
    pub(super) fn after(&self, tried: &Tried, now: Monotonic) -> Next {
        budget::next(&self.retry, &mut self.budget.lock().unwrap_or_else(PoisonError::into_inner), tried, now)
    }
}

/// Whether a route can have this path.
pub(super) fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::budget::Failed;

    const NOW: Monotonic = Monotonic::at(Duration::ZERO);

    fn said(change: impl FnOnce(&mut RouteSettings)) -> RouteSettings {
        let upstream = ["http://127.0.0.1:1", "http://127.0.0.1:2"].map(str::to_owned).to_vec();
        let mut said = RouteSettings { max_in_flight: 1, ..RouteSettings::to("/a", upstream) };
        change(&mut said);
        said
    }

    fn after(before: &Route, change: impl FnOnce(&mut RouteSettings)) -> Route {
        Route::new(7, &said(change), Some(before), NOW).expect("a route")
    }

    #[test]
    fn what_is_in_flight_counts_in_the_route_that_comes_after() {
        let before = Route::new(0, &said(|_| {}), None, NOW).expect("a route");
        let place = before.enter().expect("a place");
        let now = after(&before, |said| said.wait = Some(crate::time::Span::from_ms(1)));
        assert_eq!(now.in_flight(), 1);
        assert!(now.enter().is_none());
        drop(place);
        assert_eq!((now.in_flight(), before.in_flight()), (0, 0));
        assert!(now.enter().is_some());
    }

    #[test]
    fn a_budget_is_not_filled_by_a_change() {
        let only = |said: &mut RouteSettings| {
            said.retry.budget_ratio = 0.0;
            said.retry.budget_per_second = 0.1;
        };
        let before = Route::new(0, &said(only), None, NOW).expect("a route");
        let tried = || Tried { failed: Failed::Unsent, tries: 1, idempotent: false, held: false, random: 0.0 };
        assert!(matches!(before.after(&tried(), NOW), Next::Again(_)));
        assert_eq!(after(&before, only).after(&tried(), NOW), Next::Exhausted);
    }

    #[test]
    fn what_is_known_of_an_address_stays_with_it() {
        let health = |path: &str| {
            let path = path.to_owned();
            move |said: &mut RouteSettings| said.health_path = Some(path)
        };
        let before = Route::new(0, &said(health("/h")), None, NOW).expect("a route");
        before.addresses.said(0, false);
        before.addresses.refused(1, NOW);
        let serve = |route: &Route| route.addresses.all(NOW).into_iter().map(|(_, serves)| serves).collect::<Vec<_>>();
        assert_eq!(serve(&before), [false, false]);
        assert_eq!(serve(&after(&before, health("/h"))), [false, false]);
        let turned = after(&before, |said| {
            said.health_path = Some("/h".to_owned());
            said.upstream = vec!["http://127.0.0.1:3".to_owned(), "http://127.0.0.1:1".to_owned()];
        });
        assert_eq!(serve(&turned), [true, false], "an address that is new serves");
        assert_eq!(serve(&after(&before, health("/other"))), [true, false], "that it is unwell is not known any more");
        // What is learned now is known to both: a request goes by the settings that it began with.
        let now = after(&before, health("/h"));
        now.addresses.connected(1);
        assert_eq!(serve(&before), [false, true]);
    }

    #[test]
    fn a_route_is_the_same_by_what_it_takes() {
        let route =
            Route::new(0, &said(|said| said.methods = Some(vec!["PUT".to_owned(), "GET".to_owned()])), None, NOW);
        let route = route.expect("a route");
        let of = |host: Option<&str>, methods: &[&str], path: &str| RouteSettings {
            host: host.map(str::to_owned),
            methods: Some(methods.iter().map(|method| (*method).to_owned()).collect()),
            ..RouteSettings::to(path, Vec::new())
        };
        assert!(route.is_of(&of(None, &["GET", "PUT"], "/a")));
        assert!(!route.is_of(&of(None, &["GET"], "/a")) && !route.is_of(&of(None, &["GET", "PUT"], "/b")));
        assert!(!route.is_of(&of(Some("h"), &["GET", "PUT"], "/a")));
    }
}
