//! A node that is not one, for tests: it keeps keys in memory, and can be told to do what a node never may.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_server::{Admin, AdminServer};
use holdfast_client::proto::v1::reservations_server::{Reservations, ReservationsServer};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Changes a byte of every replayed body.
    WrongByte,
    /// Grants a completed key again.
    DoubleGrant,
    /// Answers that another attempt is in flight.
    InProgress,
    /// Records every completion as late.
    Late,
    /// Fails every Complete.
    Overloaded,
    /// Never answers.
    Silent,
}

/// A fake node in threads of its own, for as long as the test runs.
pub(crate) struct Fake {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    /// Starts one.
    pub(crate) fn start(fault: Fault) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let incoming = runtime.block_on(async { TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))) })?;
        let incoming = incoming.with_nodelay(Some(true));
        let address = incoming.local_addr()?;
        let serving = tonic::transport::Server::builder()
            .add_service(ReservationsServer::new(Keys { fault, envelopes: Arc::default() }))
            .add_service(AdminServer::new(Desk { fault }))
            .serve_with_incoming(incoming);
        drop(runtime.spawn(serving));
        Ok(Self { address, _runtime: runtime })
    }
}

#[derive(Clone)]
struct Keys {
    fault: Fault,
    envelopes: Arc<Mutex<BTreeMap<String, v1::Envelope>>>,
}

const TOKEN: v1::FencingToken = v1::FencingToken { epoch: 1, sequence: 7 };

