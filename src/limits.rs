//! Every cap of the store, with its unit and its reason. Nothing here is configuration: what an operator may set has
//! its own bounds, also here.

use std::ops::RangeInclusive;

/// Bytes of a tenant's name. It stands in front of every record's key.
pub const MAX_TENANT_BYTES: usize = 64;
/// Bytes of an endpoint contract's name, such as `POST /v1/charges`.
pub const MAX_ENDPOINT_BYTES: usize = 256;
/// Bytes of a fingerprint that the caller made: 64 holds SHA-512.
pub const MAX_FINGERPRINT_BYTES: usize = 64;
/// Bytes of a nonce: 16 random ones are plenty.
pub const MAX_NONCE_BYTES: usize = 64;
/// Bytes of `client_version`, which becomes a metrics label.
pub const MAX_CLIENT_VERSION_BYTES: usize = 64;
/// Bytes of a token's text: claims of the longest names, base64.
pub const MAX_TOKEN_BYTES: usize = 1_024;

/// Bytes of an envelope's body unless configured.
pub const DEFAULT_ENVELOPE_BODY_BYTES: usize = 256 * 1024;
/// Bytes of an envelope's body at the most: a log entry must replicate within a heartbeat on a slow link.
pub const MAX_ENVELOPE_BODY_BYTES: usize = 1024 * 1024;
/// Headers in an envelope or a fingerprinted request.
pub const MAX_HEADERS: usize = 128;
/// Bytes of a header's name.
pub const MAX_HEADER_NAME_BYTES: usize = 256;
/// Bytes of all names and values of headers together.
pub const MAX_HEADER_BYTES: usize = 32 * 1024;
/// Bytes of the body of a request that the store is asked to fingerprint.
pub const MAX_FINGERPRINTED_BODY_BYTES: usize = 1024 * 1024;
/// Bytes of one HTTP/JSON request: base64 of the largest body, plus its frame.
pub const MAX_HTTP_BODY_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of one gRPC message: the largest body, plus its frame.
pub const MAX_GRPC_MESSAGE_BYTES: usize = MAX_ENVELOPE_BODY_BYTES + 256 * 1024;

/// Bytes of one message between nodes: a batch of entries is cut at 1 MiB, one entry may be larger by what it started with.
pub const MAX_PEER_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// Append requests of one group on their way to one peer: enough to fill a round trip between zones, few enough that a
/// peer that falls behind is not buried.
pub const MAX_APPENDS_IN_FLIGHT: usize = 32;
/// Bytes of entries of one group on their way to one peer, unless one request alone is larger: the receiver has to keep
/// them in memory until its disk has taken them.
pub const MAX_APPEND_BYTES_IN_FLIGHT: usize = 4 * 1024 * 1024;
/// How long a peer may leave appends unanswered before the stream is given up and made again, in milliseconds: longer
/// than a disk's hiccup, and than the keepalive takes to see that a host is gone.
pub const APPEND_STALL_MS: u64 = 5_000;
/// How long a peer may take to say which group a stream is of, in milliseconds.
pub const PEER_OPENING_MS: u64 = 5_000;
/// Concurrent calls on one connection of a peer: for each of the most partitions a stream of entries and a heartbeat.
pub const MAX_STREAMS_PER_PEER: u32 = 4_096;
/// Connections of peers: a region has few nodes, and each makes two.
pub const MAX_PEER_CONNECTIONS: usize = 256;

/// Bytes of a checkpoint's name.
pub const MAX_CHECKPOINT_NAME_BYTES: usize = 64;
/// Bytes of a checkpoint's data. It stands inside the record, which every decision reads.
pub const MAX_CHECKPOINT_DATA_BYTES: usize = 8 * 1024;
/// Bytes of who decided or claimed.
pub const MAX_ACTOR_BYTES: usize = 128;
/// Bytes of why somebody decided.
pub const MAX_REASON_BYTES: usize = 512;

