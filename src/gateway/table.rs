//! Which route a request takes: by its host, its method and its path, the most specific path first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::{Method, Uri};

use super::route::{Route, is_path};
use super::settings::{RouteSettings, Settings, Wrong};
use crate::clock::Monotonic;

/// Routes of one gateway at the most.
const MAX_ROUTES: usize = 1_000;

/// Every route.
#[derive(Debug)]
pub(super) struct Table {
    routes: Vec<Arc<Route>>,
    /// By host; the empty one is every other.
    hosts: BTreeMap<String, ByMethod>,
}

/// The paths of one host, by method. The empty one is every other.
type ByMethod = BTreeMap<String, matchit::Router<usize>>;

impl Table {
    /// Checks the routes, and makes the table of them. A route that was in the table before goes on with what it has under way.
    ///
    /// # Errors
    /// The first thing that is wrong, with the route.
    pub(super) fn new(settings: &Settings, before: Option<&Self>, now: Monotonic) -> Result<Self, Wrong> {
        if settings.route.is_empty() || settings.route.len() > MAX_ROUTES {
            let count = settings.route.len();
            return Err(Wrong(format!("there are {count} routes: write 1 to {MAX_ROUTES} [[route]]")));
        }
        let mut routes = Vec::new();
        for (number, said) in settings.route.iter().enumerate() {
            let timeouts = (said.upstream_timeout, settings.connect_timeout);
            let named = |why: String| Wrong(format!("route {} ({}) {why}", number.saturating_add(1), said.path));
            if timeouts.0 <= timeouts.1 {
                let why = format!(
                    "has upstream_timeout = {}, and connect_timeout is {}: make it longer",
                    timeouts.0, timeouts.1
                );
                return Err(named(why));
            }
            let same = before.and_then(|table| table.routes.iter().find(|route| route.is_of(said)));
            let route = Route::new(number, said, same.map(Arc::as_ref), now);
            routes.push(Arc::new(route.map_err(|Wrong(why)| named(why))?));
        }
        let mut table = Self { routes, hosts: BTreeMap::new() };
        let hosts: BTreeSet<String> = table.routes.iter().map(|route| host_of(&route.said)).collect();
        for host in hosts {
            let by_method = table.by_method(&host)?;
            table.hosts.insert(host, by_method);
        }
        Ok(table)
    }

    fn by_method(&self, host: &str) -> Result<ByMethod, Wrong> {
        let of_host: Vec<&Arc<Route>> = self.routes.iter().filter(|route| host_of(&route.said) == host).collect();
        let mut methods: BTreeSet<String> = BTreeSet::from([String::new()]);
        methods.extend(of_host.iter().flat_map(|route| route.said.methods.iter().flatten().cloned()));
        let mut by_method = ByMethod::new();
        for method in methods {
            let mut paths = matchit::Router::new();
            // A route that names the method goes before one for all of them.
            let names = |route: &&&Arc<Route>| route.said.methods.as_ref().is_some_and(|names| names.contains(&method));
            let any = |route: &&&Arc<Route>| route.said.methods.is_none();
            let mut taken = BTreeSet::new();
            let mut short = Vec::new();
            for route in of_host.iter().filter(names).chain(of_host.iter().filter(any)) {
                let is_any = route.said.methods.is_none();
                if is_any && taken.contains(&(route.said.path.as_str(), false)) {
                    continue;
                }
                let why = |error: matchit::InsertError| {
                    let number = route.number.saturating_add(1);
                    Wrong(format!("route {number} ({}) cannot be told from another: {error}", route.said.path))
                };
                if !is_path(&route.said.path) {
                    return Err(Wrong(format!("route {:?} is no path: begin with /", route.said.path)));
                }
                paths.insert(route.said.path.clone(), route.number).map_err(why)?;
                taken.insert((route.said.path.as_str(), is_any));
                short.extend(route.said.path.find("{*").map(|end| (route.said.path.get(..end), route.number)));
            }
            for (path, number) in short {
                // What is left of a path may be nothing, unless another route has just that.
                let _taken = path.map(|path| paths.insert(path, number));
            }
            by_method.insert(method, paths);
        }
        Ok(by_method)
    }

    /// The route of a request, if it has one.
    pub(super) fn find(&self, host: &str, method: &Method, uri: &Uri) -> Option<&Arc<Route>> {
        let name = host_name(host);
        let hosts = [self.hosts.get(&name), self.hosts.get("")];
        let number = hosts.into_iter().flatten().find_map(|by_method| {
            let paths = by_method.get(method.as_str()).or_else(|| by_method.get(""))?;
            paths.at(uri.path()).ok().map(|found| *found.value)
        })?;
        self.routes.get(number)
    }

    /// Every route.
    pub(super) fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}

fn host_of(said: &RouteSettings) -> String {
    said.host.as_deref().map(host_name).unwrap_or_default()
}

