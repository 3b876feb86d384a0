//! The language of the global group's scripts, of the same form as that of the decision scripts.
//!
//! ```text
//! limits ended=2 regions=3 contracts=1 mutations=4 bytes=100 attempts=2 envelopes=1 swept=2 tasks=2
//! key t mint=2 time=5000                       a tagged key of the home eu; all others are opaque
//! adopt acting=eu epoch=1 order=eu,us
//! order order=us,eu
//! renew region=eu inc=0 epoch=1 lease=10000
//! takeover region=us inc=0 epoch=2 renewal=1, and by=ada reason=x if an operator vouches;
//!          or end=7 contracts=pay:global,… if it is planned
//! ship stream=1.eu.0 first=1 say=a:1.1:held,b:1.2:done=e1   one mutation each; `+` joins grants of one mutation
//! settle epoch=1 | lost epoch=1 by=ada reason=x | retire epoch=1 | restored region=eu inc=1
//! sweep region=eu inc=0 epoch=1 up_to=3 keys=a,b
//! prune count=2
//! take key=a about=1.1 worker=w instead_of=v | close key=a about=1.1=e1 verdict=compensated by=w reason=x
//! ```
//!
//! Every command takes `now` (log time, which stays) and `home` (eu). A grant is `key:token:phase`: the token is
//! `epoch.sequence`, of the stream's region unless `@region` follows; `!` after it says that it is flagged. Phases are held,
//! held/1, lapsed, released and `done=envelope`, several joined by `&`, `~` after one that is late; `@epoch.position` where it
//! committed if not here. `a::mark=x` is a word on a checkpoint, `a::nomark` that there is none. `seal` seals. What ship takes
//! beside it: `bytes` of each mutation, `data` (other bytes than the stream had there), `chain=other`, `endpoint`, `on_lapse`.
//! What a task is about is a token, with `=envelope`, or `rest`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use holdfast::control::Signature;
use holdfast::home::command::{
    Acknowledge, Adopt, Cause, Change, KeyChange, Mutation, RenewLease, Restored, Ship, Sweep, TakeOver,
};
use holdfast::home::evidence::{Attempt, Commit, Completion, Phase, Placed, Token};
use holdfast::home::ledger::{Loser, Subject, TaskId, Verdict};
use holdfast::home::state::{StreamId, chained};
use holdfast::home::{Command, Context, Decision, Limits, Reply};
use holdfast::ids::{Digest, Epoch, RecordKey, RegionName};
use holdfast::policy::Consistency;
use holdfast::reservation::record::{Checkpoint, OnLapse};
use holdfast::time::LogTime;
use holdfast_client::keys::TaggedKey;
use sha2::{Digest as _, Sha256};

use crate::home::render;
use crate::home::world::{World, attempt, core, record_key, region, token};
use crate::script::Arguments;
use crate::world::{endpoint, envelope};

/// A group, and what the regions have of their streams.
struct Run {
    world: World,
    context: Context,
    keys: BTreeMap<String, RecordKey>,
    /// The chain hashes of what was shipped, and of what the last command ships.
    chains: BTreeMap<(StreamId, u64), Digest>,
    said: Vec<((StreamId, u64), Digest)>,
}

/// Runs a script and returns it with its answers as they are now, and the decisions.
///
/// # Panics
/// When a line is not of the language; the message names the line.
pub(crate) fn run(name: &str, text: &str) -> (String, Vec<(Decision, World)>) {
    let context = Context { now: LogTime::default(), limits: Limits::STANDARD };
    let mut run =
        Run { world: World::default(), context, keys: BTreeMap::new(), chains: BTreeMap::new(), said: Vec::new() };
    let mut trace = Vec::new();
    let mut out = String::with_capacity(text.len());
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        out.push_str(line);
        out.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut arguments = Arguments::parse(line, format!("{name}:{}: {line}", number + 1));
        let answer = run.execute(&mut arguments, &mut trace);
        arguments.finish();
        if lines.next_if(|(_, line)| *line == "----").is_some() {
            while lines.next_if(|(_, line)| !line.is_empty()).is_some() {}
        }
        let _ = writeln!(out, "----\n{}", answer.trim_end());
    }
    (out, trace)
}

