//! Which policy an endpoint gets, and which files are refused.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<PolicySet, Vec<Refusal>> {
    PolicySet::parse(&[Source { name: "f", text }])
}

fn endpoint(text: &str) -> EndpointName {
    EndpointName::parse(text).expect("an endpoint of a test")
}

const SOME: &str = r#"
[policy.all]
endpoints = ["*"]
severity = "high"

[policy.v1]
endpoints = ["POST /v1/*"]
severity = "medium"

[policy.refunds]
endpoints = ["* /v1/refunds", "POST /v1/*/refunds"]
severity = "critical"

[policy.charges]
endpoints = ["POST /v1/charges"]
severity = "critical"

[policy.acme]
endpoints = ["POST /v1/*"]
tenants = ["acme", "acme-test"]
severity = "low"

[policy.acme-charges]
endpoints = ["POST /v1/charges"]
tenants = ["acme"]
severity = "high"
"#;

#[test]
fn the_most_specific_policy_counts() -> Result<(), Vec<Refusal>> {
    let set = parse(SOME)?;
    // Tenant, endpoint, the policy, and the others that fit as well.
    let cases = [
        ("x", "GET /", "all", ""),
        ("x", "POST /v1/a", "v1", "all"),
        ("x", "POST /v1/charges", "charges", "v1 all"),
        ("x", "POST /v1/refunds", "refunds", "v1 all"),
        ("x", "POST /v1/charges/7/refunds", "refunds", "v1 all"),
        ("x", "PUT /v1/refunds", "refunds", "all"),
        // Whoever names the tenant goes first, however little of the endpoint is named.
        ("acme", "POST /v1/charges", "acme-charges", "acme charges v1 all"),
        ("acme", "POST /v1/refunds", "acme", "refunds v1 all"),
        ("acme-test", "POST /v1/charges", "acme", "charges v1 all"),
        ("acme", "GET /", "all", ""),
    ];
    for (tenant, name, policy, others) in cases {
        let tenant = TenantId::parse(tenant).expect("a tenant of a test");
        let endpoint = endpoint(name);
        let effective = set.effective(Some(&tenant), &endpoint);
        let found: Vec<&str> =
            effective.policy.iter().chain(&effective.others).map(|rule| rule.name.as_str()).collect();
        assert_eq!(found.join(" "), format!("{policy} {others}").trim(), "{tenant} {name}");
    }
    Ok(())
}

#[test]
fn an_endpoint_that_no_policy_names_gets_high() -> Result<(), Vec<Refusal>> {
    let set = parse("")?;
    let endpoint = endpoint("POST /v1/charges");
    let effective = set.effective(None, &endpoint);
    assert!(effective.policy.is_none());
    assert_eq!(effective.promise.document, Document::defaults(Severity::High));
    assert!(effective.rows().iter().all(|(_, _, origin)| *origin == Origin::Default(Severity::High)));
    Ok(())
}

