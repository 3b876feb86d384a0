//! The proof of the pure core: what a key's life may be, and that nothing else is.
//!
//! * [`world`]: a partition at work, without logs or disks: applies commands to records and keeps what the core leaves to
//!   its caller. [`render`] writes replies and records as text.
//! * [`scripts`]: the golden decision scripts of `tests/scripts`, in the language of [`script`]. `REWRITE=1` rewrites the
//!   answers; a person reads the difference.
//! * [`coverage`]: every reply, refusal, event and sweep occurs in the scripts.
//! * [`steps`]: random lives of a few keys. [`reference`] is a second opinion on them, written from the documents and not
//!   from the code, and [`invariants`] are what must hold whatever the answers are; [`properties`] runs both.
//! * [`mutants`]: planted bugs, each shown to be caught, so that a green run means something.
//! * [`home`]: the same for the core of the global group.
//! * [`golden_bytes`]: frozen bytes of every persisted format, of the values in [`samples`]. [`refused_records`]: what is
//!   no valid record is not read.

mod coverage;
mod golden_bytes;
mod home;
mod invariants;
mod mutants;
mod properties;
mod reference;
mod refused_records;
mod render;
mod samples;
mod script;
mod scripts;
mod steps;
mod world;
