//! `strftime_now`: the date in the few formats that chat templates print, in UTC and in English.

use minijinja::{Error, ErrorKind};

/// Formats `now`, seconds since 1970 UTC, by a `strftime` pattern.
pub(super) fn format(now: i64, pattern: &str) -> Result<String, Error> {
    let (day, second) = (now.div_euclid(86_400), now.rem_euclid(86_400));
    let (year, month, day_of_month) = civil(day);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let month_name = MONTHS[(month - 1) as usize];
    let weekday = WEEKDAYS[(day + 4).rem_euclid(7) as usize];
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (mut directive, mut padded) = (chars.next(), true);
        if directive == Some('-') {
            (directive, padded) = (chars.next(), false);
        }
        let number = |value: i64| if padded { format!("{value:02}") } else { value.to_string() };
        match directive {
            Some('d') => out.push_str(&number(day_of_month)),
            Some('m') => out.push_str(&number(month)),
            Some('H') => out.push_str(&number(hour)),
            Some('I') => out.push_str(&number((hour + 11) % 12 + 1)),
            Some('M') => out.push_str(&number(minute)),
            Some('S') => out.push_str(&number(second % 60)),
            Some('y') => out.push_str(&number(year.rem_euclid(100))),
            Some('Y') => out.push_str(&year.to_string()),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('b') => out.push_str(&month_name[..3]),
            Some('B') => out.push_str(month_name),
            Some('a') => out.push_str(&weekday[..3]),
            Some('A') => out.push_str(weekday),
            Some('F') => out.push_str(&format(now, "%Y-%m-%d")?),
            Some('T') => out.push_str(&format(now, "%H:%M:%S")?),
            Some('Z') => out.push_str("UTC"),
            Some('%') => out.push('%'),
            other => {
                let text =
                    format!("strftime_now does not know %{}", other.map(String::from).unwrap_or_default());
                return Err(Error::new(ErrorKind::InvalidOperation, text));
            }
        }
    }
    Ok(out)
}

/// Year, month and day of a day counted from 1970-01-01 (H. Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn dates_are_as_python_prints_them() {
        let cases = [
            (0, "%A %d %B %Y", "Thursday 01 January 1970"),
            (951_782_400, "%a, %-d %b %y", "Tue, 29 Feb 00"),
            (1_732_000_000, "%Y-%m-%d %H:%M:%S %I%p", "2024-11-19 07:06:40 07AM"),
            (-1, "%F %T", "1969-12-31 23:59:59"),
            (4_102_444_800, "%d %b %Y 100%%", "01 Jan 2100 100%"),
        ];
        for (now, pattern, want) in cases {
            assert_eq!(format(now, pattern).unwrap(), want);
        }
        assert!(format(0, "%Q").unwrap_err().to_string().contains("%Q"));
        assert!(format(0, "%").is_err());
    }
}
