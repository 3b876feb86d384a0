//! What is held: the layers of the module map, what is pure, who may use what, which words are not used.

/// Imports run from a layer to one below it; modules of one layer do not know each other, those of the last may.
pub(crate) const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["node"],
    &["api", "gateway", "console", "governance"],
    &["server"],
    &["router"],
    &["region", "global"],
    &["raft"],
    &["peers"],
    &["store", "plan"],
    &["codec"],
    &["home"],
    &["control"],
    &["policy"],
    &["reservation"],
    &["ids", "time", "limits", "amounts"],
];

/// Beside the layers: they use the last layer and each other only, and every module but the pure ones may use them.
pub(crate) const LEAVES: &[&str] = &["clock", "telemetry", "wire"];

/// Functions over values.
pub(crate) const PURE: &[&str] =
    &["reservation", "policy", "control", "home", "codec", "plan", "ids", "time", "limits", "amounts"];
/// Beginnings of paths of files outside `src/` that are pure too.
pub(crate) const PURE_ELSEWHERE: &[&str] = &["sdk/rust/src/keys", "sdk/rust/src/fingerprint", "sdk/rust/src/http"];
/// What they may not name.
pub(crate) const IMPURE_WORDS: &[&str] =
    &["async", "await", "unsafe", "HashMap", "HashSet", "Instant", "SystemTime", "thread_rng"];
pub(crate) const IMPURE_PATHS: &[&str] = &[
    "std::time",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::atomic",
    "tokio",
    "rand",
    "tracing",
    "rustix",
    "futures_util",
];

/// Who alone may name a foreign crate, or an item of one.
pub(crate) const FOREIGN: &[(&str, &[&str])] = &[
    ("rocksdb", &["store"]),
    ("openraft", &["raft"]),
    ("quorum_set", &["raft"]),
    ("governor", &["region"]),
    ("axum", &["api", "gateway", "console"]),
    ("hyper", &["api", "gateway", "server", "cli"]),
    ("hyper_util", &["api", "gateway", "server", "cli"]),
    ("tonic", &["api", "gateway", "cli", "raft", "router", "peers", "wire"]),
    ("tonic::transport::Server", &["api"]),
    ("tonic::service::Routes", &["api"]),
    ("tonic_health", &["api", "cli"]),
    ("tonic_reflection", &["api"]),
    ("utoipa", &["api"]),
    ("prost", &["codec", "api", "cli"]),
    ("clap", &["cli", "main"]),
    ("anyhow", &["cli", "main"]),
    ("rustix::time::clock_gettime", &["clock"]),
    ("holdfast_client::proto", &["api", "gateway", "cli", "router"]),
];

/// What is not said, and what is said in its place. Only whole phrases: a mutex may be locked, RocksDB has a block cache.
pub(crate) const WORDS: &[(&str, &str)] = &[
    (concat!("mas", "ter"), "leader, or acting region"),
    (concat!("sla", "ve"), "follower, or learner"),
    (concat!("ded", "upe"), "reservation, record, or replay"),
    (concat!("ded", "up table"), "the records"),
    (concat!("ded", "uplication table"), "the records"),
    (concat!("idempotency ", "cache"), "the store"),
    (concat!("response ", "cache"), "the stored response envelopes"),
    (concat!("replay ", "cache"), "the stored response envelopes"),
    (concat!("cached ", "response"), "the stored response envelope"),
    (concat!("idempotency ", "lock"), "the grant"),
    (concat!("distributed ", "lock"), "the grant"),
    (concat!("key ", "lock"), "the grant"),
    (concat!("lock the ", "key"), "reserve the key"),
    (concat!("locks the ", "key"), "reserves the key"),
    (concat!("locked ", "key"), "held key"),
    (concat!("idempotency ", "transaction"), "the reservation"),
];
/// Where those words are listed as words that are not used.
pub(crate) const WORDS_EXEMPT: &str = "docs/GLOSSARY.md";

/// Signs of unfinished work.
pub(crate) const MARKS: &[&str] = &[
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("#[ig", "nore"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("TO", "DO"),
];

/// Paths that exist on somebody's machine only.
pub(crate) const MACHINE_PATHS: &[&str] =
    &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("/wo", "rk/"), concat!("C:", "\\")];

/// Lines of one file: beyond it, a file is about more than one thing.
pub(crate) const MAX_LINES: usize = 600;
