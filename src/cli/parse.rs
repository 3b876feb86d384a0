//! What people type for durations, rates, fencing tokens and headers, with errors that say what to type instead.

use std::time::Duration;

use holdfast_client::proto::v1;

use crate::cli::output;
use crate::clock;
use crate::time::Span;

/// The longest duration that may be typed: a week is longer than any run makes sense for.
const MAX_DURATION: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The largest rate that may be typed, per second: beyond it one client machine measures itself.
const MAX_RATE: f64 = 10_000_000.0;

/// A duration such as `500ms`, `10s`, `2m`, `1h` or `3d`. The unit is required.
///
/// # Errors
/// When it is something else, or over a week.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration = Duration::from_millis(text.parse::<Span>()?.ms());
    if duration > MAX_DURATION {
        return Err(format!("{text} is over a week (7d)"));
    }
    Ok(duration)
}

/// Events per second, such as `5000`, `5000/s` or `0.5/s`.
///
/// # Errors
/// When it is no positive number, or over ten million.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text
        .strip_suffix("/s")
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("{text:?} is no rate: write cycles per second, such as 5000 or 0.5/s"))?;
    if number.is_finite() && number > 0.0 && number <= MAX_RATE {
        return Ok(number);
    }
    Err(format!("a rate of {text} is out of bounds: write more than 0 and at most {MAX_RATE} per second"))
}

/// A share from 0 to 1.
///
/// # Errors
/// When it is something else.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        Ok(_) | Err(_) => Err(format!("{text:?} is no share: write a number from 0 to 1, such as 0.2")),
    }
}

/// A size in bytes: a whole number, with a unit or without, such as `10GiB` or `65536`.
///
/// # Errors
/// When it is something else, or more than fits.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 5] = [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let each = UNITS.into_iter().find(|(name, _)| *name == unit).map(|(_, each)| each);
    let (Ok(number), Some(each)) = (number.parse::<u64>(), each) else {
        return Err(format!(
            "{text:?} is no size: write a whole number with KiB, MiB, GiB, TiB or nothing, such as 10GiB"
        ));
    };
    number.checked_mul(each).ok_or_else(|| format!("{text} is more than there is"))
}

/// A point in time, in milliseconds since the Unix epoch: so long ago, such as `2h`, or a time in UTC, such as `2026-11-24` or
/// `2026-11-24T08:00:00Z`.
///
/// # Errors
/// When it is something else.
pub(crate) fn since(text: &str) -> Result<u64, String> {
    match text.parse::<Span>() {
        Ok(ago) => Ok(clock::wall_unix_ms().saturating_sub(ago.ms())),
        Err(_) => time(text).ok_or_else(|| {
            format!(
                "{text:?} is neither a duration nor a time: write such as 2h, 7d, 2026-11-24 or 2026-11-24T08:00:00Z, in UTC"
            )
        }),
    }
}

/// A day, or a day and a time with a `Z`; from 1970 on.
fn time(text: &str) -> Option<u64> {
    let (day, of_day) =
        text.split_once('T').map_or((text, Some("00:00:00")), |(day, of_day)| (day, of_day.strip_suffix('Z')));
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let numbers = |text: &str, by: char| text.split(by).map(number).collect::<Option<Vec<u64>>>();
    let (days, parts) = (numbers(day, '-')?, numbers(of_day?, ':')?);
    let ([year @ 1970..=9999, month @ 1..=12, day_of_month], [hour @ 0..24, minute @ 0..60, second @ 0..60]) =
        (days.as_slice(), parts.as_slice())
    else {
        return None;
    };
    let seconds = (output::days(*year, *month, *day_of_month) * 24 + hour) * 3_600 + minute * 60 + second;
    let unix_ms = seconds * 1_000;
    // A day that its month does not have comes out as another one.
    output::time(unix_ms).starts_with(&format!("{year:04}-{month:02}-{day_of_month:02}T")).then_some(unix_ms)
}

