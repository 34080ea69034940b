//! Sizes on the command line.

/// `2GB`, `500 MB`, `64MiB` or plain bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => return Err(format!("`{text}` is not a size such as 2GB, 500MB or 64MiB")),
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|size| *size > 0);
    size.ok_or_else(|| format!("`{text}` is not a size such as 2GB, 500MB or 64MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_with_a_unit() {
        let cases = [("2GB", 2_000_000_000), ("500 MB", 500_000_000), ("64MiB", 64 << 20), ("7", 7), ("1kb", 1000)];
        for (text, bytes) in cases {
            assert_eq!(size(text), Ok(bytes));
        }
        for wrong in ["", "GB", "-1GB", "1.5GB", "0MB", "2TB", "99999999999999999999", "99999999999GB"] {
            size(wrong).unwrap_err();
        }
    }
}
