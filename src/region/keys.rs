//! The calls on one key, as a region serves them: the key's place, its token, the command, and what its reply means.

use std::num::NonZeroU16;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{self, Monotonic};
use crate::codec;
use crate::codec::token::Claims;
use crate::ids::{FencingToken, Nonce, PartitionId, RecordKey, RegionName};
use crate::limits;
use crate::region::Region;
use crate::region::admission::{self, Admitted, Caps, Flying, Stored, Who};
use crate::region::calls::{
    Certainty, CheckpointCall, ClaimCall, ClaimOutcome, CompleteCall, Completed, ExtendCall, Failure, Found, GrantCall,
    GrantOutcome, Granted, Invalid, LookupCall, Place, Placed, ReleaseCall, ReserveCall, ReserveOutcome, ResolveCall,
    ResolveOutcome, Verdict,
};
use crate::region::partition::{Basis, Partition, Reserved, unexpected, unproposed, void};
use crate::region::rates::{self, Share};
use crate::region::storms::Seen;
use crate::region::tokens::{Granting, Unverified};
use crate::reservation::Reply;
use crate::reservation::command::{self, Command, Complete, Kind};
use crate::reservation::record::Terms;
use crate::reservation::reply::Grant;
use crate::telemetry::metrics;
use crate::time::LogTime;

/// How long a node waits to hear of a cluster key that others know.
const KEY_PATIENCE: Duration = Duration::from_secs(2);

/// The partition that serves a key, and what a proposal rests on.
struct Served<'a> {
    partition: &'a Partition,
    basis: Basis,
}

impl Served<'_> {
    fn place(self) -> Place {
        self.partition.place(self.basis.home, self.basis.epoch)
    }

    fn command(&self, kind: Kind) -> Command {
        Command { epoch: self.basis.epoch, kind }
    }
}

impl Region {
    /// A key's partition.
    #[must_use]
    pub fn partition_of(&self, key: &RecordKey) -> PartitionId {
        let count: NonZeroU16 = self.settings.partitions.get();
        PartitionId(holdfast_client::keys::partition(key.tenant.as_str(), &key.key, count))
    }

    fn partition(&self, key: &RecordKey) -> Result<&Partition, Failure> {
        let id = self.partition_of(key);
        self.partitions.get(usize::from(id.0)).ok_or_else(|| unexpected(&id))
    }

