//! What a gateway goes by at a moment: its settings, its routes, and the store's policies. A change makes a new view; a request
//! goes by one from its beginning to its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use holdfast_client::http::{OnLapse, Rules, Stage};
use holdfast_client::proto::v1;

use super::route::Route;
use super::rules::rules;
use super::settings::{Settings, Wrong};
use super::table::Table;
use crate::clock::monotonic;
use crate::ids::{EndpointName, TenantId};
use crate::policy::Severity;
use crate::policy::set::{PolicySet, Source};

/// Rules that are kept, by route and endpoint.
const MAX_KEPT: usize = 4_096;

/// The policies that the store was asked for.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// The revision; none: they are not known, and every endpoint has the defaults of `high`.
    pub(super) revision: Option<u32>,
    unnamed: String,
    set: PolicySet,
}

/// One of them, whichever holds now.
#[derive(Debug)]
pub(super) struct Views(RwLock<Arc<View>>);

/// What holds at a moment.
#[derive(Debug)]
pub(super) struct View {
    pub(super) settings: Arc<Settings>,
    pub(super) table: Arc<Table>,
    pub(super) policies: Arc<Policies>,
    kept: Mutex<HashMap<(usize, String), Arc<Rules>>>,
}

impl Policies {
    /// Reads the store's answer.
    ///
    /// # Errors
    /// When this program cannot read it.
    pub(super) fn read(answer: v1::GetPoliciesResponse) -> Result<Self, Wrong> {
        let v1::GetPoliciesResponse { revision, sources, unnamed_severity } = answer;
        let sources: Vec<Source<'_>> =
            sources.iter().map(|source| Source { name: &source.name, text: &source.text }).collect();
        let set = PolicySet::parse(&sources)
            .map_err(|refusals| Wrong(refusals.first().map(ToString::to_string).unwrap_or_default()))?;
        let unnamed: Severity = unnamed_severity.parse().map_err(Wrong)?;
        let revision = Some(revision.map(|revision| revision.revision).unwrap_or_default());
        Ok(Self { revision, unnamed: unnamed_severity, set: set.with_unnamed(unnamed) })
    }

    /// Whether these are the ones of an answer.
    pub(super) fn are(&self, answer: &v1::GetPoliciesResponse) -> bool {
        let revision = answer.revision.as_ref().map(|revision| revision.revision).unwrap_or_default();
        self.revision == Some(revision) && self.unnamed == answer.unnamed_severity
    }
}

impl View {
    fn new(settings: Arc<Settings>, table: Arc<Table>, policies: Arc<Policies>) -> Self {
        Self { settings, table, policies, kept: Mutex::default() }
    }

    /// The rules of a request that takes this route.
    pub(super) fn rules(&self, route: &Route, endpoint: &str) -> Arc<Rules> {
        let key = (route.number, endpoint.to_owned());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rules) = kept.get(&key) {
            return Arc::clone(rules);
        }
        let (tenant, named) = (TenantId::parse(&self.settings.tenant).ok(), EndpointName::parse(endpoint));
        let promise = named.map(|named| self.policies.set.effective(tenant.as_ref(), &named).promise);
        let made = promise.ok().and_then(|promise| rules(promise, &route.said).ok());
        // A route was checked when it was read, and a policy when it was applied: without either, nothing runs unprotected.
        let mut made = made.unwrap_or_else(|| Rules::default().with_stage(Stage::Strict));
        if self.policies.revision.is_none() {
            // The store may hold what lapses: nothing is given back for a failure that may have been executed.
            made = made.with_on_lapse(OnLapse::Hold);
        }
        let made = Arc::new(made);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key, Arc::clone(&made));
        made
    }
}

impl Views {
    /// The first view.
    ///
    /// # Errors
    /// When something is wrong with the routes.
    pub(super) fn new(settings: Settings) -> Result<Self, Wrong> {
        TenantId::parse(&settings.tenant).map_err(|error| Wrong(format!("tenant: {error}")))?;
        let table = Arc::new(Table::new(&settings, None, monotonic())?);
        let view = View::new(Arc::new(settings), table, Arc::default());
        Ok(Self(RwLock::new(Arc::new(view))))
    }

