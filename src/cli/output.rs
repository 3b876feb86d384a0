//! Writing to stdout, and how values look there. A reader that went away (`| head`) is no failure.

use std::fmt::Write as _;
use std::io::{self, Write as _};

pub(crate) use crate::amounts::{bytes, count};

/// How a command's result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON document with stable names.
    Json,
}

/// Writes text to stdout, as it is.
///
/// # Errors
/// When stdout fails, other than by a reader that went away.
pub(crate) fn emit(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes a JSON document to stdout, indented, with a line end.
///
/// # Errors
/// As [`emit`].
pub(crate) fn emit_json(document: &serde_json::Value) -> io::Result<()> {
    emit(&format!("{document:#}\n"))
}

/// A JSON document with what another one has beside it.
#[must_use]
pub(crate) fn joined(mut document: serde_json::Value, more: serde_json::Value) -> serde_json::Value {
    if let (Some(fields), serde_json::Value::Object(more)) = (document.as_object_mut(), more) {
        fields.extend(more);
    }
    document
}

/// Writes a line to stderr. There is nobody to tell if that fails.
pub(crate) fn complain(line: &str) {
    let _unheard = writeln!(io::stderr().lock(), "{line}");
}

/// Lines up columns: the first to the left, the others to the right, two spaces between.
#[must_use]
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let widths = widths(rows);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (width, cell)) in widths.iter().zip(row).enumerate() {
            let _infallible = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Lines up columns of texts: all to the left, two spaces between.
#[must_use]
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let widths = widths(rows);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = widths.iter().zip(row).map(|(width, cell)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// How many characters the longest cell of each column has.
fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC, such as `2025-11-24T04:05:06.789Z`.
#[must_use]
pub(crate) fn time(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

/// Year, month and day of a number of days since 1970-01-01, by Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>), for days after the epoch.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to a day after it, by Howard Hinnant's `days_from_civil` (as above). Months count from 1, and a day
/// that the month does not have is one of the next month.
#[must_use]
pub(crate) const fn days(year: u64, month: u64, day: u64) -> u64 {
    let shifted_year = if month <= 2 { year.saturating_sub(1) } else { year };
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = ((153 * shifted_month + 2) / 5 + day).saturating_sub(1);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

/// Bytes that should be text: as UTF-8 if they are, else each byte as the character of its number, so that none is lost.
#[must_use]
pub(crate) fn header_text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().map(|byte| char::from(*byte)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_look_as_documented() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_735_689_599_999), "2024-12-31T23:59:59.999Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(header_text(&[b'a', 0xe9]), "a\u{e9}");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["name".to_owned(), "n".to_owned()], vec!["a".to_owned(), "100".to_owned()]];
        assert_eq!(table(&rows), "name    n\na     100\n");
        assert_eq!(columns(&rows), "name  n\na     100\n");
    }
}
