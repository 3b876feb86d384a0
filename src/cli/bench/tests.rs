//! The harness proves itself: against a node that does what it should, and against one fault at a time.

use super::*;
use crate::cli::bench::tally::Operation;
use crate::cli::fake::{Fake, Fault};
use crate::cli::output::Output;

fn plan(fake: &Fake, pacing: Pacing) -> anyhow::Result<Plan> {
    Ok(Plan {
        targets: vec![fake.address.to_string().parse().map_err(anyhow::Error::msg)?],
        transport: Transport::Unary,
        pacing,
        warmup: Duration::from_millis(20),
        concurrency: 8,
        connections: 2,
        threads: 2,
        body_bytes: 100,
        replay_share: 0.5,
        tenant: TenantId::parse("bench")?,
        seed: random_seed(),
    })
}

/// Runs a load, and returns the exit code, the text and the JSON document of its report.
fn run_plan(plan: &Plan) -> anyhow::Result<(Exit, String, serde_json::Value)> {
    let measured = load::run(plan).map_err(|problem| problem.error)?;
    let report = report::Report { plan, measured: &measured, floor: None };
    Ok((report.exit(), report.text(), report.document()))
}

#[test]
fn a_sound_node_passes_and_every_cycle_is_counted() -> anyhow::Result<()> {
    passes(Transport::Unary, "unary")?;
    passes(Transport::Session, "session")
}

fn passes(transport: Transport, name: &str) -> anyhow::Result<()> {
    let fake = Fake::start(Fault::None)?;
    let plan = Plan { transport, ..plan(&fake, Pacing::ClosedCount(501))? };
    let (exit, text, document) = run_plan(&plan)?;
    assert_eq!(exit, Exit::Ok, "{text}");
    assert_eq!(document["transport"], name);
    assert_eq!(document["cycles"], 501);
    assert_eq!(document["operations"]["reserve"]["count"], 501);
    assert_eq!(document["operations"]["complete"]["count"], 501);
    assert!((240..=260).contains(&document["operations"]["replay"]["count"].as_u64().unwrap_or_default()), "{text}");
    assert_eq!(document["wrong"]["count"], 0);
    assert!(document["cycles_per_s"].as_f64().is_some_and(|rate| rate > 0.0));
    assert!(document["operations"]["cycle"]["p99_9_us"].as_u64().is_some_and(|us| us > 0));
    assert!(text.contains("wrong answers  none") && text.contains("501 cycles"), "{text}");
    Ok(())
}

/// Each planted fault must end the command with 1 and be named.
#[test]
fn faults_are_caught_and_named() -> anyhow::Result<()> {
    let faults = [
        (Fault::WrongByte, "the replayed body has"),
        (Fault::DoubleGrant, "double grant"),
        (Fault::InProgress, "reserve of a completed key answered in_progress"),
        (Fault::Late, "recorded as late"),
    ];
    for ((fault, expected), transport) in
        faults.into_iter().zip([Transport::Unary, Transport::Session].into_iter().cycle())
    {
        let fake = Fake::start(fault)?;
        let (exit, text, document) = run_plan(&Plan { transport, ..plan(&fake, Pacing::ClosedCount(40))? })?;
        assert_eq!(exit, Exit::Failed, "{fault:?}: {text}");
        assert!(text.contains(expected) && text.contains("bench-"), "{fault:?}: {text}");
        assert!(document["wrong"]["count"].as_u64().is_some_and(|count| count >= 20), "{fault:?}: {document}");
        assert!(document["wrong"]["first"].as_array().is_some_and(|named| (1..=5).contains(&named.len())));
    }
    Ok(())
}

#[test]
fn failures_are_counted_by_their_code() -> anyhow::Result<()> {
    let fake = Fake::start(Fault::Overloaded)?;
    let (exit, text, document) = run_plan(&plan(&fake, Pacing::ClosedFor(Duration::from_millis(100)))?)?;
    assert_eq!(exit, Exit::Unavailable, "no cycle was completed: {text}");
    assert_eq!(document["errors"][0]["operation"], "complete");
    assert_eq!(document["errors"][0]["code"], "overloaded");
    assert!(document["errors"][0]["count"].as_u64().is_some_and(|count| count > 0));
    Ok(())
}

