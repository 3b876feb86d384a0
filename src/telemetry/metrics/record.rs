//! What counts: one function for each thing that happens, and the page of all of it. Each costs a few atomic additions; those
//! that name a tenant cost a hash besides.

use std::fmt::Display;
use std::sync::LazyLock;
use std::time::Duration;

use super::cells::{Counter, Histogram};
use super::page::Page;
use super::sets::{MOST, Sets};
use super::{process, table};
use crate::ids::{EndpointName, PartitionId, TenantId};
use crate::limits;

/// Declares an enum whose values are values of a label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_doc])* $value,)*
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$value),*];
            const COUNT: usize = Self::ALL.len();

            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }

            /// Where it stands in [`Self::ALL`].
            const fn at(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// What a client asked for.
    Method {
        /// May I execute?
        Reserve = "reserve",
        /// It was done, and this is the answer.
        Complete = "complete",
        /// The grant is given back.
        Release = "release",
        /// The lease starts anew.
        Extend = "extend",
        /// A recovery point.
        Checkpoint = "checkpoint",
        /// A takeover.
        Claim = "claim",
        /// An operator's verdict.
        Resolve = "resolve",
        /// What is known?
        Lookup = "lookup",
    }
}

label! {
    /// What a call came to.
    Outcome {
        /// Execute.
        Granted = "granted",
        /// The grant was told again to the same nonce.
        GrantedAgain = "granted_again",
        /// It was done: the stored answer.
        Replay = "replay",
        /// The key was used for another request.
        Mismatch = "mismatch",
        /// Another attempt is being executed.
        InProgress = "in_progress",
        /// A lease ran out, and the policy holds the key.
        Unknown = "outcome_unknown",
        /// An unsettled epoch may have granted the key.
        InDoubt = "in_doubt",
        /// The key is of a later epoch than this region has.
        Superseded = "superseded",
        /// The key is older than its endpoint remembers.
        Expired = "expired",
        /// A limit refuses new grants.
        Limited = "limited",
        /// The completion is the answer from now on.
        Answer = "answer",
        /// The completion had been recorded before.
        Repeated = "repeated",
        /// Another completion was known: this one is evidence.
        Late = "late",
        /// Done.
        Done = "done",
        /// The token is not the key's current one.
        StaleToken = "stale_token",
        /// The caller holds the key now.
        Claimed = "claimed",
        /// The key's outcome is not unknown.
        NotClaimable = "not_claimable",
        /// There is a record.
        Found = "found",
        /// There is no record.
        Absent = "absent",
        /// A failure: nothing was done, and nothing will be.
        FailedDefinite = "failed_definite",
        /// A failure: it may have been done, or may yet be.
        FailedIndefinite = "failed_indefinite",
    }
}

label! {
    /// What was full.
    Overload {
        /// As many operations wait for a batch as may.
        Operations = "operations",
        /// Operations that wait or are in flight have as many bytes as they may have.
        Bytes = "bytes",
        /// As many reads wait for a confirmation as may.
        Reads = "reads",
        /// As many keys are held as may be.
        HeldKeys = "held_keys",
        /// As many Reserve calls wait for a key in flight as may.
        Waiters = "waiters",
        /// A key changed again and again before a Reserve was committed.
        Races = "races",
        /// Unfinished messages have as many bytes as they may have.
        Messages = "messages",
    }
}

label! {
    /// Which limit refused a grant.
    Limit {
        /// As many grants of the key may have executed as may.
        Attempts = "attempts",
        /// The tenant's keys.
        TenantKeys = "tenant_keys",
        /// Bytes of the tenant's keys.
        TenantBytes = "tenant_bytes",
        /// The tenant's keys of the endpoint.
        EndpointKeys = "endpoint_keys",
        /// Bytes of the tenant's keys of the endpoint.
        EndpointBytes = "endpoint_bytes",
        /// Endpoints of the tenant.
        Endpoints = "endpoints",
        /// New keys a second of the tenant.
        TenantRate = "tenant_rate",
        /// New keys a second of one client of the tenant.
        ClientRate = "client_rate",
        /// New keys a second of the endpoint.
        EndpointRate = "endpoint_rate",
        /// New keys a second of one client of the endpoint.
        EndpointClientRate = "endpoint_client_rate",
    }
}

