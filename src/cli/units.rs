//! Values with units as options carry them: sizes, durations, permission bits. Pure.

use crate::base::mount_config::MetadataTtl;
use crate::rt;
use crate::s3::LONGEST_LINK;
use std::time::{Duration, SystemTime};

/// `268435456`, `256M`, `256MiB`, `1GiB`, `512k`: units are powers of 1,024 whatever their spelling.
///
/// # Errors
/// The text that says what is wrong.
pub fn parse_size_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let wrong =
        || format!("size {text:?}: expected a whole number with an optional unit, such as 256M or 1GiB");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("size {text:?} is too large"))
}

/// `10`, `10s`, `500ms`, `2m`, `1h 30m`: a bare number is seconds.
///
/// # Errors
/// The text that says what is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let wrong = |_| format!("duration {text:?}: expected a number with a unit, such as 500ms, 10s, 2m or 1h");
    humantime::parse_duration(text).map_err(wrong)
}

/// A duration, or `forever`.
///
/// # Errors
/// The text that says what is wrong.
pub fn parse_ttl(text: &str) -> Result<MetadataTtl, String> {
    match text.trim() {
        "forever" => Ok(MetadataTtl::Forever),
        other => parse_duration(other)
            .map(MetadataTtl::For)
            .map_err(|message| format!("{message}, or \"forever\"")),
    }
}

/// A number of things that happen at once.
///
/// # Errors
/// The text that says what is wrong.
pub fn parse_count(text: &str) -> Result<u16, String> {
    let count = text
        .trim()
        .parse()
        .ok()
        .filter(|count| (1..=1024).contains(count));
    count.ok_or_else(|| format!("{text:?}: a number from 1 to 1024 is wanted"))
}

/// A time that has passed, as RFC 3339 has it, in UTC: `2026-11-01T12:00:00Z`, `2026-11-01 12:00:00`.
///
/// # Errors
/// The text that says what is wrong.
pub fn parse_past(text: &str) -> Result<SystemTime, String> {
    let time = humantime::parse_rfc3339_weak(text.trim()).map_err(|error| {
        format!("{text:?}: {error}; expected a time in UTC, such as 2026-11-01T12:00:00Z")
    })?;
    if time > rt::wall_clock() {
        return Err(format!("{text:?} has not come yet"));
    }
    Ok(time)
}

/// Permission bits in octal: `644`, `0644`, `0o2755`.
///
/// # Errors
/// The text that says what is wrong.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.trim().trim_start_matches("0o");
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o7777 && !digits.starts_with('+') => Ok(mode),
        _ => Err(format!(
            "mode {text:?}: expected permission bits in octal, such as 0644"
        )),
    }
}

/// As people read it: `256.0 MiB`.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// The lifetime of a link, in whole seconds as signatures have it.
pub fn parse_link_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = parse_duration(text)?;
    if lifetime > LONGEST_LINK {
        return Err("a signed link lives 7 days (168h) at most".into());
    }
    if lifetime < Duration::from_secs(1) {
        return Err("a signed link lives one second at least".into());
    }
    Ok(lifetime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_past_time_is_in_utc_and_has_come() {
        let time = parse_past("2026-01-02T03:04:05Z").expect("a time");
        assert_eq!(parse_past("2026-01-02 03:04:05"), Ok(time));
        assert_eq!(
            humantime::format_rfc3339_seconds(time).to_string(),
            "2026-01-02T03:04:05Z"
        );
        assert!(
            parse_past("2999-01-01T00:00:00Z")
                .expect_err("later")
                .contains("not come yet")
        );
        assert!(
            parse_past("yesterday")
                .expect_err("no time")
                .contains("2026-11-01T12:00:00Z")
        );
    }
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("12345", 12_345),
            ("256M", 256 << 20),
            ("256MiB", 256 << 20),
            ("256 mb", 256 << 20),
            ("1GiB", 1 << 30),
            (" 4k ", 4 << 10),
            ("2T", 2 << 40),
        ] {
            assert_eq!(parse_size_bytes(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "1.5G",
            "-1",
            "1X",
            "1 M B",
            "99999999999T",
            "18446744073709551616",
        ] {
            let message = parse_size_bytes(text).expect_err(text);
            assert!(message.contains(text.trim()), "{message}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse_ttl("forever"), Ok(MetadataTtl::Forever));
        assert_eq!(parse_ttl("10s"), Ok(MetadataTtl::For(Duration::from_secs(10))));
        for text in ["", "soon", "-1s", "10 parsecs"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_ttl("never").expect_err("no such word").contains("forever"));
    }

    #[test]
    fn modes() {
        assert_eq!(parse_mode("644"), Ok(0o644));
        assert_eq!(parse_mode("0755"), Ok(0o755));
        assert_eq!(parse_mode("0o2775"), Ok(0o2775));
        for text in ["", "888", "rwx", "17777", "-1", "+7"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in "\\PC{0,20}") {
            let _ = (parse_size_bytes(&text), parse_duration(&text), parse_mode(&text), parse_ttl(&text));
        }

        #[test]
        fn a_size_in_plain_bytes_is_itself(bytes: u64) {
            prop_assert_eq!(parse_size_bytes(&bytes.to_string()), Ok(bytes));
        }
    }

    #[test]
    fn links_live_between_a_second_and_a_week() {
        assert_eq!(parse_link_lifetime("5m"), Ok(Duration::from_mins(5)));
        assert_eq!(parse_link_lifetime("7d"), Ok(LONGEST_LINK));
        assert!(
            parse_link_lifetime("8d")
                .expect_err("too long")
                .contains("7 days")
        );
        assert!(
            parse_link_lifetime("10ms")
                .expect_err("too short")
                .contains("one second")
        );
        assert!(parse_link_lifetime("soon").is_err());
    }
}