impl Keys {
    fn envelope(&self, key: &str) -> Option<v1::Envelope> {
        self.envelopes.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn replay(&self, mut envelope: v1::Envelope) -> v1::reserve_response::Outcome {
        match self.fault {
            Fault::DoubleGrant => return grant(),
            Fault::InProgress => {
                return v1::reserve_response::Outcome::InProgress(v1::InProgress { retry_after_ms: 1 });
            }
            Fault::WrongByte => {
                let mut body = envelope.body.to_vec();
                if let Some(byte) = body.last_mut() {
                    *byte ^= 1;
                }
                envelope.body = body.into();
            }
            Fault::None | Fault::Late | Fault::Overloaded | Fault::Silent => {}
        }
        v1::reserve_response::Outcome::Replay(v1::Replay { envelope: Some(envelope), ..v1::Replay::default() })
    }
}

fn grant() -> v1::reserve_response::Outcome {
    v1::reserve_response::Outcome::Granted(v1::Granted {
        token: "1.7.x".to_owned(),
        fencing: Some(TOKEN),
        start_within_ms: 1_000,
        lease_ms: 30_000,
        attempt: 1,
        ..v1::Granted::default()
    })
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Reservations for Keys {
    async fn reserve(&self, request: Request<v1::ReserveRequest>) -> Answer<v1::ReserveResponse> {
        if self.fault == Fault::Silent {
            std::future::pending::<()>().await;
        }
        let request = request.into_inner();
        let outcome = match self.envelope(&request.key) {
            Some(envelope) => self.replay(envelope),
            None => grant(),
        };
        Ok(Response::new(v1::ReserveResponse { outcome: Some(outcome), epoch: None }))
    }

    async fn complete(&self, request: Request<v1::CompleteRequest>) -> Answer<v1::CompleteResponse> {
        if self.fault == Fault::Overloaded {
            let definite = [("definite".to_owned(), "true".to_owned())];
            let mut details = ErrorDetails::with_error_info("overloaded", "holdfast", definite);
            details.set_retry_info(Some(Duration::from_millis(10)));
            return Err(Status::with_error_details(Code::ResourceExhausted, "too much waits", details));
        }
        let request = request.into_inner();
        let envelope = request.envelope.unwrap_or_default();
        self.envelopes.lock().unwrap_or_else(PoisonError::into_inner).insert(request.key, envelope);
        let recorded = if self.fault == Fault::Late { v1::Recorded::Late } else { v1::Recorded::Answer };
        let completed = v1::Completed { recorded: recorded.into(), expires_at_unix_ms: 0 };
        let outcome = Some(v1::complete_response::Outcome::Completed(completed));
        Ok(Response::new(v1::CompleteResponse { outcome, epoch: None }))
    }

    async fn lookup(&self, request: Request<v1::LookupRequest>) -> Answer<v1::LookupResponse> {
        let record = match request.into_inner().key.as_str() {
            "unknown" => Some(v1::Record {
                state: v1::KeyState::OutcomeUnknown.into(),
                fencing: Some(TOKEN),
                attempt: 1,
                ..v1::Record::default()
            }),
            _ => None,
        };
        let epoch = v1::Epoch { home: "local".to_owned(), partition: 0, epoch: 1, position: 0, leader: 0 };
        Ok(Response::new(v1::LookupResponse { record, epoch: Some(epoch) }))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Answer<v1::ResolveResponse> {
        let request = request.into_inner();
        if request.actor.is_empty() {
            return Err(Status::invalid_argument("actor is empty"));
        }
        let outcome = match request.fencing == Some(TOKEN) {
            true => v1::resolve_response::Outcome::Resolved(v1::Resolved { state: v1::KeyState::Completed.into() }),
            false => v1::resolve_response::Outcome::StaleToken(v1::StaleToken { state: v1::KeyState::Held.into() }),
        };
        Ok(Response::new(v1::ResolveResponse { outcome: Some(outcome), epoch: None }))
    }

    async fn release(&self, _: Request<v1::ReleaseRequest>) -> Answer<v1::ReleaseResponse> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn extend(&self, _: Request<v1::ExtendRequest>) -> Answer<v1::ExtendResponse> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn checkpoint(&self, _: Request<v1::CheckpointRequest>) -> Answer<v1::CheckpointResponse> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn claim(&self, _: Request<v1::ClaimRequest>) -> Answer<v1::ClaimResponse> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn epochs(&self, _: Request<v1::EpochsRequest>) -> Answer<v1::EpochsResponse> {
        Err(Status::unimplemented("no test asks"))
    }

    type SessionStream = tonic::codegen::BoxStream<v1::SessionResponse>;

    async fn session(&self, calls: Request<Streaming<v1::SessionRequest>>) -> Answer<Self::SessionStream> {
        let keys = self.clone();
        let hello = v1::SessionResponse { answers: Vec::new(), max_in_flight: 64 };
        let answered = calls.into_inner().then(move |request| {
            let keys = keys.clone();
            async move {
                let mut answers = Vec::new();
                for call in request?.calls {
                    answers.push(keys.call(call).await);
                }
                Ok(v1::SessionResponse { answers, max_in_flight: 0 })
            }
        });
        Ok(Response::new(Box::pin(stream::once(async { Ok(hello) }).chain(answered))))
    }

    async fn topology(&self, _: Request<v1::TopologyRequest>) -> Answer<v1::TopologyResponse> {
        Ok(Response::new(v1::TopologyResponse { partitions: 1, nodes: Vec::new(), leaders: vec![0] }))
    }
}

impl Keys {
    async fn call(&self, call: v1::SessionCall) -> v1::SessionAnswer {
        use v1::session_answer::Answer;
        let answered = match call.call {
            Some(v1::session_call::Call::Reserve(request)) => {
                self.reserve(Request::new(request)).await.map(|answer| Answer::Reserve(answer.into_inner()))
            }
            Some(v1::session_call::Call::Complete(request)) => {
                self.complete(Request::new(request)).await.map(|answer| Answer::Complete(answer.into_inner()))
            }
            _ => Err(Status::unimplemented("no test asks")),
        };
        let answer = answered.unwrap_or_else(|status| {
            Answer::Failure(v1::Failure {
                code: "overloaded".to_owned(),
                message: status.to_string(),
                ..v1::Failure::default()
            })
        });
        v1::SessionAnswer { id: call.id, answer: Some(answer) }
    }
}

struct Desk {
    fault: Fault,
}

fn revision(number: u32) -> v1::Revision {
    v1::Revision {
        revision: number,
        made_at_unix_ms: 1_790_000_000_000 + u64::from(number) * 1_000,
        actor: "ada".to_owned(),
        reason: "ticket 812".to_owned(),
        policies: vec!["charges".to_owned()],
    }
}

/// A node takes no decision for all of which it is not said who made it and why.
fn signed(signature: Option<&v1::Signature>) -> Result<(), Status> {
    match signature.is_some_and(|signature| !signature.actor.is_empty() && !signature.reason.is_empty()) {
        true => Ok(()),
        false => Err(Status::invalid_argument("say who and why")),
    }
}

fn acme() -> v1::Tenant {
    let endpoint = v1::EndpointUsage { endpoint: "POST /v1/charges".to_owned(), keys: 12, bytes: 34_567 };
    v1::Tenant {
        tenant: "acme".to_owned(),
        home: "eu".to_owned(),
        made_at_unix_ms: 1_790_000_000_000,
        closed: false,
        limits: Some(v1::TenantLimits { max_keys: Some(1_000), ..v1::TenantLimits::default() }),
        keys: 12,
        bytes: 34_567,
        endpoints: vec![endpoint],
    }
}

#[tonic::async_trait]
impl Admin for Desk {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let state = if self.fault == Fault::None { "serving" } else { "stopped" };
        let group = v1::GroupStatus { state: state.to_owned(), ..v1::GroupStatus::default() };
        Ok(Response::new(v1::StatusResponse { node_id: 1, partitions: 2, groups: vec![group], ..Default::default() }))
    }

    async fn rotate_cluster_key(
        &self,
        _: Request<v1::RotateClusterKeyRequest>,
    ) -> Answer<v1::RotateClusterKeyResponse> {
        Ok(Response::new(v1::RotateClusterKeyResponse { key_id: 2 }))
    }

    async fn accept_clock(&self, _: Request<v1::AcceptClockRequest>) -> Answer<v1::AcceptClockResponse> {
        Ok(Response::new(v1::AcceptClockResponse { log_time_unix_ms: vec![1] }))
    }

    async fn apply_policies(&self, request: Request<v1::ApplyPoliciesRequest>) -> Answer<v1::ApplyPoliciesResponse> {
        signed(request.get_ref().signature.as_ref())?;
        match request.get_ref().expected_revision {
            3 => Ok(Response::new(v1::ApplyPoliciesResponse { revision: 4 })),
            _ => Err(Status::failed_precondition("revision 3 of the policies holds: compare again")),
        }
    }

    async fn get_policies(&self, request: Request<v1::GetPoliciesRequest>) -> Answer<v1::GetPoliciesResponse> {
        let text = "[policy.charges]\nendpoints = [\"POST /v1/charges\"]\nseverity = \"critical\"\nlease = \"20s\"\n";
        let source = v1::PolicySource { name: "payments.toml".to_owned(), text: text.to_owned() };
        // One that is ill has not heard of the last revision.
        let number = request.get_ref().revision.unwrap_or(if self.fault == Fault::None { 3 } else { 2 });
        if number > 3 {
            return Err(Status::invalid_argument("there is no such revision"));
        }
        Ok(Response::new(v1::GetPoliciesResponse {
            revision: Some(revision(number)),
            sources: vec![source],
            unnamed_severity: "high".to_owned(),
        }))
    }

    async fn list_revisions(&self, asked: Request<v1::ListRevisionsRequest>) -> Answer<v1::ListRevisionsResponse> {
        // Two pages.
        let (number, more) = if asked.get_ref().before.is_none() { (3, true) } else { (2, false) };
        Ok(Response::new(v1::ListRevisionsResponse { revisions: vec![revision(number)], more }))
    }

    async fn create_tenant(&self, request: Request<v1::CreateTenantRequest>) -> Answer<v1::TenantResponse> {
        let v1::CreateTenantRequest { tenant, home, limits, signature } = request.into_inner();
        signed(signature.as_ref())?;
        Ok(Response::new(v1::TenantResponse { tenant: Some(v1::Tenant { tenant, home, limits, ..acme() }) }))
    }

    async fn change_tenant(&self, request: Request<v1::ChangeTenantRequest>) -> Answer<v1::TenantResponse> {
        let v1::ChangeTenantRequest { tenant, limits, closed, signature } = request.into_inner();
        signed(signature.as_ref())?;
        if tenant != "acme" {
            return Err(Status::not_found("there is no such tenant"));
        }
        let closed = closed.unwrap_or_default();
        let (known, changes) = (acme().limits.unwrap_or_default(), limits.unwrap_or_default());
        let one = |known, change: Option<v1::LimitChange>| change.map_or(known, |change| change.most);
        let limits = Some(v1::TenantLimits {
            max_keys: one(known.max_keys, changes.max_keys),
            max_bytes: one(known.max_bytes, changes.max_bytes),
            keys_per_second: one(known.keys_per_second, changes.keys_per_second),
            keys_per_second_per_client: one(known.keys_per_second_per_client, changes.keys_per_second_per_client),
        });
        Ok(Response::new(v1::TenantResponse { tenant: Some(v1::Tenant { tenant, closed, limits, ..acme() }) }))
    }

    async fn list_tenants(&self, request: Request<v1::ListTenantsRequest>) -> Answer<v1::ListTenantsResponse> {
        if !["", "acme"].contains(&request.get_ref().tenant.as_str()) {
            return Err(Status::not_found("there is no such tenant"));
        }
        Ok(Response::new(v1::ListTenantsResponse { tenants: vec![acme()], registered_only: true }))
    }

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Answer<v1::AuditResponse> {
        let v1::AuditRequest { partition, from } = request.into_inner();
        let entry = |sequence: u64| v1::AuditEntry {
            partition,
            sequence,
            at_unix_ms: 1_790_000_000_000 + sequence * 1_000 + u64::from(partition) * 10,
            actor: "ada".to_owned(),
            reason: "ticket 812".to_owned(),
            action: "set-policies".to_owned(),
            target: format!("revision {sequence}"),
            detail: "changed charges".to_owned(),
        };
        // Two pages; nothing behind them, but for who was there already.
        let (entries, next) = match from {
            0 | 1 => (vec![entry(1)], 2),
            2 => (vec![entry(2)], 0),
            3..90 => (Vec::new(), 0),
            _ => (vec![entry(100)], 0),
        };
        Ok(Response::new(v1::AuditResponse { entries, next }))
    }

    async fn members(&self, _: Request<v1::MembersRequest>) -> Answer<v1::MembersResponse> {
        let member = v1::Member { node_id: 1, voter_of: 1, leader_of: 1, reachable: true, ..v1::Member::default() };
        Ok(Response::new(v1::MembersResponse { members: vec![member], partitions: 1 }))
    }

    async fn change_members(&self, request: Request<v1::ChangeMembersRequest>) -> Answer<v1::ChangeMembersResponse> {
        match request.get_ref().remove_node_id {
            1 => Err(Status::failed_precondition("node 1 is the only voter of partition 0")),
            _ => Ok(Response::new(v1::ChangeMembersResponse {})),
        }
    }

    async fn transfer_leadership(
        &self,
        _: Request<v1::TransferLeadershipRequest>,
    ) -> Answer<v1::TransferLeadershipResponse> {
        Ok(Response::new(v1::TransferLeadershipResponse { partitions: vec![0] }))
    }

    async fn snapshot(&self, _: Request<v1::SnapshotRequest>) -> Answer<v1::SnapshotResponse> {
        let taken = v1::GroupSnapshot { partition: 0, index: 7 };
        Ok(Response::new(v1::SnapshotResponse { snapshots: vec![taken] }))
    }
}
