//! Who decides, and why: what every change of an operator's leaves in the audit.

use holdfast_client::proto::v1;

/// Who decides, and why.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Signed {
    /// Who decides; kept in the audit
    #[arg(long, value_name = "NAME", env = "HOLDFAST_ACTOR", hide_env_values = true)]
    actor: String,

    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// The same, where it may be left out.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PerhapsSigned {
    /// Who decides; kept in the audit
    #[arg(long, value_name = "NAME", env = "HOLDFAST_ACTOR", hide_env_values = true)]
    actor: Option<String>,

    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl PerhapsSigned {
    /// As it is sent.
    pub(super) fn message(&self) -> Option<v1::Signature> {
        let Self { actor, reason } = self.clone();
        Some(v1::Signature { actor: actor.unwrap_or_default(), reason: reason.unwrap_or_default() })
    }
}

impl Signed {
    /// As it is sent.
    pub(super) fn message(&self) -> Option<v1::Signature> {
        Some(v1::Signature { actor: self.actor.clone(), reason: self.reason.clone() })
    }
}
