//! What a change of policies does to endpoints: not which lines differ, but who is promised something else.
//!
//! Every pattern that either side names is asked of both sides, as an endpoint, for every tenant that either names, and so are
//! the endpoints where two patterns meet: a policy that comes in between others shows what it takes from them, one that is
//! dropped what its endpoints fall back to, and one that is only moved or renamed nothing.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::ids::{PolicyName, TenantId};
use crate::policy::contract::Contract;
use crate::policy::document::Promise;
use crate::policy::matching::{Pattern, Target};
use crate::policy::set::{Policy, PolicySet};

/// What becomes of some endpoints, all of which go from one policy to another, or whose policy changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The policy before; none: the defaults of `high`.
    pub from: Option<PolicyName>,
    /// The policy now; none: the defaults of `high`.
    pub to: Option<PolicyName>,
    /// Which endpoints, by what names them.
    pub targets: Vec<Target>,
    /// What they are promised now in place of before. Never empty.
    pub fields: Vec<FieldChange>,
}

/// The effective value of one field, before and now; null: none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChange {
    /// The field.
    pub field: &'static str,
    /// The value before.
    pub before: Value,
    /// The value now.
    pub now: Value,
    /// A promise gets shorter: keys granted from now on get less than those before.
    pub shortens: bool,
}

/// Everything that endpoints are promised otherwise, ordered by the policies.
#[must_use]
pub fn diff(old: &PolicySet, new: &PolicySet) -> Vec<Change> {
    let (old_rules, new_rules) = (old.rules(), new.rules());
    let rules = || old_rules.iter().chain(&new_rules);
    let mut patterns: BTreeSet<Pattern> = rules().map(|rule| rule.target.pattern.clone()).collect();
    for rule in &old_rules {
        patterns.extend(new_rules.iter().flat_map(|other| rule.target.pattern.overlap(&other.target.pattern)));
    }
    // None, which comes first: a tenant that no policy names.
    let tenants: BTreeSet<Option<&TenantId>> =
        rules().map(|rule| rule.target.tenant.as_ref()).chain(std::iter::once(None)).collect();
    let mut changes: Vec<Change> = Vec::new();
    for (pattern, tenant) in patterns.iter().flat_map(|pattern| tenants.iter().map(move |tenant| (pattern, *tenant))) {
        let endpoint = pattern.as_endpoint();
        let (before, now) = (old.named(tenant, endpoint), new.named(tenant, endpoint));
        let name = |named: Option<(&PolicyName, &Policy)>| named.map(|(name, _)| name.clone());
        let (from, to) = (name(before), name(now));
        let as_for_all = || from == name(old.named(None, endpoint)) && to == name(new.named(None, endpoint));
        if tenant.is_some() && as_for_all() {
            continue;
        }
        let target = Target { tenant: tenant.cloned(), pattern: pattern.clone() };
        // The policies decide the fields, so what is of the same two policies belongs together.
        if let Some(change) = changes.iter_mut().find(|change| change.from == from && change.to == to) {
            change.targets.push(target);
            continue;
        }
        let fields = fields(old.promise(before), new.promise(now));
        if !fields.is_empty() {
            changes.push(Change { from, to, targets: vec![target], fields });
        }
    }
    changes.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
    changes
}

fn fields(before: &Promise, now: &Promise) -> Vec<FieldChange> {
    let shortened = shortened(&before.contract, &now.contract);
    let pairs = before.document.values().into_iter().zip(now.document.values());
    pairs
        .filter(|((_, before), (_, now))| before != now)
        .map(|((field, before), (_, now))| FieldChange { field, before, now, shortens: shortened.contains(&field) })
        .collect()
}

