//! Points in time as headers spell them: RFC 3339 out, IMF-fixdate (RFC 9110 section 5.6.7) in.

const DAY_MS: u64 = 24 * 3_600_000;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// Milliseconds since the Unix epoch as RFC 3339 in UTC, cut to whole seconds.
pub(super) fn rfc3339(unix_ms: u64) -> String {
    let (year, month, day) = civil(unix_ms / DAY_MS);
    let seconds = unix_ms % DAY_MS / 1_000;
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// An IMF-fixdate, such as `Sun, 06 Nov 1994 08:49:37 GMT`, in milliseconds since the Unix epoch. Nothing else is one, and
/// neither is a date before that epoch.
pub(super) fn imf_fixdate(text: &str) -> Option<u64> {
    let (weekday, rest) = text.split_once(", ")?;
    let parts: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = parts.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| name == month)?;
    let month = u64::try_from(month).ok()?.checked_add(1)?;
    let clock: Vec<&str> = time.split(':').collect();
    let [hour, minute, second] = clock.as_slice() else { return None };
    let (hour, minute, second) = (digits(hour, 2)?, digits(minute, 2)?, digits(second, 2)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days(digits(year, 4)?, month, digits(day, 2)?)?;
    let named = WEEKDAYS.get(usize::try_from(days % 7).ok()?)?;
    (weekday == *named).then_some(days * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1_000)
}

fn digits(text: &str, count: usize) -> Option<u64> {
    let plain = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Year, month and day of a day, counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years that begin in March, so that a leap day is the last of its year; 400 of them are an era of 146,097 days.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carried) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + carried, month, day)
}

/// The day of a date that exists, counted from 1970-01-01.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let (shifted, year_of_march) = if month > 2 { (month - 3, year) } else { (month + 9, year.checked_sub(1)?) };
    let (era, of_era) = (year_of_march / 400, year_of_march % 400);
    let of_year = (153 * shifted + 2) / 5 + day.checked_sub(1)?;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    let days = days.checked_sub(719_468)?;
    (civil(days) == (year, month, day)).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (unix_ms, written) in [
            (0, "1970-01-01T00:00:00Z"),
            (784_111_777_999, "1994-11-06T08:49:37Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00Z"),
            (4_102_444_799_000, "2099-12-31T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(unix_ms), written);
        }
        assert_eq!(imf_fixdate("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
        assert_eq!(imf_fixdate("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in 0..146_097 {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), Some(day), "{year}-{month}-{date}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "Sun, 06 Nov 1994 08:49:37",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Thu, 30 Feb 2023 00:00:00 GMT",
            "Wed, 31 Dec 1969 23:59:59 GMT",
            "Thu, 00 Jan 1970 00:00:00 GMT",
            "1994-11-06T08:49:37Z",
        ] {
            assert_eq!(imf_fixdate(text), None, "{text}");
        }
    }
}
