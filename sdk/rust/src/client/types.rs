//! What goes into calls and comes out of them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use super::grant::Grant;
use crate::proto::v1;

/// The first response, as every retry gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// HTTP status, 100 to 599.
    pub status: u16,
    /// In the order they were sent; repeated names stay repeated.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Bytes,
}

impl Envelope {
    /// A response without headers.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(super) fn into_message(self) -> v1::Envelope {
        let headers = self.headers.into_iter().map(|(name, value)| v1::Header { name, value }).collect();
        v1::Envelope { status: u32::from(self.status), headers, body: self.body }
    }

    pub(super) fn from_message(message: v1::Envelope) -> Self {
        let headers = message.headers.into_iter().map(|header| (header.name, header.value)).collect();
        let status = u16::try_from(message.status).unwrap_or_default();
        Self { status, headers, body: message.body }
    }
}

/// A question: may this be executed? Built with the methods, sent with [`Client::reserve`](super::Client::reserve).
#[derive(Clone, Debug)]
#[must_use = "a question does nothing until it is sent"]
pub struct Reserve {
    pub(super) request: v1::ReserveRequest,
    pub(super) wait: Duration,
}

impl Reserve {
    /// Asks for a tenant's key. A fingerprint has to be added: [`Reserve::digest`] or [`Reserve::request`].
    pub fn new(tenant: impl Into<String>, key: impl Into<String>) -> Self {
        let request = v1::ReserveRequest { tenant: tenant.into(), key: key.into(), ..v1::ReserveRequest::default() };
        Self { request, wait: Duration::ZERO }
    }

    /// What the request is compared by: 1 to 64 bytes of the application's own making, such as a SHA-256.
    pub fn digest(mut self, digest: impl Into<Bytes>) -> Self {
        let kind = Some(v1::fingerprint::Kind::Digest(digest.into()));
        self.request.fingerprint = Some(v1::Fingerprint { kind });
        self
    }

    /// The request itself, for the store to digest (fingerprint v1).
    pub fn request(
        mut self,
        method: impl Into<String>,
        path: impl Into<String>,
        headers: impl IntoIterator<Item = (String, Bytes)>,
        body: impl Into<Bytes>,
    ) -> Self {
        let headers = headers.into_iter().map(|(name, value)| v1::Header { name, value }).collect();
        let request = v1::Request { method: method.into(), path: path.into(), headers, body: body.into() };
        let kind = Some(v1::fingerprint::Kind::Request(request));
        self.request.fingerprint = Some(v1::Fingerprint { kind });
        self
    }

    /// The endpoint contract's name, such as `POST /v1/charges`.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.request.endpoint = endpoint.into();
        self
    }

    /// How long the effect may take, instead of what the policy says.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.request.lease_ms = Some(millis(lease));
        self
    }

    /// How long to wait for the answer of an attempt that is in flight: up to 60 s.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }
}

/// What comes of asking.
#[derive(Debug)]
#[expect(clippy::enum_variant_names, reason = "an unknown outcome is called so everywhere")]
#[must_use = "a grant that nobody looks at is a key that nobody executes"]
pub enum Outcome {
    /// Execute.
    Granted(Grant),
    /// It was done: this is the answer.
    Replay(Replay),
    /// The key was used for another request: a bug of whoever made the key.
    Mismatch,
    /// Another attempt is being executed.
    InProgress {
        /// When to ask again.
        retry_after: Duration,
    },
    /// An attempt's lease ran out, and nobody knows whether it executed. Somebody has to find out: see
    /// [`Client::claim`](super::Client::claim).
    OutcomeUnknown {
        /// Which attempt.
        attempt: u32,
        /// What it left.
        checkpoint: Option<Checkpoint>,
    },
    /// A region that was lost may have granted the key. Ask again, or mint a new key if this one was never sent before.
    InDoubt {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The region that answered is behind the key's epoch.
    Superseded {
        /// The epoch that it is in.
        epoch: u64,
    },
    /// The key is older than its endpoint remembers.
    Expired,
    /// A limit refuses new grants.
    Limited {
        /// Which.
        limit: String,
        /// When to ask again.
        retry_after: Duration,
    },
}

/// What comes of asking, and where it was answered.
#[derive(Debug)]
pub struct Asked {
    /// The outcome.
    pub outcome: Outcome,
    /// The epoch in which it was answered, if the node said so.
    pub epoch: Option<HomeEpoch>,
}

/// The epoch of a key's home in its partition. Its text is what the header `Holdfast-Epoch` says:
/// `<home>/<partition>=<epoch>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomeEpoch {
    /// The home.
    pub home: String,
    /// The partition.
    pub partition: u32,
    /// The epoch.
    pub epoch: u64,
}

impl HomeEpoch {
    pub(super) fn from_message(message: v1::Epoch) -> Self {
        Self { home: message.home, partition: message.partition, epoch: message.epoch }
    }
}

impl fmt::Display for HomeEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}={}", self.home, self.partition, self.epoch)
    }
}

/// A stored answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// The first response.
    pub envelope: Envelope,
    /// When it was recorded, by the store's log time.
    pub completed_at_unix_ms: u64,
    /// When the record may go, by log time.
    pub expires_at_unix_ms: u64,
    /// The grant that it completed.
    pub fencing: FencingToken,
}

