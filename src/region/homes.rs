//! Which home a key belongs to: a function of facts that never change.

use std::num::NonZeroU16;

use holdfast_client::keys::{self, KeyKind};

use crate::ids::{RecordKey, RegionName};
use crate::region::calls::Invalid;

/// The homes that the cluster was made with, in their order.
pub(super) struct Homes {
    names: Vec<RegionName>,
    first: RegionName,
    count: NonZeroU16,
}

impl Homes {
    /// At least one home, and at most 65,535.
    pub(super) fn new(names: Vec<RegionName>) -> Option<Self> {
        let first = names.first()?.clone();
        let count = NonZeroU16::new(u16::try_from(names.len()).ok()?)?;
        Some(Self { names, first, count })
    }

    /// Every home, in order.
    pub(super) fn all(&self) -> &[RegionName] {
        &self.names
    }

    /// A tagged key's home is in its tag; an opaque key's follows from its hash.
    pub(super) fn of(&self, key: &RecordKey) -> Result<RegionName, Invalid> {
        match key.key.kind() {
            KeyKind::Tagged(tagged) => self
                .names
                .iter()
                .find(|name| name.as_str() == tagged.home())
                .cloned()
                .ok_or_else(|| Invalid::UnknownHome { home: tagged.home().to_owned(), known: self.listed() }),
            KeyKind::Opaque => {
                let at = keys::home_index(key.tenant.as_str(), &key.key, self.count);
                Ok(self.names.get(usize::from(at)).unwrap_or(&self.first).clone())
            }
        }
    }

    fn listed(&self) -> String {
        self.names.iter().map(RegionName::as_str).collect::<Vec<_>>().join(", ")
    }
}