/// The fields by which a contract promises less than another did, in the order in which fields are shown.
#[must_use]
pub fn shortened(before: &Contract, now: &Contract) -> Vec<&'static str> {
    let fewer = |before: Option<u64>, now: Option<u64>| now.is_some_and(|now| before.is_none_or(|before| now < before));
    let checks = [
        // The worst comes first among severities.
        ("severity", now.severity > before.severity),
        ("stage", now.stage < before.stage),
        ("consistency", now.consistency < before.consistency),
        ("fail", now.fail < before.fail),
        ("on_lapse", now.on_lapse < before.on_lapse),
        ("lease", now.lease_ms < before.lease_ms),
        ("retention", now.retention_ms < before.retention_ms),
        ("response.statuses", !now.statuses.is_superset(&before.statuses)),
        ("response.headers", !now.headers.is_superset(&before.headers)),
        ("response.max_body_bytes", now.max_body_bytes < before.max_body_bytes),
        ("limits.keys_per_second", fewer(before.limits.keys_per_second, now.limits.keys_per_second)),
        (
            "limits.keys_per_second_per_client",
            fewer(before.limits.keys_per_second_per_client, now.limits.keys_per_second_per_client),
        ),
        ("limits.max_keys", fewer(before.limits.max_keys, now.limits.max_keys)),
        ("limits.max_bytes", fewer(before.limits.max_bytes, now.limits.max_bytes)),
    ];
    checks.into_iter().filter(|(_, shorter)| *shorter).map(|(field, _)| field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::document::FIELDS;
    use crate::policy::set::Source;

    fn set(text: &str) -> PolicySet {
        PolicySet::parse(&[Source { name: "t", text }]).expect("policies of a test")
    }

    fn told(old: &str, new: &str) -> Vec<String> {
        let change = |change: Change| {
            let name = |name: Option<PolicyName>| name.map_or_else(|| "-".to_owned(), |name| name.to_string());
            let targets: Vec<String> = change.targets.iter().map(ToString::to_string).collect();
            let fields: Vec<String> = change
                .fields
                .iter()
                .map(|field| {
                    format!("{} {} {}{}", field.field, field.before, field.now, if field.shortens { " !" } else { "" })
                })
                .collect();
            format!("{} {} [{}] {}", name(change.from), name(change.to), targets.join(", "), fields.join("; "))
                .replace('"', "")
        };
        diff(&set(old), &set(new)).into_iter().map(change).collect()
    }

    #[test]
    fn what_endpoints_get_is_compared() {
        let a = "[policy.a]\nendpoints = [\"x\", \"y*\"]\nseverity = \"high\"\n";
        let critical = "[policy.c]\nendpoints = [\"xy\", \"x*\"]\nseverity = \"critical\"\n";
        let cases: [(&str, &str, &[&str]); 9] = [
            // The order of lines, a name and a value that is the default anyway change nothing.
            (a, "[policy.b]\nseverity = \"high\"\nlease = \"30s\"\nendpoints = [\"y*\", \"x\"]\n", &[]),
            (a, &a.replace("high\"", "high\"\nretention = \"1d\""), &["a a [x, y*] retention 3d 1d !"]),
            (&a.replace("high\"", "high\"\nretention = \"1d\""), a, &["a a [x, y*] retention 1d 3d"]),
            // An endpoint that leaves its policy falls back to the defaults, which differ in nothing here.
            (a, "", &[]),
            (
                "[policy.a]\nendpoints = [\"x\"]\nseverity = \"critical\"\n",
                "",
                &["a - [x] severity critical high !; on_lapse hold regrant !; retention 7d 3d !"],
            ),
            (
                a,
                &format!(
                    "{a}[policy.t]\nendpoints = [\"x\"]\ntenants = [\"acme\"]\nseverity = \"high\"\nowner = \"o\"\n"
                ),
                &["a t [x of acme] owner null o"],
            ),
            // What comes in between takes endpoints from others, although its own pattern is promised what it was.
            (
                critical,
                &format!("{critical}[policy.t]\nendpoints = [\"*\"]\ntenants = [\"acme\"]\nseverity = \"high\"\n"),
                &["c t [x* of acme, xy of acme] severity critical high !; on_lapse hold regrant !; retention 7d 3d !"],
            ),
            (
                critical,
                &format!("{critical}[policy.p]\nendpoints = [\"*zz\"]\nseverity = \"high\"\n"),
                &["c p [x*zz] severity critical high !; on_lapse hold regrant !; retention 7d 3d !"],
            ),
            (
                a,
                &a.replace("high\"", "high\"\nresponse.statuses = [\"2xx\"]\nlimits.max_keys = 5"),
                &["a a [x, y*] response.statuses [2xx,3xx,4xx] [2xx] !; limits.max_keys null 5 !"],
            ),
        ];
        for (old, new, expected) in cases {
            assert_eq!(told(old, new), expected, "{old}\n->\n{new}");
        }
    }

    #[test]
    fn a_name_where_two_patterns_reach_into_each_other_is_asked_too() {
        let old = "[policy.p]\nendpoints = [\"ab*\"]\nseverity = \"low\"\n\
                   [policy.q]\nendpoints = [\"*bcd\"]\nseverity = \"critical\"\n";
        // Whatever has something in between stays where it was, `abcd` does not.
        let told = told(old, &old.replace("*bcd", "ab*bcd"));
        let [defaults, low] = &told[..] else { panic!("{told:?}") };
        assert!(defaults.starts_with("q - [*bcd] severity critical high !"), "{defaults}");
        assert!(low.starts_with("q p [abcd] severity critical low !"), "{low}");
    }

    #[test]
    fn what_shortens_is_a_field() {
        let weak = "[policy.a]\nendpoints = [\"x\"]\nseverity = \"low\"\nstage = \"off\"\nlease = \"1s\"\n\
                    response = { statuses = [\"200\"], headers = [], max_body_bytes = 1 }\n\
                    limits = { keys_per_second = 1, keys_per_second_per_client = 1, max_keys = 1, max_bytes = 1024 }\n";
        let strong = "[policy.a]\nendpoints = [\"x\"]\nseverity = \"critical\"\n";
        let all = diff(&set(strong), &set(weak));
        let shorter: Vec<&str> = all
            .iter()
            .flat_map(|change| &change.fields)
            .filter(|field| field.shortens)
            .map(|field| field.field)
            .collect();
        assert_eq!(shorter.len(), 14, "{shorter:?}");
        assert!(shorter.iter().all(|field| FIELDS.contains(field)));
        assert!(diff(&set(weak), &set(strong)).iter().flat_map(|change| &change.fields).all(|field| !field.shortens));
    }
}
