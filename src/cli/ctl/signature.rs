//! `--actor` and `--reason`: who decides, and why. Both stand in the audit.

use anyhow::anyhow;
use holdfast_client::proto::v1;

use crate::cli::exit::Problem;

/// Of what is decided for all: the reason has to be said.
#[derive(Debug, clap::Args)]
pub(super) struct Signed {
    #[command(flatten)]
    who: Who,

    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Of what is done to the nodes: the reason may be said.
#[derive(Debug, clap::Args)]
pub(super) struct PerhapsSigned {
    #[command(flatten)]
    who: Who,

    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Who decides.
#[derive(Debug, clap::Args)]
pub(super) struct Who {
    /// Who decides; kept in the audit. Without it: the name of the user, from the variable USER
    #[arg(long, value_name = "NAME", env = "HOLDFAST_ACTOR", hide_env_values = true)]
    actor: Option<String>,
}

/// Both, as they are sent.
///
/// # Errors
/// When nobody says who decides.
pub(super) fn sign(who: Who, reason: String) -> Result<v1::Signature, Problem> {
    let actor = who.name().ok_or_else(|| {
        Problem::usage(anyhow!("nobody says who decides: give --actor NAME, or set the variable HOLDFAST_ACTOR"))
    })?;
    Ok(v1::Signature { actor, reason })
}

impl Signed {
    /// Both, as they are sent.
    ///
    /// # Errors
    /// As of [`sign`].
    pub(super) fn signature(self) -> Result<v1::Signature, Problem> {
        sign(self.who, self.reason)
    }
}

impl PerhapsSigned {
    /// As it was typed, for tests.
    #[cfg(test)]
    pub(super) fn of(actor: &str, reason: &str) -> Self {
        Self { who: Who { actor: Some(actor.to_owned()) }, reason: Some(reason.to_owned()) }
    }

    /// As it is sent, as far as it is said.
    pub(super) fn signature(self) -> v1::Signature {
        v1::Signature { actor: self.who.name().unwrap_or_default(), reason: self.reason.unwrap_or_default() }
    }
}

impl Who {
    fn name(self) -> Option<String> {
        named(self.actor, std::env::var("USER").ok())
    }
}

/// Who was named, else who is logged in. A name that was given is not replaced, also if it is empty: the node refuses that.
fn named(given: Option<String>, user: Option<String>) -> Option<String> {
    given.or_else(|| user.filter(|user| !user.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_decides() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(named(text("ada"), text("bob")), text("ada"));
        assert_eq!(named(None, text("bob")), text("bob"));
        assert_eq!(named(text(""), text("bob")), text(""));
        assert_eq!(named(None, text("")), None);
        assert_eq!(named(None, None), None);
    }
}
