//! The binary's commands: flags in, exit code out. One file a command.
//!
//! The result of a command goes to stdout, everything else (logs, errors) to stderr. Deliberately absent: anything that
//! a library user of the crate would want; `node` is the door for those.

mod bench;
mod client;
mod ctl;
mod dev;
mod exit;
#[cfg(test)]
mod fake;
mod gateway;
#[cfg(test)]
pub(crate) mod golden;
mod output;
mod parse;
#[cfg(test)]
mod reference;
mod serve;
mod server;
mod settings;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use exit::Exit;

/// Holdfast, a multi-region replicated idempotency store: it answers "may I execute the request with this key?", and every
/// retry gets the first response, byte for byte
#[derive(Debug, clap::Parser)]
#[command(name = "holdfast", version, arg_required_else_help = true, subcommand_required = true)]
#[command(after_help = concat_help())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Start one node on this machine, without configuration
    Dev(dev::Dev),
    /// Start a node as a settings file says
    Server(Box<server::Server>),
    /// Start a reverse proxy that protects the services behind it
    Gateway(Box<gateway::Gateway>),
    /// Ask a running node, or tell it something; check policy files, plan capacity
    Ctl(ctl::Ctl),
    /// Put load on a running node, measure it and check every answer
    Bench(bench::Bench),
}

fn concat_help() -> String {
    format!("Start with:\n  holdfast dev\n\n{}", Exit::HELP)
}

/// The whole command line, with each setting's default and bounds in its help.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("server", |server| {
        let names: Vec<String> =
            settings::Settings::arguments().iter().map(|argument| argument.get_id().to_string()).collect();
        server.mut_args(|argument| match names.iter().any(|name| argument.get_id() == name.as_str()) {
            true => settings::annotate(argument),
            false => argument,
        })
    })
}