#[test]
fn an_open_loop_keeps_its_schedule() -> anyhow::Result<()> {
    let fake = Fake::start(Fault::None)?;
    let pacing = Pacing::Open { per_second: 1_000.0, duration: Duration::from_millis(300) };
    let (exit, text, document) = run_plan(&plan(&fake, pacing)?)?;
    assert_eq!(exit, Exit::Ok, "{text}");
    let started = document["operations"]["reserve"]["count"].as_u64().unwrap_or_default();
    let not_started = document["not_started"].as_u64().unwrap_or_default();
    assert!((299..=301).contains(&(started + not_started)), "nothing is dropped: {document}");
    assert_eq!(document["start_lag"]["count"], started);
    assert_eq!(document["mode"], "open");
    Ok(())
}

/// A node that stalls delays every cycle of the schedule, and a harness that only timed what it sent would not see it.
#[test]
fn what_a_stall_kept_from_starting_is_counted() -> anyhow::Result<()> {
    let fake = Fake::start(Fault::Silent)?;
    let pacing = Pacing::Open { per_second: 1_000.0, duration: Duration::from_millis(200) };
    let mut plan = plan(&fake, pacing)?;
    plan.threads = 1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = tokio::task::LocalSet::new().block_on(&runtime, load::for_test(&plan, Duration::from_secs(1)))?;
    // Eight of the twenty of the warm-up are in flight for ever; none that would be measured could start.
    assert_eq!(tally.not_started, 200);
    assert_eq!(tally.latencies(Operation::Reserve).len(), 0);
    Ok(())
}

#[test]
fn connections_grow_with_the_clients() {
    let cases = [(1, 1, 1), (64, 1, 1), (256, 4, 1), (512, 8, 2), (4_096, 8, 8), (16_384, 16, 16)];
    for (concurrency, unary, session) in cases {
        assert_eq!(default_connections(concurrency, Transport::Unary), unary, "{concurrency}");
        assert_eq!(default_connections(concurrency, Transport::Session), session, "{concurrency}");
    }
}

#[test]
fn the_flags_make_a_plan_or_say_what_does_not_go_together() -> anyhow::Result<()> {
    let bench = |concurrency, connections| Bench {
        asking: Asking { address: Address::DEFAULT.parse().expect("the default address parses"), output: Output::Text },
        target: Vec::new(),
        session: false,
        concurrency,
        duration: Duration::from_secs(1),
        cycles: None,
        warmup: Duration::ZERO,
        rate: None,
        body_bytes: 1,
        replay_share: 0.0,
        connections,
        threads: Some(64),
        tenant: TenantId::parse("bench").expect("the tenant is valid"),
        floor_dir: None,
    };
    let message = bench(4_096, Some(2)).plan(1).map_or_else(|problem| problem.line(), |_| "accepted".to_owned());
    assert!(message.contains("--concurrency 4096 over --connections 2 is 2048"), "{message}");
    let plan = bench(3, Some(8)).plan(1).map_err(|problem| problem.error)?;
    assert_eq!(
        (plan.connections, plan.threads),
        (3, 3),
        "no connection without a client, no thread without a connection"
    );
    Ok(())
}

#[test]
fn nobody_there_is_code_3() -> anyhow::Result<()> {
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let code = |arguments: &[&str]| {
        let arguments = ["holdfast"].iter().chain(arguments).map(std::ffi::OsString::from).collect::<Vec<_>>();
        crate::cli::main(arguments)
    };
    let url = format!("http://{address}");
    let unavailable = format!("{:?}", std::process::ExitCode::from(Exit::Unavailable));
    assert_eq!(format!("{:?}", code(&["bench", "--address", &url])), unavailable);
    assert_eq!(format!("{:?}", code(&["ctl", "--address", &url, "status"])), unavailable);
    Ok(())
}