label! {
    /// Which way something went between two nodes, as this node sees it.
    Direction {
        /// From this node.
        Sent = "sent",
        /// To this node.
        Received = "received",
    }
}

label! {
    /// What became of a forwarded call.
    Forwarded {
        /// There was an outcome.
        Answered = "answered",
        /// A failure: nothing was done, and nothing will be.
        Definite = "definite",
        /// A failure: it may have been done, or may yet be.
        Indefinite = "indefinite",
        /// The node does not lead the partition: the call went on.
        NotLeader = "not_leader",
    }
}

label! {
    /// What an applied entry did to a record.
    Change {
        /// There was none before.
        Created = "created",
        /// It got its answer.
        Completed = "completed",
        /// It went.
        Removed = "removed",
    }
}

impl Method {
    /// What its calls can come to.
    #[must_use]
    pub const fn outcomes(self) -> &'static [Outcome] {
        use Outcome as O;
        match self {
            Self::Reserve => &[
                O::Granted,
                O::GrantedAgain,
                O::Replay,
                O::Mismatch,
                O::InProgress,
                O::Unknown,
                O::InDoubt,
                O::Superseded,
                O::Expired,
                O::Limited,
                O::FailedDefinite,
                O::FailedIndefinite,
            ],
            Self::Complete => &[O::Answer, O::Repeated, O::Late, O::FailedDefinite, O::FailedIndefinite],
            Self::Release | Self::Extend | Self::Checkpoint | Self::Resolve => {
                &[O::Done, O::StaleToken, O::FailedDefinite, O::FailedIndefinite]
            }
            Self::Claim => {
                &[O::Claimed, O::GrantedAgain, O::NotClaimable, O::Limited, O::FailedDefinite, O::FailedIndefinite]
            }
            Self::Lookup => &[O::Found, O::Absent, O::FailedDefinite, O::FailedIndefinite],
        }
    }
}

/// Whose Reserve call it is.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The endpoint contract.
    pub endpoint: &'a EndpointName,
    /// The severity class that it was granted under.
    pub severity: &'static str,
    /// What the client calls itself; empty if it says nothing.
    pub client_version: &'a str,
}

const PARTITIONS: usize = *limits::PARTITIONS.end() as usize;

type Row<const N: usize> = [Counter; N];

static CALLS: [Row<{ Outcome::COUNT }>; Method::COUNT] =
    [const { [const { Counter::new() }; Outcome::COUNT] }; Method::COUNT];
static DURATIONS: [Histogram; Method::COUNT] = [const { Histogram::new(table::LATENCIES) }; Method::COUNT];
static WAITING: Histogram = Histogram::new(table::LATENCIES);
static OVERLOADS: Row<{ Overload::COUNT }> = [const { Counter::new() }; Overload::COUNT];
static FORWARDED: [Row<{ Forwarded::COUNT }>; Direction::COUNT] =
    [const { [const { Counter::new() }; Forwarded::COUNT] }; Direction::COUNT];
