//! `holdfast ctl tenant`: who may have keys, how many, and what they take up.

mod show;

use holdfast_client::proto::v1;
use serde_json::Value;
use tonic::transport::Channel;

use crate::cli::client::{ANSWER_TIMEOUT, Asking, admin};
use crate::cli::ctl::signature::Signed;
use crate::cli::ctl::with_node;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};
use crate::cli::parse;
use crate::ids::{RegionName, TenantId};
use crate::limits;

/// What is asked of tenants, or decided about them.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Tenant {
    /// Make a tenant, which may have keys from then on
    #[command(after_help = "\
A limit that is not given is none. To make the same tenant again changes nothing.

Examples:
  holdfast ctl tenant create acme --reason 'contract 17'
  holdfast ctl tenant create acme --home eu --max-keys 5000000 --max-bytes 10GiB --reason 'contract 17'")]
    Create(Create),
    /// Give a tenant other limits: those that are named, and no others
    #[command(
        visible_alias = "limit",
        after_help = "\
Only the limits that are named change. A limit below what is stored takes nothing away: new keys are refused until enough records
have expired.

Examples:
  holdfast ctl tenant set acme --max-bytes 20GiB --reason 'contract 17b'
  holdfast ctl tenant set acme --no-max-keys --keys-per-second 500 --reason 'ticket 812'"
    )]
    Set(Set),
    /// Let a tenant have no new keys; those that it has are answered as ever
    Close(Named),
    /// Let a closed tenant have new keys again
    Reopen(Named),
    /// Show the tenants, their limits and what their keys take up
    List,
    /// Show a tenant, its limits and what its keys take up, by endpoint
    Show {
        /// The tenant
        #[arg(value_name = "NAME", value_parser = |text: &str| TenantId::parse(text))]
        tenant: TenantId,
    },
}

/// What is made.
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    #[command(flatten)]
    named: Named,

    /// Where its keys without a tag are at home; by their hash if it is not given. Never changes
    #[arg(long, value_name = "HOME", value_parser = |text: &str| RegionName::parse(text))]
    home: Option<RegionName>,

    #[command(flatten)]
    limits: Limits,
}

/// What is changed.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("limit").required(true).multiple(true).args([
    "max_keys", "max_bytes", "keys_per_second", "keys_per_second_per_client",
    "no_max_keys", "no_max_bytes", "no_keys_per_second", "no_keys_per_second_per_client",
]))]
pub(super) struct Set {
    #[command(flatten)]
    named: Named,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    none: NoLimits,
}

/// Whose tenant, who decides, and why.
#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// The tenant
    #[arg(value_name = "NAME", value_parser = |text: &str| TenantId::parse(text))]
    tenant: TenantId,

    #[command(flatten)]
    signed: Signed,
}

/// What the keys of a tenant may take up.
#[derive(Debug, Default, clap::Args)]
struct Limits {
    /// Keys that it may have stored at a time
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(limits::QUOTA_KEYS))]
    max_keys: Option<u64>,

    /// Bytes that it may have stored at a time, answers included, such as 10GiB
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    max_bytes: Option<u64>,

    /// New keys that it may have each second
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(limits::KEYS_PER_SECOND))]
    keys_per_second: Option<u64>,

    /// New keys that one of its clients may have each second
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(limits::KEYS_PER_SECOND))]
    keys_per_second_per_client: Option<u64>,
}

/// Which limits are taken away.
#[derive(Debug, Default, clap::Args)]
struct NoLimits {
    /// As many keys as there are
    #[arg(long, conflicts_with = "max_keys")]
    no_max_keys: bool,

    /// As many bytes as there are
    #[arg(long, conflicts_with = "max_bytes")]
    no_max_bytes: bool,

    /// Any number of new keys each second
    #[arg(long, conflicts_with = "keys_per_second")]
    no_keys_per_second: bool,

    /// Any number of new keys each second of one client
    #[arg(long, conflicts_with = "keys_per_second_per_client")]
    no_keys_per_second_per_client: bool,
}

/// Does what was asked.
pub(super) fn run(asking: &Asking, tenant: Tenant) -> Result<Exit, Problem> {
    // What is wrong with the command line is said before a node is asked.
    match tenant {
        Tenant::Create(Create { named, home, limits }) => {
            let request = v1::CreateTenantRequest {
                signature: Some(named.signed.signature()?),
                tenant: named.tenant.to_string(),
                home: home.map(|home| home.to_string()).unwrap_or_default(),
                limits: Some(limits.sent()),
            };
            with_node(asking, ANSWER_TIMEOUT, async move |channel| {
                let answer = admin(channel).create_tenant(request).await;
                one(asking, answer.map_err(|status| asking.address.failed(&status))?.into_inner().tenant)
            })
        }
        Tenant::Set(Set { named, limits, none }) => {
            let request = v1::ChangeTenantRequest { limits: Some(changes(&limits, &none)), ..change(named)? };
            with_node(asking, ANSWER_TIMEOUT, async move |channel| send(asking, channel, request).await)
        }
        Tenant::Close(named) => close(asking, named, true),
        Tenant::Reopen(named) => close(asking, named, false),
        Tenant::List => with_node(asking, ANSWER_TIMEOUT, async move |channel| list(asking, channel).await),
        Tenant::Show { tenant } => with_node(asking, ANSWER_TIMEOUT, async move |channel| {
            let tenant = known(asking, channel, tenant.as_str()).await?;
            one(asking, Some(tenant))
        }),
    }
}

