//! The language of the decision scripts.
//!
//! A script is comments (`#`), blank lines and blocks. A block is one command line, `----`, and its answer up to the next
//! blank line: the reply, then the record as it stands from then on and the events that were added, or `unchanged`.
//!
//! ```text
//! key a mint=2 time=5000                     what the key says; an opaque key needs no such line
//! open epoch=2 | seal                        which epoch is open
//! reserve key=a fp=A nonce=n endpoint=pay lease=30000 on_lapse=hold kept=1000 policy=0 doubt=settled known=1.1
//! complete key=a token=1.1 envelope=e retention=500 (and the claims: fp nonce endpoint; and the terms of an adopted key)
//! release key=a token=1.1
//! extend key=a token=1.1 lease=500
//! checkpoint key=a token=1.1 name=step data=x
//! claim key=a nonce=n lease=500 worker=w
//! resolve key=a token=1.1 executed=e actor=w reason=r, or without executed: nothing ran
//! lapse key=a token=1.1 revision=0
//! void key=a token=1.1
//! churn key=a times=64                       that often reserve and lapse under regrant; shows the last reply
//! sweep                                      every key, in order
//! show key=a                                 the whole history
//! ```
//!
//! Every command takes `now` (log time, which stays) and `epoch` (what it was proposed in; the open one if left out).
//! `known` is the record's last token unless given; `none` is none. All else has the defaults of the lines above, the
//! nonce excepted: without one there is none.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use holdfast::ids::{EndpointName, Epoch, FencingToken};
use holdfast::reservation::command::{Complete, Doubt, KeyFacts, Reserve, Verdict};
use holdfast::reservation::record::{Checkpoint, OnLapse, Terms};
use holdfast::reservation::sweep::Sweep;
use holdfast::reservation::{Command, Kind};
use holdfast::time::LogTime;

use crate::render;
use crate::world::{Applied, CORE, World, endpoint, envelope, fingerprint, nonce};

/// What a script's commands came to, for [`coverage`](crate::coverage).
#[derive(Default)]
pub(crate) struct Trace {
    pub(crate) applied: Vec<Applied>,
    pub(crate) swept: Vec<Sweep>,
    pub(crate) doubts: Vec<Doubt>,
}

/// Runs a script and returns it with its answers as they are now.
///
/// # Panics
/// When a line is not of the language; the message names the line.
pub(crate) fn run(name: &str, text: &str) -> (String, Trace) {
    let mut world = World::new(CORE);
    let mut trace = Trace::default();
    let mut out = String::with_capacity(text.len());
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        out.push_str(line);
        out.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("{name}:{}: {line}", number + 1);
        let mut arguments = Arguments::parse(line, place);
        let answer = execute(&mut world, &mut arguments, &mut trace);
        arguments.finish();
        if lines.next_if(|(_, line)| *line == "----").is_some() {
            while lines.next_if(|(_, line)| !line.is_empty()).is_some() {}
        }
        let _ = writeln!(out, "----\n{}", answer.trim_end());
    }
    (out, trace)
}

fn execute(world: &mut World, arguments: &mut Arguments, trace: &mut Trace) -> String {
    if let Some(now) = arguments.number("now") {
        world.now = LogTime::from_unix_ms(now);
    }
    match arguments.command.clone().as_str() {
        "key" => {
            let key = arguments.word();
            let facts = KeyFacts {
                mint_epoch: Epoch(arguments.number("mint").unwrap_or(1)),
                time_ms: arguments.number("time"),
            };
            world.facts.insert(key, facts);
            "ok".to_owned()
        }
        "open" => {
            world.open = arguments.number("epoch").map(Epoch);
            "ok".to_owned()
        }
        "seal" => {
            world.open = None;
            "ok".to_owned()
        }
        "sweep" => sweep(world, trace),
        "show" => {
            let key = arguments.needed("key");
            match world.records.get(&key) {
                None => "absent".to_owned(),
                Some(record) => show(record),
            }
        }
        "churn" => churn(world, arguments, trace),
        _ => apply(world, arguments, trace),
    }
}

fn sweep(world: &mut World, trace: &mut Trace) -> String {
    let keys: Vec<String> = world.records.keys().cloned().collect();
    let mut text = String::new();
    for key in keys {
        if let Some(swept) = world.sweep(&key) {
            let _ = writeln!(text, "{key} {}", render::swept(swept));
            trace.swept.push(swept);
        }
    }
    text
}

fn show(record: &holdfast::reservation::Record) -> String {
    let mut text = render::record(record);
    let _ = writeln!(text, "  {} events dropped, {} kept", record.history_dropped, record.history.len());
    record.history.iter().for_each(|event| text.push_str(&render::event(event)));
    text
}

fn apply(world: &mut World, arguments: &mut Arguments, trace: &mut Trace) -> String {
    let key = arguments.needed("key");
    let epoch = arguments.number("epoch").map(Epoch).or(world.open).unwrap_or(Epoch::FIRST);
    let at = endpoint(&arguments.text("endpoint").unwrap_or_else(|| "pay".to_owned()));
    let last = world.records.get(&key).and_then(|record| record.last_token());
    let kind = arguments.kind(&at, last);
    if let Kind::Reserve(reserve) = &kind {
        trace.doubts.push(reserve.doubt);
    }
    let applied = world.apply(&key, &at, &Command { epoch, kind });
    let text = render::applied(&applied);
    trace.applied.push(applied);
    text
}

