//! The client: asks the nodes of a region, goes on to another one when one fails, and hands out grants that are still good.
//!
//! What it promises, and what it does on each failure, stands in docs/guides/rust-client.md. In short:
//!
//! * Every send of one call bears the same key and the same nonce: a lost answer, asked again, is the same grant.
//! * A call that fails says whether it is known that nothing was done. One send with an unknown outcome makes the whole
//!   call indefinite.
//! * A grant is handed out only while it may be started, counted on this process's own clock from before the request was
//!   sent.
//!
//! ```no_run
//! use holdfast_client::client::{Client, Envelope, Outcome, Reserve};
//!
//! # async fn pay() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder().nodes(["10.0.0.1:7400", "10.0.0.2:7400", "10.0.0.3:7400"]).connect().await?;
//! match client.reserve(Reserve::new("shop", "invoice-7").digest("what is to be paid")).await? {
//!     Outcome::Granted(grant) => {
//!         grant.start()?;
//!         // The effect.
//!         grant.complete(Envelope::new(201, "paid")).await?;
//!     }
//!     Outcome::Replay(replay) => println!("the first response: {:?}", replay.envelope),
//!     other => println!("not now: {other:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: `types` (what goes in and out), `call` (one call with its resends), `grant`; below them `known` (what
//! was learned of the cluster), `node`, `session`; and the pure parts `retry` and `routing`.
//!
//! Deliberately absent: TLS, and telling who the caller is, until nodes do.

mod builder;
mod call;
pub(crate) mod clock;
mod error;
mod grant;
mod known;
mod node;
mod retry;
mod routing;
mod session;
mod types;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use self::call::{Answered, Sending};
use self::clock::Moment;
use self::error::Failed;
use self::grant::{Names, Until};
use self::known::Known;
use self::retry::Backoff;
use self::types::from_millis;
use crate::keys::{IdempotencyKey, KeyError, TaggedKey};
use crate::proto::v1;
use crate::proto::v1::session_answer::Answer;
use crate::proto::v1::session_call::Call;

pub use self::builder::Builder;
pub use self::error::{Certainty, Error, codes};
pub use self::grant::{Grant, TooLate};
pub use self::types::{
    Asked, Checkpoint, Claim, ClaimOutcome, Claimed, Completed, Envelope, FencingToken, Held, HomeEpoch, KeyState,
    NoFencingToken, Outcome, Recorded, Replay, Reserve,
};

/// Calls that go on without their caller, at a time. Beyond it grants are left to lapse.
const MAX_BEHIND: usize = 4_096;
/// Bytes of a nonce.
const NONCE_BYTES: usize = 16;
/// How often it is asked who leads, and how long it is waited between two questions when answers say that it has changed.
const TOPOLOGY_PERIOD: Duration = Duration::from_secs(30);
const TOPOLOGY_PAUSE: Duration = Duration::from_millis(500);

/// How calls travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// All of them on one stream a connection: several times cheaper.
    #[default]
    Session,
    /// Each as a request of its own: for what stands between client and node and knows requests only.
    Unary,
}

/// What becomes of a grant that is dropped before [`Grant::start`]. One that was started is always left to lapse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDrop {
    /// Nothing is sent: the lease runs out, and the key's policy decides. Right for every application, since nothing is
    /// assumed about what ran.
    #[default]
    Lapse,
    /// It is released in the background, so that the next attempt need not wait for the lease. A `reserve` or `claim` that
    /// is given up while it waits is followed to its end, and its grant released too. **Only for applications that call
    /// [`Grant::start`] before every effect:** one that does not would be granted again after it executed.
    ReleaseUnstarted,
}

/// What a client was built with.
#[derive(Clone, Debug)]
struct Settings {
    transport: Transport,
    connections: usize,
    connect_timeout: Duration,
    attempt_timeout: Duration,
    deadline: Duration,
    attempts: u32,
    backoff: Backoff,
    on_drop: OnDrop,
    client_version: String,
}

/// A client of one region. A clone is the same client.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    known: Mutex<Known>,
    /// Rung when answers say that who leads has changed.
    stale: Arc<Notify>,
    runtime: tokio::runtime::Handle,
    /// Keeps `known` up to date.
    upkeep: Mutex<JoinSet<()>>,
    /// What goes on without its caller.
    behind: Mutex<JoinSet<()>>,
}

impl Client {
    /// Starts to build a client.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A client that has not asked anybody yet.
    fn new(settings: Settings, known: Known) -> Self {
        let inner = Inner {
            settings,
            known: Mutex::new(known),
            stale: Arc::new(Notify::new()),
            runtime: tokio::runtime::Handle::current(),
            upkeep: Mutex::default(),
            behind: Mutex::default(),
        };
        let inner = Arc::new(inner);
        let upkeep = keep_up(Arc::downgrade(&inner), Arc::clone(&inner.stale));
        inner.upkeep.lock().unwrap_or_else(PoisonError::into_inner).spawn(upkeep);
        Self(inner)
    }

    /// Asks the nodes, in their order, for the topology, until one answers.
    async fn refresh(&self) -> Result<(), Error> {
        self.0.refresh().await.map_err(|failed| failed.end(Certainty::Definite))
    }