static FORWARD_DURATION: Histogram = Histogram::new(table::LATENCIES);
static LEADER_CHANGES: [Counter; PARTITIONS] = [const { Counter::new() }; PARTITIONS];
static BATCH_OPERATIONS: Histogram = Histogram::new(table::COUNTS);
static COMMIT_DURATION: Histogram = Histogram::new(table::LATENCIES);
static READ_CONFIRM_DURATION: Histogram = Histogram::new(table::LATENCIES);
static LOG_SYNC_DURATION: Histogram = Histogram::new(table::LATENCIES);
static LOG_SYNC_ENTRIES: Histogram = Histogram::new(table::COUNTS);
static LOG_SYNC_BYTES: Histogram = Histogram::new(table::BYTES);
static APPLY_DURATION: Histogram = Histogram::new(table::LATENCIES);
static APPLIED_OPERATIONS: Counter = Counter::new();
static SNAPSHOTS: [Row<2>; Direction::COUNT] = [const { [const { Counter::new() }; 2] }; Direction::COUNT];
static SNAPSHOT_BYTES: Row<{ Direction::COUNT }> = [const { Counter::new() }; Direction::COUNT];
static SNAPSHOT_DURATION: [Histogram; Direction::COUNT] = [const { Histogram::new(table::LONG) }; Direction::COUNT];

/// Tenant, endpoint, severity, client version.
static RESERVES: LazyLock<Sets<4, { Outcome::COUNT }>> =
    LazyLock::new(|| Sets::new(table::RESERVES.name, [true, true, false, true], MOST));
/// Tenant, endpoint. The last counter is that of bytes.
static RECORDS: LazyLock<Sets<2, { Change::COUNT + 1 }>> =
    LazyLock::new(|| Sets::new(table::APPLIED_RECORDS.name, [true, true], MOST));
/// Tenant.
static LIMITED: LazyLock<Sets<1, { Limit::COUNT }>> = LazyLock::new(|| Sets::new(table::LIMITED.name, [true], MOST));
/// Tenant, endpoint. Key storms, then modified replays.
static ALARMS: LazyLock<Sets<2, 2>> = LazyLock::new(|| Sets::new(table::KEY_STORMS.name, [true, true], MOST));

fn one<const N: usize>(row: &Row<N>, at: usize) {
    add(row, at, 1);
}

fn add<const N: usize>(row: &Row<N>, at: usize, more: u64) {
    if let Some(counter) = row.get(at) {
        counter.add(more);
    }
}

/// A call was answered. `waits`: it had asked to wait for a key in flight.
pub fn call(method: Method, waits: bool, outcome: Outcome, took: Duration) {
    if let Some(row) = CALLS.get(method.at()) {
        one(row, outcome.at());
    }
    if waits {
        WAITING.took(took);
    } else if let Some(histogram) = DURATIONS.get(method.at()) {
        histogram.took(took);
    }
}

/// A Reserve call was answered: whose it was. [`call`] counts it too.
pub fn reserve(whose: Whose<'_>, outcome: Outcome) {
    let Whose { tenant, endpoint, severity, client_version } = whose;
    RESERVES
        .add([tenant.as_str(), endpoint.as_str(), severity, client_version], |counters| one(counters, outcome.at()));
}

/// Something was refused because something is full.
pub fn overloaded(limit: Overload) {
    one(&OVERLOADS, limit.at());
}

/// A limit refused a grant.
pub fn limited(tenant: &TenantId, limit: Limit) {
    LIMITED.add([tenant.as_str()], |counters| one(counters, limit.at()));
}

/// A client uses new keys as in a storm.
pub fn key_storm(tenant: &TenantId, endpoint: &EndpointName) {
    ALARMS.add([tenant.as_str(), endpoint.as_str()], |[storms, _]| storms.one());
}

/// A client comes back with keys and other requests.
pub fn modified_replays(tenant: &TenantId, endpoint: &EndpointName) {
    ALARMS.add([tenant.as_str(), endpoint.as_str()], |[_, modified]| modified.one());
}

/// A call went to the leader of its partition. `took` is the whole time that it took the node that forwarded it.
pub fn forwarded(direction: Direction, outcome: Forwarded, took: Duration) {
    if let Some(row) = FORWARDED.get(direction.at()) {
        one(row, outcome.at());
    }
    match direction {
        Direction::Sent => FORWARD_DURATION.took(took),
        Direction::Received => {}
    }
}

/// A group has another leader, or the same one in a new term.
pub fn leader_changed(partition: PartitionId) {
    one(&LEADER_CHANGES, usize::from(partition.0));
}

