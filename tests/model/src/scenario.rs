//! The scenarios: which part of the world each lets move, and how far.

use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model};

use crate::global::Scope;
use crate::rule::Rules;
use crate::state::Budget;

/// What a check explores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Config {
    pub(crate) rules: Rules,
    pub(crate) regions: u8,
    pub(crate) epochs: u8,
    pub(crate) nodes: u8,
    pub(crate) processes: u8,
    /// Requests a process may send.
    pub(crate) asks: u8,
    /// Completions a process may send, each after the first with another envelope.
    pub(crate) completes: u8,
    /// The epoch that the key was minted in.
    pub(crate) mint: u8,
    pub(crate) hold: bool,
    pub(crate) fail_open: bool,
    /// The first epoch under `global`, 0 for none.
    pub(crate) global_from: u8,
    pub(crate) local: bool,
    /// Whether home leases run out and regions take over unplanned.
    pub(crate) takeovers: bool,
    /// No home leases.
    pub(crate) manual: bool,
    /// A process may ask any region, not only its own.
    pub(crate) roam: bool,
    pub(crate) slow: Slow,
    pub(crate) budget: Budget,
}

/// What takes its time between being decided and being there. The rest is there at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slow {
    /// A proposed entry of a region, to its commit.
    pub(crate) entries: bool,
    /// A proposed TakeOver, to its commit.
    pub(crate) proposals: bool,
    /// A grant, from the last look to the process.
    pub(crate) answers: bool,
}

impl Config {
    pub(crate) fn scope(&self) -> Scope {
        Scope { rules: self.rules, global_from: self.global_from }
    }
}

const NONE: Budget = Budget {
    renewals: 0,
    lost: 0,
    destroyed: 0,
    switchovers: 0,
    leaders: 0,
    restores: 0,
    sweeps: 0,
    lapses: 0,
    releases: 0,
    claims: 0,
    remints: 0,
};

const PROMPT: Slow = Slow { entries: false, proposals: false, answers: false };
const ENTRIES: Slow = Slow { entries: true, ..PROMPT };

const BASE: Config = Config {
    rules: Rules::all(),
    regions: 2,
    epochs: 2,
    nodes: 1,
    processes: 2,
    asks: 1,
    completes: 0,
    mint: 1,
    hold: true,
    fail_open: false,
    global_from: 0,
    local: false,
    takeovers: true,
    manual: false,
    roam: false,
    slow: PROMPT,
    budget: NONE,
};

/// Regions take over when an operator says so, and there are no home leases.
const MANUAL: Config = Config { manual: true, ..BASE };

macro_rules! scenarios {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $config:expr;)*) => {
        /// A part of the world that is explored by itself. All share the transitions.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Scenario { $($(#[$doc])* $name,)* }

        impl Scenario {
            /// All of them, in the order of the rules.
            pub const ALL: &[Scenario] = &[$(Scenario::$name,)*];

            /// The name on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Scenario::$name => $text,)* }
            }

            pub(crate) fn config(self) -> Config {
                match self { $(Scenario::$name => $config,)* }
            }
        }
    };
}