    /// Asks whether a request may be executed.
    ///
    /// # Errors
    /// When there is no outcome. Keep the key unless the failure is definite; asking again with it is always right.
    pub async fn reserve(&self, reserve: Reserve) -> Result<Outcome, Error> {
        Ok(self.ask(reserve).await?.outcome)
    }

    /// As [`Client::reserve`], and says in which epoch the answer was given.
    ///
    /// # Errors
    /// As [`Client::reserve`].
    pub async fn ask(&self, reserve: Reserve) -> Result<Asked, Error> {
        match self.0.settings.on_drop {
            OnDrop::Lapse => self.reserve_now(reserve).await,
            OnDrop::ReleaseUnstarted => {
                let client = self.clone();
                self.followed(async move { client.reserve_now(reserve).await }).await
            }
        }
    }

    async fn reserve_now(&self, reserve: Reserve) -> Result<Asked, Error> {
        let Reserve { mut request, wait } = reserve;
        request.nonce = self.nonce().to_vec().into();
        request.client_version.clone_from(&self.0.settings.client_version);
        let (tenant, key) = (request.tenant.clone(), request.key.clone());
        let partition = self.partition(&tenant, &key);
        let Answered { answer, sent } = self.call(Call::Reserve(request), Sending { partition, wait }).await?;
        use v1::reserve_response::Outcome as Said;
        let unknown = || Failed::unknown_answer().end(Certainty::Definite);
        let Answer::Reserve(v1::ReserveResponse { outcome: Some(outcome), epoch }) = answer else {
            return Err(unknown());
        };
        let epoch = epoch.map(HomeEpoch::from_message);
        let outcome = match outcome {
            Said::Granted(granted) => {
                let token = granted.token.clone();
                Outcome::Granted(self.grant(Names { tenant, key, token, partition }, granted, sent)?)
            }
            Said::Replay(replay) => Outcome::Replay(Replay {
                envelope: Envelope::from_message(replay.envelope.ok_or_else(unknown)?),
                completed_at_unix_ms: replay.completed_at_unix_ms,
                expires_at_unix_ms: replay.expires_at_unix_ms,
                fencing: FencingToken::from_message(replay.fencing),
            }),
            Said::Mismatch(_) => Outcome::Mismatch,
            Said::InProgress(progress) => Outcome::InProgress { retry_after: from_millis(progress.retry_after_ms) },
            Said::OutcomeUnknown(unknown) => Outcome::OutcomeUnknown {
                attempt: unknown.attempt,
                checkpoint: unknown.checkpoint.map(Checkpoint::from_message),
            },
            Said::InDoubt(doubt) => Outcome::InDoubt { retry_after: from_millis(doubt.retry_after_ms) },
            Said::Superseded(superseded) => Outcome::Superseded { epoch: superseded.epoch },
            Said::Expired(_) => Outcome::Expired,
            Said::Limited(limited) => {
                Outcome::Limited { limit: limited.limit, retry_after: from_millis(limited.retry_after_ms) }
            }
        };
        Ok(Asked { outcome, epoch })
    }

    /// Takes over a key whose outcome is unknown.
    ///
    /// # Errors
    /// When there is no outcome. Asking again is always right.
    pub async fn claim(&self, claim: Claim) -> Result<ClaimOutcome, Error> {
        match self.0.settings.on_drop {
            OnDrop::Lapse => self.claim_now(claim).await,
            OnDrop::ReleaseUnstarted => {
                let client = self.clone();
                self.followed(async move { client.claim_now(claim).await }).await
            }
        }
    }

    async fn claim_now(&self, claim: Claim) -> Result<ClaimOutcome, Error> {
        let Claim { mut request } = claim;
        request.nonce = self.nonce().to_vec().into();
        let (tenant, key) = (request.tenant.clone(), request.key.clone());
        let partition = self.partition(&tenant, &key);
        let Answered { answer, sent } =
            self.call(Call::Claim(request), Sending { partition, wait: Duration::ZERO }).await?;
        use v1::claim_response::Outcome as Said;
        let unknown = || Failed::unknown_answer().end(Certainty::Definite);
        let Answer::Claim(v1::ClaimResponse { outcome: Some(outcome), .. }) = answer else {
            return Err(unknown());
        };
        Ok(match outcome {
            Said::Claimed(claimed) => {
                let granted = claimed.grant.ok_or_else(unknown)?;
                let token = granted.token.clone();
                ClaimOutcome::Claimed(Box::new(Claimed {
                    grant: self.grant(Names { tenant, key, token, partition }, granted, sent)?,
                    endpoint: claimed.endpoint,
                    fingerprint: claimed.fingerprint,
                }))
            }
            Said::NotClaimable(not) => ClaimOutcome::NotClaimable(KeyState::from_message(not.state)),
            Said::Limited(limited) => {
                ClaimOutcome::Limited { limit: limited.limit, retry_after: from_millis(limited.retry_after_ms) }
            }
        })
    }

