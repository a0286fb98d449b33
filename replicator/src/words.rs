//! Quantities and bytes in the words that people read them in.

use std::time::Duration;

/// Bytes: `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if count >> shift > 0 {
            return format!("{:.1} {unit}", count as f64 / (1u64 << shift) as f64);
        }
    }
    format!("{count} bytes")
}

/// A time as roughly as it is known when it comes of a rate: `3 hours`.
pub fn about(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// Bytes in hexadecimal: `c0ffee`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`hex`] made these of. `None`: it made no such text.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_told_in_the_unit_that_fits() {
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        let of = |seconds| about(Duration::from_secs(seconds));
        assert_eq!(of(1), "1 second");
        assert_eq!(of(119), "119 seconds");
        assert_eq!(of(120), "2 minutes");
        assert_eq!(of(3 * 3600 + 5), "3 hours");
        assert_eq!(of(200 * 86_400), "200 days");
    }
}
