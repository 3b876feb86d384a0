//! What one endpoint comes to: its rates, its records, and what each of them takes on a disk.

use crate::codec::pb;
use crate::ids::{EndpointName, IdempotencyKey, RecordKey, RegionName, TenantId};
use crate::limits;
use crate::plan::figures;
use crate::plan::life::{Life, Request};
use crate::plan::workload::Endpoint;
use crate::reservation::record::{OnLapse, Terms};

/// An endpoint, carried.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    /// Its name.
    pub name: EndpointName,
    /// New keys a second in the busiest moment.
    pub peak_per_s: f64,
    /// Calls a second in the busiest moment.
    pub peak_operations_per_s: f64,
    /// Records that are kept at a time.
    pub records: u64,
    /// Keys that are held at a time, if every attempt takes its whole lease in the busiest moment.
    pub held: u64,
    /// What a record takes.
    pub stored: Stored,
}

/// What one completed key takes on a disk, when nothing that was replaced is left, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stored {
    /// In tables: the record, the indexes, and the envelope unless it is large.
    pub table: f64,
    /// In blob files: a large envelope.
    pub blob: f64,
    /// In memory, for what finds it: the filters and the index of the tables.
    pub finding: f64,
    /// In the log.
    pub log: f64,
}

impl Carried {
    /// Carries an endpoint.
    #[must_use]
    pub fn of(endpoint: &Endpoint) -> Self {
        Self {
            name: endpoint.name.clone(),
            peak_per_s: endpoint.peak_per_s(),
            peak_operations_per_s: endpoint.peak_operations_per_s(),
            records: up(endpoint.records()),
            held: up(endpoint.held()),
            stored: Stored::of(endpoint),
        }
    }

    /// Bytes of all its records in tables.
    #[must_use]
    pub fn table_bytes(&self) -> f64 {
        self.records as f64 * self.stored.table
    }

    /// Bytes of all its envelopes in blob files.
    #[must_use]
    pub fn blob_bytes(&self) -> f64 {
        self.records as f64 * self.stored.blob
    }
}

impl Stored {
    /// What a key of an endpoint takes, all of which are as the mean one.
    #[must_use]
    pub fn of(endpoint: &Endpoint) -> Self {
        let written = example(endpoint).map(|life| life.written()).unwrap_or_default();
        let named = (written.record + written.envelope_key + written.expiry) as f64;
        let envelope = written.envelope as f64 * endpoint.compresses_to;
        // What stands in the tables, compressed and as blocks are cut.
        let (table, whole, blob) = match written.envelope >= limits::BLOB_BYTES {
            false => (envelope, written.envelope as f64, 0.0),
            true => {
                let (place, beside) =
                    (figures::BLOB_PLACE_BYTES as f64, written.envelope_key + figures::BLOB_HEADER_BYTES);
                (place, place, envelope + beside as f64)
            }
        };
        let table = named * figures::RECORD_SHARE + table;
        let filters = ENTRIES * limits::FILTER_BITS_PER_ENTRY / 8.0;
        let index = (named + whole) / limits::BLOCK_BYTES as f64 * figures::INDEX_ENTRY_BYTES;
        let finding = filters + index;
        Self { table, blob, finding, log: written.log as f64 }
    }
}

/// Entries of a completed key in the tables: the record, its envelope, its place in the index of expiry.
pub const ENTRIES: f64 = 3.0;

/// A position and a time as a busy cluster has them: their bytes grow with them.
const POSITION: u64 = 1_000_000_000;
const AT_UNIX_MS: u64 = 1_800_000_000_000;

/// The mean key of an endpoint. None if it has no bytes at all, which the bounds of a plan refuse.
fn example(endpoint: &Endpoint) -> Option<Life> {
    let bytes = usize::try_from(endpoint.key_bytes).ok()?;
    let tenant = bytes.saturating_sub(holdfast_client::keys::MAX_KEY_BYTES).clamp(1, limits::MAX_TENANT_BYTES);
    let key = RecordKey {
        tenant: TenantId::parse(&"t".repeat(tenant)).ok()?,
        key: IdempotencyKey::parse(&"k".repeat(bytes.checked_sub(tenant)?)).ok()?,
    };
    let body = vec![0; usize::try_from(endpoint.envelope_bytes).ok()?];
    Life::of(&Request {
        key,
        home: RegionName::parse("home").ok()?,
        endpoint: endpoint.name.clone(),
        terms: Terms {
            policy_revision: 1,
            lease_ms: u32::try_from(endpoint.lease_ms).ok()?,
            on_lapse: OnLapse::Hold,
            retention_ms: endpoint.retention_ms,
        },
        fingerprint: [0; 32],
        nonce: [0; 16],
        envelope: pb::Envelope { status: 200, headers: Vec::new(), body: body.into() },
        position: POSITION,
        at_unix_ms: AT_UNIX_MS,
    })
}

/// Rounds up, to at most the largest number that there is.
pub(super) fn up(value: f64) -> u64 {
    value.ceil() as u64
}
