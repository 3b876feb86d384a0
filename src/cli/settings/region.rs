//! The region file: what the nodes that make a region have in common. TOML, the same on all of them.
//!
//! What is wrong in it is told with its line. Deliberately absent: whether this node is one of them (`origin`).

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::cli::settings::file::{self, FileError, MAX_FILE_BYTES, line_of};
use crate::cli::settings::resolve::check_homes;
use crate::ids::{PartitionCount, RegionName};
use crate::limits;
use crate::node::settings::{Founder, Plan, Shape};
use crate::region::policies::Tenants;

/// Characters of a cluster's name: a generated one has 36.
const MAX_CLUSTER_ID: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    cluster_id: Spanned<String>,
    region: Spanned<String>,
    partitions: Spanned<u16>,
    homes: Option<Spanned<Vec<String>>>,
    tenants: Option<Spanned<String>>,
    node: Spanned<Vec<WrittenNode>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNode {
    id: Spanned<u64>,
    peer: Spanned<String>,
    api: Spanned<String>,
}

/// What is wrong, and where.
type Wrong = (Range<usize>, String);

/// Reads a region file.
///
/// # Errors
/// When it cannot be read, or something in it is wrong.
pub(crate) fn read(path: &Path) -> Result<Plan, FileError> {
    parse(path, &file::text(path, MAX_FILE_BYTES)?)
}

/// Parses a region file's text; `path` is for the messages.
///
/// # Errors
/// What is wrong in it, with its line.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Plan, FileError> {
    let at =
        |span: Range<usize>, why| FileError::Syntax { path: path.to_owned(), line: line_of(text, span.start), why };
    let written: Written =
        toml::from_str(text).map_err(|error| at(error.span().unwrap_or_default(), error.message().to_owned()))?;
    plan(&written).map_err(|(span, why)| at(span, why))
}

fn plan(written: &Written) -> Result<Plan, Wrong> {
    let name = written.cluster_id.get_ref();
    let fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > MAX_CLUSTER_ID || !name.chars().all(fit) {
        let why = format!("cluster_id = {name:?}: a cluster's name is 1 to {MAX_CLUSTER_ID} of a-z 0-9 and -");
        return Err((written.cluster_id.span(), why));
    }
    let region = written.region.get_ref();
    let (homes, span) = match &written.homes {
        Some(homes) => (homes.get_ref().clone(), homes.span()),
        None => (vec![region.clone()], written.region.span()),
    };
    let homes = check_homes(region, &homes).map_err(|error| (span, error.to_string()))?;
    let region = RegionName::parse(region).map_err(|error| (written.region.span(), error.to_string()))?;
    let count = *written.partitions.get_ref();
    let (least, most) = (limits::PARTITIONS.start(), limits::PARTITIONS.end());
    let out = || (written.partitions.span(), format!("partitions = {count}: at least {least} and at most {most}"));
    let partitions = PartitionCount::new(count).ok_or_else(out)?;
    let founders = founders(&written.node)?;
    let tenants = match &written.tenants {
        None => Tenants::default(),
        Some(text) => text.get_ref().parse().map_err(|why| (text.span(), format!("tenants: {why}")))?,
    };
    Ok(Plan { cluster_id: name.clone(), shape: Shape { region, partitions, homes, tenants }, founders })
}

fn founders(nodes: &Spanned<Vec<WrittenNode>>) -> Result<Vec<Founder>, Wrong> {
    let (got, most) = (nodes.get_ref().len(), limits::MAX_FOUNDERS);
    if got == 0 || got > most {
        return Err((nodes.span(), format!("{got} nodes: name 1 to {most}, each as [[node]] with id, peer and api")));
    }
    let mut founders: Vec<Founder> = Vec::new();
    for node in nodes.get_ref() {
        let node_id = *node.id.get_ref();
        if node_id == 0 {
            return Err((node.id.span(), "id = 0: a node's number is 1 or more".to_owned()));
        }
        for address in [&node.peer, &node.api] {
            host_port(address.get_ref()).map_err(|why| (address.span(), format!("{:?}: {why}", address.get_ref())))?;
            let taken = |founder: &Founder| [&founder.peer, &founder.api].contains(&address.get_ref());
            if founders.iter().any(taken) || node.peer.get_ref() == node.api.get_ref() {
                return Err((address.span(), format!("{:?} is listed twice: each needs its own", address.get_ref())));
            }
        }
        if founders.iter().any(|founder| founder.node_id == node_id) {
            return Err((node.id.span(), format!("id = {node_id} is listed twice: each node has its own")));
        }
        founders.push(Founder { node_id, peer: node.peer.get_ref().clone(), api: node.api.get_ref().clone() });
    }
    Ok(founders)
}

