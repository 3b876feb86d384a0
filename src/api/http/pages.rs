//! The pages of the answers that services with the layer or the gateway before them give: a node has them beside its own, so that
//! `type` of those problems may lead here.

/// Declares the pages, each by its code.
macro_rules! pages {
    ($($code:literal)*) => {
        &[$(($code, include_str!(concat!("../../../docs/reference/errors/", $code, ".md")))),*]
    };
}

/// Codes and pages, but for those that are a node's own too.
static PAGES: &[(&str, &str)] = pages! {
    "key-missing" "tenant-missing" "request-unreadable" "request-timeout" "repeatability-unsupported" "key-reused"
    "in-progress" "outcome-unknown" "in-doubt" "superseded" "store-refused" "key-expired" "rate-limited" "quota-exceeded"
    "replay-unavailable" "route-unknown" "request-refused" "tunnel-refused" "upstream-unreachable" "upstream-timeout"
    "upstream-broken" "gateway-overloaded"
};

/// The page of a code.
pub(super) fn of(code: &str) -> Option<&'static str> {
    PAGES.iter().find(|(known, _)| *known == code).map(|(_, page)| *page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::Code;

    #[test]
    fn every_code_of_a_protected_service_has_one_page() {
        for code in holdfast_client::http::Refusal::CODES {
            assert_eq!(Code::parse(code).is_none(), of(code).is_some(), "{code}");
        }
        assert!(PAGES.iter().all(|(code, _)| holdfast_client::http::Refusal::CODES.contains(code)));
    }
}
