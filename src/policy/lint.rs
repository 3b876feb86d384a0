//! What policies may say and had better not: contradictions, risks, and promises that are less than they look.
//!
//! Each finding has a code that stays what it is, and one level. Deliberately absent: a way to silence one. Whoever means it
//! says so in the `justification`, or chooses the severity whose defaults are meant.

use std::fmt;

use crate::ids::{PolicyName, TenantId};
use crate::policy::contract::Contract;
use crate::policy::document::Document;
use crate::policy::set::{Policy, PolicySet, Rule};
use crate::policy::{Consistency, FailMode, Severity, Stage, diff};
use crate::reservation::record::OnLapse;
use crate::time::Span;

/// How much a finding matters. Worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It contradicts itself, or breaks what its severity stands for.
    Error,
    /// It is most likely not what is meant.
    Warning,
    /// Good to know.
    Note,
}

impl Level {
    /// The level's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

macro_rules! codes {
    ($($name:ident = $code:literal, $level:ident, $meaning:literal;)*) => {
        /// What is found. The codes are stable: scripts may name them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            /// Every code, in the order in which it is looked for.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code's text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// How much it matters.
            #[must_use]
            pub const fn level(self) -> Level {
                match self {
                    $(Self::$name => Level::$level,)*
                }
            }

            /// What it means, in one sentence without a full stop.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)*
                }
            }
        }
    };
}

codes! {
    CriticalFailsOpen = "critical-fails-open", Error, "A critical endpoint with `fail = \"open\"`: a failover, or a store that is not there, may run it twice";
    CriticalLocal = "critical-local", Error, "A critical endpoint with `consistency = \"local\"`: two regions may each run it";
    CriticalOff = "critical-off", Error, "A critical endpoint with `stage = \"off\"`: it is not protected at all";
    StrictFailsOpen = "strict-fails-open", Error, "`stage = \"strict\"` with `fail = \"open\"`: the one says that nothing runs unprotected, the other that it does";
    RetentionBelowRetryWindow = "retention-below-retry-window", Error, "The retention is shorter than callers go on retrying: a late retry of an opaque key runs as new, one of a tagged key is refused as expired";
    RetentionBelowLease = "retention-below-lease", Error, "The retention is shorter than the lease: an answer may be gone before the first attempt would have lapsed";
    SuccessNotStored = "success-not-stored", Error, "No 2xx status is stored: a retry of what succeeded has nothing to get";
    CriticalNotRequired = "critical-not-required", Warning, "A critical endpoint that also takes requests without a key";
    CriticalRegrants = "critical-regrants", Warning, "A critical endpoint with `on_lapse = \"regrant\"`: an attempt that is only slow runs a second time";
    CriticalWithoutOwner = "critical-without-owner", Warning, "A critical endpoint without an owner: nobody to ask when an outcome is unknown";
    LoweredWithoutJustification = "lowered-without-justification", Warning, "A critical or high endpoint that promises less than its severity's default, and does not say why";
    HoldButDuplicates = "hold-but-duplicates", Warning, "`on_lapse = \"hold\"` where the consistency or the fail mode lets an attempt run twice all the same";
    LeaseShort = "lease-short", Warning, "A lease under a second: one pause of the service, or one lost packet, ends it";
    LeaseLong = "lease-long", Note, "A lease over ten minutes: when a service dies, its keys are held that long";
    RetryWindowUnknown = "retry-window-unknown", Note, "A critical endpoint that does not say how long its callers retry: the retention cannot be checked";
    FingerprintVolatile = "fingerprint-volatile", Warning, "A header counts that is another on every attempt: each retry is a mismatch";
    FingerprintIgnoresMoney = "fingerprint-ignores-money", Warning, "A member that names money or who gets it does not count: a retry with another value gets the old answer";
    FingerprintNarrow = "fingerprint-narrow", Note, "Only the members in `keep` count: requests that differ in all else are the same, also in members that are added one day";
    StoresPassingFailure = "stores-passing-failure", Warning, "A status that is stored says \"try again\": every retry gets it until the retention is over";
    ClientRateWithoutEffect = "client-rate-without-effect", Warning, "One client may make more new keys each second than all together";
    QuotaBelowRate = "quota-below-rate", Warning, "At the allowed rate the quota of keys is full before the first of them goes";
    LoweredForTenant = "lowered-for-tenant", Warning, "A policy that names a tenant goes before one that names the endpoint, and promises less";
    CatchAllLowersDefault = "catch-all-lowers-default", Warning, "A pattern for everything gives endpoints that nobody named less than the `high` defaults";
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub code: Code,
    /// In which policy.
    pub policy: PolicyName,
    /// The file that the policy was read from.
    pub file: String,
    /// Which field is to be looked at.
    pub field: &'static str,
    /// What is the matter, and what to do.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, policy, file, field, text } = self;
        write!(f, "{}: {file}: policy {policy}: {field}: {text} [{}]", code.level().as_str(), code.as_str())
    }
}

