//! Metrics for Prometheus: counters and histograms of the process, counted here where things happen. Gauges are not kept: they
//! are read from their owners when somebody asks.
//!
//! [`table`] has every metric with its labels and its meaning; `record` what counts; `sets` the limit on labels that
//! clients choose; `page` the text format. They are the process's: in a test with several nodes in one process they add up.
//!
//! Deliberately absent: a metrics library (docs/adr/0008-dependencies.md says why).

mod cells;
pub mod gateway;
mod page;
mod process;
mod record;
#[cfg(test)]
mod reference;
mod sets;
pub mod table;

pub use cells::{Counter, Histogram};
pub use gateway::{
    GatewayGauges, RouteGauges, gateway_answered, gateway_exhausted, gateway_failure, gateway_in_flight,
    gateway_observed, gateway_refused, gateway_retry_succeeded, gateway_try, write_gateway,
};
pub use page::{CONTENT_TYPE, Page, Samples};
pub use record::{
    Change, Direction, Forwarded, Limit, Method, Outcome, Overload, Whose, applied, batch, call, changed, forwarded,
    key_storm, leader_changed, leader_changes, limited, log_sync, modified_replays, overloaded, read_confirmed,
    reserve, snapshot, snapshot_bytes, write,
};
pub use sets::OTHER;
