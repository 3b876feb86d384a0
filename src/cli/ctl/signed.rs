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

impl Signed {
    /// As it is sent.
    pub(super) fn message(&self) -> Option<v1::Signature> {
        Some(v1::Signature { actor: self.actor.clone(), reason: self.reason.clone() })
    }
}
