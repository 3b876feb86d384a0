//! Where a node's cluster comes from, and where its addresses do: the settings, the region file, or the members it asks.

use std::net::{Ipv4Addr, SocketAddr};

use crate::cli::settings::region::{self, host_port};
use crate::cli::settings::resolve::{SettingsError, bounded, check_homes, home, partition_count, required};
use crate::cli::settings::{DEFAULT_LISTEN, Settings};
use crate::node::settings::{Founder, Join, Origin, Plan, Shape};
use crate::region::policies::Tenants;

/// Addresses of members that a node may ask: more than a region has nodes helps nobody.
const MAX_JOIN: usize = 64;

/// Where a node listens, and where others reach it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) listen: SocketAddr,
    pub(super) peer_listen: Option<SocketAddr>,
    pub(super) advertise: Option<String>,
    pub(super) peer_advertise: Option<String>,
}

/// The region file, if there is one.
pub(super) fn plan(settings: &Settings) -> Result<Option<Plan>, SettingsError> {
    Ok(settings.region_file.as_deref().map(region::read).transpose()?)
}

/// Where the cluster comes from. `settings` are those that somebody wrote, without defaults.
pub(super) fn origin(settings: &Settings, plan: Option<Plan>) -> Result<Origin, SettingsError> {
    if let Some(plan) = &plan {
        agrees(settings, plan)?;
    }
    match (&settings.join, plan) {
        (Some(addresses), plan) => {
            // The default is most likely another node's.
            required("node_id", settings.node_id)?;
            Ok(Origin::Join(joining(settings, addresses, plan)?))
        }
        (None, None) => Ok(Origin::Alone(shape(settings)?)),
        (None, Some(plan)) => {
            let node_id = required("node_id", settings.node_id)?;
            if !plan.founders.iter().any(|founder| founder.node_id == node_id) {
                let known = plan.founders.iter().map(|founder| founder.node_id).collect();
                return Err(SettingsError::NoFounder { node_id, known });
            }
            Ok(Origin::Region(plan))
        }
    }
}

/// Which tenants may have keys, if it is said.
fn tenants(settings: &Settings) -> Result<Option<Tenants>, SettingsError> {
    let parse =
        |text: &String| text.parse().map_err(|why| SettingsError::Value { name: "tenants", got: text.clone(), why });
    settings.tenants.as_ref().map(parse).transpose()
}

/// What the settings alone make a cluster with.
fn shape(settings: &Settings) -> Result<Shape, SettingsError> {
    let defaults = Settings::defaults();
    let region = required("region", settings.region.clone())?;
    let homes = settings.homes.clone().unwrap_or_else(|| vec![region.clone()]);
    let partitions = bounded("partitions", settings.partitions.or(defaults.partitions).map(u64::from))?;
    Ok(Shape {
        homes: check_homes(&region, &homes)?,
        region: home("region", &region)?,
        partitions: partition_count(partitions)?,
        tenants: tenants(settings)?.unwrap_or_default(),
    })
}

fn joining(settings: &Settings, addresses: &[String], plan: Option<Plan>) -> Result<Join, SettingsError> {
    if addresses.is_empty() || addresses.len() > MAX_JOIN {
        return Err(SettingsError::JoinCount { got: addresses.len(), most: MAX_JOIN });
    }
    for address in addresses {
        host_port(address).map_err(|why| SettingsError::Value {
            name: "join",
            got: address.clone(),
            why: why.to_owned(),
        })?;
    }
    let addresses = addresses.to_vec();
    Ok(match plan {
        Some(Plan { cluster_id, shape, founders: _ }) => Join {
            addresses,
            cluster_id: Some(cluster_id),
            region: Some(shape.region.as_str().to_owned()),
            partitions: Some(u32::from(shape.partitions.get().get())),
            homes: Some(shape.homes.iter().map(|home| home.as_str().to_owned()).collect()),
            tenants: Some(shape.tenants),
        },
        None => Join {
            addresses,
            cluster_id: None,
            region: settings.region.clone(),
            partitions: settings.partitions.map(u32::from),
            homes: settings.homes.clone(),
            tenants: tenants(settings)?,
        },
    })
}