/// A fencing token as `<epoch>.<sequence>`, such as `1.42`.
///
/// # Errors
/// When it is something else.
pub(crate) fn fencing(text: &str) -> Result<v1::FencingToken, String> {
    let parsed = text.split_once('.').and_then(|(epoch, sequence)| Some((epoch.parse().ok()?, sequence.parse().ok()?)));
    let Some((epoch, sequence)) = parsed else {
        return Err(format!("{text:?} is no fencing token: write <epoch>.<sequence>, such as 1.42"));
    };
    Ok(v1::FencingToken { epoch, sequence })
}

/// A header as `name:value`; blanks around the value are no part of it.
///
/// # Errors
/// When there is no colon, or no name before it.
pub(crate) fn header(text: &str) -> Result<v1::Header, String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => {
            Ok(v1::Header { name: name.to_owned(), value: value.trim_matches([' ', '\t']).as_bytes().to_vec().into() })
        }
        Some(_) | None => {
            Err(format!("{text:?} is no header: write name:value, such as content-type:application/json"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let good =
            [("0s", 0), ("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("168h", 604_800_000), ("3d", 259_200_000)];
        for (text, ms) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        let bad = [
            ("10", "10s or 10ms"),
            ("", "no unit of time"),
            ("s", "no whole number"),
            ("1.5s", "no unit of time"),
            ("-1s", "no unit of time"),
            ("10 s", "no unit of time"),
            ("3w", "no unit of time"),
            ("8d", "over a week"),
            ("169h", "over a week"),
            ("99999999999999999999h", "no whole number"),
            ("18446744073709551615h", "over a week"),
        ];
        for (text, expected) in bad {
            let message = duration(text).err().unwrap_or_default();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn rates_and_shares() {
        assert_eq!(rate("5000"), Ok(5_000.0));
        assert_eq!(rate("0.5/s"), Ok(0.5));
        for bad in ["0", "-1", "inf", "NaN", "1e9", "", "/s", "5/m"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert_eq!(share("0"), Ok(0.0));
        assert_eq!(share("1"), Ok(1.0));
        for bad in ["1.01", "-0.1", "NaN", "x"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        let good =
            [("0", 0), ("65536", 65_536), ("1KiB", 1_024), ("3MiB", 3 << 20), ("10GiB", 10 << 30), ("2TiB", 2 << 40)];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "GiB", "1GB", "1gib", "1.5GiB", "-1", "1 GiB", "+1", "16777216TiB", "99999999999999999999"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn points_in_time() {
        let good = [
            ("1970-01-01", "1970-01-01T00:00:00.000Z"),
            ("2024-02-29", "2024-02-29T00:00:00.000Z"),
            ("2026-11-24T08:09:10Z", "2026-11-24T08:09:10.000Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000Z"),
        ];
        for (text, expected) in good {
            assert_eq!(since(text).map(output::time).as_deref(), Ok(expected), "{text}");
        }
        let bad = [
            "",
            "2026",
            "2026-11",
            "2026-13-01",
            "2026-00-01",
            "2026-02-29",
            "2026-04-31",
            "2026-11-00",
            "1969-12-31",
            "2026-11-24T08:00:00",
            "2026-11-24T08:00:00+01:00",
            "2026-11-24T24:00:00Z",
            "2026-11-24T08:00Z",
            "2026-11-24T",
            "2026-11-+4",
            "yesterday",
            "2",
            "2w",
            "2026-11-99999999999999999999",
        ];
        for text in bad {
            assert!(since(text).is_err(), "{text}: {:?}", since(text));
        }
        let (before, hour_ago) = (clock::wall_unix_ms(), since("1h").unwrap_or_default());
        assert!((before - 3_600_000..=clock::wall_unix_ms() - 3_600_000).contains(&hour_ago));
        assert_eq!(since("99999999d"), Ok(0));
    }

    #[test]
    fn tokens_and_headers() {
        assert_eq!(fencing("1.42"), Ok(v1::FencingToken { epoch: 1, sequence: 42 }));
        for bad in ["1", "1.", ".1", "a.1", "1.2.3", "-1.2"] {
            assert!(fencing(bad).is_err(), "{bad}");
        }
        let parsed = header("x-at: 10:30 ");
        assert_eq!(parsed, Ok(v1::Header { name: "x-at".to_owned(), value: (&b"10:30"[..]).into() }));
        assert!(header("x-at").is_err() && header(":x").is_err());
    }
}
