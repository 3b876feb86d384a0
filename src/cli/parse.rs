//! What people type for durations, rates, fencing tokens and headers, with errors that say what to type instead.

use std::time::Duration;

use holdfast_client::proto::v1;

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