/// What is set and stands in the region file too has to be the same.
fn agrees(settings: &Settings, plan: &Plan) -> Result<(), SettingsError> {
    let homes: Vec<String> = plan.shape.homes.iter().map(|home| home.as_str().to_owned()).collect();
    let region = plan.shape.region.as_str();
    let partitions = plan.shape.partitions.get().get();
    let pairs = [
        ("region", settings.region.clone(), region.to_owned()),
        ("partitions", settings.partitions.map(|count| count.to_string()), partitions.to_string()),
        ("homes", settings.homes.as_ref().map(|names| names.join(",")), homes.join(",")),
        ("tenants", tenants(settings)?.map(|which| which.to_string()), plan.shape.tenants.to_string()),
    ];
    for (name, said, planned) in pairs {
        if let Some(said) = said.filter(|said| *said != planned) {
            return Err(SettingsError::AgainstRegionFile { name, said, planned });
        }
    }
    Ok(())
}

/// Where the node listens and is reached: what is set, else what the region file says of it, else the default.
pub(super) fn addresses(settings: &Settings, plan: Option<&Plan>) -> Result<Addresses, SettingsError> {
    let node_id = settings.node_id.unwrap_or_default();
    let entry = plan.and_then(|plan| plan.founders.iter().find(|founder| founder.node_id == node_id));
    let planned = |of: fn(&Founder) -> &String| entry.map(|entry| listens(of(entry)));
    let said = |name: &'static str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => match host_port(text) {
            Ok(()) => Ok(Some(text.clone())),
            Err(why) => Err(SettingsError::Value { name, got: text.clone(), why: why.to_owned() }),
        },
    };
    let addresses = Addresses {
        listen: settings.listen.or(planned(|entry| &entry.api)).unwrap_or(DEFAULT_LISTEN),
        peer_listen: settings.peer_listen.or(planned(|entry| &entry.peer)),
        advertise: said("advertise", &settings.advertise)?.or(entry.map(|entry| entry.api.clone())),
        peer_advertise: said("peer_advertise", &settings.peer_advertise)?.or(entry.map(|entry| entry.peer.clone())),
    };
    let Some(peer_listen) = addresses.peer_listen else {
        return match settings.join {
            Some(_) => Err(SettingsError::Missing { name: "peer_listen" }),
            None => Ok(addresses),
        };
    };
    // Others are told where this node is: "everywhere" is nowhere to them.
    for (name, listen, reached, setting) in [
        ("listen", addresses.listen, &addresses.advertise, "advertise"),
        ("peer_listen", peer_listen, &addresses.peer_advertise, "peer_advertise"),
    ] {
        if listen.ip().is_unspecified() && reached.is_none() {
            return Err(SettingsError::Nowhere { name, listen, setting });
        }
    }
    Ok(addresses)
}