    /// What the store knows of a key. Reads only.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn lookup(&self, tenant: &str, key: &str) -> Result<Option<v1::Record>, Error> {
        let call = Call::Lookup(v1::LookupRequest { tenant: tenant.to_owned(), key: key.to_owned() });
        let sending = Sending { partition: self.partition(tenant, key), wait: Duration::ZERO };
        let Answer::Lookup(v1::LookupResponse { record, .. }) = self.call(call, sending).await?.answer else {
            return Err(Failed::unknown_answer().end(Certainty::Definite));
        };
        Ok(record)
    }

    /// Mints a tagged key of a home with the newest epoch that this client knows of it, so that after a failover to that
    /// epoch the key is known to be new. One key is one operation: keep it for every retry.
    ///
    /// # Errors
    /// When `home` is not a name that a home can have.
    pub fn mint_key(&self, tenant: &str, home: &str) -> Result<IdempotencyKey, KeyError> {
        let random = self.0.known().random.random();
        let key = TaggedKey::mint(home, 0, clock::wall_unix_ms(), random)?;
        let text = key.to_string();
        let known = self.0.known();
        // The epoch takes no part in picking the partition.
        let epoch = known.partition(tenant, &text).map_or(0, |partition| known.epoch(home, partition));
        IdempotencyKey::parse(&key.with_mint_epoch(epoch).to_string())
    }

    /// Waits until nothing goes on in the background: no release of a dropped grant, no question of a caller that went
    /// away. For the end of a program, and of a test.
    pub async fn settle(&self) {
        loop {
            let mut behind = std::mem::take(&mut *self.0.behind());
            if behind.is_empty() {
                return;
            }
            while behind.join_next().await.is_some() {}
        }
    }

    fn partition(&self, tenant: &str, key: &str) -> Option<u16> {
        self.0.known().partition(tenant, key)
    }

    fn nonce(&self) -> [u8; NONCE_BYTES] {
        self.0.known().random.random()
    }

    /// Hands a grant out, unless it came too late to be started.
    fn grant(&self, names: Names, granted: v1::Granted, sent: Moment) -> Result<Grant, Error> {
        let until = Until::new(sent, &granted);
        let grant = Grant::new(self.clone(), names, granted, until, Moment::now());
        if until.allows_start(Moment::now()) {
            return Ok(grant);
        }
        let message = "the grant came after the time in which it has to be started, and was dropped: ask again";
        let late = Failed::on_the_way(codes::GRANT_LATE, Certainty::Indefinite, message.to_owned());
        Err(late.end(Certainty::Indefinite))
    }

    /// Runs a call to its end also if its caller goes away: what it comes to is dropped then, and a grant in it released.
    async fn followed<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        let following = async move {
            // Not received, the outcome is dropped right here.
            drop(sender.send(call.await));
        };
        if !self.behind(following) {
            let message = format!("{MAX_BEHIND} calls go on without their callers already: drop fewer");
            return Err(Failed::of_this_client(message).end(Certainty::Definite));
        }
        let lost = || {
            let message = "the client was closed".to_owned();
            Failed::on_the_way(codes::CONNECTION_LOST, Certainty::Indefinite, message).end(Certainty::Indefinite)
        };
        receiver.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Releases a grant that nobody will use, in the background.
    fn release_behind(&self, names: Names) {
        let client = self.clone();
        let Names { tenant, key, token, partition } = names;
        let call = Call::Release(v1::ReleaseRequest { tenant, key, token });
        // If there is no room for it, or it fails, the grant lapses.
        self.behind(async move {
            let _lapses = client.call(call, Sending { partition, wait: Duration::ZERO }).await;
        });
    }

    /// Runs something without its caller; false if too much runs already.
    fn behind(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut behind = self.0.behind();
        while behind.try_join_next().is_some() {}
        if behind.len() >= MAX_BEHIND {
            return false;
        }
        behind.spawn_on(task, &self.0.runtime);
        true
    }
}

impl Inner {
    fn behind(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the topology, until one node answers.
    async fn refresh(&self) -> Result<(), Failed> {
        let nodes = self.known().nodes(Moment::now());
        let mut last = Failed::for_good(codes::UNREACHABLE, Certainty::Definite, "no node was named".to_owned());
        for picked in nodes {
            match picked.node.topology(self.settings.attempt_timeout).await {
                Ok(topology) => {
                    self.known().apply(topology, &self.settings);
                    return Ok(());
                }
                Err(failed) if failed.of_the_node => {
                    self.known().suspect(picked.serial, Moment::now());
                    last = failed;
                }
                Err(failed) => last = failed,
            }
        }
        Err(last)
    }
}

/// Asks for the topology now and then, and when it has changed, for as long as there is a client.
async fn keep_up(inner: Weak<Inner>, stale: Arc<Notify>) {
    loop {
        let _either = tokio::time::timeout(TOPOLOGY_PERIOD, stale.notified()).await;
        let Some(inner) = inner.upgrade() else { return };
        // A region without a node that answers is told to those who ask it something.
        let _unanswered = inner.refresh().await;
        drop(inner);
        tokio::time::sleep(TOPOLOGY_PAUSE).await;
    }
}
