//! The region's gauges, read from their owners at the moment that somebody asks.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::atomic::Ordering;

use crate::control::command::TenantLimits;
use crate::control::usage::Usage;
use crate::ids::TenantId;
use crate::limits;
use crate::policy::Severity;
use crate::raft::{Gauges, Leadership, Membership, NodeId, Progress};
use crate::region::Region;
use crate::region::partition::Partition;
use crate::region::status::Role;
use crate::store::GroupSizes;
use crate::telemetry::metrics::table as t;
use crate::telemetry::metrics::{self, Page};

/// One group, read once for all its metrics.
struct Read<'a> {
    partition: &'a Partition,
    gauges: Gauges,
    progress: Progress,
    leadership: Leadership,
    members: Membership,
    sizes: GroupSizes,
}

impl Region {
    /// The severity class that keys are granted under.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.settings.severity
    }

    /// Writes the region's metrics. It asks RocksDB for the size of every group, so it is not for a thread that must not wait.
    pub fn write_metrics(&self, page: &mut Page) {
        let groups: Vec<Read<'_>> = self.partitions.iter().map(read).collect();
        self.write_node(page);
        self.write_peers(page, &groups);
        self.write_roles(page, &groups);
        self.write_tenants(page);
        write_raft(page, &groups);
        write_store(page, &groups);
    }

    fn write_node(&self, page: &mut Page) {
        let group = &self.settings.group;
        let labels: [&dyn Display; 4] =
            [&env!("CARGO_PKG_VERSION"), &group.cluster_id, &self.settings.region, &group.node_id];
        page.metric(&t::NODE_INFO).value(&labels, 1);
        page.single(&t::FREE_DISK_BYTES, self.free_disk_bytes.load(Ordering::Relaxed));
        page.single(&t::MIN_FREE_DISK_BYTES, self.settings.min_free_disk_bytes);
    }

    fn write_tenants(&self, page: &mut Page) {
        let control = self.control();
        let made = || control.tenants.iter().take(limits::MAX_LABEL_SETS);
        let usages: Vec<(&TenantId, Usage)> = made().map(|(name, _)| (name, self.total_usage(name))).collect();
        let mut metric = |metric, value: &dyn Fn(Usage) -> u64| {
            let mut samples = page.metric(metric);
            usages.iter().for_each(|(tenant, usage)| samples.value(&[tenant], value(*usage)));
        };
        metric(&t::TENANT_KEYS, &|usage| usage.keys);
        metric(&t::TENANT_BYTES, &|usage| usage.bytes);
        let mut limit = |metric, value: &dyn Fn(TenantLimits) -> Option<u64>| {
            let mut samples = page.metric(metric);
            for (name, tenant) in made() {
                value(tenant.limits).into_iter().for_each(|value| samples.value(&[name], value));
            }
        };
        limit(&t::TENANT_MAX_KEYS, &|limits| limits.max_keys);
        limit(&t::TENANT_MAX_BYTES, &|limits| limits.max_bytes);
    }

    fn write_peers(&self, page: &mut Page, groups: &[Read<'_>]) {
        let me = self.settings.group.node_id;
        let members = groups.iter().flat_map(|group| group.members.nodes.keys().copied());
        let others: BTreeSet<NodeId> = members.filter(|id| *id != me).collect();
        let mut samples = page.metric(&t::PEER_REACHABLE);
        for id in others {
            samples.value(&[&id], u8::from(self.peers.reachable(id)));
        }
    }

    fn write_roles(&self, page: &mut Page, groups: &[Read<'_>]) {
        let me = self.settings.group.node_id;
        let mut samples = page.metric(&t::RAFT_ROLE);
        for group in groups {
            let stopped = group.partition.group.stopped().is_some();
            let now = Role::of(me, group.leadership, &group.members, stopped);
            for role in Role::ALL {
                samples.value(&[&group.partition.id(), &role.name()], u8::from(role == now));
            }
        }
    }
}

fn read(partition: &Partition) -> Read<'_> {
    let group = &partition.group;
    Read {
        partition,
        gauges: group.gauges(),
        progress: group.progress(),
        leadership: group.leader(),
        members: group.members(),
        // Figures that RocksDB does not give are shown as nothing stored; what is wrong with it shows elsewhere.
        sizes: group.family().sizes().unwrap_or_default(),
    }
}

/// One sample a partition.
fn each<V: Display>(page: &mut Page, metric: &'static t::Metric, groups: &[Read<'_>], value: impl Fn(&Read<'_>) -> V) {
    let mut samples = page.metric(metric);
    for group in groups {
        samples.value(&[&group.partition.id()], value(group));
    }
}

fn write_raft(page: &mut Page, groups: &[Read<'_>]) {
    let mut samples = page.metric(&t::RAFT_LAG);
    for group in groups {
        for (peer, lag) in &group.gauges.lag {
            samples.value(&[&group.partition.id(), peer], lag);
        }
    }
    let mut samples = page.metric(&t::RAFT_QUORUM_AGE);
    for group in groups {
        if let Some(age) = group.gauges.quorum_ack_age {
            samples.value(&[&group.partition.id()], age.as_secs_f64());
        }
    }
    each(page, &t::RAFT_LEADER, groups, |group| group.leadership.leader.unwrap_or_default());
    each(page, &t::RAFT_LEADER_CHANGES, groups, |group| metrics::leader_changes(group.partition.id()));
    each(page, &t::RAFT_TERM, groups, |group| group.progress.term);
    each(page, &t::RAFT_VOTERS, groups, |group| group.members.voters.len());
    each(page, &t::RAFT_LEARNERS, groups, |group| group.members.nodes.len().saturating_sub(group.members.voters.len()));
    each(page, &t::RAFT_LAST_LOG, groups, |group| group.progress.last_log_index);
    each(page, &t::RAFT_APPLIED, groups, |group| group.progress.applied_index);
    each(page, &t::RAFT_SNAPSHOT, groups, |group| group.progress.snapshot_index);
    each(page, &t::RAFT_PURGED, groups, |group| group.progress.purged_index);
    each(page, &t::QUEUED_OPERATIONS, groups, |group| group.gauges.queued_operations);
    each(page, &t::QUEUED_BYTES, groups, |group| group.gauges.queued_bytes);
}

fn write_store(page: &mut Page, groups: &[Read<'_>]) {
    each(page, &t::HELD_KEYS, groups, |group| group.partition.held());
    each(page, &t::PARTITION_SERVING, groups, |group| u8::from(group.partition.group.stopped().is_none()));
    each(page, &t::CLOCK_HELD, groups, |group| u8::from(group.partition.group.state().clock_held));
    each(page, &t::LOG_TIME, groups, |group| {
        let ms = group.partition.group.state().log_time_unix_ms;
        format!("{}.{:03}", ms / 1_000, ms % 1_000)
    });
    each(page, &t::STORE_KEYS, groups, |group| group.sizes.keys);
    each(page, &t::STORE_LIVE_BYTES, groups, |group| group.sizes.live_bytes);
    each(page, &t::STORE_TABLE_BYTES, groups, |group| group.sizes.table_bytes);
    each(page, &t::STORE_BLOB_BYTES, groups, |group| group.sizes.blob_bytes);
    each(page, &t::STORE_MEMORY_BYTES, groups, |group| group.sizes.memory_bytes);
}