/// Runs the command that the arguments name (the first is the program's name), to its end.
///
/// Returns the exit code, which `holdfast --help` lists. What went wrong is on stderr by then, on one line.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(help_or_error) => {
            // There is nobody to tell when stdout or stderr is closed.
            let _unheard = help_or_error.print();
            return ExitCode::from(u8::try_from(help_or_error.exit_code()).unwrap_or(Exit::Usage.code()));
        }
    };
    let ended = match cli.command {
        Command::Dev(dev) => dev::run(dev),
        Command::Server(server) => server::run(*server),
        Command::Gateway(gateway) => gateway::run(*gateway),
        Command::Ctl(ctl) => ctl::run(ctl),
        Command::Bench(bench) => bench::run(bench),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(problem) => {
            output::complain(&format!("holdfast: {}", problem.line()));
            problem.exit.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let matches = command().try_get_matches_from(line.split_whitespace())?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn command_lines_parse() {
        let good = [
            "holdfast dev",
            "holdfast dev --listen 127.0.0.1:0 --data-dir /tmp/h --severity critical",
            "holdfast server --config /etc/holdfast.toml --insecure --homes eu,us --drain-ms 5",
            "holdfast server --data-dir /d --region eu --insecure=false",
            "holdfast gateway --embedded --upstream http://127.0.0.1:9000",
            "holdfast gateway --config g.toml --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0",
            "holdfast gateway --upstream http://a:1,http://b:2 --nodes 10.0.0.1:7400,10.0.0.2:7400",
            "holdfast gateway --embedded --config g.toml --data-dir /d --severity critical",
            "holdfast ctl status",
            "holdfast ctl --address 127.0.0.1:7400 --output json key show demo order-1",
            "holdfast ctl key show demo order-1 --output json --address http://127.0.0.1:7400",
            "holdfast ctl key history demo order-1",
            "holdfast ctl key resolve demo order-1 --not-executed --actor me --reason checked",
            "holdfast ctl key resolve demo order-1 --executed-status 201 --header a:b --header c:d --actor me --reason x",
            "holdfast ctl rotate-cluster-key",
            "holdfast ctl clock accept",
            "holdfast ctl members",
            "holdfast ctl members promote 4",
            "holdfast ctl members remove 2 --output json",
            "holdfast ctl members replace 2 --with 4",
            "holdfast ctl transfer --to 2",
            "holdfast ctl transfer --partition 3 --to 2",
            "holdfast ctl snapshot --partition 0",
            "holdfast ctl policy lint a.toml b.toml --output json",
            "holdfast ctl policy explain /v1/charges --tenant acme --file a.toml b.toml --file c.toml",
            "holdfast ctl policy diff a.toml b.toml",
            "holdfast ctl policy schema",
            "holdfast ctl policy explain /v1/charges --tenant acme",
            "holdfast ctl policy diff a.toml",
            "holdfast ctl policy apply a.toml b.toml --reason x --actor me --prune --shorten",
            "holdfast ctl policy apply a.toml --dry-run",
            "holdfast ctl policy list --output json",
            "holdfast ctl policy show --revision 4 --policy charges",
            "holdfast ctl tenant create acme --home eu --max-keys 5 --max-bytes 10GiB --keys-per-second 9 --reason x",
            "holdfast ctl tenant set acme --no-max-keys --keys-per-second-per-client 9 --reason x",
            "holdfast ctl tenant close acme --reason x",
            "holdfast ctl tenant reopen acme --reason x --actor me",
            "holdfast ctl tenant list",
            "holdfast ctl tenant show acme",
            "holdfast ctl audit --since 7d --action close-tenant --output json",
            "holdfast ctl audit --after a.jsonl --after b.jsonl",
            "holdfast ctl rotate-cluster-key --reason x --actor me",
            "holdfast ctl clock accept --reason x",
            "holdfast ctl members replace 2 --with 4 --reason x",
            "holdfast server --region-file /r.toml --node-id 2",
            "holdfast server --join 10.0.0.1:7401,10.0.0.2:7401 --peer-listen 10.0.0.4:7401",
            "holdfast bench --concurrency 256 --duration 10s --warmup 2s --rate 5000 --output json",
            "holdfast bench --cycles 1000",
            "holdfast ctl plan capacity --file deploy/capacity/payments.toml --output json",
            "holdfast ctl plan capacity --metrics http://127.0.0.1:7400 --metrics a.txt --over 60s --peak-factor 6",
        ];
        for line in good {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
        let bad = [
            "holdfast",
            "holdfast serve",
            "holdfast dev --severity urgent",
            "holdfast gateway",
            "holdfast gateway --embedded",
            "holdfast gateway --config g.toml --upstream http://a:1",
            "holdfast gateway --upstream http://a:1 --data-dir /d",
            "holdfast gateway --upstream http://a:1 --embedded --nodes a:1",
            "holdfast dev --listen 7400",
            "holdfast server --drain-ms soon",
            "holdfast ctl members replace 2",
            "holdfast ctl transfer --partition 3",
            "holdfast ctl key resolve demo order-1 --actor me --reason x",
            "holdfast ctl key resolve demo order-1 --not-executed --executed-status 200 --actor me --reason x",
            "holdfast ctl key resolve demo order-1 --not-executed --header a:b --actor me --reason x",
            "holdfast ctl key resolve demo order-1 --executed-status 99 --actor me --reason x",
            "holdfast ctl key resolve demo order-1 --not-executed --reason x",
            "holdfast ctl policy lint",
            "holdfast ctl policy explain /v1/charges --file a.toml",
            "holdfast ctl policy explain /v1/charges --tenant a/b --file a.toml",
            "holdfast ctl policy diff",
            "holdfast ctl policy diff a.toml b.toml c.toml",
            "holdfast ctl policy apply --reason x",
            "holdfast ctl policy apply a.toml",
            "holdfast ctl policy show --revision last",
            "holdfast ctl tenant create acme",
            "holdfast ctl tenant create a/b --reason x",
            "holdfast ctl tenant create acme --max-keys 0 --reason x",
            "holdfast ctl tenant create acme --max-bytes 10GB --reason x",
            "holdfast ctl tenant set acme --reason x",
            "holdfast ctl tenant set acme --max-keys 5 --no-max-keys --reason x",
            "holdfast ctl tenant close acme",
            "holdfast ctl audit --action policies",
            "holdfast ctl audit --since yesterday",
            "holdfast ctl audit --since 1d --after a.jsonl",
            "holdfast ctl plan",
            "holdfast ctl plan capacity",
            "holdfast ctl plan capacity --file a.toml --metrics b.txt",
            "holdfast ctl plan capacity --file a.toml --print-file",
            "holdfast ctl plan capacity --metrics b.txt --over 5",
            "holdfast bench --cycles 10 --duration 1s",
            "holdfast bench --concurrency 0",
            "holdfast bench --body-bytes 1048577",
            "holdfast bench --duration 10",
        ];
        for line in bad {
            let code = parse(line).map_or_else(|error| error.exit_code(), |_| 0);
            assert_eq!(code, i32::from(Exit::Usage.code()), "{line}");
        }
    }
}