/// A host without its port, in lower case.
fn host_name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Monotonic = Monotonic::at(Duration::ZERO);

    /// A table of routes as host, methods and path, each with an upstream of its own.
    fn table(routes: &[(&str, &str, &str)]) -> Result<Table, Wrong> {
        let route = |(host, methods, path): &(&str, &str, &str)| RouteSettings {
            host: (!host.is_empty()).then(|| (*host).to_owned()),
            methods: (!methods.is_empty()).then(|| methods.split(' ').map(str::to_owned).collect()),
            ..RouteSettings::to(path, vec!["http://127.0.0.1:1".to_owned()])
        };
        let settings = Settings { route: routes.iter().map(route).collect(), ..Settings::default() };
        Table::new(&settings, None, NOW)
    }

    #[test]
    fn the_most_specific_route_is_taken() {
        let table = table(&[
            ("", "", "/{*rest}"),
            ("", "", "/v1/accounts/{id}/charges"),
            ("", "POST", "/v1/{*rest}"),
            ("", "POST PUT", "/v1/accounts/{id}/charges"),
            ("shop.example", "", "/v1/accounts/{id}/charges"),
            ("shop.example", "GET", "/only"),
        ])
        .expect("a table");
        let found = |host: &str, method: &str, path: &str| {
            let (method, uri) = (method.parse().expect("a method"), path.parse().expect("a path"));
            table.find(host, &method, &uri).map(|route| route.number)
        };
        for (host, method, path, expected) in [
            ("a", "POST", "/v1/accounts/7/charges?x=1", Some(3)),
            ("a", "GET", "/v1/accounts/7/charges", Some(1)),
            ("a", "POST", "/v1/other", Some(2)),
            ("a", "POST", "/v1/", Some(2)),
            ("a", "DELETE", "/v1/other", Some(0)),
            ("a", "GET", "/", Some(0)),
            ("Shop.Example:8080", "POST", "/v1/accounts/7/charges", Some(4)),
            ("shop.example", "GET", "/only", Some(5)),
            ("shop.example", "POST", "/only", Some(0)),
            ("[::1]:80", "GET", "/a/b", Some(0)),
        ] {
            assert_eq!(found(host, method, path), expected, "{host} {method} {path}");
        }
    }

    #[test]
    fn nothing_fits() {
        let table = table(&[("", "POST", "/a")]).expect("a table");
        assert!(table.find("h", &Method::POST, &Uri::from_static("/b")).is_none());
        assert!(table.find("h", &Method::GET, &Uri::from_static("/a")).is_none());
    }

    #[test]
    fn routes_that_cannot_be_told_apart_are_refused() {
        for routes in [
            &[("", "", "/a"), ("", "", "/a")][..],
            &[("", "POST", "/{a}"), ("", "POST", "/{b}")],
            &[("", "", "a")],
            &[("", "", "/{")],
            &[],
        ] {
            assert!(table(routes).is_err(), "{routes:?}");
        }
    }

    #[test]
    fn an_endpoint_is_called_as_said_else_by_its_route_or_its_path() {
        let route = |said: RouteSettings| {
            let settings = Settings { route: vec![said], ..Settings::default() };
            let table = Table::new(&settings, None, NOW).expect("a table");
            table.routes()[0].endpoint(&Method::POST, "/v1/7")
        };
        let plain = || RouteSettings::to("/v1/{name}", vec!["http://127.0.0.1:1".to_owned()]);
        assert_eq!(route(plain()), "POST /v1/{name}");
        assert_eq!(route(RouteSettings { endpoint_by_path: true, ..plain() }), "POST /v1/{id}");
        assert_eq!(route(RouteSettings { endpoint: Some("charges".to_owned()), ..plain() }), "charges");
        let of_host = || RouteSettings { host: Some("pay.example.com".to_owned()), ..plain() };
        assert_eq!(route(of_host()), "POST pay.example.com/v1/{name}");
        assert_eq!(route(RouteSettings { endpoint_by_path: true, ..of_host() }), "POST pay.example.com/v1/{id}");
    }

    #[test]
    fn what_would_not_work_is_refused_with_its_route() {
        let wrong = |change: fn(&mut RouteSettings)| {
            let mut said = RouteSettings::to("/a", vec!["http://127.0.0.1:1".to_owned()]);
            change(&mut said);
            let settings = Settings { route: vec![said], ..Settings::default() };
            Table::new(&settings, None, NOW).err().map(|wrong| wrong.to_string()).unwrap_or_default()
        };
        assert_eq!(wrong(|_| {}), "");
        for (message, part) in [
            (wrong(|said| said.upstream.clear()), "names no upstream"),
            (wrong(|said| said.retry.attempts = 0), "attempts from 1"),
            (wrong(|said| said.retry.budget_ratio = f64::NAN), "rates from 0"),
            (wrong(|said| said.upstream_timeout = crate::time::Span::from_ms(2_000)), "connect_timeout is 2s"),
            (wrong(|said| said.health_path = Some("x".to_owned())), "health_path"),
            (wrong(|said| said.max_in_flight = 0), "max_in_flight"),
            (wrong(|said| said.statuses = Some(vec!["1xx".to_owned()])), "1xx"),
        ] {
            assert!(message.starts_with("route 1 (/a) ") && message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_upstream_gets_as_many_requests_as_it_may() {
        let settings = Settings::catch_all(vec!["http://127.0.0.1:1".to_owned()]);
        let mut settings = settings;
        settings.route[0].max_in_flight = 2;
        let table = Table::new(&settings, None, NOW).expect("a table");
        let route = &table.routes()[0];
        let places = [route.enter(), route.enter()];
        assert!(places.iter().all(Option::is_some) && route.enter().is_none() && route.in_flight() == 2);
        drop(places);
        assert!(route.enter().is_some() && route.in_flight() == 0);
    }
}