/// What a side effect's sink compares: strictly increasing for one key.
///
/// As text, such as in the header `Holdfast-Fencing-Token`, it is `<epoch>.<sequence>`. That is two integers and no decimal
/// number: 1.10 is greater than 1.9.
///
/// ```
/// use holdfast_client::client::FencingToken;
/// let (earlier, later): (FencingToken, FencingToken) = ("1.9".parse()?, "1.10".parse()?);
/// assert!(earlier < later && later < "2.1".parse()?);
/// assert_eq!(later.to_string(), "1.10");
/// # Ok::<(), holdfast_client::client::NoFencingToken>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken {
    /// The epoch of the key's home.
    pub epoch: u64,
    /// Counts within it.
    pub sequence: u64,
}

impl FencingToken {
    pub(super) fn from_message(message: Option<v1::FencingToken>) -> Self {
        message.map_or_else(Self::default, |token| Self { epoch: token.epoch, sequence: token.sequence })
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

/// A text is no fencing token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fencing token is <epoch>.<sequence>, two decimal u64 without signs and leading zeros")]
pub struct NoFencingToken;

impl FromStr for FencingToken {
    type Err = NoFencingToken;

    /// Takes the one spelling that it is written in, so that tokens that are equal are equal texts.
    fn from_str(text: &str) -> Result<Self, NoFencingToken> {
        let (epoch, sequence) = text.split_once('.').ok_or(NoFencingToken)?;
        let part = |text: &str| text.parse().map_err(|_| NoFencingToken);
        let token = Self { epoch: part(epoch)?, sequence: part(sequence)? };
        if token.to_string() == text { Ok(token) } else { Err(NoFencingToken) }
    }
}

/// A named recovery point: which step of an operation is done, and what continues it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The step.
    pub name: String,
    /// What is needed to go on from it, or to undo it.
    pub data: Bytes,
}

impl Checkpoint {
    pub(super) fn from_message(message: v1::CheckpointData) -> Self {
        Self { name: message.name, data: message.data }
    }
}

/// How a completion was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is the answer that every retry gets.
    Answer,
    /// The same was recorded before.
    Repeated,
    /// Another completion was known already: this one is kept as evidence that a second execution ran.
    Late,
}

/// A recorded completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// How it was recorded.
    pub recorded: Recorded,
    /// When the record may go, by log time.
    pub expires_at_unix_ms: u64,
}

/// What comes of a call that names a running grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a grant that is not held any more must not be used"]
pub enum Held {
    /// Done.
    Done,
    /// The grant is no longer the key's current one.
    Stale(KeyState),
}

/// What a key's record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// There is none.
    Absent,
    /// An attempt is being executed.
    Held,
    /// The attempt's lease ran out, and the key is granted again.
    Lapsed,
    /// The attempt's lease ran out, and the key waits until somebody says what came of it.
    OutcomeUnknown,
    /// The attempt was given back.
    Released,
    /// There is an answer.
    Completed,
    /// A state that this version does not know.
    Unknown,
}

impl KeyState {
    pub(super) fn from_message(state: i32) -> Self {
        match v1::KeyState::try_from(state) {
            Ok(v1::KeyState::Absent) => Self::Absent,
            Ok(v1::KeyState::Held) => Self::Held,
            Ok(v1::KeyState::Lapsed) => Self::Lapsed,
            Ok(v1::KeyState::OutcomeUnknown) => Self::OutcomeUnknown,
            Ok(v1::KeyState::Released) => Self::Released,
            Ok(v1::KeyState::Completed) => Self::Completed,
            Ok(v1::KeyState::Unspecified) | Err(_) => Self::Unknown,
        }
    }
}

/// A question: may this key, whose outcome is unknown, be taken over? Sent with
/// [`Client::claim`](super::Client::claim).
#[derive(Clone, Debug)]
#[must_use = "a question does nothing until it is sent"]
pub struct Claim {
    pub(super) request: v1::ClaimRequest,
}

impl Claim {
    /// Asks for a tenant's key in the name of `worker`, which the key's history will show.
    pub fn new(tenant: impl Into<String>, key: impl Into<String>, worker: impl Into<String>) -> Self {
        let (tenant, key, worker) = (tenant.into(), key.into(), worker.into());
        Self { request: v1::ClaimRequest { tenant, key, worker, ..v1::ClaimRequest::default() } }
    }

    /// How long finding out may take, instead of the lease that the key was granted under.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.request.lease_ms = Some(millis(lease));
        self
    }
}

/// What comes of a claim.
#[derive(Debug)]
#[must_use = "a claimed key waits for whoever claimed it"]
pub enum ClaimOutcome {
    /// It is this caller's to finish.
    Claimed(Box<Claimed>),
    /// The key's outcome is not unknown.
    NotClaimable(KeyState),
    /// A limit refuses new grants.
    Limited {
        /// Which.
        limit: String,
        /// When to ask again.
        retry_after: Duration,
    },
}

/// A key that was taken over.
#[derive(Debug)]
pub struct Claimed {
    /// The permission to finish it. An earlier attempt may have executed: find out before you do anything.
    pub grant: Grant,
    /// The endpoint that it was granted for.
    pub endpoint: String,
    /// The request's fingerprint.
    pub fingerprint: Bytes,
}

/// A duration in whole milliseconds.
pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// A duration of so many milliseconds.
pub(super) fn from_millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}