/// How often a group's leader changed.
#[must_use]
pub fn leader_changes(partition: PartitionId) -> u64 {
    LEADER_CHANGES.get(usize::from(partition.0)).map_or(0, Counter::get)
}

/// A log entry was proposed and applied.
pub fn batch(operations: usize, took: Duration) {
    BATCH_OPERATIONS.size(operations);
    COMMIT_DURATION.took(took);
}

/// A leader made sure that it still leads.
pub fn read_confirmed(took: Duration) {
    READ_CONFIRM_DURATION.took(took);
}

/// The log was written and synced.
pub fn log_sync(entries: usize, bytes: usize, took: Duration) {
    LOG_SYNC_ENTRIES.size(entries);
    LOG_SYNC_BYTES.size(bytes);
    LOG_SYNC_DURATION.took(took);
}

/// Operations were decided and written together.
pub fn applied(operations: usize, took: Duration) {
    APPLIED_OPERATIONS.add(u64::try_from(operations).unwrap_or(u64::MAX));
    APPLY_DURATION.took(took);
}

/// An applied entry changed a record, and stored so many bytes of an envelope for it.
pub fn changed(tenant: &TenantId, endpoint: &EndpointName, changes: &[Change], envelope_bytes: usize) {
    let bytes = u64::try_from(envelope_bytes).unwrap_or(u64::MAX);
    RECORDS.add([tenant.as_str(), endpoint.as_str()], |counters| {
        for change in changes {
            one(counters, change.at());
        }
        add(counters, Change::COUNT, bytes);
    });
}

/// A snapshot arrived whole, or did not.
pub fn snapshot(direction: Direction, whole: bool, took: Duration) {
    if let Some(row) = SNAPSHOTS.get(direction.at()) {
        one(row, usize::from(!whole));
    }
    if let Some(histogram) = SNAPSHOT_DURATION.get(direction.at()) {
        histogram.took(took);
    }
}

/// Bytes of a snapshot went over the wire.
pub fn snapshot_bytes(direction: Direction, bytes: usize) {
    add(&SNAPSHOT_BYTES, direction.at(), u64::try_from(bytes).unwrap_or(u64::MAX));
}

/// Writes everything that is counted here, and what the kernel says of the process.
pub fn write(page: &mut Page) {
    write_calls(page);
    write_sets(page);
    write_rows(page, &table::OVERLOADS, Overload::ALL.iter().map(|limit| limit.as_str()).zip(&OVERLOADS));
    let mut samples = page.metric(&table::FORWARDED_CALLS);
    for (direction, row) in Direction::ALL.iter().zip(&FORWARDED) {
        for (outcome, counter) in Forwarded::ALL.iter().zip(row) {
            samples.value(&[&direction.as_str(), &outcome.as_str()], counter.get());
        }
    }
    let mut samples = page.metric(&table::SNAPSHOTS);
    for (direction, row) in Direction::ALL.iter().zip(&SNAPSHOTS) {
        for (outcome, counter) in ["whole", "broken"].iter().zip(row) {
            samples.value(&[&direction.as_str(), outcome], counter.get());
        }
    }
    let directions = || Direction::ALL.iter().map(|direction| direction.as_str());
    write_rows(page, &table::SNAPSHOT_BYTES, directions().zip(&SNAPSHOT_BYTES));
    let mut samples = page.metric(&table::SNAPSHOT_DURATION);
    for (direction, histogram) in directions().zip(&SNAPSHOT_DURATION) {
        samples.histogram(&[&direction], histogram);
    }
    let plain = [
        (&table::FORWARD_DURATION, &FORWARD_DURATION),
        (&table::BATCH_OPERATIONS, &BATCH_OPERATIONS),
        (&table::COMMIT_DURATION, &COMMIT_DURATION),
        (&table::READ_CONFIRM_DURATION, &READ_CONFIRM_DURATION),
        (&table::LOG_SYNC_DURATION, &LOG_SYNC_DURATION),
        (&table::LOG_SYNC_ENTRIES, &LOG_SYNC_ENTRIES),
        (&table::LOG_SYNC_BYTES, &LOG_SYNC_BYTES),
        (&table::APPLY_DURATION, &APPLY_DURATION),
    ];
    for (metric, histogram) in plain {
        page.metric(metric).histogram(&[], histogram);
    }
    page.single(&table::APPLIED_OPERATIONS, APPLIED_OPERATIONS.get());
    process::write(page);
}

