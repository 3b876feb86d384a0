//! The policies that hold together: read from files, refused if anything is wrong or ambiguous, asked by endpoint.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize as _;
use serde_json::Value;

use crate::ids::{EndpointName, PolicyName, TenantId, meant};
use crate::limits;
use crate::policy::Severity;
use crate::policy::document::{Document, PolicyFile, Promise};
use crate::policy::index::Index;
use crate::policy::matching::{Pattern, Target};

/// A file's text, and its name for messages.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// What the file is called.
    pub name: &'a str,
    /// What is in it.
    pub text: &'a str,
}

/// Why policies are refused: where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct Refusal {
    /// The file, with the line if it is no TOML.
    pub file: String,
    /// The policy, if it is about one.
    pub policy: Option<String>,
    /// The field, if it is about one.
    pub field: Option<String>,
    /// What is wrong, and what to write.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if let Some(policy) = &self.policy {
            write!(f, "policy {policy}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.why)
    }
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The file that it was read from.
    pub file: String,
    /// As it was written.
    pub document: Document,
    /// With the defaults of its severity.
    pub promise: Promise,
    /// What it is for.
    pub targets: Vec<Target>,
}

/// Where the value of a field comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said it: the severity's default.
    Default(Severity),
    /// The policy of this name says it.
    Policy(PolicyName),
}

/// What an endpoint gets.
#[derive(Clone, Debug)]
pub struct Effective<'a> {
    /// The policy, and why it is this one; none: no policy is for the endpoint.
    pub policy: Option<Rule<'a>>,
    /// The policies that are for the endpoint as well, and less specific. The most specific first.
    pub others: Vec<Rule<'a>>,
    /// What is promised.
    pub promise: &'a Promise,
}

/// A policy, and one of its targets.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    /// The policy's name.
    pub name: &'a PolicyName,
    /// The policy.
    pub policy: &'a Policy,
    /// The target.
    pub target: &'a Target,
}

/// Policies that are sound by themselves and together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySet {
    policies: BTreeMap<PolicyName, Policy>,
    /// Every target, the most specific first.
    order: Vec<(Target, PolicyName)>,
    index: Index,
    unnamed: Promise,
}

impl Default for PolicySet {
    /// No policies: every endpoint has the defaults of `high`.
    fn default() -> Self {
        let unnamed = Document::defaults(Severity::High).promise();
        Self { policies: BTreeMap::new(), order: Vec::new(), index: Index::default(), unnamed }
    }
}

impl PolicySet {
    /// Reads policies from the texts of files.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the files and of the policies' names.
    pub fn parse(sources: &[Source<'_>]) -> Result<Self, Vec<Refusal>> {
        let (mut policies, mut refusals) = (BTreeMap::<PolicyName, Policy>::new(), Vec::new());
        for source in sources {
            for (name, policy) in read(source, &mut refusals) {
                match policies.get(&name) {
                    Some(other) => refusals.push(refusal(source.name, Some(&name), None, taken(&other.file))),
                    None => {
                        policies.insert(name, policy);
                    }
                }
            }
        }
        if policies.len() > limits::MAX_POLICIES {
            let why = format!("there are {} policies: have at most {}", policies.len(), limits::MAX_POLICIES);
            refusals.push(refusal("all files", None, None, why));
        }
        let mut set = Self { policies, ..Self::default() };
        set.refuse_ambiguity(&mut refusals);
        set.order = set.rules().into_iter().map(|rule| (rule.target.clone(), rule.name.clone())).collect();
        set.index = Index::of(set.order.iter().map(|(target, _)| target));
        if refusals.is_empty() { Ok(set) } else { Err(refusals) }
    }

    /// The same, where an endpoint that no policy is for has the defaults of another severity.
    #[must_use]
    pub fn with_unnamed(self, severity: Severity) -> Self {
        Self { unnamed: Document::defaults(severity).promise(), ..self }
    }

    /// The policies, by name.
    #[must_use]
    pub fn policies(&self) -> &BTreeMap<PolicyName, Policy> {
        &self.policies
    }

    /// Every target of every policy, the most specific first; among those that are equally specific, by what they name.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule<'_>> {
        self.rules_that(|_| true)
    }

