//! The addresses of an upstream: each has its turn, but those that did not take a connection, or say that they are unwell.
//! Time is an argument.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Uri, uri};

use super::settings::Wrong;
use crate::clock::Monotonic;

/// How long an address is left out that did not take a connection; doubled each time, up to the most.
const FIRST_OUT: Duration = Duration::from_secs(1);
const MOST_OUT: Duration = Duration::from_secs(30);

/// The addresses of one route.
#[derive(Debug)]
pub(super) struct Addresses {
    all: Vec<Address>,
    turn: AtomicUsize,
}

/// One of them.
#[derive(Debug)]
struct Address {
    authority: Authority,
    state: Arc<Mutex<State>>,
}

/// What is known of it.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Connections in a row that it did not take.
    failures: u32,
    /// Until when it is left out for that.
    out_until: Option<Monotonic>,
    /// It says that it is unwell.
    unwell: bool,
}

impl State {
    fn serves(self, now: Monotonic) -> bool {
        !self.unwell && self.out_until.is_none_or(|until| now >= until)
    }
}

impl Addresses {
    /// Reads addresses such as `http://127.0.0.1:9000`.
    ///
    /// # Errors
    /// When one is none, or there is none.
    pub(super) fn parse(texts: &[String]) -> Result<Self, Wrong> {
        if texts.is_empty() {
            return Err(Wrong("names no upstream: write such as [\"http://127.0.0.1:9000\"]".to_owned()));
        }
        let all = texts.iter().map(|text| Ok(Address { authority: authority(text)?, state: Arc::default() }));
        Ok(Self { all: all.collect::<Result<_, Wrong>>()?, turn: AtomicUsize::new(0) })
    }

    /// Goes on with what is known of the addresses that were there before. Whether they are unwell is known only if they are asked as
    /// they were.
    pub(super) fn keep(&mut self, before: &Self, asked_alike: bool) {
        for address in &mut self.all {
            let Some(known) = before.all.iter().find(|known| known.authority == address.authority) else { continue };
            if asked_alike {
                address.state = Arc::clone(&known.state);
                continue;
            }
            let known = *known.state.lock().unwrap_or_else(PoisonError::into_inner);
            address.state = Arc::new(Mutex::new(State { unwell: false, ..known }));
        }
    }

    /// Whose turn it is: of those that serve and were not tried yet, else of those that were not tried, else of all.
    pub(super) fn pick(&self, tried: &[usize], now: Monotonic) -> usize {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.all.len().max(1);
        let order: Vec<usize> = (0..count).map(|step| first.wrapping_add(step) % count).collect();
        let untried = |at: &usize| !tried.contains(at);
        let serves = |at: &usize| self.state(*at).serves(now);
        let best = order.iter().copied().find(|at| untried(at) && serves(at));
        best.or_else(|| order.iter().copied().find(untried)).or_else(|| order.first().copied()).unwrap_or_default()
    }

    /// An address's target for a path.
    pub(super) fn target(&self, at: usize, path: uri::PathAndQuery) -> Option<Uri> {
        let mut parts = uri::Parts::default();
        (parts.scheme, parts.path_and_query) = (Some(Scheme::HTTP), Some(path));
        parts.authority = Some(self.all.get(at)?.authority.clone());
        Uri::from_parts(parts).ok()
    }

    /// It took a connection.
    pub(super) fn connected(&self, at: usize) {
        self.change(at, |state| (state.failures, state.out_until) = (0, None));
    }

    /// It did not.
    pub(super) fn refused(&self, at: usize, now: Monotonic) {
        self.change(at, |state| {
            let out = FIRST_OUT.saturating_mul(2_u32.saturating_pow(state.failures.min(10))).min(MOST_OUT);
            (state.failures, state.out_until) = (state.failures.saturating_add(1), Some(now.plus(out)));
        });
    }

    /// It said how it is.
    pub(super) fn said(&self, at: usize, well: bool) {
        self.change(at, |state| state.unwell = !well);
    }

    /// Every address with its text, and whether it serves.
    pub(super) fn all(&self, now: Monotonic) -> Vec<(String, bool)> {
        let shown = |(at, address): (usize, &Address)| (address.authority.to_string(), self.state(at).serves(now));
        self.all.iter().enumerate().map(shown).collect()
    }

    fn state(&self, at: usize) -> State {
        self.all
            .get(at)
            .map(|address| *address.state.lock().unwrap_or_else(PoisonError::into_inner))
            .unwrap_or_default()
    }

    fn change(&self, at: usize, change: impl FnOnce(&mut State)) {
        if let Some(address) = self.all.get(at) {
            change(&mut address.state.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

fn authority(text: &str) -> Result<Authority, Wrong> {
    let wrong = || Wrong(format!("{text:?} is no upstream: write such as http://127.0.0.1:9000"));
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@') && authority.port().is_some());
    authority.filter(|_| plain).cloned().ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: usize) -> Addresses {
        let texts: Vec<String> = (0..count).map(|number| format!("http://127.0.0.1:{}", 9_000 + number)).collect();
        Addresses::parse(&texts).expect("addresses")
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic::at(Duration::from_secs(seconds))
    }

    #[test]
    fn each_has_its_turn() {
        let three = addresses(3);
        let picked: Vec<usize> = (0..6).map(|_| three.pick(&[], at(0))).collect();
        assert_eq!(picked, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn one_that_takes_no_connection_is_left_out_for_a_while_and_then_longer() {
        let two = addresses(2);
        two.refused(0, at(10));
        assert!((0..4).all(|_| two.pick(&[], at(10)) == 1));
        assert!((0..2).any(|_| two.pick(&[], at(11)) == 0), "its time is over");
        two.refused(0, at(11));
        assert!((0..4).all(|_| two.pick(&[], at(12)) == 1), "twice as long");
        two.connected(0);
        assert!((0..2).any(|_| two.pick(&[], at(12)) == 0));
        (0..40).for_each(|_| two.refused(0, at(20)));
        assert!((0..4).all(|_| two.pick(&[], at(49)) == 1) && (0..2).any(|_| two.pick(&[], at(50)) == 0));
    }

    #[test]
    fn where_none_serves_all_are_tried() {
        let two = addresses(2);
        two.said(0, false);
        two.refused(1, at(0));
        assert_ne!(two.pick(&[], at(0)), two.pick(&[], at(0)));
        assert_eq!(two.pick(&[0], at(0)), 1);
        assert!(two.pick(&[0, 1], at(0)) < 2);
        two.said(0, true);
        assert!((0..4).all(|_| two.pick(&[], at(0)) == 0));
        let shown = two.all(at(0));
        assert_eq!(shown, [("127.0.0.1:9000".to_owned(), true), ("127.0.0.1:9001".to_owned(), false)]);
    }

    #[test]
    fn an_upstream_is_a_host_and_a_port() {
        for bad in ["127.0.0.1:9000", "https://a:1", "http://a", "http://a:1/v1", "http://u@a:1", "http://a:1/?q", ""] {
            assert!(Addresses::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
        let named = Addresses::parse(&["http://charges.internal:80/".to_owned()]).expect("an upstream");
        let target = named.target(0, uri::PathAndQuery::from_static("/v1/a?b=c"));
        assert_eq!(target.map(|uri| uri.to_string()), Some("http://charges.internal:80/v1/a?b=c".to_owned()));
        assert!(Addresses::parse(&[]).is_err());
    }
}