impl Run {
    fn execute(&mut self, arguments: &mut Arguments, trace: &mut Vec<(Decision, World)>) -> String {
        if let Some(now) = arguments.number("now") {
            self.context.now = LogTime::from_unix_ms(now);
        }
        match arguments.command.clone().as_str() {
            "limits" => self.limit(arguments),
            "key" => {
                let name = arguments.word();
                let (mint, time) = (arguments.number("mint").unwrap_or(1), arguments.number("time").unwrap_or(0));
                let tagged = TaggedKey::mint("eu", mint, time, [7; 10]).expect("a tagged key");
                self.keys.insert(name, record_key(&tagged.to_string()));
            }
            _ => {
                let command = self.command(arguments);
                let decision = self.world.apply(core, &command, &self.context);
                let said = std::mem::take(&mut self.said);
                if matches!(decision.reply, Reply::Shipped { .. }) {
                    self.chains.extend(said);
                }
                let text = render::decision(&decision);
                trace.push((decision, self.world.clone()));
                return self.with_names(text);
            }
        }
        "ok".to_owned()
    }

    /// Tagged keys are long: they are shown by the script's names.
    fn with_names(&self, text: String) -> String {
        self.keys.iter().fold(text, |text, (name, key)| text.replace(key.key.as_str(), name))
    }

    fn limit(&mut self, arguments: &mut Arguments) {
        let limits = &mut self.context.limits;
        let named = [
            ("ended", &mut limits.ended),
            ("regions", &mut limits.regions),
            ("contracts", &mut limits.contracts),
            ("mutations", &mut limits.mutations),
            ("bytes", &mut limits.bytes),
            ("attempts", &mut limits.attempts),
            ("envelopes", &mut limits.envelopes),
            ("swept", &mut limits.swept),
            ("tasks", &mut limits.tasks),
        ];
        for (name, limit) in named {
            if let Some(number) = arguments.number(name) {
                *limit = usize::try_from(number).expect("a small number");
            }
        }
    }

    fn command(&mut self, arguments: &mut Arguments) -> Command {
        let home = region(&arguments.text("home").unwrap_or_else(|| "eu".to_owned()));
        match arguments.command.clone().as_str() {
            "adopt" => Command::Adopt(Adopt {
                home,
                acting: region(&arguments.needed("acting")),
                epoch: epoch(arguments),
                order: regions(arguments),
            }),
            "order" => Command::Order { home, order: regions(arguments) },
            "renew" => Command::RenewLease(RenewLease {
                home,
                region: region(&arguments.needed("region")),
                incarnation: incarnation(arguments),
                epoch: epoch(arguments),
                lease_ms: u32::try_from(arguments.number("lease").unwrap_or(10_000)).expect("a lease"),
            }),
            "takeover" => Command::TakeOver(TakeOver {
                home,
                epoch: epoch(arguments),
                region: region(&arguments.needed("region")),
                incarnation: incarnation(arguments),
                cause: cause(arguments),
            }),
            "ship" => Command::Ship(self.ship(arguments, home)),
            "settle" => Command::Settle { home, epoch: epoch(arguments) },
            "lost" => Command::DeclareLost { home, epoch: epoch(arguments), signature: signature(arguments) },
            "retire" => Command::Retire { home, epoch: epoch(arguments) },
            "restored" => Command::Restored(Restored {
                home,
                region: region(&arguments.needed("region")),
                incarnation: incarnation(arguments),
            }),
            "sweep" => Command::Sweep(Sweep {
                home,
                region: region(&arguments.needed("region")),
                incarnation: incarnation(arguments),
                epoch: epoch(arguments),
                up_to: arguments.number("up_to").unwrap_or(0),
                keys: arguments.needed("keys").split(',').map(|name| self.key(name)).collect(),
            }),
            "prune" => {
                Command::Prune { count: usize::try_from(arguments.number("count").unwrap_or(1)).expect("a count") }
            }
            "take" => Command::Acknowledge(Acknowledge {
                tasks: self.tasks(arguments),
                worker: arguments.text("worker").unwrap_or_default().into(),
                instead_of: arguments.text("instead_of").map(Into::into),
            }),
            "close" => Command::Close {
                task: self.tasks(arguments)[0],
                verdict: match arguments.needed("verdict").as_str() {
                    "compensated" => Verdict::Compensated,
                    "not-needed" => Verdict::NotNeeded,
                    other => panic!("no such verdict: {other}"),
                },
                signature: signature(arguments),
            },
            other => panic!("no such command: {other}"),
        }
    }