    /// The policy that an endpoint of a tenant gets, if one is for it. Without a tenant: of one that no policy names.
    #[must_use]
    pub fn named(&self, tenant: Option<&TenantId>, endpoint: &EndpointName) -> Option<(&PolicyName, &Policy)> {
        let target = |place: usize| self.order.get(place).map(|(target, _)| target);
        let (_, name) = self.order.get(self.index.first(tenant, endpoint, target)?)?;
        self.policies.get_key_value(name)
    }

    /// What follows from that.
    #[must_use]
    pub fn promise<'a>(&'a self, policy: Option<(&PolicyName, &'a Policy)>) -> &'a Promise {
        policy.map_or(&self.unnamed, |(_, policy)| &policy.promise)
    }

    /// The same, with everything that led to it. Without a tenant: of one that no policy names.
    #[must_use]
    pub fn effective(&self, tenant: Option<&TenantId>, endpoint: &EndpointName) -> Effective<'_> {
        let fitting = self.rules_that(|target| target.fits(tenant, endpoint));
        let policy = fitting.first().copied();
        let mut others: Vec<Rule<'_>> = Vec::new();
        for rule in fitting {
            let known = policy.iter().chain(&others).any(|known| known.name == rule.name);
            if !known {
                others.push(rule);
            }
        }
        Effective { policy, others, promise: policy.map_or(&self.unnamed, |rule| &rule.policy.promise) }
    }

    fn rules_that(&self, fits: impl Fn(&Target) -> bool) -> Vec<Rule<'_>> {
        let mut rules: Vec<Rule<'_>> = self
            .policies
            .iter()
            .flat_map(|(name, policy)| policy.targets.iter().map(move |target| Rule { name, policy, target }))
            .filter(|rule| fits(rule.target))
            .collect();
        rules.sort_by(|a, b| {
            let by_text = || (&a.target.tenant, &a.target.pattern).cmp(&(&b.target.tenant, &b.target.pattern));
            a.target.rank().cmp(&b.target.rank()).then_with(by_text)
        });
        rules
    }

    fn refuse_ambiguity(&self, refusals: &mut Vec<Refusal>) {
        let rules = self.rules();
        if rules.len() > limits::MAX_POLICY_TARGETS {
            let most = limits::MAX_POLICY_TARGETS;
            let why = format!("policies name {} endpoints, each tenant counted: name at most {most}", rules.len());
            return refusals.push(refusal("all files", None, Some("endpoints"), why));
        }
        for (at, rule) in rules.iter().enumerate() {
            // Those of the same rank stand together, and among them those of a tenant.
            let is_equal = |other: &&Rule<'_>| {
                other.target.tenant == rule.target.tenant && other.target.rank() == rule.target.rank()
            };
            let equals = rules.iter().skip(at + 1).take_while(is_equal);
            for other in equals {
                let same_policy = rule.name == other.name;
                let Some(endpoint) = rule.target.ambiguous_with(other.target) else { continue };
                if same_policy && rule.target != other.target {
                    continue;
                }
                let why = match same_policy {
                    true => format!("{:?} is named twice: name it once", other.target.to_string()),
                    false => format!(
                        "{:?} here and {:?} of policy {} ({}) are equally specific, and {:?} fits both: make one of them \
                         longer, or name its endpoints",
                        other.target.to_string(),
                        rule.target.to_string(),
                        rule.name,
                        rule.policy.file,
                        endpoint.as_str()
                    ),
                };
                refusals.push(refusal(&other.policy.file, Some(other.name), Some("endpoints"), why));
            }
        }
    }
}

impl Effective<'_> {
    /// Every field with its value (null: none) and where that comes from, in the order in which fields are shown.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, Value, Origin)> {
        let said = self.policy.map(|rule| rule.policy.document.values()).unwrap_or_default();
        let row = |(field, value): (&'static str, Value)| {
            let own = said.iter().any(|(name, value)| *name == field && !value.is_null());
            match self.policy.filter(|_| own) {
                Some(rule) => (field, value, Origin::Policy(rule.name.clone())),
                None => (field, value, Origin::Default(self.promise.contract.severity)),
            }
        };
        self.promise.document.values().into_iter().map(row).collect()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(severity) => write!(f, "default of {severity}"),
            Self::Policy(name) => write!(f, "policy {name}"),
        }
    }
}

