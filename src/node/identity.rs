//! Whose a node's data directory is, or is going to be: from what it says of itself, what the settings say, and what the
//! members of the cluster say that the node joins.

use crate::codec::pb;
use crate::node::settings::{NodeSettings, Origin, Shape};
use crate::region::policies::Tenants;
use crate::store::StoreError;
use crate::wire::v1::Facts;

/// What a node asks its data directory to be, so that a directory that is something else refuses.
///
/// # Errors
/// When the machine has no randomness.
pub(super) fn asked(
    settings: &NodeSettings,
    found: Option<&pb::Identity>,
    learned: Option<&Facts>,
) -> Result<pb::Identity, StoreError> {
    let node_id = settings.node_id;
    let identity = match &settings.origin {
        Origin::Alone(shape) => {
            let cluster_id = match found {
                Some(found) => found.cluster_id.clone(),
                None => random_name()?,
            };
            of_shape(cluster_id, shape)
        }
        Origin::Region(plan) => of_shape(plan.cluster_id.clone(), &plan.shape),
        Origin::Join(join) => {
            let known = found.map(facts).or_else(|| learned.cloned()).unwrap_or_default();
            pb::Identity {
                cluster_id: join.cluster_id.clone().unwrap_or(known.cluster_id),
                region: join.region.clone().unwrap_or(known.region),
                partitions: join.partitions.unwrap_or(known.partitions),
                homes: join.homes.clone().unwrap_or(known.homes),
                registered_tenants: join.tenants.map_or(known.registered_tenants, Tenants::registered),
                ..pb::Identity::default()
            }
        }
    };
    Ok(pb::Identity { node_id, disk: random_name()?, ..identity })
}

fn of_shape(cluster_id: String, shape: &Shape) -> pb::Identity {
    pb::Identity {
        cluster_id,
        region: shape.region.as_str().to_owned(),
        partitions: u32::from(shape.partitions.get().get()),
        homes: shape.homes.iter().map(|home| home.as_str().to_owned()).collect(),
        registered_tenants: shape.tenants.registered(),
        ..pb::Identity::default()
    }
}

/// What of an identity is equal on all nodes of a region.
pub(super) fn facts(identity: &pb::Identity) -> Facts {
    Facts {
        cluster_id: identity.cluster_id.clone(),
        region: identity.region.clone(),
        partitions: identity.partitions,
        homes: identity.homes.clone(),
        protocol: crate::peers::PROTOCOL,
        registered_tenants: identity.registered_tenants,
    }
}

/// The name of a cluster or a data directory that is made now.
fn random_name() -> Result<String, StoreError> {
    let random = secret().map_err(|error| StoreError::Disk(format!("no randomness: {error}")))?;
    let half = random.first_chunk::<16>().copied().unwrap_or_default();
    Ok(uuid::Builder::from_random_bytes(half).into_uuid().to_string())
}

/// A new cluster key's secret, from the operating system: with the clocks the only thing that a node is not told.
pub(super) fn secret() -> std::io::Result<[u8; 32]> {
    use rand::TryRngCore as _;
    let mut secret = [0_u8; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut secret).map_err(std::io::Error::other)?;
    Ok(secret)
}