    /// What holds now.
    pub(super) fn now(&self) -> Arc<View> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The store's policies have changed.
    pub(super) fn follow(&self, policies: Policies) {
        let mut view = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *view = Arc::new(View::new(Arc::clone(&view.settings), Arc::clone(&view.table), Arc::new(policies)));
    }

    /// The settings have changed.
    ///
    /// # Errors
    /// When something is wrong with them, or is not changed while the gateway runs: what was, holds.
    pub(super) fn reload(&self, settings: Settings) -> Result<(), Wrong> {
        let fixed = self.now().settings.fixed(&settings);
        if !fixed.is_empty() {
            return Err(Wrong(format!("{} cannot change while the gateway runs: start it anew", fixed.join(", "))));
        }
        let before = Arc::clone(&self.now().table);
        let table = Arc::new(Table::new(&settings, Some(&before), monotonic())?);
        let mut view = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *view = Arc::new(View::new(Arc::new(settings), table, Arc::clone(&view.policies)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use holdfast_client::http::FailMode;
    use http::{Method, Uri};

    use super::*;
    use crate::gateway::settings::RouteSettings;

    fn settings(paths: &[&str]) -> Settings {
        let route = |path: &&str| RouteSettings::to(path, vec!["http://127.0.0.1:1".to_owned()]);
        Settings { tenant: "acme".to_owned(), route: paths.iter().map(route).collect(), ..Settings::default() }
    }

    fn answer(revision: u32, unnamed: &str, text: &str) -> v1::GetPoliciesResponse {
        v1::GetPoliciesResponse {
            revision: Some(v1::Revision { revision, ..v1::Revision::default() }),
            sources: vec![v1::PolicySource { name: "a.toml".to_owned(), text: text.to_owned() }],
            unnamed_severity: unnamed.to_owned(),
        }
    }

    fn rules_of(views: &Views, path: &'static str) -> Arc<Rules> {
        let view = views.now();
        let route = view.table.find("h", &Method::POST, &Uri::from_static(path)).expect("a route");
        view.rules(route, &route.endpoint(&Method::POST, path))
    }

    #[test]
    fn rules_follow_the_policies_of_the_store() {
        let views = Views::new(settings(&["/a", "/b"])).expect("a view");
        let unknown = Rules::default().with_on_lapse(OnLapse::Hold);
        assert_eq!(
            *rules_of(&views, "/a"),
            unknown,
            "nothing is known: high, which fails closed, and nothing is given back"
        );
        let text =
            "[policy.a]\nendpoints = [\"POST /a\"]\ntenants = [\"acme\"]\nseverity = \"low\"\nstage = \"required\"\n";
        let first = answer(3, "medium", text);
        let policies = Policies::read(first.clone()).expect("policies");
        assert!(
            policies.are(&first) && !policies.are(&answer(4, "medium", text)) && !policies.are(&answer(3, "low", text))
        );
        views.follow(policies);
        let (a, b) = (rules_of(&views, "/a"), rules_of(&views, "/b"));
        assert_eq!((a.stage(), a.fail()), (Stage::Required, FailMode::Open));
        assert_eq!((b.stage(), b.fail()), (Stage::Optional, FailMode::Open), "no policy names it: medium");
        assert!(Arc::ptr_eq(&a, &rules_of(&views, "/a")), "made once");
        assert!(Policies::read(answer(5, "urgent", "")).is_err());
        assert!(Policies::read(answer(5, "high", "[policy.a]\nnewer = 1\n")).is_err());
    }

    #[test]
    fn a_reload_keeps_the_policies_and_a_bad_one_changes_nothing() {
        let views = Views::new(settings(&["/a"])).expect("a view");
        views.follow(Policies::read(answer(1, "low", "")).expect("policies"));
        views.reload(settings(&["/a", "/b"])).expect("a reload");
        assert_eq!(rules_of(&views, "/b").fail(), FailMode::Open);
        assert!(views.reload(settings(&[])).is_err());
        let elsewhere = Settings { tenant: "other".to_owned(), ..settings(&["/a"]) };
        let message = views.reload(elsewhere).err().map(|wrong| wrong.to_string());
        assert_eq!(message.as_deref(), Some("tenant cannot change while the gateway runs: start it anew"));
        assert_eq!(views.now().table.routes().len(), 2);
        assert!(Views::new(Settings { tenant: "a b".to_owned(), ..settings(&["/a"]) }).is_err());
    }
}
