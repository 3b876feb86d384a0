//! The proof of the global group's core, `home`.
//!
//! * [`world`]: a global group at work, without a log or a disk. [`render`] writes replies and rows as text.
//! * The golden scripts of `tests/scripts/home`, in the language of [`script`], with every answer and refusal.
//! * [`merging`]: merge in any order, against a second opinion.
//! * [`history`]: random lives of a home in three regions, with streams that are shipped in pieces, again and late.
//!   [`invariants`] are what must hold in each of them, [`orders`] that the order of deliveries does not matter, and [`mutants`]
//!   that the checks can fail.
//! * [`system`]: regions and the global group together: P1 and P2.

#![expect(clippy::indexing_slicing, reason = "an index that is out of bounds is a mistake of the test, and must show")]

mod history;
mod invariants;
mod merging;
mod mutants;
mod orders;
mod render;
mod script;
mod scripts;
mod system;
mod world;