#[test]
fn every_field_knows_where_it_comes_from() -> Result<(), Vec<Refusal>> {
    let text = "[policy.a]\nendpoints = [\"a\"]\nseverity = \"low\"\nretention = \"1h\"\nresponse.max_body_bytes = 7\n";
    let set = parse(text)?;
    let endpoint = endpoint("a");
    let effective = set.effective(None, &endpoint);
    let said: Vec<&str> = effective
        .rows()
        .into_iter()
        .filter(|(_, _, origin)| origin.to_string() == "policy a")
        .map(|(field, _, _)| field)
        .collect();
    // Also what equals the default: it stays when the default changes.
    assert_eq!(said, ["severity", "retention", "response.max_body_bytes"]);
    assert!(effective.rows().iter().any(|(field, value, origin)| {
        *field == "consistency" && value == "local" && origin.to_string() == "default of low"
    }));
    Ok(())
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let policy = |rest: &str| format!("[policy.a]\nendpoints = [\"a\"]\nseverity = \"high\"\n{rest}\n");
    let twice = |a: &str, b: &str| {
        format!("[policy.a]\nendpoints = {a}\nseverity = \"high\"\n[policy.b]\nendpoints = {b}\nseverity = \"high\"\n")
    };
    let long = "x".repeat(513);
    let cases = [
        ("\n[policies.a]\n".to_owned(), "f:2: unknown field `policies`, expected `policy`: did you mean `policy`?"),
        ("x = \n".to_owned(), "f:1: "),
        ("[policy.a]\n[policy.a]\n".to_owned(), "f:2: duplicate key"),
        ("[policy.\"a b\"]\n".to_owned(), "f: policy a b: policy name has the byte 0x20"),
        ("[policy.a]\nseverity = \"high\"\n".to_owned(), "f: policy a: missing field `endpoints`"),
        ("[policy.a]\nendpoints = [\"a\"]\n".to_owned(), "f: policy a: missing field `severity`"),
        (policy("lese = \"1s\""), "f: policy a: unknown field `lese`, expected one of `endpoints`, "),
        (policy("lese = \"1s\""), ": did you mean `lease`?"),
        (policy("limits.max_key = 5"), "f: policy a: limits: unknown field `max_key`"),
        (policy("limits.max_key = 5"), ": did you mean `max_keys`?"),
        (policy("stage = \"requird\""), "f: policy a: stage: unknown variant `requird`, expected one of "),
        (policy("stage = \"requird\""), ": did you mean `required`?"),
        (policy("lease = 30"), "expected a duration with its unit, in quotes: write such as \"30s\""),
        (policy("lease = \"30\""), "f: policy a: lease: 30 has no unit: write 30s or 30ms"),
        (policy("lease = \"1ms\""), "f: policy a: lease: 1ms is out of bounds: write 50ms to 1h"),
        (policy("lease = \"999999999999d\""), "f: policy a: lease: "),
        (policy("retention = \"401d\""), "f: policy a: retention: 401d is out of bounds: write 1s to 400d"),
        (policy("retry_window = \"0s\""), "f: policy a: retry_window: 0ms is out of bounds: write 1s to 400d"),
        (policy("owner = \" \""), "f: policy a: owner: has 0 bytes: write 1 to 128, or leave it out"),
        (policy("owner = \"a\\nb\""), "f: policy a: owner: has a control character"),
        (policy(&format!("justification = \"{long}\"")), "f: policy a: justification: has 513 bytes: write 1 to 512"),
        (policy("fingerprint.headers = [\"a b\"]"), "f: policy a: fingerprint.headers: header name \"a b\""),
        (policy("fingerprint.keep = []"), "f: policy a: fingerprint.keep: selection keeps no member of the body"),
        (policy("fingerprint.keep = [\"a\"]"), "f: policy a: fingerprint.keep: member \"a\" is no json pointer"),
        (
            policy("fingerprint.leave_out = [\"\"]"),
            "f: policy a: fingerprint.leave_out: member \"\" is no json pointer",
        ),
        (policy("fingerprint = { keep = [\"/a\"], leave_out = [\"/b\"] }"), "keep and leave_out are both set"),
        (policy("response.statuses = [\"1xx\"]"), "f: policy a: response.statuses: \"1xx\" is no status"),
        (policy("response.statuses = [\"600\"]"), "f: policy a: response.statuses: \"600\" is no status"),
        (policy("response.skip_statuses = [\"+20\"]"), "f: policy a: response.skip_statuses: \"+20\" is no status"),
        (policy("response.headers = [\"Set-Cookie\"]"), "f: policy a: response.headers: set-cookie is never replayed"),
        (policy("response.headers = [\"a:b\"]"), "f: policy a: response.headers: \"a:b\" is no name of a header"),
        (policy("response.max_body_bytes = 0"), "response.max_body_bytes: 0 is out of bounds: write 1 to 1048576"),
        (policy("limits.keys_per_second = 0"), "limits.keys_per_second: 0 is out of bounds: write 1 to 1000000"),
        (policy("limits.max_bytes = 1"), "limits.max_bytes: 1 is out of bounds: write 1024 to 1125899906842624"),
        (policy("tenants = []"), "f: policy a: tenants: names 0: name 1 to 256, or leave it out for every tenant"),
        (policy("tenants = [\"a b\"]"), "f: policy a: tenants: \"a b\": tenant has the byte 0x20"),
        (twice("[]", "[\"b\"]"), "f: policy a: endpoints: names 0: name 1 to 256, or a pattern"),
        (twice("[\"a**\"]", "[\"b\"]"), "f: policy a: endpoints: \"a**\": \"a**\" has 2 *: write at most one"),
        (twice("[\"a\", \"a\"]", "[\"b\"]"), "f: policy a: endpoints: \"a\" is named twice: name it once"),
        (
            twice("[\"a*\"]", "[\"*b\"]"),
            "f: policy a: endpoints: \"a*\" here and \"*b\" of policy b (f) are equally specific, and \"ab\" fits both",
        ),
        (
            twice("[\"a\"]", "[\"a\"]"),
            "f: policy b: endpoints: \"a\" here and \"a\" of policy a (f) are equally specific",
        ),
    ];
    for (text, expected) in cases {
        let refusals = parse(&text).err().unwrap_or_default();
        let told = refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(told.contains(expected), "{text}\nanswers: {told}\nwithout: {expected}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = "[policy.a]\nendpoints = [\"a\"]\nseverity = \"high\"\nlease = \"1ms\"\nretention = \"1ms\"\n\
                [policy.b]\nendpoints = []\nseverity = \"hi\"\n[policy.c]\nendpoints = []\nseverity = \"high\"\n";
    let fields: Vec<Option<String>> =
        parse(text).err().unwrap_or_default().into_iter().map(|told| told.field).collect();
    assert_eq!(fields, ["lease", "retention", "severity", "endpoints"].map(|field| Some(field.to_owned())));
}

#[test]
fn a_name_belongs_to_one_policy() {
    let text = "[policy.a]\nendpoints = [\"a\"]\nseverity = \"high\"\n";
    let refused = PolicySet::parse(&[Source { name: "f", text }, Source { name: "g", text }]).err().unwrap_or_default();
    let told: Vec<String> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["g: policy a: f has a policy of this name: call one of them otherwise"]);
}

#[test]
fn sizes_are_bounded() {
    let list = |count: usize| (0..count).map(|at| format!("\"e{at}\"")).collect::<Vec<_>>().join(",");
    let policy = |name: usize, endpoints: &str, tenants: &str| {
        format!("[policy.p{name}]\nendpoints = [{endpoints}]\ntenants = [{tenants}]\nseverity = \"high\"\n")
    };
    let many: String = (0..=limits::MAX_POLICIES).map(|name| policy(name, &format!("\"p{name}\""), "\"t\"")).collect();
    let pairs: String = (0..17).map(|name| policy(name, &format!("\"p{name}\""), &list(256))).collect();
    let cases = [
        (format!("#{}", "x".repeat(limits::MAX_POLICY_FILE_BYTES)), "a policy file has at most 1048576"),
        (many, "there are 1001 policies: have at most 1000"),
        (policy(0, &list(257), "\"t\""), "endpoints: names 257: name 1 to 256"),
        (policy(0, "\"e\"", &list(257)), "tenants: names 257: name 1 to 256"),
        (policy(0, &list(17), &list(256)), "name 4352 pairs of tenant and endpoint: name at most 4096"),
        (pairs, "policies name 4352 endpoints, each tenant counted: name at most 4096"),
    ];
    for (text, expected) in cases {
        let told: Vec<String> = parse(&text).err().unwrap_or_default().iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|told| told.contains(expected)), "{expected}: {told:?}");
    }
}