/// Grants that a record remembers: each may have run, so none is forgotten before the record is.
pub const MAX_ATTEMPTS: usize = 64;
/// Envelopes kept for one token. The first is the answer, the others are evidence.
pub const MAX_ENVELOPES_PER_TOKEN: usize = 4;
/// Events in a record's history. The oldest go first.
pub const MAX_HISTORY: usize = 32;

/// A grant's lease, in milliseconds: under 50 ms a scheduler's hiccup ends it, over an hour a crash holds a key too long.
pub const LEASE_MS: RangeInclusive<u32> = 50..=3_600_000;
/// How long a completed record is kept, in milliseconds: 1 s to 400 days.
pub const RETENTION_MS: RangeInclusive<u64> = 1_000..=400 * 24 * 3_600_000;
/// How long Reserve may wait for an attempt in flight, in milliseconds.
pub const MAX_WAIT_MS: u32 = 60_000;
/// How far ahead of log time a tagged key's time may be, in milliseconds: 24 h covers a client's clock and its zone.
pub const MAX_KEY_TIME_AHEAD_MS: u64 = 24 * 3_600_000;
/// A clock that is further than this ahead of log time waits for an operator, in milliseconds.
pub const MAX_CLOCK_JUMP_MS: u64 = 3_600_000;

/// Bytes of a policy's name. It stands in front of everything that is told about the policy.
pub const MAX_POLICY_NAME_BYTES: usize = 64;
/// Bytes of one policy file: some hundred bytes a policy, for the most policies.
pub const MAX_POLICY_FILE_BYTES: usize = 1024 * 1024;
/// Policies that hold at a time: a contract for each endpoint of a large organisation.
pub const MAX_POLICIES: usize = 1_000;
/// Endpoints and patterns that one policy names.
pub const MAX_ENDPOINTS_PER_POLICY: usize = 256;
/// Tenants that one policy names.
pub const MAX_TENANTS_PER_POLICY: usize = 256;
/// Pairs of tenant and endpoint that all policies name together: each pair of them is compared when policies are read.
pub const MAX_POLICY_TARGETS: usize = 4_096;
/// Statuses, and classes of statuses, that one list of a policy names.
pub const MAX_POLICY_STATUSES: usize = 64;
/// New keys that a policy may allow each second: more than a cluster grants is no limit.
pub const KEYS_PER_SECOND: RangeInclusive<u64> = 1..=1_000_000;
/// Records that a policy's quota may allow at a time: a million million is more than the largest cluster's disks hold.
pub const QUOTA_KEYS: RangeInclusive<u64> = 1..=1_000_000_000_000;
/// Bytes of records that a policy's quota may allow at a time, in bytes: 1 KiB to 1 PiB.
pub const QUOTA_BYTES: RangeInclusive<u64> = 1_024..=1 << 50;

/// Headers that a policy's fingerprints take: a selection's most, less the request's target, which always counts.
pub const MAX_FINGERPRINT_HEADERS: usize = holdfast_client::fingerprint::MAX_HEADERS - 1;
/// Revisions of the policies that are kept: several a week for as long as the longest retention.
pub const MAX_POLICY_REVISIONS: usize = 1_000;
/// Bytes of revisions that one answer lists: an answer of gRPC takes four times as much.
pub const MAX_PAGE_BYTES: usize = 1024 * 1024;
/// Different selections of what counts in a fingerprint, over all revisions: a number never changes its meaning, so none is
/// forgotten.
pub const MAX_SELECTIONS: usize = 4_096;
/// Tenants: each node has all of them in memory.
pub const MAX_TENANTS: usize = 10_000;
/// Endpoints of a tenant that one answer lists, those that take up most.
pub const MAX_LISTED_ENDPOINTS: usize = 1_000;
/// Endpoints of one tenant that have keys in one partition at a time: what each takes up is counted in memory.
pub const MAX_TENANT_ENDPOINTS: usize = 10_000;
/// Entries that the audit of one partition keeps. The oldest go first.
pub const MAX_AUDIT_ENTRIES: u64 = 100_000;
/// Entries of an audit in one answer.
pub const MAX_AUDIT_PAGE: usize = 1_000;
/// Bytes of what an audit's entry says beside who, why and what.
pub const MAX_AUDIT_DETAIL_BYTES: usize = 1_024;

