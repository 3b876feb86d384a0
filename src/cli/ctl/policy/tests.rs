//! What the commands print, as golden files in tests/output, and how they end.

use std::process::ExitCode;

use anyhow::anyhow;
use holdfast_client::proto::v1;

use super::show::*;
use super::*;
use crate::cli::golden;
use crate::limits;
use crate::policy::set::Refusal;

/// Policies with something wrong of each level.
const UNWISE: &str = "\
[policy.charges]
endpoints = [\"POST /v1/charges\"]
severity = \"critical\"
fail = \"open\"
retry_window = \"30d\"
fingerprint.leave_out = [\"/amount\"]

[policy.writes]
endpoints = [\"POST /v1/*\"]
severity = \"high\"
retention = \"1h\"
";

/// What is no policy.
const REFUSED_TEXT: &str = "\
[policy.charges]
endpoints = [\"POST /v1/charges\"]
severity = \"criticl\"

[policy.writes]
endpoints = [\"POST /v1/*\"]
severity = \"high\"
lease = \"2h\"
";

const SAMPLE: &str = include_str!("../../../../deploy/policies/payments.toml");

fn parse(text: &str) -> Result<PolicySet, Vec<Refusal>> {
    files::parse(&[v1::PolicySource { name: "payments.toml".to_owned(), text: text.to_owned() }])
}

fn parsed(text: &str) -> anyhow::Result<PolicySet> {
    parse(text).map_err(|refusals| anyhow!("{refusals:?}"))
}

/// Both ways of writing a result, one after the other.
fn check(name: &str, text: &str, document: &Value) -> anyhow::Result<()> {
    golden::check(&format!("tests/output/policy-{name}.txt"), &format!("{text}\n{document:#}\n"))
}

#[test]
fn lint_prints() -> anyhow::Result<()> {
    let findings = lint::lint(&parsed(UNWISE)?);
    check("lint", &lint_text(&[], &findings), &lint_json(&[], &findings))
}

#[test]
fn lint_prints_what_is_refused() -> anyhow::Result<()> {
    let refusals = parse(REFUSED_TEXT).err().unwrap_or_default();
    check("lint-refused", &lint_text(&refusals, &[]), &lint_json(&refusals, &[]))
}

#[test]
fn explain_prints() -> anyhow::Result<()> {
    let set = parsed(SAMPLE)?;
    for (name, endpoint, tenant) in [
        ("explain", "POST /v1/charges", "acme"),
        ("explain-tenant", "POST /v1/previews/7", "acme-sandbox"),
        ("explain-unnamed", "GET /v1/charges", "acme"),
    ] {
        let (endpoint, tenant) = (&EndpointName::parse(endpoint)?, &TenantId::parse(tenant)?);
        let asked = Asked { endpoint, tenant, unnamed: Severity::High };
        let effective = set.effective(Some(tenant), endpoint);
        check(name, &explain_text(&asked, &effective), &explain_json(&asked, &effective))?;
    }
    Ok(())
}

#[test]
fn diff_prints() -> anyhow::Result<()> {
    let changes = diff::diff(&parsed(SAMPLE)?, &parsed(UNWISE)?);
    check("diff", &diff_text(&changes, Severity::High), &diff_json(&changes))?;
    let none = diff::diff(&parsed(SAMPLE)?, &parsed(SAMPLE)?);
    assert_eq!(diff_text(&none, Severity::Critical), "no endpoint is promised anything else\n");
    Ok(())
}

#[test]
fn commands_end_as_documented() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let good = file("good.toml", SAMPLE)?;
    let warned = file("warned.toml", "[policy.a]\nendpoints = [\"a\"]\nseverity = \"high\"\nretention = \"1h\"\n")?;
    let unwise = file("unwise.toml", UNWISE)?;
    let refused = file("refused.toml", REFUSED_TEXT)?;
    let large = file("large.toml", &" ".repeat(limits::MAX_POLICY_FILE_BYTES + 1))?;
    let missing = dir.path().join("missing.toml").display().to_string();
    let explain = |file: &'static str| ["explain", "POST /v1/charges", "--tenant", "acme", file];
    let cases: Vec<(Vec<&str>, Exit)> = vec![
        (vec!["lint", &good], Exit::Ok),
        (vec!["lint", &warned], Exit::Ok),
        (vec!["lint", &good, &warned, "--output", "json"], Exit::Ok),
        (vec!["lint", &unwise], Exit::Failed),
        (vec!["lint", &refused], Exit::Failed),
        // Two files with a policy of one name.
        (vec!["lint", &good, &unwise], Exit::Failed),
        (vec!["lint", &missing], Exit::Usage),
        (vec!["lint", &large], Exit::Usage),
        ([&explain("--file")[..], &[&good, &warned]].concat(), Exit::Ok),
        ([&explain("--output")[..], &["json", "--file", &good]].concat(), Exit::Ok),
        ([&explain("--file")[..], &[&refused]].concat(), Exit::Usage),
        (vec!["diff", &good, &unwise], Exit::Ok),
        (vec!["diff", &good, &unwise, "--output", "json"], Exit::Ok),
        (vec!["diff", &good, &refused], Exit::Usage),
        (vec!["diff", &missing, &good], Exit::Usage),
        (vec!["schema"], Exit::Ok),
        (vec!["schema", "--output", "json"], Exit::Ok),
    ];
    for (arguments, exit) in cases {
        // An address where nothing listens: nobody is asked.
        let line = [&["holdfast", "ctl", "--address", "http://127.0.0.1:1", "policy"][..], &arguments].concat();
        let code = crate::cli::main(line.iter().map(std::ffi::OsString::from));
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(exit)), "{arguments:?}");
    }
    Ok(())
}
