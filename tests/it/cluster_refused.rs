//! Who is not let into a region: what must be equal on all nodes is compared when they meet, and both values are said.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};

use crate::cluster::{self, Cluster, Founding, region_file};

/// Starts a node that is to join, over another region file, and returns what it said when it refused to go on.
async fn refused(cluster: &mut Cluster, node: u64, cluster_id: &str, partitions: u16) -> anyhow::Result<String> {
    let mut spots = BTreeMap::new();
    for founder in 1..=3 {
        spots.insert(founder, cluster.spot(founder)?);
    }
    let file = cluster.data_dir(node).with_extension("toml");
    std::fs::write(&file, region_file(cluster_id, partitions, &spots)?)?;
    cluster.add_over(node, &file)?;
    let refused = match cluster.how(node)?.try_run().await? {
        Ok(_) => bail!("a node of {cluster_id:?} with {partitions} partitions was let in"),
        Err(refused) => refused,
    };
    ensure!(refused.status.is_some_and(|status| !status.success()), "{:?}: {}", refused.status, refused.output);
    for member in cluster.members(1).await? {
        ensure!(member.node_id != node, "it is a member all the same: {member:?}");
    }
    cluster.forget(node)?;
    Ok(refused.output)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_fit_is_refused_with_both_values() -> anyhow::Result<()> {
    cluster::with(Founding::default(), async |cluster| {
        let output = refused(cluster, 8, "another", cluster::PARTITIONS).await?;
        for word in ["another", cluster::CLUSTER_ID] {
            ensure!(output.contains(word), "it does not say {word:?}: {output}");
        }
        let output = refused(cluster, 9, cluster::CLUSTER_ID, 8).await?;
        for word in ["partitions", "8", "4"] {
            ensure!(output.contains(word), "it does not say {word:?}: {output}");
        }
        Ok(())
    })
    .await
}