/// The sound policies of a file; what is wrong with the others is added to the refusals.
fn read(source: &Source<'_>, refusals: &mut Vec<Refusal>) -> BTreeMap<PolicyName, Policy> {
    let mut sound = BTreeMap::new();
    if source.text.len() > limits::MAX_POLICY_FILE_BYTES {
        let most = limits::MAX_POLICY_FILE_BYTES;
        let why = format!("has {} bytes: a policy file has at most {most}", source.text.len());
        refusals.push(refusal(source.name, None, None, why));
        return sound;
    }
    let file: PolicyFile = match toml::from_str(source.text) {
        Ok(file) => file,
        Err(error) => {
            let before = source.text.bytes().take(error.span().map_or(0, |span| span.start));
            let line = before.filter(|byte| *byte == b'\n').count() + 1;
            refusals.push(refusal(&format!("{}:{line}", source.name), None, None, meant(error.message())));
            return sound;
        }
    };
    for (name, value) in file.policy {
        match policy(source.name, &name, value) {
            Ok((name, policy)) => {
                sound.insert(name, policy);
            }
            Err(wrong) => refusals.extend(wrong),
        }
    }
    sound
}

fn policy(file: &str, written: &str, value: toml::Value) -> Result<(PolicyName, Policy), Vec<Refusal>> {
    let name = PolicyName::parse(written).map_err(|error| {
        vec![Refusal { policy: Some(written.to_owned()), ..refusal(file, None, None, error.to_string()) }]
    })?;
    let document = Document::deserialize(value).map_err(|error| {
        // The library tells the keys that lead to the value in its text only.
        let text = error.to_string();
        let field = text.lines().find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'));
        vec![refusal(file, Some(&name), field, meant(error.message()))]
    })?;
    let mut wrong = Vec::new();
    let targets = targets(&document, &mut |field, why| wrong.push(refusal(file, Some(&name), Some(field), why)));
    match document.complete() {
        Ok(promise) if wrong.is_empty() => Ok((name, Policy { file: file.to_owned(), document, promise, targets })),
        Ok(_) => Err(wrong),
        Err(more) => {
            wrong.extend(more.into_iter().map(|wrong| refusal(file, Some(&name), Some(wrong.field), wrong.why)));
            Err(wrong)
        }
    }
}

fn targets(document: &Document, wrong: &mut impl FnMut(&'static str, String)) -> Vec<Target> {
    let written = document.tenants.as_deref().unwrap_or_default();
    let sizes = [
        ("endpoints", document.endpoints.len(), limits::MAX_ENDPOINTS_PER_POLICY, "or a pattern"),
        ("tenants", written.len(), limits::MAX_TENANTS_PER_POLICY, "or leave it out for every tenant"),
    ];
    for (field, count, most, or) in sizes {
        let left_out = field == "tenants" && document.tenants.is_none();
        if !left_out && !(1..=most).contains(&count) {
            wrong(field, format!("names {count}: name 1 to {most}, {or}"));
        }
    }
    let mut tenants = Vec::new();
    for text in written.iter().take(limits::MAX_TENANTS_PER_POLICY) {
        match TenantId::parse(text) {
            Ok(tenant) => tenants.push(Some(tenant)),
            Err(error) => wrong("tenants", format!("{text:?}: {error}")),
        }
    }
    if document.tenants.is_none() {
        tenants.push(None);
    }
    let count = document.endpoints.len().saturating_mul(tenants.len());
    if count > limits::MAX_POLICY_TARGETS {
        let most = limits::MAX_POLICY_TARGETS;
        wrong("endpoints", format!("name {count} pairs of tenant and endpoint: name at most {most}, or patterns"));
        return Vec::new();
    }
    let mut targets = Vec::new();
    for text in document.endpoints.iter().take(limits::MAX_ENDPOINTS_PER_POLICY) {
        match Pattern::parse(text) {
            Ok(pattern) => {
                let target = |tenant: &Option<TenantId>| Target { tenant: tenant.clone(), pattern: pattern.clone() };
                targets.extend(tenants.iter().map(target));
            }
            Err(error) => wrong("endpoints", format!("{text:?}: {error}")),
        }
    }
    targets
}

fn taken(file: &str) -> String {
    format!("{file} has a policy of this name: call one of them otherwise")
}

fn refusal(file: &str, policy: Option<&PolicyName>, field: Option<&str>, why: String) -> Refusal {
    Refusal { file: file.to_owned(), policy: policy.map(ToString::to_string), field: field.map(str::to_owned), why }
}

#[cfg(test)]
mod tests;