    fn key(&self, name: &str) -> RecordKey {
        self.keys.get(name).cloned().unwrap_or_else(|| record_key(name))
    }

    fn tasks(&self, arguments: &mut Arguments) -> Vec<TaskId> {
        let key = self.key(&arguments.needed("key"));
        let about = arguments.needed("about");
        let id = |text: &str| {
            let subject = match text.split_once('=') {
                _ if text == "rest" => Subject::NotKept,
                Some((of, with)) => Subject::Loser(Loser { token: named(of, "eu"), envelope: Some(envelope(with)) }),
                None => Subject::Loser(Loser { token: named(text, "eu"), envelope: None }),
            };
            TaskId::of(&key, &subject)
        };
        about.split(',').map(id).collect()
    }

    fn ship(&mut self, arguments: &mut Arguments, home: RegionName) -> Ship {
        let stream = stream(&arguments.needed("stream"), home);
        let first = arguments.number("first").unwrap_or(1);
        let bytes = usize::try_from(arguments.number("bytes").unwrap_or(100)).expect("a size");
        let salt = arguments.text("data").unwrap_or_default();
        let said = arguments.text("say").unwrap_or_default();
        let at = endpoint(&arguments.text("endpoint").unwrap_or_else(|| "pay".to_owned()));
        let on_lapse = match arguments.text("on_lapse").as_deref() {
            Some("regrant") => OnLapse::Regrant,
            _ => OnLapse::Hold,
        };
        let mut chain = match first.checked_sub(1).and_then(|before| self.chains.get(&(stream.clone(), before))) {
            Some(chain) => *chain,
            None => stream.empty().chain,
        };
        if arguments.text("chain").is_some() {
            chain = Digest([9; 32]);
        }
        let started = chain;
        let mut mutations = Vec::new();
        for (position, text) in (first..).zip(said.split(',').filter(|text| !text.is_empty())) {
            let digest = Digest(Sha256::digest(format!("{position} {text} {salt}")).into());
            chain = chained(chain, digest);
            self.said.push(((stream.clone(), position), chain));
            let mut change = self.change(text, &stream, position);
            if let Change::Key(change) = &mut change {
                for attempt in &mut change.attempts {
                    attempt.endpoint = at.clone();
                    attempt.terms.on_lapse = on_lapse;
                }
            }
            mutations.push(Mutation { digest, bytes, change });
        }
        Ship { stream, first, chain: started, mutations }
    }

    fn change(&self, text: &str, stream: &StreamId, position: u64) -> Change {
        if text == "seal" {
            return Change::Seal;
        }
        let (mut attempts, mut placed, mut key) = (Vec::new(), None, None);
        let here = Commit { epoch: stream.epoch, position, region: stream.region.clone() };
        for part in text.split('+') {
            let mut fields = part.splitn(3, ':');
            let (name, of, what) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""), fields.next());
            key = Some(self.key(name));
            match what.unwrap_or("none").split_once('=').unwrap_or((what.unwrap_or("none"), "")) {
                ("none", _) => {}
                ("mark", name) => {
                    let checkpoint = Checkpoint { name: name.into(), data: [1].into() };
                    placed = Some(Placed { commit: here.clone(), checkpoint: Some(checkpoint) });
                }
                ("nomark", _) => placed = Some(Placed { commit: here.clone(), checkpoint: None }),
                _ => attempts.push(grant(of, what.unwrap_or(""), &here, self.context.now)),
            }
        }
        Change::Key(Box::new(KeyChange { key: key.expect("a key"), attempts, placed }))
    }
}

