//! Programs that we did not write, against the real binary: what is theirs comes from tests/foreign and the package index.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};

use crate::harness::{self, Start};

/// How long a program may run, in seconds. Making the environment takes some thirty packages from the package index.
const DEADLINE: &str = "240";
/// How `timeout` ends when it had to end the program.
const TOO_LATE: i32 = 124;
/// How it ends when there is no such program.
const MISSING: i32 = 127;

/// A file of tests/foreign.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(name)
}

/// The Python that has the foreign clients. It is made once for each build directory.
pub(crate) async fn python() -> anyhow::Result<PathBuf> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign");
    let mut environment = program(file("environment"));
    environment.arg(place);
    let made = run(environment).await?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(PathBuf::from(String::from_utf8(made.stdout)?.trim()))
}

/// A program that is ended when it takes too long.
pub(crate) fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg(DEADLINE).arg(path);
    command
}

/// Runs a program to its end, whatever that is.
pub(crate) async fn run(mut command: Command) -> anyhow::Result<Output> {
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.code() != Some(TOO_LATE), "not within {DEADLINE} s: {output:?}");
    ensure!(output.status.code() != Some(MISSING), "a program is missing: install it with `make setup` ({output:?})");
    Ok(output)
}

/// What `/openapi.json` says is what the API does: no request that it describes is refused, none that it does not describe is
/// taken, and every answer is one that it names.
#[tokio::test]
async fn the_api_does_what_its_document_says() -> anyhow::Result<()> {
    let python = python().await?;
    let _place = harness::beside_another().await?;
    let place = tempfile::tempdir()?;
    let node = Start::new(&place.path().join("data")).critical().run().await?;
    let address = format!("http://{}", node.address());
    let mut tester = program(python.with_file_name("schemathesis"));
    tester.arg("--config-file").arg(file("schemathesis.toml")).arg("run").arg(format!("{address}/openapi.json"));
    tester.env("SCHEMATHESIS_HOOKS", file("openapi_checks.py")).env("HOLDFAST_NODE", address).env("NO_COLOR", "1");
    tester.current_dir(place.path());
    let tested = run(tester).await?;
    let said = String::from_utf8_lossy(&tested.stdout);
    ensure!(tested.status.success(), "{said}\n{}", String::from_utf8_lossy(&tested.stderr));
    let passed = said.lines().find_map(|line| line.trim().strip_suffix(" passed")?.split_once(" generated, "));
    let (generated, passed) = passed.with_context(|| format!("no count of requests:\n{said}"))?;
    ensure!(generated == passed && generated.parse::<u32>()? > 1_000, "{generated} generated, {passed} passed");
    Ok(())
}
