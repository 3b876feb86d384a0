//! Commands against a fake node: their exit codes are what scripts depend on.

use std::process::ExitCode;

use crate::cli::exit::Exit;
use crate::cli::fake::{Fake, Fault};

#[test]
fn commands_end_as_documented() -> anyhow::Result<()> {
    let sound = Fake::start(Fault::None)?;
    let ill = Fake::start(Fault::Silent)?;
    let dir = tempfile::tempdir()?;
    let body = dir.path().join("body");
    std::fs::write(&body, b"{}")?;
    let large = dir.path().join("large");
    std::fs::write(&large, vec![0; crate::limits::MAX_ENVELOPE_BODY_BYTES + 1])?;
    let (body, large) = (body.display().to_string(), large.display().to_string());
    let resolve = |rest: &[&str]| {
        let mut arguments = vec!["key", "resolve", "demo", "unknown", "--actor", "me", "--reason", "checked"];
        arguments.extend(rest);
        arguments.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let cases = [
        (&sound, words("status"), Exit::Ok),
        (&sound, words("status --output json"), Exit::Ok),
        (&ill, words("status"), Exit::Failed),
        (&sound, words("key show demo unknown"), Exit::Ok),
        (&sound, words("key show demo unknown --output json"), Exit::Ok),
        (&sound, words("key show demo missing"), Exit::NoRecord),
        (&sound, words("key show demo missing --output json"), Exit::NoRecord),
        (&sound, words("key history demo unknown"), Exit::Ok),
        (&sound, words("key history demo missing"), Exit::NoRecord),
        (&sound, resolve(&["--not-executed"]), Exit::Ok),
        (&sound, resolve(&["--executed-status", "201", "--body-file", &body, "--header", "a:b"]), Exit::Ok),
        (&sound, resolve(&["--executed-status", "201", "--body-file", &large]), Exit::Usage),
        (&sound, resolve(&["--executed-status", "201", "--body-file", "/missing"]), Exit::Usage),
        (&sound, resolve(&["--not-executed", "--fencing", "1.8"]), Exit::Failed),
        (&sound, resolve(&["--not-executed", "--fencing", "1.8", "--output", "json"]), Exit::Failed),
        (&sound, words("key resolve demo missing --actor me --reason x --not-executed"), Exit::NoRecord),
        (
            &sound,
            vec!["key", "resolve", "demo", "unknown", "--actor", "", "--reason", "x", "--not-executed"]
                .into_iter()
                .map(str::to_owned)
                .collect(),
            Exit::Usage,
        ),
        (&sound, words("rotate-cluster-key"), Exit::Ok),
        (&sound, words("rotate-cluster-key --actor ada --reason leaked"), Exit::Ok),
        (&sound, words("clock accept"), Exit::Ok),
        (&sound, words("clock accept --actor ada --reason checked"), Exit::Ok),
        (&sound, words("members"), Exit::Ok),
        (&sound, words("members --output json"), Exit::Ok),
        (&sound, words("members replace 2 --with 4"), Exit::Ok),
        (&sound, words("members remove 1 --actor ada --reason gone"), Exit::Failed),
        (&sound, words("transfer --to 1"), Exit::Ok),
        (&sound, words("transfer --to 1 --output json"), Exit::Ok),
        (&sound, words("snapshot"), Exit::Ok),
        (&sound, words("snapshot --output json"), Exit::Ok),
    ];
    for (node, arguments, exit) in cases {
        ends(node, arguments, exit);
    }
    Ok(())
}

fn ends(node: &Fake, arguments: Vec<String>, exit: Exit) {
    let mut line = vec!["holdfast".to_owned(), "ctl".to_owned(), "--address".to_owned(), node.address.to_string()];
    line.extend(arguments);
    let code = crate::cli::main(line.iter().map(std::ffi::OsString::from));
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(exit)), "{line:?}");
}

