//! Where a key belongs: key → partition, home → the region that acts for it. There is one region so far, so every key
//! is served here; the calls are the region's own.

use std::sync::Arc;

use crate::region::Region;

/// The store as its callers see it. Cheap to clone.
pub type Router = Arc<Region>;