/// Bytes of a capacity plan's file: some hundred bytes an endpoint, for the most endpoints.
pub const MAX_PLAN_FILE_BYTES: u64 = 256 * 1024;
/// Endpoints of a capacity plan.
pub const MAX_PLAN_ENDPOINTS: usize = 1_000;
/// New keys of an endpoint a day that are planned for: as many as a policy may allow, all day.
pub const PLANNED_KEYS_PER_DAY: RangeInclusive<u64> = 1..=86_400 * *KEYS_PER_SECOND.end();
/// How much busier than the day's mean the busiest moment may be: all of a day's keys within a minute and a half.
pub const PLANNED_PEAK: RangeInclusive<f64> = 1.0..=1_000.0;
/// Replays of a key that are planned for: a client that polls for an answer is no retry.
pub const PLANNED_REPLAYS: RangeInclusive<f64> = 0.0..=1_000.0;
/// The part of the bytes of a response that compression leaves: under a hundredth is a slip of the unit.
pub const PLANNED_SHARE: RangeInclusive<f64> = 0.01..=1.0;
/// The part of a machine that a plan leaves free.
pub const PLANNED_HEADROOM: RangeInclusive<f64> = 0.0..=0.9;
/// How many times as large the partitions of a plan may become.
pub const PLANNED_GROWTH: RangeInclusive<f64> = 1.0..=100.0;
/// Bytes of a page of metrics: ten thousand series, and the most partitions.
pub const MAX_METRICS_PAGE_BYTES: usize = 16 * 1024 * 1024;
/// Pages of metrics that are read together: each node of the largest region twice, before and after.
pub const MAX_METRICS_PAGES: usize = 2 * MAX_FOUNDERS;
/// How long a node may take to send its page of metrics, in milliseconds: it asks RocksDB for the size of every group.
pub const METRICS_TIMEOUT_MS: u64 = 10_000;
/// The shortest time that a rate is read from, in milliseconds: in less, one batch of keys is a peak.
pub const MIN_RATE_WINDOW_MS: u64 = 10_000;

/// Nodes that make a region together: each is a voter of every group, and every write waits for a majority of them.
pub const MAX_FOUNDERS: usize = 9;
/// Partitions of a cluster, fixed when it is made.
pub const PARTITIONS: RangeInclusive<u16> = 1..=1_024;
/// Partitions unless configured.
pub const DEFAULT_PARTITIONS: u16 = 16;
/// Partitions of `holdfast dev`.
pub const DEV_PARTITIONS: u16 = 4;