/// Checks an address that others connect to: a host, or an address that is one machine's, and a port.
///
/// # Errors
/// What to write instead.
pub(crate) fn host_port(text: &str) -> Result<(), &'static str> {
    let wrong = "write HOST:PORT, with a name or an address that other machines can connect to";
    let authority: http::uri::Authority = text.parse().map_err(|_| wrong)?;
    let wildcard = text.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
    match authority.port_u16() {
        Some(port) if port > 0 && !wildcard && !text.contains('@') && !authority.host().is_empty() => Ok(()),
        Some(_) | None => Err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
cluster_id = \"payments-eu\"
region = \"eu\"
partitions = 16
homes = [\"eu\", \"us\"]

[[node]]
id = 1
peer = \"10.0.0.1:7401\"
api = \"10.0.0.1:7400\"

[[node]]
id = 2
peer = \"two.example:7401\"
api = \"two.example:7400\"
";

    fn refusal(text: &str) -> String {
        parse(Path::new("r.toml"), text).map_or_else(|error| error.to_string(), |plan| format!("{plan:?}"))
    }

    #[test]
    fn a_region_file_says_what_nodes_have_in_common() -> anyhow::Result<()> {
        let plan = parse(Path::new("r.toml"), GOOD)?;
        assert_eq!(plan.cluster_id, "payments-eu");
        assert_eq!(plan.shape.partitions.get().get(), 16);
        assert_eq!(plan.shape.homes.len(), 2);
        let second = plan.founders.last().map(|founder| (founder.node_id, founder.peer.as_str()));
        assert_eq!(second, Some((2, "two.example:7401")));
        let without = parse(Path::new("r.toml"), &GOOD.replace("homes = [\"eu\", \"us\"]\n", ""))?;
        assert_eq!(without.shape.homes, [RegionName::parse("eu")?], "the region alone");
        Ok(())
    }

    #[test]
    fn the_example_region_is_one() -> anyhow::Result<()> {
        let plan = parse(Path::new("region.toml"), include_str!("../../../deploy/region/region.toml"))?;
        assert_eq!(plan.founders.len(), 3);
        Ok(())
    }

    #[test]
    fn what_is_wrong_in_a_region_file_is_named_with_its_line() {
        let cases = [
            ("payments-eu", "Payments", "r.toml:1: cluster_id = \"Payments\": a cluster's name"),
            ("payments-eu", "", "r.toml:1: cluster_id = \"\""),
            ("region = \"eu\"", "region = \"EU\"", "r.toml:4: region = \"EU\" is none of homes"),
            ("partitions = 16", "partitions = 0", "r.toml:3: partitions = 0: at least 1 and at most 1024"),
            ("partitions = 16\n", "", "missing field `partitions`"),
            ("partitions", "partition", "r.toml:3: unknown field `partition`"),
            ("[\"eu\", \"us\"]", "[\"us\"]", "r.toml:4: region = \"eu\" is none of homes"),
            ("[\"eu\", \"us\"]", "[\"eu\", \"eu\"]", "\"eu\" twice"),
            ("id = 2", "id = 1", "r.toml:12: id = 1 is listed twice"),
            ("id = 2", "id = 0", "r.toml:12: id = 0"),
            ("id = 2", "id = \"b\"", "r.toml:12: invalid type: string \"b\", expected u64"),
            ("two.example:7401", "two.example", "r.toml:13: \"two.example\": write HOST:PORT"),
            ("two.example:7400", "0.0.0.0:7400", "r.toml:14: \"0.0.0.0:7400\": write HOST:PORT"),
            ("two.example:7401", "two.example:0", "r.toml:13: "),
            ("two.example:7401", "10.0.0.1:7401", "r.toml:13: \"10.0.0.1:7401\" is listed twice"),
            ("two.example:7400", "two.example:7401", "listed twice"),
            ("api = \"two.example:7400\"", "", "missing field `api`"),
        ];
        for (from, to, expected) in cases {
            let message = refusal(&GOOD.replace(from, to));
            assert!(message.contains(expected), "{from} -> {to}: {message}");
        }
        let nobody = GOOD.split("[[node]]").next().unwrap_or_default();
        assert!(refusal(nobody).contains("missing field `node`"));
        assert!(refusal(&format!("{nobody}node = []\n")).contains("0 nodes: name 1 to"));
    }

    #[test]
    fn addresses_that_others_can_connect_to() {
        for good in ["10.0.0.1:7401", "[2001:db8::1]:7401", "node-1.eu:80"] {
            assert_eq!(host_port(good), Ok(()), "{good}");
        }
        for bad in ["", "a", ":80", "a:0", "a:70000", "0.0.0.0:80", "[::]:80", "u@a:80", "http://a:80", "a:80/x"] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
    }
}