fn write_rows<'a>(
    page: &mut Page,
    metric: &'static table::Metric,
    rows: impl Iterator<Item = (&'static str, &'a Counter)>,
) {
    let mut samples = page.metric(metric);
    for (label, counter) in rows {
        samples.value(&[&label], counter.get());
    }
}

fn write_calls(page: &mut Page) {
    let mut samples = page.metric(&table::CALLS);
    for (method, row) in Method::ALL.iter().zip(&CALLS) {
        // Every outcome that there can be, from zero on: a rate needs the value before the first.
        for outcome in method.outcomes() {
            let count = row.get(outcome.at()).map_or(0, Counter::get);
            samples.value(&[&method.as_str(), &outcome.as_str()], count);
        }
    }
    let mut samples = page.metric(&table::CALL_DURATION);
    for (method, histogram) in Method::ALL.iter().zip(&DURATIONS) {
        samples.histogram(&[&method.as_str(), &"no"], histogram);
    }
    samples.histogram(&[&Method::Reserve.as_str(), &"yes"], &WAITING);
}

fn write_sets(page: &mut Page) {
    let mut samples = page.metric(&table::RESERVES);
    RESERVES.each(|[tenant, endpoint, severity, version], counters| {
        for (outcome, counter) in Outcome::ALL.iter().zip(counters).filter(|(_, counter)| counter.get() > 0) {
            let labels: [&dyn Display; 5] = [tenant, endpoint, severity, version, &outcome.as_str()];
            samples.value(&labels, counter.get());
        }
    });
    let mut samples = page.metric(&table::APPLIED_RECORDS);
    RECORDS.each(|[tenant, endpoint], counters| {
        for (change, counter) in Change::ALL.iter().zip(counters) {
            samples.value(&[tenant, endpoint, &change.as_str()], counter.get());
        }
    });
    let mut samples = page.metric(&table::APPLIED_ENVELOPE_BYTES);
    RECORDS.each(|[tenant, endpoint], counters| {
        samples.value(&[tenant, endpoint], counters.last().map_or(0, Counter::get));
    });
    let mut samples = page.metric(&table::LIMITED);
    LIMITED.each(|[tenant], counters| {
        for (limit, counter) in Limit::ALL.iter().zip(counters).filter(|(_, counter)| counter.get() > 0) {
            samples.value(&[tenant, &limit.as_str()], counter.get());
        }
    });
    let mut samples = page.metric(&table::KEY_STORMS);
    ALARMS.each(|[tenant, endpoint], [storms, _]| samples.value(&[tenant, endpoint], storms.get()));
    let mut samples = page.metric(&table::MODIFIED_REPLAYS);
    ALARMS.each(|[tenant, endpoint], [_, modified]| samples.value(&[tenant, endpoint], modified.get()));
    let metrics = [
        (RESERVES.name(), RESERVES.len(), RESERVES.limited()),
        (RECORDS.name(), RECORDS.len(), RECORDS.limited()),
        (LIMITED.name(), LIMITED.len(), LIMITED.limited()),
        (ALARMS.name(), ALARMS.len(), ALARMS.limited()),
    ];
    let mut samples = page.metric(&table::LABEL_SETS);
    for (name, sets, _) in metrics {
        samples.value(&[&name], sets);
    }
    let mut samples = page.metric(&table::LABEL_SETS_LIMITED);
    for (name, _, limited) in metrics {
        samples.value(&[&name], limited);
    }
}