scenarios! {
    /// A TakeOver that commits late, while the home lease is renewed.
    Renewal = "renewal", Config { hold: false, fail_open: true, slow: Slow { proposals: true, ..PROMPT }, budget: Budget { renewals: 2, ..NONE }, ..BASE };
    /// A grant on its way while the home lease runs out.
    LateAnswer = "late-answer", Config { hold: false, fail_open: true, slow: Slow { answers: true, ..PROMPT }, budget: Budget { renewals: 1, ..NONE }, ..BASE };
    /// The ended epoch is declared lost.
    Lost = "lost", Config { budget: Budget { renewals: 1, lost: 1, ..NONE }, ..BASE };
    /// A takeover, the tail, settle; entries of regions commit late.
    Takeover = "takeover", Config { slow: ENTRIES, ..MANUAL };
    /// Fail-open: granted although the past is unsettled.
    FailOpen = "fail-open", Config { hold: false, fail_open: true, asks: 2, ..MANUAL };
    /// Two candidates.
    Candidates = "candidates", Config { regions: 3, mint: 2, roam: true, slow: Slow { proposals: true, ..PROMPT }, ..MANUAL };
    /// There and back again: three epochs.
    Failback = "failback", Config { epochs: 3, ..MANUAL };
    /// A key that was minted in the epoch after a takeover.
    Minted = "minted", Config { mint: 2, roam: true, ..MANUAL };
    /// A client that makes a new key.
    Remint = "remint", Config { budget: Budget { remints: 1, ..NONE }, ..MANUAL };
    /// An attempt that is sent again, and a last look that fails.
    Nonce = "nonce", Config { asks: 2, slow: ENTRIES, regions: 1, budget: Budget { renewals: 1, ..NONE }, ..BASE };
    /// Completions that cross regions.
    Tail = "tail", Config { hold: false, fail_open: true, completes: 2, ..MANUAL };
    /// Everything under `global`.
    Global = "global", Config { global_from: 1, epochs: 3, ..MANUAL };
    /// `global` after an epoch under `home`.
    GlobalLater = "global-later", Config { global_from: 2, ..MANUAL };
    /// A planned switchover.
    Switchover = "switchover", Config { takeovers: false, slow: ENTRIES, budget: Budget { renewals: 1, switchovers: 1, ..NONE }, ..BASE };
    /// A planned switchover after a takeover.
    SwitchoverAfter = "switchover-after", Config { epochs: 3, processes: 1, budget: Budget { switchovers: 1, ..NONE }, ..MANUAL };
    /// Two nodes a region, of which an old leader still answers.
    Replicas = "replicas", Config { nodes: 2, regions: 1, takeovers: false, slow: ENTRIES, budget: Budget { leaders: 1, lapses: 1, ..NONE }, ..MANUAL };
    /// Two nodes a region, that saw different positions of the global log.
    ReplicasApply = "replicas-apply", Config { nodes: 2, budget: Budget { leaders: 1, ..NONE }, fail_open: true, ..MANUAL };
    /// Grants of single regions, of which one may be destroyed.
    Local = "local", Config { local: true, takeovers: false, completes: 1, slow: ENTRIES, budget: Budget { destroyed: 1, ..NONE }, ..BASE };
    /// Release, lapse, a second grant.
    Lapse = "lapse", Config { hold: false, regions: 1, takeovers: false, processes: 3, completes: 1, slow: ENTRIES, budget: Budget { lapses: 1, releases: 1, ..NONE }, ..BASE };
    /// Lapse and claim under `hold`.
    Claim = "claim", Config { regions: 1, takeovers: false, completes: 1, slow: ENTRIES, budget: Budget { lapses: 1, releases: 1, claims: 1, ..NONE }, ..BASE };
    /// A record whose retention ends.
    Expiry = "expiry", Config { hold: false, fail_open: true, completes: 1, asks: 2, budget: Budget { sweeps: 1, ..NONE }, ..MANUAL };
    /// The same in one region, and a retry after it.
    Retention = "retention", Config { regions: 1, takeovers: false, completes: 1, asks: 2, slow: ENTRIES, budget: Budget { sweeps: 1, ..NONE }, ..MANUAL };
    /// A region that is restored from a backup.
    Restore = "restore", Config { budget: Budget { restores: 1, ..NONE }, ..MANUAL };
    /// A region that is destroyed; its epoch is declared lost.
    Destroyed = "destroyed", Config { completes: 1, budget: Budget { lost: 1, destroyed: 1, renewals: 1, ..NONE }, ..BASE };
}

/// How far a check goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Regions, epochs and requests of a process; 0 keeps the scenario's.
    pub regions: u8,
    /// The highest epoch.
    pub epochs: u8,
    /// Requests a process may send.
    pub asks: u8,
    /// When to stop.
    pub time: Duration,
    /// States to stop at.
    pub states: usize,
}

impl Limits {
    /// The scenario's own bounds, and time enough to exhaust them.
    pub const SMALL: Limits = Limits { regions: 0, epochs: 0, asks: 0, time: Duration::from_secs(50), states: 300_000 };
}

/// A property that does not hold, and the steps that show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// P1 to P7.
    pub property: &'static str,
    /// What happened, in order.
    pub steps: Vec<String>,
}

/// What a check came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Distinct states.
    pub states: usize,
    /// The longest path.
    pub depth: usize,
    /// Nothing was left to explore.
    pub exhausted: bool,
    /// How long it took.
    pub took: Duration,
    /// What does not hold.
    pub broken: Vec<Broken>,
}

impl Scenario {
    /// Explores the scenario under some rules, on one thread, until everything was seen, something breaks, or the limits.
    #[must_use]
    pub fn check(self, rules: Rules, limits: Limits) -> Report {
        let mut config = Config { rules, ..self.config() };
        config.regions = if limits.regions == 0 { config.regions } else { limits.regions };
        config.epochs = if limits.epochs == 0 { config.epochs } else { limits.epochs };
        config.asks = if limits.asks == 0 { config.asks } else { limits.asks };
        let start = Watch::start();
        let checker = config
            .checker()
            .threads(1)
            .timeout(limits.time)
            .target_state_count(limits.states)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let broken = checker
            .discoveries()
            .into_iter()
            .map(|(property, path)| Broken {
                property,
                steps: path.into_actions().iter().map(|action| format!("{action:?}")).collect(),
            })
            .collect();
        Report {
            states: checker.unique_state_count(),
            depth: checker.max_depth(),
            exhausted: checker.state_count() < limits.states && start.elapsed() < limits.time,
            took: start.elapsed(),
            broken,
        }
    }
}

/// Measures a check. Nothing is decided by it but whether the check was cut off.
#[expect(clippy::disallowed_types, reason = "a check measures itself")]
struct Watch(std::time::Instant);

impl Watch {
    #[expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a check measures itself")]
    fn start() -> Watch {
        Watch(std::time::Instant::now())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
