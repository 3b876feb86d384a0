//! Column families that come and go: which are there, which of them counts, and the switch from one to the next.
//!
//! A group's state stands in the family of its current generation. A snapshot is made into the next one beside it, and
//! the pointer in the default family ([`keys::generation`]) says which counts: one synced write moves a group from one to
//! the other. What no pointer names was never installed, or is no more, and is dropped at a start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rocksdb::{BoundColumnFamily, ColumnFamilyDescriptor, DEFAULT_COLUMN_FAMILY_NAME};

use super::{Database, StoreError, options, tail};
use crate::codec::{self, keys, pb};
use crate::ids::{PartitionCount, PartitionId};

/// The family of that name. It is there, or this program is broken.
pub(super) fn family<'a>(db: &'a Database, name: &str) -> Result<Arc<BoundColumnFamily<'a>>, StoreError> {
    db.cf_handle(name).ok_or_else(|| StoreError::Damaged(format!("the column family {name} is not there")))
}

/// Opens the database with every family that it has; a new one is made with those of generation 0.
pub(super) fn open(path: &Path, shared: &options::Shared, partitions: PartitionCount) -> Result<Database, StoreError> {
    tail::check(path)?;
    let first = partitions.all().map(|id| keys::family(id, 0));
    // A list that cannot be read is a database that does not open: opening it says why.
    let listed = match path.join("CURRENT").exists() {
        true => Database::list_cf(&shared.database(), path).ok(),
        false => None,
    };
    let mut names: BTreeSet<String> = listed.unwrap_or_else(|| first.collect()).into_iter().collect();
    names.remove(DEFAULT_COLUMN_FAMILY_NAME);
    names.remove(keys::LOG_FAMILY);
    let mut families = vec![
        ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, shared.small()),
        ColumnFamilyDescriptor::new(keys::LOG_FAMILY, shared.log()),
    ];
    families.extend(names.into_iter().map(|name| ColumnFamilyDescriptor::new(name, shared.state())));
    Database::open_cf_descriptors(&shared.database(), path, families).map_err(|error| super::opening(path, &error))
}

/// Finds the family of every group, and drops those that do not count. `is_new`: the making of the database was not
/// finished yet, so a family may be missing.
pub(super) fn settle(
    db: &Database,
    path: &Path,
    shared: &options::Shared,
    partitions: PartitionCount,
    is_new: bool,
) -> Result<BTreeMap<PartitionId, u64>, StoreError> {
    let mut generations = BTreeMap::new();
    for partition in partitions.all() {
        let generation = pointer(db, partition)?.map_or(0, |pointer| pointer.number);
        let name = keys::family(partition, generation);
        if db.cf_handle(&name).is_none() {
            if !is_new || generation > 0 {
                let text =
                    format!("{} has no column family {name}, where partition {partition} stands", path.display());
                return Err(StoreError::Damaged(text));
            }
            db.create_cf(&name, &shared.state())?;
        }
        generations.insert(partition, generation);
    }
    for name in Database::list_cf(&shared.database(), path)? {
        if name == DEFAULT_COLUMN_FAMILY_NAME || name == keys::LOG_FAMILY {
            continue;
        }
        match keys::parse_family(&name) {
            Some((partition, generation)) if generations.get(&partition) == Some(&generation) => {}
            Some((partition, _)) if generations.contains_key(&partition) => {
                tracing::info!(family = name, "a column family that does not count is dropped");
                db.drop_cf(&name)?;
            }
            Some(_) | None => {
                let text = format!("{} has a column family {name}: was it written by a newer version?", path.display());
                return Err(StoreError::Damaged(text));
            }
        }
    }
    Ok(generations)
}

/// What the default family says of a group's generation.
pub(super) fn pointer(db: &Database, partition: PartitionId) -> Result<Option<pb::Generation>, StoreError> {
    let Some(bytes) = db.get(keys::generation(partition))? else { return Ok(None) };
    let pointer: pb::Generation = codec::open("a generation", bytes)?;
    match pointer.number {
        0 => Err(StoreError::Damaged(format!("the generation of partition {partition} is 0, which is never written"))),
        _ => Ok(Some(pointer)),
    }
}

/// The family in which a group's state stands now.
pub(super) struct Current {
    pub(super) partition: PartitionId,
    place: RwLock<Place>,
}

struct Place {
    generation: u64,
    name: String,
}

impl Current {
    pub(super) fn new(partition: PartitionId, generation: u64) -> Self {
        let place = Place { generation, name: keys::family(partition, generation) };
        Self { partition, place: RwLock::new(place) }
    }

    /// The family. Whoever has it may go on reading it after a switch, and after it was dropped.
    pub(super) fn family<'a>(&self, db: &'a Database) -> Result<Arc<BoundColumnFamily<'a>>, StoreError> {
        // Under the lock: a family is dropped only after the switch to the next.
        let place = self.place.read().unwrap_or_else(PoisonError::into_inner);
        family(db, &place.name)
    }

    pub(super) fn generation(&self) -> u64 {
        self.place.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// From now on the state stands in that generation.
    pub(super) fn switch(&self, generation: u64) {
        let next = Place { generation, name: keys::family(self.partition, generation) };
        *self.place.write().unwrap_or_else(PoisonError::into_inner) = next;
    }
}