#[test]
fn what_asks_about_policies_ends_as_documented() -> anyhow::Result<()> {
    let sound = Fake::start(Fault::None)?;
    let behind = Fake::start(Fault::Silent)?;
    let dir = tempfile::tempdir()?;
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text);
    let charges = "[policy.charges]\nendpoints = [\"POST /v1/charges\"]\nseverity = \"critical\"\n";
    file("same", &format!("{charges}lease = \"20s\"\n"))?;
    file("longer", &format!("{charges}lease = \"30s\"\n"))?;
    file("shorter", &format!("{charges}lease = \"10s\"\n"))?;
    file("unwise", &format!("{charges}fail = \"open\"\n"))?;
    file("refused", &format!("{charges}leese = \"10s\"\n"))?;
    let more = "[policy.writes]\nendpoints = [\"POST /v2/*\"]\nseverity = \"high\"\n";
    file("more", more)?;
    let cases = [
        (&sound, "policy list", Exit::Ok),
        (&sound, "policy list --output json", Exit::Ok),
        (&sound, "policy show", Exit::Ok),
        (&sound, "policy show --revision 2 --policy charges", Exit::Ok),
        (&sound, "policy show --policy charges --output json", Exit::Ok),
        (&sound, "policy show --policy other", Exit::Failed),
        (&sound, "policy show --revision 9", Exit::Usage),
        (&sound, "policy explain x --tenant acme", Exit::Ok),
        (&sound, "policy explain x --tenant acme --output json", Exit::Ok),
        (&sound, "policy diff DIR/shorter", Exit::Ok),
        (&sound, "policy diff DIR/shorter --output json", Exit::Ok),
        (&sound, "policy diff DIR/refused", Exit::Usage),
        (&sound, "policy diff DIR/missing", Exit::Usage),
        (&sound, "policy apply DIR/longer DIR/more --actor ada --reason why", Exit::Ok),
        (&sound, "policy apply DIR/same --actor ada --reason why --output json", Exit::Ok),
        (&sound, "policy apply DIR/same --actor  --reason why", Exit::Usage),
        (&sound, "policy apply DIR/shorter --actor ada --reason why", Exit::Failed),
        (&sound, "policy apply DIR/shorter --actor ada --reason why --shorten", Exit::Ok),
        (&sound, "policy apply DIR/more --actor ada --reason why --shorten", Exit::Failed),
        (&sound, "policy apply DIR/more --actor ada --reason why --shorten --prune", Exit::Ok),
        (&sound, "policy apply DIR/longer --dry-run", Exit::Ok),
        (&sound, "policy apply DIR/longer --dry-run --output json", Exit::Ok),
        (&sound, "policy apply DIR/shorter --dry-run", Exit::Failed),
        (&sound, "policy apply DIR/unwise --dry-run --shorten", Exit::Failed),
        (&sound, "policy apply DIR/refused --dry-run --output json", Exit::Failed),
        (&sound, "policy apply DIR/missing --dry-run", Exit::Usage),
        // Another revision came between.
        (&behind, "policy apply DIR/longer --actor ada --reason why", Exit::Failed),
        (&behind, "policy apply DIR/longer --dry-run", Exit::Ok),
    ];
    let dir = dir.path().display().to_string();
    for (node, line, exit) in cases {
        ends(node, line.split(' ').map(|word| word.replace("DIR", &dir)).collect(), exit);
    }
    Ok(())
}

#[test]
fn what_asks_about_tenants_and_audits_ends_as_documented() -> anyhow::Result<()> {
    let sound = Fake::start(Fault::None)?;
    let dir = tempfile::tempdir()?;
    let line = |partition, sequence| format!("{{\"partition\":{partition},\"sequence\":{sequence}}}\n");
    std::fs::write(dir.path().join("one"), line(0, 1))?;
    std::fs::write(dir.path().join("long-ago"), line(1, 90))?;
    std::fs::write(dir.path().join("torn"), line(0, 1) + "{\"partition\":0,\"sequence\":2}")?;
    let cases = [
        ("tenant list", Exit::Ok),
        ("tenant list --output json", Exit::Ok),
        ("tenant show acme", Exit::Ok),
        ("tenant show acme --output json", Exit::Ok),
        ("tenant show other", Exit::Failed),
        ("tenant create acme --home eu --max-bytes 10GiB --actor ada --reason why", Exit::Ok),
        ("tenant create acme --actor ada --reason ", Exit::Usage),
        ("tenant set acme --max-keys 5 --no-max-bytes --actor ada --reason why", Exit::Ok),
        ("tenant limit acme --keys-per-second 5 --actor ada --reason why", Exit::Ok),
        ("tenant set other --max-keys 5 --actor ada --reason why", Exit::Failed),
        ("tenant close acme --actor ada --reason why", Exit::Ok),
        ("tenant reopen acme --actor ada --reason why --output json", Exit::Ok),
        ("audit", Exit::Ok),
        ("audit --since 1d --action set-policies --output json", Exit::Ok),
        ("audit --after DIR/one --output json", Exit::Ok),
        ("audit --after DIR/one --after DIR/long-ago", Exit::Failed),
        ("audit --after DIR/torn", Exit::Usage),
        ("audit --after DIR/missing", Exit::Usage),
    ];
    let dir = dir.path().display().to_string();
    for (line, exit) in cases {
        ends(&sound, line.split(' ').map(|word| word.replace("DIR", &dir)).collect(), exit);
    }
    Ok(())
}