fn grant(of: &str, phase: &str, here: &Commit, now: LogTime) -> Attempt {
    let flagged = of.ends_with('!');
    let token = named(of.trim_end_matches('!'), here.region.as_str());
    let phase = match phase.split_once('=').unwrap_or((phase, "")) {
        ("held", _) => Phase::Held { lease_ms: 500, lease_revision: 0 },
        ("held/1", _) => Phase::Held { lease_ms: 500, lease_revision: 1 },
        ("lapsed", _) => Phase::Lapsed,
        ("released", _) => Phase::Released,
        ("done", "") => Phase::Completed(Vec::new()),
        ("done", all) => Phase::Completed(all.split('&').map(|text| completion(text, here, now)).collect()),
        (other, _) => panic!("no such phase: {other}"),
    };
    attempt(token, flagged, phase)
}

fn completion(text: &str, here: &Commit, now: LogTime) -> Completion {
    let late = text.ends_with('~');
    let (name, commit) = match text.trim_end_matches('~').split_once('@') {
        None => (text.trim_end_matches('~'), here.clone()),
        Some((name, at)) => {
            let (epoch, position) = pair(at);
            (name, Commit { epoch: Epoch(epoch), position, region: here.region.clone() })
        }
    };
    Completion { envelope: envelope(name), commit, late, completed_at: now }
}

fn pair(text: &str) -> (u64, u64) {
    let (one, other) = text.split_once('.').unwrap_or_else(|| panic!("{text} is not a.b"));
    (one.parse().expect("a number"), other.parse().expect("a number"))
}

/// `epoch.sequence`, or `epoch.sequence@region`.
fn named(text: &str, here: &str) -> Token {
    let (numbers, at) = text.split_once('@').unwrap_or((text, here));
    let (epoch, sequence) = pair(numbers);
    token(epoch, sequence, at)
}

fn stream(text: &str, home: RegionName) -> StreamId {
    let parts: Vec<&str> = text.split('.').collect();
    let [epoch, name, incarnation] = parts.as_slice() else { panic!("{text} is not epoch.region.incarnation") };
    StreamId {
        home,
        epoch: Epoch(epoch.parse().expect("an epoch")),
        region: region(name),
        incarnation: incarnation.parse().expect("an incarnation"),
    }
}

fn epoch(arguments: &mut Arguments) -> Epoch {
    Epoch(arguments.number("epoch").unwrap_or(1))
}

fn incarnation(arguments: &mut Arguments) -> u64 {
    arguments.number("inc").unwrap_or(0)
}

fn regions(arguments: &mut Arguments) -> Vec<RegionName> {
    let text = arguments.text("order").unwrap_or_else(|| "eu,us,ap".to_owned());
    text.split(',').filter(|name| !name.is_empty()).map(region).collect()
}

fn signature(arguments: &mut Arguments) -> Signature {
    let mut text = |name: &str| arguments.text(name).unwrap_or_default().into();
    Signature { actor: text("by"), reason: text("reason") }
}

fn cause(arguments: &mut Arguments) -> Cause {
    if let Some(end) = arguments.number("end") {
        let contracts = arguments.text("contracts").unwrap_or_default();
        let contract = |text: &str| {
            let (name, consistency) = text.split_once(':').expect("endpoint:consistency");
            let consistency = match consistency {
                "local" => Consistency::Local,
                "home" => Consistency::Home,
                "global" => Consistency::Global,
                other => panic!("no such consistency: {other}"),
            };
            (endpoint(name), consistency)
        };
        let contracts = contracts.split(',').filter(|text| !text.is_empty()).map(contract).collect();
        return Cause::Planned { end, contracts };
    }
    let renewal = arguments.number("renewal").unwrap_or(0);
    let signature = signature(arguments);
    match signature == Signature::default() {
        true => Cause::RanOut { renewal },
        false => Cause::Vouched { renewal, signature },
    }
}