/// Everything there is to say of policies: by policy, then in the order of the codes.
#[must_use]
pub fn lint(set: &PolicySet) -> Vec<Finding> {
    let rules = set.rules();
    let mut findings = Vec::new();
    for (name, policy) in set.policies() {
        let found = &mut |code: Code, field, text| {
            findings.push(Finding { code, policy: name.clone(), file: policy.file.clone(), field, text });
        };
        let contract = &policy.promise.contract;
        severity(contract, found);
        promises(policy, found);
        times(contract, found);
        fingerprint(&policy.document, found);
        responses(contract, found);
        limits(contract, found);
        matching(name, policy, &rules, found);
    }
    findings.sort_by(|a, b| (&a.policy, a.code).cmp(&(&b.policy, b.code)));
    findings
}

type Found<'a> = &'a mut dyn FnMut(Code, &'static str, String);

/// What a critical endpoint should not do.
fn severity(contract: &Contract, found: Found<'_>) {
    if contract.stage == Stage::Strict && contract.fail == FailMode::Open {
        found(
            Code::StrictFailsOpen,
            "fail",
            "strict lets nothing run unprotected: fail closed, or require only".to_owned(),
        );
    }
    if contract.severity != Severity::Critical {
        let twice = match (contract.fail, contract.consistency) {
            (FailMode::Open, _) => "fail is open",
            (FailMode::Closed, Consistency::Local) => "the consistency is local",
            (FailMode::Closed, Consistency::Home | Consistency::Global) => return,
        };
        if contract.on_lapse == OnLapse::Hold {
            let text = format!("a lapsed key is held, but {twice}, so it may run twice all the same: make them agree");
            found(Code::HoldButDuplicates, "on_lapse", text);
        }
        return;
    }
    if contract.fail == FailMode::Open {
        let text = "a failover may run it twice: fail closed, or it is not critical";
        found(Code::CriticalFailsOpen, "fail", text.to_owned());
    }
    if contract.consistency == Consistency::Local {
        let text = "two regions may each run it: make it home or global, or it is not critical";
        found(Code::CriticalLocal, "consistency", text.to_owned());
    }
    match contract.stage {
        Stage::Off => {
            let text = "it is not protected at all: begin with observe, and go on to required";
            found(Code::CriticalOff, "stage", text.to_owned());
        }
        Stage::Observe | Stage::Optional => {
            let text = "requests without a key run unprotected: make it required once every caller sends one";
            found(Code::CriticalNotRequired, "stage", text.to_owned());
        }
        Stage::Required | Stage::Strict => {}
    }
    if contract.on_lapse == OnLapse::Regrant {
        let text = "an attempt that is only slow runs a second time, flagged: hold, unless the effect's target fences";
        found(Code::CriticalRegrants, "on_lapse", text.to_owned());
    }
}

/// Who answers for the policy, and for what it gives up.
fn promises(policy: &Policy, found: Found<'_>) {
    let contract = &policy.promise.contract;
    let critical = contract.severity == Severity::Critical;
    if critical && policy.document.owner.is_none() {
        let text = "say who decides when an outcome is unknown";
        found(Code::CriticalWithoutOwner, "owner", text.to_owned());
    }
    if policy.document.justification.is_some() || contract.severity > Severity::High {
        return;
    }
    // A limit, a shorter lease or fewer headers are ordinary; these are what the severity stands for.
    const STANDS_FOR: [&str; 5] = ["stage", "consistency", "fail", "on_lapse", "retention"];
    let default = Document::defaults(contract.severity).promise().contract;
    let mut lowered = diff::shortened(&default, contract);
    lowered.retain(|field| STANDS_FOR.contains(field));
    if !lowered.is_empty() {
        let text = format!("less than {} promises by default in {}: say why", contract.severity, lowered.join(", "));
        found(Code::LoweredWithoutJustification, "justification", text);
    }
}

/// Leases, retention and retries.
fn times(contract: &Contract, found: Found<'_>) {
    const SECOND_MS: u32 = 1_000;
    const TEN_MINUTES_MS: u32 = 600_000;
    let (lease, retention) = (Span::from_ms(contract.lease_ms.into()), Span::from_ms(contract.retention_ms));
    match contract.retry_window_ms {
        Some(window) if window > contract.retention_ms => {
            let window = Span::from_ms(window);
            let text =
                format!("callers retry for {window}, the answer is kept for {retention}: keep it longer than that");
            found(Code::RetentionBelowRetryWindow, "retention", text);
        }
        None if contract.severity == Severity::Critical => {
            let text =
                format!("say how long callers go on retrying: {retention} of retention may be too short for them");
            found(Code::RetryWindowUnknown, "retry_window", text);
        }
        Some(_) | None => {}
    }
    if contract.retention_ms < contract.lease_ms.into() {
        let text =
            format!("{retention} is shorter than the lease of {lease}: keep the answer longer than an attempt takes");
        found(Code::RetentionBelowLease, "retention", text);
    }
    if contract.lease_ms < SECOND_MS {
        found(
            Code::LeaseShort,
            "lease",
            format!("{lease} ends with one pause of the service: give it a second or more"),
        );
    }
    if contract.lease_ms > TEN_MINUTES_MS {
        let text = format!("a service that dies holds its keys for {lease}: take a shorter lease, and extend it");
        found(Code::LeaseLong, "lease", text);
    }
}

/// Headers that are another on every attempt.
const VOLATILE: [&str; 10] = [
    "authorization",
    "content-length",
    "cookie",
    "date",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-correlation-id",
    "x-request-id",
];

/// Names of members that say how much, or to whom.
const MONEY: [&str; 12] = [
    "account",
    "amount",
    "beneficiary",
    "currency",
    "destination",
    "iban",
    "payee",
    "price",
    "quantity",
    "recipient",
    "total",
    "value",
];

fn fingerprint(document: &Document, found: Found<'_>) {
    let headers = document.fingerprint.headers.as_deref().unwrap_or_default();
    let volatile: Vec<String> =
        headers.iter().map(|name| name.to_ascii_lowercase()).filter(|name| VOLATILE.contains(&name.as_str())).collect();
    if !volatile.is_empty() {
        let text =
            format!("{} changes from attempt to attempt, so a retry is a mismatch: leave it out", volatile.join(", "));
        found(Code::FingerprintVolatile, "fingerprint.headers", text);
    }
    let left_out = document.fingerprint.leave_out.as_deref().unwrap_or_default();
    let money: Vec<&str> = left_out
        .iter()
        .map(String::as_str)
        .filter(|pointer| {
            let last = pointer.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
            last.split('_').any(|word| MONEY.contains(&word))
        })
        .collect();
    if !money.is_empty() {
        let text =
            format!("{} does not count, so a retry that asks for something else gets the old answer", money.join(", "));
        found(Code::FingerprintIgnoresMoney, "fingerprint.leave_out", text);
    }
    if document.fingerprint.keep.is_some() {
        let text = "whatever else differs is the same request: leave_out says more safely what may differ";
        found(Code::FingerprintNarrow, "fingerprint.keep", text.to_owned());
    }
}

fn responses(contract: &Contract, found: Found<'_>) {
    if !contract.statuses.iter().any(|status| (200..300).contains(status)) {
        let text = "no 2xx is stored, so nothing is ever replayed: add \"2xx\"";
        found(Code::SuccessNotStored, "response.statuses", text.to_owned());
    }
    let passing = |status: &&u16| matches!(**status, 408 | 425 | 429 | 500..=599);
    let stored: Vec<&u16> = contract.statuses.iter().filter(passing).collect();
    if let (Some(first), Some(last)) = (stored.first(), stored.last()) {
        let which = if first == last { first.to_string() } else { format!("{first} to {last}") };
        let text = format!("{which} may pass, and every retry would get it: put it in skip_statuses");
        found(Code::StoresPassingFailure, "response.statuses", text);
    }
}

fn limits(contract: &Contract, found: Found<'_>) {
    let limits = &contract.limits;
    let Some(rate) = limits.keys_per_second else { return };
    if let Some(client) = limits.keys_per_second_per_client.filter(|client| *client > rate) {
        let text = format!("{client} for one client, {rate} for all: the first never applies");
        found(Code::ClientRateWithoutEffect, "limits.keys_per_second_per_client", text);
    }
    let kept = u128::from(rate) * u128::from(contract.retention_ms) / 1_000;
    if let Some(quota) = limits.max_keys.filter(|quota| u128::from(*quota) < kept) {
        let retention = Span::from_ms(contract.retention_ms);
        let text = format!(
            "{rate} a second over {retention} are {kept} keys, the quota is {quota}: raise it, or lower the rate"
        );
        found(Code::QuotaBelowRate, "limits.max_keys", text);
    }
}

/// What a policy takes from others, or from endpoints that nobody named.
fn matching(name: &PolicyName, policy: &Policy, rules: &[Rule<'_>], found: Found<'_>) {
    let severity = policy.promise.contract.severity;
    let catches_all = |target: &crate::policy::matching::Target| target.pattern.as_endpoint().as_str() == "*";
    if severity > Severity::High && policy.targets.iter().any(catches_all) {
        let text = format!("endpoints that nobody names get {severity} and not high: name the ones that are meant");
        found(Code::CatchAllLowersDefault, "endpoints", text);
    }
    for target in policy.targets.iter().filter(|target| target.tenant.is_some()) {
        let tenant: Option<&TenantId> = target.tenant.as_ref();
        let stricter = |rule: &&Rule<'_>| {
            let other = rule.target;
            // The endpoint, or the pattern's own text, that the other policy names for every tenant.
            let taken = other.tenant.is_none() && target.fits(tenant, other.pattern.as_endpoint());
            taken && rule.name != name && rule.policy.promise.contract.severity < severity
        };
        if let (Some(rule), Some(tenant)) = (rules.iter().find(stricter), tenant) {
            let text = format!(
                "for tenant {tenant}, {:?} is {severity} by this policy, and {} by policy {} for all others",
                rule.target.pattern.as_endpoint().as_str(),
                rule.policy.promise.contract.severity,
                rule.name
            );
            found(Code::LoweredForTenant, "tenants", text);
            return;
        }
    }
}

#[cfg(test)]
mod tests;