/// Policies of few letters, so that they meet often: names, endpoints and tenants.
fn policies() -> impl Strategy<Value = Vec<(Vec<String>, Vec<String>)>> {
    let endpoints = prop::collection::btree_set("[ab]{0,2}[*]?[ab]{1,2}|[ab]{1,2}[*]|[*]", 1..3);
    let tenants = prop::collection::btree_set("[tu]", 0..3);
    let policy = (endpoints, tenants);
    prop::collection::vec(policy.prop_map(|(e, t)| (e.into_iter().collect(), t.into_iter().collect())), 0..6)
}

fn files(policies: &[(Vec<String>, Vec<String>)]) -> Vec<(String, String)> {
    let quoted = |texts: &[String]| texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(",");
    let file = |(at, (endpoints, tenants)): (usize, &(Vec<String>, Vec<String>))| {
        let tenants = match tenants.is_empty() {
            true => String::new(),
            false => format!("tenants = [{}]\n", quoted(tenants)),
        };
        let text = format!("[policy.p{at}]\nseverity = \"low\"\nendpoints = [{}]\n{tenants}", quoted(endpoints));
        (format!("f{at}"), text)
    };
    policies.iter().enumerate().map(file).collect()
}

fn parsed(files: &[(String, String)]) -> Result<PolicySet, Vec<Refusal>> {
    let sources: Vec<Source<'_>> = files.iter().map(|(name, text)| Source { name, text }).collect();
    PolicySet::parse(&sources).map_err(|mut refusals| {
        refusals.sort();
        refusals
    })
}

