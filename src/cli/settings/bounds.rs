//! The bounds of the settings that are numbers. Checking, help and documentation read the same table.

use std::fmt;

use crate::limits;

/// The least and the most that a setting may be, both allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The setting.
    pub(crate) name: &'static str,
    /// The least.
    pub(crate) least: u64,
    /// The most.
    pub(crate) most: u64,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.least, self.most)
    }
}

const GIB: u64 = 1024 * 1024 * 1024;

/// Every setting that is a number.
pub(crate) const BOUNDS: [Bounds; 8] = [
    // 0 is what an unset number reads as in a protobuf message, so no node has it.
    Bounds { name: "node_id", least: 1, most: u64::MAX },
    Bounds { name: "partitions", least: *limits::PARTITIONS.start() as u64, most: *limits::PARTITIONS.end() as u64 },
    // Under 1 KiB hardly any error answer fits.
    Bounds { name: "max_envelope_body_bytes", least: 1_024, most: limits::MAX_ENVELOPE_BODY_BYTES as u64 },
    Bounds { name: "max_connections", least: *limits::CONNECTIONS.start(), most: *limits::CONNECTIONS.end() },
    // Longer than any lease that is sensible for a request; supervisors kill before that.
    Bounds { name: "drain_ms", least: 0, most: 600_000 },
    Bounds { name: "min_free_disk_bytes", least: 0, most: 1024 * GIB },
    Bounds {
        name: "block_cache_bytes",
        least: *limits::BLOCK_CACHE_BYTES.start(),
        most: *limits::BLOCK_CACHE_BYTES.end(),
    },
    Bounds {
        name: "write_buffer_bytes",
        least: *limits::WRITE_BUFFER_BYTES.start(),
        most: *limits::WRITE_BUFFER_BYTES.end(),
    },
];

/// The bounds of a setting, if it has some.
#[must_use]
pub(crate) fn of(name: &str) -> Option<Bounds> {
    BOUNDS.into_iter().find(|bounds| bounds.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::settings::Settings;

    #[test]
    fn every_bound_is_of_a_setting_and_holds_its_default() {
        for bounds in BOUNDS {
            let default = Settings::default_text(bounds.name).and_then(|text| text.parse::<u64>().ok());
            assert!(
                default.is_some_and(|value| (bounds.least..=bounds.most).contains(&value)),
                "{}: {default:?} in {bounds}",
                bounds.name
            );
        }
    }
}
