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
    let policy = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        anyhow::Ok(path.display().to_string())
    };
    let head = "[policy.charges]\nendpoints = [\"POST /v1/charges\"]\nseverity = \"critical\"\n";
    let same = policy("same.toml", &format!("{head}lease = \"20s\"\n"))?;
    let shorter = policy("shorter.toml", &format!("{head}lease = \"20s\"\nretention = \"1d\"\n"))?;
    let wrong = policy("wrong.toml", "[policy.charges]\n")?;
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
        (&sound, words("clock accept"), Exit::Ok),
        (&sound, words("members"), Exit::Ok),
        (&sound, words("members --output json"), Exit::Ok),
        (&sound, words("members replace 2 --with 4"), Exit::Ok),
        (&sound, words("members remove 1"), Exit::Failed),
        (&sound, words("transfer --to 1"), Exit::Ok),
        (&sound, words("transfer --to 1 --output json"), Exit::Ok),
        (&sound, words("snapshot"), Exit::Ok),
        (&sound, words("policy list"), Exit::Ok),
        (&sound, words("policy list --output json"), Exit::Ok),
        (&sound, words("policy show"), Exit::Ok),
        (&sound, words("policy show --revision 2 --output json"), Exit::Ok),
        (&sound, words(&format!("policy apply {same} --actor me --reason x")), Exit::Ok),
        (&sound, words(&format!("policy apply {shorter} --actor me --reason x")), Exit::Failed),
        (&sound, words(&format!("policy apply {shorter} --actor me --reason x --dry-run")), Exit::Ok),
        (&sound, words(&format!("policy apply {shorter} --actor me --reason x --shorten")), Exit::Ok),
        (&sound, words(&format!("policy apply {wrong} --actor me --reason x")), Exit::Usage),
        (&sound, words("tenant list"), Exit::Ok),
        (&sound, words("tenant list --output json"), Exit::Ok),
        (&sound, words("tenant show acme"), Exit::Ok),
        (&sound, words("tenant show acme --output json"), Exit::Ok),
        (&sound, words("tenant create acme --home eu --max-keys 5 --actor me --reason x"), Exit::Ok),
        (&sound, words("tenant limit acme --keys-per-second 5 --actor me --reason x"), Exit::Ok),
        (&sound, words("tenant close acme --actor me --reason x"), Exit::Ok),
        (&sound, words("tenant reopen acme --actor me --reason x"), Exit::Ok),
        (&sound, words("audit"), Exit::Ok),
        (&sound, words("audit --action set-policies --output json"), Exit::Ok),
        (&sound, words("snapshot --output json"), Exit::Ok),
    ];
    for (node, arguments, exit) in cases {
        let mut line = vec!["holdfast".to_owned(), "ctl".to_owned(), "--address".to_owned(), node.address.to_string()];
        line.extend(arguments);
        let code = crate::cli::main(line.iter().map(std::ffi::OsString::from));
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(exit)), "{line:?}");
    }
    Ok(())
}