proptest! {
    #[test]
    fn the_order_of_policies_means_nothing(policies in policies(), turn in 0_usize..6) {
        let mut files = files(&policies);
        let first = parsed(&files);
        let turn = turn.min(files.len());
        files.rotate_left(turn);
        prop_assert_eq!(&parsed(&files), &first);
        files.reverse();
        prop_assert_eq!(&parsed(&files), &first);
    }

    #[test]
    fn no_other_policy_says_it_more_closely(policies in policies(), tenant in "[tuv]", name in "[ab]{1,5}") {
        let Ok(set) = parsed(&files(&policies)) else { return Ok(()) };
        let tenant = TenantId::parse(&tenant).expect("a tenant");
        let endpoint = endpoint(&name);
        let effective = set.effective(Some(&tenant), &endpoint);
        let named = set.named(Some(&tenant), &endpoint).map(|(name, _)| name);
        prop_assert_eq!(named, effective.policy.map(|rule| rule.name), "what is looked up is what is found by a look at each");
        let rules = set.rules();
        let fitting: Vec<_> = rules.iter().filter(|rule| rule.target.fits(Some(&tenant), &endpoint)).collect();
        let Some(chosen) = effective.policy else {
            prop_assert!(fitting.is_empty());
            return Ok(());
        };
        prop_assert!(chosen.target.fits(Some(&tenant), &endpoint));
        for rule in fitting {
            let (tenant, pattern) = (&rule.target.tenant, &rule.target.pattern);
            prop_assert!(tenant.is_none() || chosen.target.tenant.is_some(), "{rule:?} names the tenant");
            // A pattern's own text fits another pattern exactly if all that fits the one fits the other.
            let is_within = chosen.target.pattern.fits(pattern.as_endpoint()) && *pattern != chosen.target.pattern;
            prop_assert!(*tenant != chosen.target.tenant || !is_within, "{rule:?} is closer than {chosen:?}");
        }
    }

    #[test]
    fn no_policy_is_for_nothing(policies in policies()) {
        let Ok(set) = parsed(&files(&policies)) else { return Ok(()) };
        for rule in set.rules() {
            let effective = set.effective(rule.target.tenant.as_ref(), rule.target.pattern.as_endpoint());
            prop_assert_eq!(effective.policy.map(|chosen| chosen.name), Some(rule.name));
        }
    }
}
