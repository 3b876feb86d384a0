//! Counts and sizes as people read them.

/// A count of bytes for people: exact below 10 KiB, else with one decimal.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(size, _)| count >= 10 * 1_024 && count >= *size) {
        None => format!("{count} B"),
        Some((size, unit)) => {
            // Tenths in integers: the largest count times ten still fits 128 bits.
            let tenths = u128::from(count) * 10 / u128::from(size);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
    }
}

/// A count with its thousands apart, such as `12,345`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_look_as_documented() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 10_239, 10_240, 1 << 30].map(bytes), ["0 B", "10239 B", "10.0 KiB", "1.0 GiB"]);
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
    }
}