fn churn(world: &mut World, arguments: &mut Arguments, trace: &mut Trace) -> String {
    let key = arguments.needed("key");
    let times = arguments.number("times").unwrap_or(1);
    let mut text = String::new();
    for _ in 0..times {
        let mut reserve = Arguments::parse(&format!("reserve key={key} on_lapse=regrant"), String::new());
        text = apply(world, &mut reserve, trace);
        if let Some(token) = world.records.get(&key).and_then(|record| record.last_token()) {
            let lapse = format!("lapse key={key} token={token} revision=0");
            apply(world, &mut Arguments::parse(&lapse, String::new()), trace);
        }
    }
    text.lines().next().unwrap_or_default().to_owned()
}

/// One command line, taken apart; what is not taken is an error.
pub(crate) struct Arguments {
    place: String,
    pub(crate) command: String,
    word: Option<String>,
    named: BTreeMap<String, String>,
}

impl Arguments {
    pub(crate) fn parse(line: &str, place: String) -> Self {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default().to_owned();
        let mut arguments = Self { place, command, word: None, named: BTreeMap::new() };
        for word in words {
            match word.split_once('=') {
                Some((name, value)) => {
                    let before = arguments.named.insert(name.to_owned(), value.to_owned());
                    assert!(before.is_none(), "{}: {name} is there twice", arguments.place);
                }
                None => arguments.word = Some(word.to_owned()),
            }
        }
        arguments
    }

    pub(crate) fn finish(self) {
        assert!(self.named.is_empty() && self.word.is_none(), "{}: what is {:?}?", self.place, self.named);
    }

    pub(crate) fn word(&mut self) -> String {
        self.word.take().unwrap_or_else(|| panic!("{}: a name is missing", self.place))
    }

    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        self.named.remove(name)
    }

    pub(crate) fn needed(&mut self, name: &str) -> String {
        self.text(name).unwrap_or_else(|| panic!("{}: {name} is missing", self.place))
    }

    pub(crate) fn number(&mut self, name: &str) -> Option<u64> {
        let text = self.text(name)?;
        Some(text.parse().unwrap_or_else(|_| panic!("{}: {name} is no number", self.place)))
    }

    fn small(&mut self, name: &str) -> Option<u32> {
        self.number(name).map(|number| u32::try_from(number).expect("fits 32 bits"))
    }

    fn token(&mut self) -> FencingToken {
        let text = self.needed("token");
        token(&text).unwrap_or_else(|| panic!("{}: the token is not epoch.sequence", self.place))
    }

    fn terms(&mut self) -> Terms {
        Terms {
            policy_revision: self.small("policy").unwrap_or(0),
            lease_ms: self.small("lease").unwrap_or(30_000),
            on_lapse: match self.text("on_lapse").as_deref() {
                None | Some("hold") => OnLapse::Hold,
                Some("regrant") => OnLapse::Regrant,
                Some(other) => panic!("{}: on_lapse is hold or regrant, not {other}", self.place),
            },
            retention_ms: self.number("kept").unwrap_or(1_000),
        }
    }

    fn doubt(&mut self) -> Doubt {
        match self.text("doubt").as_deref() {
            None | Some("settled") => Doubt::Settled,
            Some("lost") => Doubt::Lost,
            Some("unsettled-fail-closed") => Doubt::UnsettledFailClosed,
            Some("unsettled-fail-open") => Doubt::UnsettledFailOpen,
            Some(other) => panic!("{}: no such doubt: {other}", self.place),
        }
    }

    fn request(&mut self) -> String {
        self.text("fp").unwrap_or_else(|| "A".to_owned())
    }

    fn nonce(&mut self) -> Option<holdfast::ids::Nonce> {
        self.text("nonce").map(|name| nonce(&name))
    }

    fn kind(&mut self, at: &EndpointName, last: Option<FencingToken>) -> Kind {
        match self.command.clone().as_str() {
            "reserve" => Kind::Reserve(Box::new(Reserve {
                fingerprint: fingerprint(&self.request()),
                endpoint: at.clone(),
                nonce: self.nonce(),
                doubt: self.doubt(),
                known: match self.text("known").as_deref() {
                    None => last,
                    Some(text) => token(text),
                },
                terms: self.terms(),
            })),
            "complete" => Kind::Complete(Box::new(Complete {
                token: self.token(),
                fingerprint: fingerprint(&self.request()),
                endpoint: at.clone(),
                nonce: self.nonce(),
                envelope: envelope(&self.needed("envelope")),
                retention_ms: self.number("retention"),
                terms: self.terms(),
            })),
            "release" => Kind::Release { token: self.token() },
            "extend" => Kind::Extend { token: self.token(), lease_ms: self.small("lease").unwrap_or(30_000) },
            "checkpoint" => Kind::Checkpoint {
                token: self.token(),
                checkpoint: Checkpoint {
                    name: self.needed("name").into(),
                    data: self.needed("data").into_bytes().into(),
                },
            },
            "claim" => Kind::Claim {
                nonce: self.nonce(),
                lease_ms: self.small("lease"),
                worker: self.text("worker").unwrap_or_else(|| "w".to_owned()).into(),
            },
            "resolve" => Kind::Resolve {
                token: self.token(),
                verdict: match self.text("executed") {
                    Some(name) => Verdict::Executed(envelope(&name)),
                    None => Verdict::NotExecuted,
                },
                actor: self.text("actor").unwrap_or_else(|| "ops".to_owned()).into(),
                reason: self.text("reason").unwrap_or_else(|| "checked".to_owned()).into(),
            },
            "lapse" => Kind::Lapse { token: self.token(), lease_revision: self.small("revision").unwrap_or(0) },
            "void" => Kind::Void { token: self.token() },
            other => panic!("{}: no such command: {other}", self.place),
        }
    }
}

/// `epoch.sequence`; nothing for anything else.
fn token(text: &str) -> Option<FencingToken> {
    let (epoch, sequence) = text.split_once('.')?;
    Some(FencingToken { epoch: Epoch(epoch.parse().ok()?), sequence: sequence.parse().ok()? })
}
