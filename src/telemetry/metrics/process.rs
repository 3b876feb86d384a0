//! What the kernel says of this process, read when it is asked for. A figure that cannot be read is left out.

use std::fs;

use super::page::Page;
use super::table;

/// Ticks a second in /proc: part of the kernel's interface on every architecture that the node runs on (proc(5)).
const TICKS: f64 = 100.0;

/// Writes the process's metrics.
pub(super) fn write(page: &mut Page) {
    let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
    let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| boot_time(&text));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(stat) = &stat {
        page.single(&table::PROCESS_CPU, stat.processor_ticks / TICKS);
    }
    if let (Some(stat), Some(boot)) = (&stat, boot) {
        page.single(&table::PROCESS_START, boot + stat.started_ticks / TICKS);
    }
    for (metric, name) in [(&table::PROCESS_RSS, "VmRSS:"), (&table::PROCESS_VIRTUAL, "VmSize:")] {
        if let Some(kibibytes) = field(&status, name) {
            page.single(metric, kibibytes.saturating_mul(1_024));
        }
    }
    if let Some(threads) = field(&status, "Threads:") {
        page.single(&table::PROCESS_THREADS, threads);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        page.single(&table::PROCESS_OPEN_FDS, open.count());
    }
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    page.single(&table::PROCESS_MAX_FDS, files.current.unwrap_or(u64::MAX));
}

/// The number after a name in /proc/self/status.
fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// When the machine started, in seconds since the Unix epoch.
fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[derive(Debug, PartialEq)]
struct Stat {
    processor_ticks: f64,
    started_ticks: f64,
}

impl Stat {
    /// The command's name stands in parentheses and may have any character, a parenthesis too.
    fn parse(text: &str) -> Option<Self> {
        let (_, after_name) = text.rsplit_once(')')?;
        // The fields from the third on (proc(5)): user and system time are the 14th and 15th, the start is the 22nd.
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Self { processor_ticks: number(11)? + number(12)?, started_ticks: number(19)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_the_name() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 5 0 900 12345 678 0";
        assert_eq!(Stat::parse(text), Some(Stat { processor_ticks: 300.0, started_ticks: 900.0 }));
        assert_eq!(Stat::parse("nonsense"), None);
    }

    #[test]
    fn this_process_has_every_figure() {
        let mut page = Page::default();
        write(&mut page);
        let text = page.finish();
        for metric in table::all().filter(|metric| metric.name.starts_with("process_")) {
            let sample = text.lines().find_map(|line| line.strip_prefix(metric.name));
            let value = sample.and_then(|rest| rest.trim().parse::<f64>().ok());
            assert!(value.is_some_and(|value| value >= 0.0), "{}:\n{text}", metric.name);
        }
    }
}