fn change(named: Named) -> Result<v1::ChangeTenantRequest, Problem> {
    let signature = Some(named.signed.signature()?);
    Ok(v1::ChangeTenantRequest { signature, tenant: named.tenant.to_string(), ..v1::ChangeTenantRequest::default() })
}

fn close(asking: &Asking, named: Named, closed: bool) -> Result<Exit, Problem> {
    let request = v1::ChangeTenantRequest { closed: Some(closed), ..change(named)? };
    with_node(asking, ANSWER_TIMEOUT, async move |channel| send(asking, channel, request).await)
}

async fn send(asking: &Asking, channel: Channel, request: v1::ChangeTenantRequest) -> Result<Exit, Problem> {
    let answer = admin(channel).change_tenant(request).await;
    one(asking, answer.map_err(|status| asking.address.failed(&status))?.into_inner().tenant)
}

/// A tenant as it is, with its endpoints.
async fn known(asking: &Asking, channel: Channel, tenant: &str) -> Result<v1::Tenant, Problem> {
    let answer = admin(channel).list_tenants(v1::ListTenantsRequest { tenant: tenant.to_owned() }).await;
    let tenants = answer.map_err(|status| asking.address.failed(&status))?.into_inner().tenants;
    let found = tenants.into_iter().find(|found| found.tenant == tenant);
    Ok(found.ok_or_else(|| anyhow::anyhow!("the node's answer has no tenant {tenant}: ask again"))?)
}

fn one(asking: &Asking, tenant: Option<v1::Tenant>) -> Result<Exit, Problem> {
    match (tenant, asking.output) {
        (Some(tenant), Output::Text) => output::emit(&show::text(&tenant))?,
        (Some(tenant), Output::Json) => output::emit_json(&show::document(&tenant))?,
        (None, Output::Text) => output::emit("it is done; the node that was asked has not applied it yet\n")?,
        (None, Output::Json) => output::emit_json(&Value::Null)?,
    }
    Ok(Exit::Ok)
}

async fn list(asking: &Asking, channel: Channel) -> Result<Exit, Problem> {
    let answer = admin(channel).list_tenants(v1::ListTenantsRequest::default()).await;
    let answer = answer.map_err(|status| asking.address.failed(&status))?.into_inner();
    match asking.output {
        Output::Text => output::emit(&show::list_text(&answer))?,
        Output::Json => output::emit_json(&show::list_document(&answer))?,
    }
    Ok(Exit::Ok)
}

impl Limits {
    const fn sent(&self) -> v1::TenantLimits {
        let Self { max_keys, max_bytes, keys_per_second, keys_per_second_per_client } = *self;
        v1::TenantLimits { max_keys, max_bytes, keys_per_second, keys_per_second_per_client }
    }
}

/// What is named of the limits, and nothing else.
fn changes(new: &Limits, none: &NoLimits) -> v1::TenantLimitChanges {
    let one = |most: Option<u64>, none: bool| (none || most.is_some()).then_some(v1::LimitChange { most });
    v1::TenantLimitChanges {
        max_keys: one(new.max_keys, none.no_max_keys),
        max_bytes: one(new.max_bytes, none.no_max_bytes),
        keys_per_second: one(new.keys_per_second, none.no_keys_per_second),
        keys_per_second_per_client: one(new.keys_per_second_per_client, none.no_keys_per_second_per_client),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_sent() {
        let most = |most| Some(v1::LimitChange { most });
        assert_eq!(changes(&Limits::default(), &NoLimits::default()), v1::TenantLimitChanges::default());
        let new = Limits { max_bytes: Some(20), ..Limits::default() };
        let none = NoLimits { no_max_keys: true, ..NoLimits::default() };
        let expected = v1::TenantLimitChanges {
            max_keys: most(None),
            max_bytes: most(Some(20)),
            ..v1::TenantLimitChanges::default()
        };
        assert_eq!(changes(&new, &none), expected);
        let new = Limits { keys_per_second: Some(30), ..Limits::default() };
        let none = NoLimits { no_keys_per_second_per_client: true, ..NoLimits::default() };
        let expected = v1::TenantLimitChanges {
            keys_per_second: most(Some(30)),
            keys_per_second_per_client: most(None),
            ..v1::TenantLimitChanges::default()
        };
        assert_eq!(changes(&new, &none), expected);
    }
}
