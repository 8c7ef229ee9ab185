//! The date of answers that have none (RFC 9110 §5.6.7).

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

const FORM: StaticFormatDescription =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

thread_local! {
    /// The last that was written, and its second.
    static LAST: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
}

/// This second's.
pub(super) fn now() -> HeaderValue {
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|last| match last {
        Some((of, date)) if *of == second => date.clone(),
        _ => last.insert((second, written(second))).1.clone(),
    })
}

fn written(second: u64) -> HeaderValue {
    let time = i64::try_from(second).ok().and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
    let text = time.unwrap_or(OffsetDateTime::UNIX_EPOCH).format(FORM).unwrap_or_default();
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    /// The example of RFC 9110 §5.6.7.
    #[test]
    fn a_date_is_written_as_the_standard_says() {
        assert_eq!(super::written(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
