//! `holdfast-model check [scenario …] [--regions n] [--epochs n] [--asks n] [--seconds n] [--states n]`: explores, and prints what it saw.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use holdfast_model::{Limits, Report, Rule, Rules, Scenario};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments, &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            drop(writeln!(io::stderr(), "{message}"));
            ExitCode::from(2)
        }
    }
}

/// Whether every property held.
fn run(arguments: &[String], out: &mut impl Write) -> Result<bool, String> {
    let [command, rest @ ..] = arguments else { return Err(usage()) };
    if command != "check" {
        return Err(usage());
    }
    let (mut limits, mut rules) = (Limits::SMALL, Rules::all());
    let mut chosen = Vec::new();
    let mut rest = rest.iter();
    while let Some(argument) = rest.next() {
        let Some(name) = argument.strip_prefix("--") else {
            let known = Scenario::ALL.iter().find(|scenario| scenario.name() == argument);
            chosen.push(*known.ok_or_else(usage)?);
            continue;
        };
        if name == "without" {
            let rule = rest.next().and_then(|name| Rule::ALL.iter().find(|rule| format!("{rule:?}") == *name));
            rules = rules.without(*rule.ok_or_else(usage)?);
            continue;
        }
        let value: u32 = rest.next().and_then(|value| value.parse().ok()).ok_or_else(usage)?;
        let small = u8::try_from(value);
        match (name, small) {
            ("regions", Ok(value @ 1..=3)) => limits.regions = value,
            ("epochs", Ok(value @ 1..=4)) => limits.epochs = value,
            ("asks", Ok(value)) => limits.asks = value,
            ("seconds", _) => limits.time = Duration::from_secs(value.into()),
            ("states", _) => limits.states = value as usize,
            _ => return Err(usage()),
        }
    }
    let all = if chosen.is_empty() { Scenario::ALL } else { &chosen };
    let mut held = true;
    for scenario in all {
        let report = scenario.check(rules, limits);
        held &= report.broken.is_empty();
        print(*scenario, &report, out).map_err(|error| error.to_string())?;
    }
    Ok(held)
}

fn print(scenario: Scenario, report: &Report, out: &mut impl Write) -> io::Result<()> {
    let end = if report.exhausted { "all" } else { "cut off" };
    let (name, states, depth, seconds) = (scenario.name(), report.states, report.depth, report.took.as_secs_f64());
    writeln!(out, "{name:18} {states:9} states ({end}), depth {depth:3}, {seconds:6.1} s")?;
    for broken in &report.broken {
        writeln!(out, "  {} does not hold:", broken.property)?;
        for step in &broken.steps {
            writeln!(out, "    {step}")?;
        }
    }
    Ok(())
}

fn usage() -> String {
    let names: Vec<&str> = Scenario::ALL.iter().map(|scenario| scenario.name()).collect();
    format!(
        "usage: holdfast-model check [scenario …] [--regions 1-3] [--epochs 1-4] [--asks n] [--seconds n] [--states n] [--without rule]\n\
         scenarios: {}",
        names.join(", ")
    )
}
