//! Entries of a fake node: two pages in each of two partitions.

use super::*;
use crate::cli::client::{ANSWER_TIMEOUT, Address};
use crate::cli::fake::{Fake, Fault};
use crate::cli::golden;

/// All entries behind some, and which of those are missing.
fn entries(after: &[(u32, u64)]) -> anyhow::Result<(Vec<v1::AuditEntry>, Vec<String>)> {
    let fake = Fake::start(Fault::None)?;
    let address: Address = fake.address.to_string().parse().map_err(|error: String| anyhow!(error))?;
    let asking = Asking { address, output: Output::Json };
    let after = after.iter().copied().collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let got = runtime.block_on(async {
        let channel = asking.address.connect(ANSWER_TIMEOUT).await?;
        let mut merge = Merge::start(&asking, channel, &after).await?;
        let mut entries = Vec::new();
        while let Some(entry) = merge.next().await? {
            entries.push(entry);
        }
        Ok((entries, merge.missing))
    });
    got.map_err(|problem: Problem| problem.error)
}

fn places(entries: &[v1::AuditEntry]) -> Vec<(u32, u64)> {
    entries.iter().map(|entry| (entry.partition, entry.sequence)).collect()
}

#[test]
fn audit_prints() -> anyhow::Result<()> {
    let (entries, missing) = entries(&[])?;
    assert!(missing.is_empty());
    let lines: String = entries.iter().map(line).collect();
    let json: String = entries.iter().map(json_line).collect();
    golden::check("tests/output/audit.txt", &format!("{lines}\n{json}"))
}

#[test]
fn pages_of_all_partitions_are_merged_by_time() -> anyhow::Result<()> {
    let (all, _) = entries(&[])?;
    assert_eq!(places(&all), [(0, 1), (1, 1), (0, 2), (1, 2)]);
    assert!(all.is_sorted_by_key(|entry| entry.at_unix_ms));
    Ok(())
}

#[test]
fn an_export_goes_on_behind_what_is_there() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("audit.jsonl");
    let (all, _) = entries(&[])?;
    let lines: Vec<String> = all.iter().map(json_line).collect();
    // Wherever it ended, the rest follows, and nothing twice.
    for there in 0..=lines.len() {
        std::fs::write(&file, lines[..there].concat())?;
        let after: Vec<(u32, u64)> = exported::last_sequences(std::slice::from_ref(&file))
            .map_err(|problem| problem.error)?
            .into_iter()
            .collect();
        let (rest, missing) = entries(&after)?;
        assert_eq!(places(&rest), places(&all[there..]), "behind {there}");
        assert!(missing.is_empty(), "{missing:?}");
    }
    Ok(())
}

#[test]
fn what_went_before_it_was_exported_is_said() -> anyhow::Result<()> {
    // The fake node has entries up to 2, and from 100 to 100.
    let (rest, missing) = entries(&[(1, 90)])?;
    assert_eq!(places(&rest), [(0, 1), (0, 2), (1, 100)]);
    assert_eq!(missing, ["partition 1, 91 to 99"]);
    Ok(())
}

#[test]
fn what_was_not_asked_is_left_out() -> anyhow::Result<()> {
    let (all, _) = entries(&[])?;
    let audit = |since, action| Audit { since, action, after: Vec::new() };
    let shown = |audit: &Audit| places(&all.iter().filter(|entry| is_asked(audit, entry)).cloned().collect::<Vec<_>>());
    assert_eq!(shown(&audit(None, None)).len(), 4);
    assert_eq!(shown(&audit(Some(all[2].at_unix_ms), None)), [(0, 2), (1, 2)]);
    assert_eq!(shown(&audit(None, Some("create-tenant"))), []);
    assert_eq!(action("set-policies"), Ok("set-policies"));
    assert!(action("policies").is_err_and(|error| error.contains("set-policies, create-tenant")));
    Ok(())
}

#[test]
fn the_help_says_how_much_is_kept() {
    let help = <Audit as clap::Args>::augment_args(clap::Command::new("audit")).render_long_help().to_string();
    let kept = format!("keeps the last {}", output::count(crate::limits::MAX_AUDIT_ENTRIES));
    assert!(help.replace('\n', " ").contains(&kept), "{help}");
}