/// Operations in one log entry: about 5 ms of applying.
pub const MAX_BATCH_OPERATIONS: usize = 1_000;
/// Bytes of one log entry, unless one operation alone is larger.
pub const MAX_BATCH_BYTES: usize = 256 * 1024;
/// Log entries of one group on their way to the disk at a time: enough to overlap encoding with the sync, few enough to batch.
pub const MAX_BATCHES_IN_FLIGHT: usize = 3;
/// Operations that wait for a batch in one group. Beyond it the node answers `overloaded`.
pub const MAX_QUEUED_OPERATIONS: usize = 4_096;
/// Bytes of operations that wait or are in flight in one group. Beyond it the node answers `overloaded`.
pub const MAX_QUEUED_BYTES: usize = 32 * 1024 * 1024;
/// Bytes that the log thread puts into one sync.
pub const MAX_SYNC_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of durable and applied entries of one group that stay in memory, for followers that are a little behind.
pub const LOG_TAIL_BYTES: usize = 1024 * 1024;
/// The part of the write buffers, one over so many, that the log fills before it is written to a table.
pub const LOG_BUFFER_PART: usize = 3;
/// Tables of the log before they are merged: merging only copies what the next purge drops.
pub const LOG_TABLES: i32 = 16;
/// Log bytes after which a group takes a snapshot and purges its log.
pub const SNAPSHOT_LOG_BYTES: u64 = 64 * 1024 * 1024;
/// Log entries after which a group takes a snapshot and purges its log, however small they are.
pub const SNAPSHOT_LOG_ENTRIES: u64 = 100_000;
/// Log bytes of a group that stay behind a snapshot: a follower that is no further behind gets entries, and no snapshot.
pub const KEPT_LOG_BYTES: u64 = 32 * 1024 * 1024;
/// Log bytes after which a group purges its log even while it sends a snapshot: until then the receiver can go on from the
/// log, after it the disk counts.
pub const SENDING_LOG_BYTES: u64 = 512 * 1024 * 1024;
/// Bytes of one file of a snapshot: few files for a large group, and little to send again after damage.
pub const SNAPSHOT_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Files of one snapshot: 256 GiB, more than a node should hold in one group.
pub const MAX_SNAPSHOT_FILES: usize = 4_096;
/// Bytes of a snapshot in one message: many streams share the connection.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;
/// Bytes of a snapshot's name.
pub const MAX_SNAPSHOT_ID_BYTES: usize = 100;
/// Snapshots that a node writes to its disk for others at a time: each reads a whole group.
pub const MAX_EXPORTS: usize = 1;
/// Snapshots that a node takes in at a time: each writes to the disk that the log is synced to.
pub const MAX_INSTALLS: usize = 2;
/// How long an export stays on the disk after it was last used, in milliseconds: a transfer that broke off goes on in
/// seconds, or begins anew.
pub const EXPORT_IDLE_MS: u64 = 120_000;
/// How long either end of a snapshot's transfer may be silent before the other gives up, in milliseconds.
pub const SNAPSHOT_STALL_MS: u64 = 15_000;
/// How long a receiver may take to look at what it has, or to install what it got, in milliseconds: it reads all of it once.
pub const SNAPSHOT_INSTALL_MS: u64 = 120_000;
/// Bytes that must stay free on the disk beside a snapshot: the log needs them.
pub const SNAPSHOT_FREE_DISK_BYTES: u64 = DEFAULT_MIN_FREE_DISK_BYTES;
/// How long a snapshot that an operator asks for may take, in milliseconds: a flush of one group's memory.
pub const SNAPSHOT_TIMEOUT_MS: u64 = 60_000;
/// Entries of one group that a node may be behind and still become a voter or its leader: it catches up within seconds,
/// while a group that waits for it commits nothing.
pub const MAX_ENTRIES_BEHIND: u64 = 1_000;
/// Records that one Sweep entry removes: it is applied between two batches of live traffic.
pub const MAX_SWEPT_RECORDS: u32 = 256;