/// Where to listen for what others reach at `text`: a name may be any of the machine's addresses.
fn listens(text: &str) -> SocketAddr {
    let port = text.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default();
    text.parse().unwrap_or_else(|_| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FILE: &str = "\
cluster_id = \"c\"
region = \"eu\"
partitions = 4
[[node]]
id = 1
peer = \"10.0.0.1:7401\"
api = \"10.0.0.1:7400\"
[[node]]
id = 2
peer = \"two.example:7401\"
api = \"two.example:7400\"
";

    fn plan() -> Option<Plan> {
        region::parse(Path::new("r.toml"), FILE).ok()
    }

    fn node(node_id: u64) -> Settings {
        Settings { node_id: Some(node_id), ..Settings::default() }
    }

    #[test]
    fn a_node_listens_where_its_region_file_says() -> anyhow::Result<()> {
        let first = addresses(&node(1), plan().as_ref())?;
        assert_eq!(first.listen, "10.0.0.1:7400".parse()?);
        assert_eq!(first.peer_listen, Some("10.0.0.1:7401".parse()?));
        assert_eq!(first.advertise.as_deref(), Some("10.0.0.1:7400"));
        let second = addresses(&node(2), plan().as_ref())?;
        assert_eq!(second.listen, "0.0.0.0:7400".parse()?, "a name is any address of the machine");
        assert_eq!(second.peer_advertise.as_deref(), Some("two.example:7401"));
        let behind = Settings { listen: "127.0.0.1:1".parse().ok(), ..node(1) };
        assert_eq!(addresses(&behind, plan().as_ref())?.advertise.as_deref(), Some("10.0.0.1:7400"));
        let alone = addresses(&Settings::default(), None)?;
        assert_eq!((alone.listen, alone.peer_listen, alone.advertise), (DEFAULT_LISTEN, None, None));
        Ok(())
    }

    #[test]
    fn a_founder_and_a_node_that_joins_have_the_same_cluster() -> anyhow::Result<()> {
        assert!(matches!(origin(&node(1), plan())?, Origin::Region(_)));
        let joining = Settings { join: Some(vec!["10.0.0.1:7401".to_owned()]), ..node(4) };
        let Origin::Join(join) = origin(&joining, plan())? else { anyhow::bail!("it joins") };
        assert_eq!((join.cluster_id.as_deref(), join.partitions), (Some("c"), Some(4)));
        let Origin::Join(join) = origin(&joining, None)? else { anyhow::bail!("it joins") };
        assert_eq!((join.cluster_id, join.region, join.partitions), (None, None, None), "the members say");
        Ok(())
    }

    #[test]
    fn what_contradicts_is_refused_with_both_values() {
        let text = |text: &str| Some(text.to_owned());
        let list = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let cases: [(Settings, Option<Plan>, &[&str]); 10] = [
            (Settings { region: text("us"), ..node(1) }, plan(), &["region = us", "has eu"]),
            (Settings { partitions: Some(16), ..node(1) }, plan(), &["partitions = 16", "has 4"]),
            (Settings { homes: list(&["eu", "us"]), ..node(1) }, plan(), &["homes = eu,us", "has eu"]),
            (node(7), plan(), &["node_id = 7", "1, 2", "--join"]),
            (Settings::default(), plan(), &["node_id is not set"]),
            (Settings { join: list(&["a:1"]), ..Settings::default() }, None, &["node_id is not set"]),
            (Settings { join: list(&[]), ..node(4) }, None, &["join has 0 addresses"]),
            (Settings { join: list(&["a"]), ..node(4) }, None, &["join = \"a\"", "HOST:PORT"]),
            (Settings { join: list(&["a:1"]), ..node(4) }, None, &["peer_listen is not set"]),
            (
                Settings { peer_listen: "0.0.0.0:1".parse().ok(), region: text("eu"), ..node(1) },
                None,
                &["peer_listen = 0.0.0.0:1", "peer_advertise"],
            ),
        ];
        for (settings, plan, expected) in cases {
            let described = format!("{settings:?}");
            let refused = origin(&settings, plan.clone())
                .map(|_| ())
                .and_then(|()| addresses(&settings, plan.as_ref()).map(|_| ()));
            let message = refused.err().map_or_else(|| "accepted".to_owned(), |error| error.to_string());
            for part in expected {
                assert!(message.contains(part), "{described}\nanswers: {message}\nwithout: {part}");
            }
        }
        let advertised = Settings { advertise: text("0.0.0.0:1"), ..node(1) };
        assert!(
            addresses(&advertised, None).is_err_and(|error| error.to_string().contains("advertise = \"0.0.0.0:1\""))
        );
    }
}
