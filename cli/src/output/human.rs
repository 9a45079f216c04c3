//! Quantities and foreign text, as people read them.

use jiff::Timestamp;

/// A duration in at most two units, as kubectl prints ages: `42s`, `5m30s`, `3h12m`, `2d4h`, `40d`.
pub(crate) fn duration(seconds: i64) -> String {
    let s = seconds.max(0);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match s {
        0..120 => format!("{s}s"),
        120..600 => two(s / 60, "m", s % 60, "s"),
        600..10_800 => format!("{}m", s / 60),
        10_800..28_800 => two(s / 3600, "h", s / 60 % 60, "m"),
        28_800..172_800 => format!("{}h", s / 3600),
        172_800..691_200 => two(s / 86_400, "d", s / 3600 % 24, "h"),
        _ => format!("{}d", s / 86_400),
    }
}

/// How long ago `then` was.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    duration(now.as_second() - then.as_second())
}

/// Milliseconds as `850 ms`, `2.40 s` or `3m5s`.
pub(crate) fn milliseconds(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..120_000 => format!("{}.{:02} s", ms / 1000, ms % 1000 / 10),
        _ => duration(i64::try_from(ms / 1000).unwrap_or(i64::MAX)),
    }
}

/// Bytes in binary units, one decimal: `512 B`, `1.5 KiB`, `30.0 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, in integers wide enough for any u64.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// Foreign text on one line: control characters, which could drive the terminal, are shown as escapes.
pub(crate) fn one_line(text: &str) -> String {
    escape(text, |_| false)
}

/// Foreign text that may have several lines.
pub(crate) fn lines(text: &str) -> String {
    escape(text, |c| c == '\n')
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if keep(c) => out.push(c),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_lose_small_units_as_they_grow() {
        let cases = [
            (-3, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (3600, "60m"),
            (11_520, "3h12m"),
            (90_000, "25h"),
            (187_200, "2d4h"),
            (3_456_000, "40d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn bytes_have_one_decimal_and_never_overflow() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1024 * 1024, "1.0 MiB"),
            (31_457_280, "30.0 MiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn times_of_stages_keep_what_matters() {
        for (ms, text) in [(7, "7 ms"), (2405, "2.40 s"), (185_000, "3m5s")] {
            assert_eq!(milliseconds(ms), text);
        }
    }

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        assert_eq!(one_line("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb c");
        assert_eq!(lines("a\r\nb\u{9b}"), "a\\r\nb\\u{9b}");
    }
}
