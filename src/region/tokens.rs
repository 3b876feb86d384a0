//! Tokens at work: the cluster key that the first partition's log holds, and what it signs.

use std::sync::{Arc, PoisonError, RwLock};

use holdfast_client::keys;

use crate::codec::pb;
use crate::codec::token::{self, Claims, ClusterKey};
use crate::ids::{Nonce, PartitionId, RecordKey, RegionName};
use crate::region::calls::Invalid;
use crate::reservation::reply::Grant;

/// The valid cluster keys, the current one first.
#[derive(Default)]
pub(super) struct Tokens {
    keys: RwLock<Arc<[ClusterKey]>>,
}

impl Tokens {
    fn valid(&self) -> Arc<[ClusterKey]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over the keys as a group's state has them.
    pub(super) fn follow(&self, keys: &[pb::ClusterKey]) {
        let same = |known: &[ClusterKey]| known.iter().map(|key| key.id).eq(keys.iter().map(|key| key.key_id));
        if same(&self.valid()) {
            return;
        }
        let keys = keys
            .iter()
            .filter_map(|key| Some(ClusterKey { id: key.key_id, secret: key.secret.as_ref().try_into().ok()? }));
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.collect();
    }

    /// The current key's number.
    pub(super) fn current(&self) -> Option<u32> {
        self.valid().first().map(|key| key.id)
    }

    /// A grant's token, if there is a cluster key yet.
    pub(super) fn mint(
        &self,
        key: &RecordKey,
        grant: &Grant,
        nonce: Option<&Nonce>,
        place: &Granting<'_>,
    ) -> Option<String> {
        let claims = Claims {
            fencing: grant.token,
            tenant: key.tenant.clone(),
            key_hash: keys::key_hash(key.tenant.as_str(), &key.key),
            home: place.home.clone(),
            region: place.region.clone(),
            partition: place.partition,
            fingerprint: grant.fingerprint.clone(),
            endpoint: grant.endpoint.clone(),
            policy_revision: grant.policy_revision,
            nonce: nonce.cloned(),
        };
        self.valid().first().map(|current| token::mint(current, &claims))
    }

    /// The claims of a token that this cluster made for this key.
    pub(super) fn verify(&self, key: &RecordKey, text: &str) -> Result<Claims, Invalid> {
        let claims = token::verify(&self.valid(), text).map_err(|error| Invalid::Token(error.to_string()))?;
        let hash = keys::key_hash(key.tenant.as_str(), &key.key);
        if claims.tenant != key.tenant || claims.key_hash != hash {
            return Err(Invalid::TokenForAnotherKey);
        }
        Ok(claims)
    }
}

/// Where a grant is made.
pub(super) struct Granting<'a> {
    pub(super) home: &'a RegionName,
    pub(super) region: &'a RegionName,
    pub(super) partition: PartitionId,
}