    /// The partition of a key, once this node serves it; `until` bounds the wait for that.
    async fn served(&self, key: &RecordKey, until: Monotonic) -> Result<Served<'_>, Failure> {
        let home = self.home_of(key, until).await?;
        self.served_at(self.partition(key)?, home, until).await
    }

    async fn served_at<'a>(
        &self,
        partition: &'a Partition,
        home: RegionName,
        until: Monotonic,
    ) -> Result<Served<'a>, Failure> {
        let term = partition.serves(until).await?;
        let epoch = partition.group.open_epoch(&home).ok_or_else(|| void(None))?;
        Ok(Served { partition, basis: Basis { home, epoch, term } })
    }

    /// What refuses new grants, and only those.
    fn admit(&self, partition: &Partition) -> Result<(), Failure> {
        let free_bytes = self.free_disk_bytes.load(Ordering::Relaxed);
        let least_bytes = self.settings.min_free_disk_bytes;
        if free_bytes < least_bytes {
            return Err(Failure::DiskLow { free_bytes, least_bytes });
        }
        if partition.held() >= limits::MAX_HELD_KEYS / self.partitions.len().max(1) {
            metrics::overloaded(metrics::Overload::HeldKeys);
            return Err(Failure::Overloaded { retry_after: Duration::from_secs(1) });
        }
        if self.tokens.current().is_none() {
            return Err(behind("this node does not know the cluster key yet: ask again".to_owned()));
        }
        Ok(())
    }

    /// The part of the region's keys that comes to this node.
    fn share(&self) -> Share {
        let led = self.partitions.iter().filter(|one| one.gate.served().is_some()).count();
        Share { led: u16::try_from(led).unwrap_or(u16::MAX), of: self.settings.partitions }
    }

    /// What refuses new keys, and only those.
    fn admit_new(&self, call: &ReserveCall, caps: &Caps, partition: &Partition) -> Result<Admitted<'_>, Failure> {
        let (tenant, endpoint) = (&call.key.tenant, &call.endpoint);
        Self::open_tenant(&self.control(), tenant)?;
        let stored = || {
            let (here, endpoints) =
                partition.group.usages(|usages| (usages.of(tenant, endpoint), usages.endpoints(tenant)));
            let other_endpoints = (here.keys == 0).then_some(endpoints);
            let mut stored = Stored { other_endpoints, ..Stored::default() };
            // A quota is over all partitions; without one, only the key's own says whether the endpoint is new there.
            let counted = self.partitions.iter().filter(|one| caps.has_quota() || one.id() == partition.id());
            for one in counted {
                let (of_tenant, of_endpoint) =
                    one.group.usages(|usages| (usages.of_tenant(tenant), usages.of(tenant, endpoint)));
                stored.tenant = stored.tenant.plus(of_tenant);
                stored.endpoint = stored.endpoint.plus(of_endpoint);
            }
            stored
        };
        // A rate counts what it admits, so what a quota refuses is refused first.
        let flying = match self.admission.quota(Who { key: &call.key, endpoint }, caps, stored) {
            Admitted::Yes(flying) => flying,
            refused @ Admitted::No { .. } => return Ok(refused),
        };
        if !caps.has_rate() || flying.as_ref().is_some_and(Flying::is_rated) {
            return Ok(Admitted::Yes(flying));
        }
        let who = rates::Who { tenant, endpoint, client: &call.client_version };
        Ok(match self.rates.admit(who, &caps.rates(), self.share(), clock::monotonic()) {
            Ok(()) => {
                flying.iter().for_each(Flying::rated);
                Admitted::Yes(flying)
            }
            Err(exceeded) => Admitted::No { limit: rates::limit(exceeded.cap), retry_after: exceeded.retry_after },
        })
    }

    /// Reserves a key. A completed key is answered from what is applied here, whoever leads its partition. `until` bounds how
    /// long a partition that this node is taking over is waited for.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn reserve(&self, call: &ReserveCall, until: Monotonic) -> Result<Placed<ReserveOutcome>, Failure> {
        let placed = self.reserve_key(call, until).await?;
        self.reserved(call, &placed.outcome);
        Ok(placed)
    }

    async fn reserve_key(&self, call: &ReserveCall, until: Monotonic) -> Result<Placed<ReserveOutcome>, Failure> {
        let (partition, home) = (self.partition(&call.key)?, self.home_of(&call.key, until).await?);
        let (terms, caps) = self.granting(&call.key.tenant, &call.endpoint, |promised, control| {
            let lease_ms = call.lease_ms.unwrap_or(promised.terms.lease_ms);
            let tenant = control.tenants.get(&call.key.tenant).map(|tenant| tenant.limits).unwrap_or_default();
            let caps = Caps { tenant, endpoint: promised.contract.limits.clone() };
            (Terms { lease_ms, ..promised.terms }, caps)
        })?;
        if partition.gate.served().is_none()
            && let Some(epoch) = partition.group.open_epoch(&home)
            && let Some(outcome) = partition.replay(call, epoch, terms)?
        {
            return Ok(Placed { outcome, place: partition.place(home, epoch) });
        }
        let served = self.served_at(partition, home, until).await?;
        let Served { partition, basis } = &served;
        let log_time = LogTime::from_unix_ms(partition.group.state().log_time_unix_ms);
        check_key_time(&call.key, log_time)?;
        let admitted = |partition: &Partition, is_new: bool| {
            self.admit(partition)?;
            if is_new { self.admit_new(call, &caps, partition) } else { Ok(Admitted::Yes(None)) }
        };
        let outcome = match partition.reserve(call, basis, terms, admitted).await? {
            Reserved::Other(outcome) => outcome,
            Reserved::Granted(grant, left) => {
                let granted = self.granted(&call.key, *grant, call.nonce.as_ref(), left, &served)?;
                ReserveOutcome::Granted(Box::new(granted))
            }
        };
        Ok(Placed { outcome, place: served.place() })
    }

    /// Counts what a call came to, and watches what its client does with its keys.
    fn reserved(&self, call: &ReserveCall, outcome: &ReserveOutcome) {
        let tenant = &call.key.tenant;
        if let ReserveOutcome::Limited { limit, .. } = outcome {
            metrics::limited(tenant, admission::label(*limit));
        }
        if let Some(seen) = Seen::of(&call.fingerprint, outcome) {
            let who = rates::Who { tenant, endpoint: &call.endpoint, client: &call.client_version };
            let _told = self.watch.observe(who, seen, clock::monotonic());
        }
    }

    fn granted(
        &self,
        key: &RecordKey,
        grant: Grant,
        nonce: Option<&Nonce>,
        left: Duration,
        served: &Served<'_>,
    ) -> Result<Granted, Failure> {
        let partition = served.partition.id();
        let granting = Granting { home: &served.basis.home, region: &self.settings.region, partition };
        let token = self.tokens.mint(key, &grant, nonce, &granting).ok_or_else(|| unexpected(&"no cluster key"))?;
        let left_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        Ok(Granted {
            token,
            fencing: grant.token,
            start_within_ms: left_ms,
            lease_ms: left_ms,
            attempt: grant.attempt,
            checkpoint: grant.checkpoint,
            possible_duplicate: grant.possible_duplicate,
            repeated: grant.repeated,
            fingerprint: grant.fingerprint,
            endpoint: grant.endpoint,
        })
    }

    /// The claims of a token. A cluster key that this node has not heard of yet is waited for: "invalid" is said only by whoever
    /// knows every key that there is.
    async fn verify(&self, key: &RecordKey, token: &str, until: Monotonic) -> Result<Claims, Failure> {
        let patience = clock::monotonic().plus(KEY_PATIENCE).min(until);
        let mut knows_all = false;
        loop {
            let Some(first) = self.partitions.first() else { return Err(unexpected(&"no partition")) };
            let mut applied = std::pin::pin!(first.following.wakers.applied.notified());
            let error = match self.tokens.verify(key, token) {
                Ok(claims) => return Ok(claims),
                Err(Unverified::Invalid(invalid)) => return Err(invalid.into()),
                Err(Unverified::Behind(error)) if knows_all => return Err(Invalid::Token(error.to_string()).into()),
                Err(Unverified::Behind(error)) => error,
            };
            // Armed before the look, so that a change in between is not missed.
            applied.as_mut().enable();
            if self.tokens.follow(&first.group.state().cluster_keys) {
                continue;
            }
            if let Some(term) = first.gate.served() {
                first.group.confirm_read().await.map_err(unproposed).map_err(|_| behind(error.to_string()))?;
                knows_all = first.gate.served() == Some(term);
                self.tokens.follow(&first.group.state().cluster_keys);
                continue;
            }
            let left = patience.since(clock::monotonic());
            if left.is_zero() || tokio::time::timeout(left, applied).await.is_err() {
                return Err(behind(format!("this node may not know every cluster key yet, and {error}: ask again")));
            }
        }
    }

    /// Records an outcome.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn complete(&self, call: &CompleteCall, until: Monotonic) -> Result<Placed<Completed>, Failure> {
        let served = self.served(&call.key, until).await?;
        let claims = self.verify(&call.key, &call.token, until).await?;
        let (bytes, digest) = codec::record::encode_envelope(&call.envelope.to_stored());
        let Claims { fencing, fingerprint, endpoint, policy_revision, nonce, .. } = claims;
        // For a grant that this region does not know. A completion is never refused because of policies that cannot be read.
        let terms = self.granting(&call.key.tenant, &endpoint, |promised, _| promised.terms);
        let terms = Terms { policy_revision, ..terms.unwrap_or_else(|_| self.unnamed_severity().terms()) };
        let retention_ms = call.retention_ms;
        let complete = Complete { token: fencing, fingerprint, endpoint, nonce, terms, envelope: digest, retention_ms };
        let command = served.command(Kind::Complete(Box::new(complete)));
        let reply = served.partition.command(&call.key, &served.basis.home, command, bytes).await?;
        let Reply::Completed { recorded, expires_at } = reply else { return Err(refused(&reply)) };
        Ok(Placed { outcome: Completed { recorded, expires_at }, place: served.place() })
    }

    async fn on_grant(
        &self,
        call: &GrantCall,
        until: Monotonic,
        kind: impl FnOnce(FencingToken) -> Kind,
    ) -> Result<Placed<GrantOutcome>, Failure> {
        let served = self.served(&call.key, until).await?;
        let claims = self.verify(&call.key, &call.token, until).await?;
        let command = served.command(kind(claims.fencing));
        let reply = served.partition.command(&call.key, &served.basis.home, command, Bytes::new()).await?;
        let outcome = if let Reply::StaleToken(state) = reply {
            GrantOutcome::StaleToken(state)
        } else if matches!(reply, Reply::Released | Reply::Extended { .. } | Reply::Checkpointed) {
            GrantOutcome::Done
        } else {
            return Err(refused(&reply));
        };
        Ok(Placed { outcome, place: served.place() })
    }

    /// Gives a grant back.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn release(&self, call: &ReleaseCall, until: Monotonic) -> Result<Placed<GrantOutcome>, Failure> {
        self.on_grant(&call.0, until, |token| Kind::Release { token }).await
    }

    /// Restarts a grant's lease.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn extend(&self, call: &ExtendCall, until: Monotonic) -> Result<Placed<GrantOutcome>, Failure> {
        let lease_ms = call.lease_ms;
        self.on_grant(&call.grant, until, |token| Kind::Extend { token, lease_ms }).await
    }

    /// Stores a recovery point.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn checkpoint(&self, call: &CheckpointCall, until: Monotonic) -> Result<Placed<GrantOutcome>, Failure> {
        let checkpoint = call.checkpoint.clone();
        self.on_grant(&call.grant, until, |token| Kind::Checkpoint { token, checkpoint }).await
    }

    /// Takes over a key whose outcome is unknown.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn claim(&self, call: &ClaimCall, until: Monotonic) -> Result<Placed<ClaimOutcome>, Failure> {
        let served = self.served(&call.key, until).await?;
        let Served { partition, basis } = &served;
        self.admit(partition)?;
        let kind =
            Kind::Claim { nonce: call.nonce.clone(), lease_ms: call.lease_ms, worker: call.worker.as_str().into() };
        let reply = partition.command(&call.key, &basis.home, served.command(kind), Bytes::new()).await?;
        let outcome = if let Reply::Claimed(grant) = reply {
            let left = partition.confirm(&call.key, basis, &grant, call.received).await?;
            ClaimOutcome::Claimed(Box::new(self.granted(&call.key, *grant, call.nonce.as_ref(), left, &served)?))
        } else if let Reply::NotClaimable(state) = reply {
            ClaimOutcome::NotClaimable(state)
        } else if let Reply::Limited(limit) = reply {
            ClaimOutcome::Limited(limit)
        } else {
            return Err(refused(&reply));
        };
        Ok(Placed { outcome, place: served.place() })
    }

    /// Records an operator's verdict.
    ///
    /// # Errors
    /// When there is no outcome; the failure says whether that is definite.
    pub async fn resolve(&self, call: &ResolveCall, until: Monotonic) -> Result<Placed<ResolveOutcome>, Failure> {
        let served = self.served(&call.key, until).await?;
        let (verdict, bytes) = match &call.verdict {
            Verdict::NotExecuted => (command::Verdict::NotExecuted, Bytes::new()),
            Verdict::Executed(envelope) => {
                let (bytes, digest) = codec::record::encode_envelope(&envelope.to_stored());
                (command::Verdict::Executed(digest), bytes)
            }
        };
        let (actor, reason) = (call.actor.as_str().into(), call.reason.as_str().into());
        let command = served.command(Kind::Resolve { token: call.fencing, verdict, actor, reason });
        let reply = served.partition.command(&call.key, &served.basis.home, command, bytes).await?;
        let outcome = if let Reply::Resolved(state) = reply {
            ResolveOutcome::Resolved(state)
        } else if let Reply::StaleToken(state) = reply {
            ResolveOutcome::StaleToken(state)
        } else {
            return Err(refused(&reply));
        };
        Ok(Placed { outcome, place: served.place() })
    }

    /// What is known of a key.
    ///
    /// # Errors
    /// When the partition does not serve.
    pub async fn lookup(&self, call: &LookupCall, until: Monotonic) -> Result<Placed<Option<Found>>, Failure> {
        let served = self.served(&call.0, until).await?;
        let outcome = served.partition.lookup(&call.0, served.basis.term).await?;
        Ok(Placed { outcome, place: served.place() })
    }
}

/// This node has not heard of something that others know: nothing was done.
fn behind(reason: String) -> Failure {
    Failure::Unavailable { certainty: Certainty::Definite, reason, retry_after: Duration::from_millis(200) }
}

/// A reply that is no outcome of the command: the epoch was closed, or this program is broken.
fn refused(reply: &Reply) -> Failure {
    if let Reply::Void { open } = reply { void(*open) } else { unexpected(reply) }
}

fn check_key_time(key: &RecordKey, log_time: LogTime) -> Result<(), Invalid> {
    let holdfast_client::keys::KeyKind::Tagged(tagged) = key.key.kind() else { return Ok(()) };
    let ahead_ms = tagged.unix_ms().saturating_sub(log_time.unix_ms());
    let most_ms = limits::MAX_KEY_TIME_AHEAD_MS;
    if ahead_ms > most_ms { Err(Invalid::KeyTimeAhead { ahead_ms, most_ms }) } else { Ok(()) }
}