/// A home lease, in milliseconds: three elections of the global group fit into it, and five minutes without new keys after a
/// region is lost are the most that anybody wants.
pub const HOME_LEASE_MS: RangeInclusive<u32> = 1_000..=300_000;
/// Ended epochs of one home that are neither settled nor retired. They stand in the home's row, which each renewal writes.
pub const MAX_ENDED_EPOCHS: usize = 128;
/// Regions that may act for one home.
pub const MAX_HOME_REGIONS: usize = 64;
/// Endpoints whose consistency one takeover changes.
pub const MAX_CONTRACT_CHANGES: usize = 1_000;
/// Mutations of one batch of a stream: about 5 ms of applying.
pub const MAX_SHIPPED_MUTATIONS: usize = 1_000;
/// Bytes of one batch of a stream, unless one mutation alone is larger: an entry between regions within a heartbeat.
pub const MAX_SHIPPED_BYTES: usize = 256 * 1024;
/// Positions that each incarnation of a region has in its stream of `local` grants: at a hundred thousand each second they last
/// for 89 years.
pub const LOCAL_POSITIONS: u64 = 1 << 48;
/// Incarnations of a region's data: as many as have positions of their own.
pub const MAX_INCARNATIONS: u64 = u64::MAX / LOCAL_POSITIONS;
/// Grants of one key that all regions together remember: four regions' [`MAX_ATTEMPTS`]. What is beyond stands in the ledger.
pub const MAX_MERGED_ATTEMPTS: usize = 4 * MAX_ATTEMPTS;
/// Envelopes of one grant that all regions together remember: four regions' [`MAX_ENVELOPES_PER_TOKEN`]. What is beyond stands
/// in the ledger.
pub const MAX_MERGED_ENVELOPES: usize = 4 * MAX_ENVELOPES_PER_TOKEN;
/// Compensation tasks that are read or taken on together.
pub const MAX_TASK_PAGE: usize = 256;
/// How long the conflict ledger keeps an entry, in milliseconds: as long as the longest retention.
pub const LEDGER_KEPT_MS: u64 = *RETENTION_MS.end();

/// Bytes of memory for blocks read from disk: under 1 MiB the indexes do not fit; the most keeps a slip of the unit from passing.
pub const BLOCK_CACHE_BYTES: RangeInclusive<u64> = 1 << 20..=256 << 30;
/// Bytes of memory for what is not in tables yet: under 4 MiB every table is tiny; the most keeps a slip of the unit from passing.
pub const WRITE_BUFFER_BYTES: RangeInclusive<u64> = 4 << 20..=64 << 30;
/// Bytes of memory for blocks read from disk, unless configured.
pub const DEFAULT_BLOCK_CACHE_BYTES: u64 = 128 * 1024 * 1024;
/// Bytes of memory for what is not in tables yet, unless configured.
pub const DEFAULT_WRITE_BUFFER_BYTES: u64 = 96 * 1024 * 1024;
/// Bytes of a block of a table: what one read from the disk takes.
pub const BLOCK_BYTES: usize = 8 * 1024;
/// Bits that a table's filter has for each entry: one read in a hundred of what is not there goes to the disk.
pub const FILTER_BITS_PER_ENTRY: f64 = 10.0;
/// Envelopes of at least so many bytes stand in blob files, so that compaction does not copy them again and again.
pub const BLOB_BYTES: u64 = 4 * 1024;

/// Keys held at a time in one node, each partition its share: each costs [`HELD_KEY_BYTES`].
pub const MAX_HELD_KEYS: usize = 1_000_000;
/// Bytes of memory that a held key costs where its partition is led: its lease, its place among those to lapse, its name.
pub const HELD_KEY_BYTES: u64 = 600;
/// Reserve calls that wait on a key in flight, in one node.
pub const MAX_WAITERS: usize = 16_384;
/// Times that a Reserve is proposed anew because another command of the same key came first.
pub const MAX_RACES: u32 = 8;
/// How long a proposed operation may stay without an outcome before the answer is "indefinite", in milliseconds.
pub const PROPOSE_TIMEOUT_MS: u64 = 10_000;
/// How long a leader may take to make sure that it still leads before a read is refused, in milliseconds: a read does
/// nothing, so giving up is definite.
pub const READ_TIMEOUT_MS: u64 = 5_000;

/// How long a call may look for a node that serves it and wait for the answer unless its caller says less, beside the wait
/// that it asks for, in milliseconds: a few elections.
pub const CALL_TIMEOUT_MS: u64 = 10_000;
/// Nodes that one call is passed to, one after another, when each says that it does not lead: elections that overlap.
pub const MAX_FORWARDS: u32 = 8;
/// Calls in flight from one node to another: as many as may wait there. Beyond it the node answers `overloaded`.
pub const MAX_FORWARDED_CALLS: usize = MAX_WAITERS;
/// Calls in one message between nodes: about a millisecond of decoding.
pub const MAX_FORWARDED_TOGETHER: usize = 256;
/// Bytes of calls or answers in one message between nodes, unless one alone is larger.
pub const MAX_FORWARDED_BYTES: usize = 1024 * 1024;
/// Tenants whose rate of new keys a node counts at a time. One is forgotten as soon as it has its whole allowance again, which
/// is after a second or a few. Beyond it, a tenant that is not counted yet is not limited.
pub const MAX_RATED_TENANTS: usize = 100_000;
/// Endpoints and clients whose rates of new keys a node counts at a time, of all tenants: each costs some 150 bytes. Beyond it,
/// those that are not counted yet are held by the rate of their tenant only.
pub const MAX_RATES: usize = 200_000;
/// Endpoints of one tenant whose rates of new keys a node counts at a time: clients must not take the room of endpoints.
pub const MAX_RATED_ENDPOINTS_PER_TENANT: usize = 1_000;
/// Clients of one tenant whose rates of new keys a node counts at a time, and each client once more for each of its
/// endpoints: a client that makes up names must not take the room of other tenants.
pub const MAX_RATED_CLIENTS_PER_TENANT: usize = 10_000;

/// Clients of an endpoint whose use of keys a node watches: about 300 bytes each, and some 9 KiB of one that has had hundreds of
/// requests in the last minute. Beyond it, the one that was not seen for longest is forgotten.
pub const MAX_WATCHED_CLIENTS: usize = 4_096;

/// Label sets of one metric whose labels clients choose. Each has up to a dozen series, and a scrape of more than about ten
/// thousand is slow for both sides. Beyond it, they are counted as `(other)`.
pub const MAX_LABEL_SETS: usize = 1_000;
/// Label sets of one tenant in such a metric: a client that makes up versions must not take the room of the others.
pub const MAX_LABEL_SETS_PER_TENANT: usize = 100;

/// Connections to a node that may be configured: each costs a file descriptor and [`CONNECTION_BYTES`].
pub const CONNECTIONS: RangeInclusive<u64> = 1..=65_536;
/// Bytes of memory that a connection costs under load, about.
pub const CONNECTION_BYTES: u64 = 100 * 1024;
/// Connections to a node unless configured.
pub const MAX_CONNECTIONS: usize = 4_096;
/// Sessions of a node: each holds what the next limits allow.
pub const MAX_SESSIONS: usize = 1_024;
/// Calls in flight on one session: a busy service's, and few enough to be answered within one sync.
pub const MAX_CALLS_PER_SESSION: u32 = 1_024;
/// Bytes of calls that one session was sent and has not answered, beyond which it reads no more: some of the largest.
pub const SESSION_HELD_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of answers that one session's client has not taken, beyond which no more calls are started.
pub const SESSION_UNSENT_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of one message of a session, unless one answer alone is larger: an HTTP/2 frame.
pub const SESSION_FRAME_BYTES: usize = 64 * 1024;
/// Concurrent streams of one HTTP/2 connection.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 1_024;
/// Bytes of an HTTP request's header block.
pub const MAX_REQUEST_HEAD_BYTES: u32 = 32 * 1024;
/// How long a client may take to send a request's head, in milliseconds.
pub const HEAD_TIMEOUT_MS: u64 = 10_000;
/// How long a client may take to send a request's body, in milliseconds.
pub const BODY_TIMEOUT_MS: u64 = 30_000;
/// How long requests in flight get at a shutdown unless configured, in milliseconds.
pub const DEFAULT_DRAIN_MS: u64 = 10_000;
/// Free bytes on the data disk below which no new grant is made unless configured: completions still need room.
pub const DEFAULT_MIN_FREE_DISK_BYTES: u64 = 256 * 1024 * 1024;
