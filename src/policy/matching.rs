//! Which endpoints a policy is for, and which of two policies is the more specific.
//!
//! A policy that names the tenant goes before one for every tenant; then an endpoint's own name goes before a pattern; then
//! the pattern with more characters beside its `*` goes before the one with fewer. Two patterns of the same tenant and
//! length that one endpoint fits are ambiguous, and refused. The order in which policies are written means nothing.
//!
//! Deliberately absent: more than one `*`. What such a pattern is for is hard to see, and a list of names says it better.

use std::cmp::Reverse;
use std::fmt;

use crate::ids::{EndpointName, IdError, TenantId};

/// An endpoint's name, or a pattern: a name in which one `*` stands for any characters, also none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    written: EndpointName,
    /// Bytes before the `*`, if there is one.
    star: Option<usize>,
}

/// Why an endpoint of a policy was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is no name of an endpoint.
    #[error(transparent)]
    Name(#[from] IdError),
    /// It has several `*`.
    #[error("{written:?} has {stars} *: write at most one, which stands for any characters, or name the endpoints")]
    Stars {
        /// What was written.
        written: String,
        /// How many it has.
        stars: usize,
    },
}

/// Whose endpoint, as a policy names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The tenant; every tenant if none is named.
    pub tenant: Option<TenantId>,
    /// The endpoint.
    pub pattern: Pattern,
}

impl Pattern {
    /// Parses a name or a pattern.
    ///
    /// # Errors
    /// When it is no endpoint's name, or has more than one `*`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let written = EndpointName::parse(text)?;
        match text.matches('*').count() {
            0 | 1 => Ok(Self { written, star: text.find('*') }),
            stars => Err(PatternError::Stars { written: text.to_owned(), stars }),
        }
    }

    /// As it was written. A pattern's own text is an endpoint that fits it.
    #[must_use]
    pub fn as_endpoint(&self) -> &EndpointName {
        &self.written
    }

    /// What stands before the `*`; nothing for a name.
    #[must_use]
    pub fn before(&self) -> Option<&str> {
        self.around().map(|(before, _)| before)
    }

    /// What stands before and after the `*`; nothing for a name.
    fn around(&self) -> Option<(&str, &str)> {
        let (before, after) = self.written.as_str().split_at_checked(self.star?)?;
        Some((before, after.strip_prefix('*')?))
    }

    /// Whether an endpoint is meant.
    #[must_use]
    pub fn fits(&self, endpoint: &EndpointName) -> bool {
        match self.around() {
            None => self.written == *endpoint,
            Some((before, after)) => {
                let rest = endpoint.as_str().strip_prefix(before);
                rest.is_some_and(|rest| rest.ends_with(after))
            }
        }
    }

    /// What stands before and after the `*` where two patterns meet; nothing if they do not, or one is a name.
    fn both_around<'a>(&'a self, other: &'a Self) -> Option<(&'a str, &'a str)> {
        let ((before, after), (other_before, other_after)) = (self.around()?, other.around()?);
        let before = [(before, other_before), (other_before, before)].into_iter().find(|(a, b)| a.starts_with(b))?.0;
        let after = [(after, other_after), (other_after, after)].into_iter().find(|(a, b)| a.ends_with(b))?.0;
        Some((before, after))
    }

    /// An endpoint that fits both patterns, neither of which is a name.
    fn common(&self, other: &Self) -> Option<EndpointName> {
        let (before, after) = self.both_around(other)?;
        // Together they may be longer than an endpoint's name can be: then none fits both.
        EndpointName::parse(&format!("{before}{after}")).ok()
    }

    /// What names the endpoints that fit both patterns, neither of which is a name: a pattern, and those that are too short for
    /// it, since what one pattern has before its `*` reaches into what the other has after its own.
    pub fn overlap<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Self> + 'a {
        self.both_around(other).into_iter().flat_map(move |(before, after)| {
            let shorter = after.char_indices().map(|(at, first)| at.saturating_add(first.len_utf8()));
            let reaching = shorter.filter_map(move |at| {
                let (shared, rest) = after.split_at_checked(at)?;
                before.ends_with(shared).then(|| format!("{before}{rest}"))
            });
            let names = reaching.filter_map(|name| Self::parse(&name).ok());
            let names = names.filter(|name| self.fits(name.as_endpoint()) && other.fits(name.as_endpoint()));
            Self::parse(&format!("{before}*{after}")).ok().into_iter().chain(names)
        })
    }
}

impl Target {
    /// Whether an endpoint of a tenant is meant. Without a tenant: of one that no policy names.
    #[must_use]
    pub fn fits(&self, tenant: Option<&TenantId>, endpoint: &EndpointName) -> bool {
        (self.tenant.is_none() || self.tenant.as_ref() == tenant) && self.pattern.fits(endpoint)
    }

    /// What targets are ordered by: the most specific first.
    #[must_use]
    pub fn rank(&self) -> impl Ord + use<> {
        (self.tenant.is_none(), self.pattern.star.is_some(), Reverse(self.pattern.written.as_str().len()))
    }

    /// An endpoint that both are for while neither is the more specific. None: they get along.
    #[must_use]
    pub fn ambiguous_with(&self, other: &Self) -> Option<EndpointName> {
        if self.tenant != other.tenant || self.rank() != other.rank() {
            return None;
        }
        if self.pattern == other.pattern {
            return Some(self.pattern.written.clone());
        }
        self.pattern.common(&other.pattern)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written.fmt(f)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tenant {
            Some(tenant) => write!(f, "{} of {tenant}", self.pattern),
            None => write!(f, "{}", self.pattern),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("a pattern of a test")
    }

    #[test]
    fn patterns() {
        let cases = [
            ("POST /v1/charges", "POST /v1/charges", true),
            ("POST /v1/charges", "POST /v1/charges/1", false),
            ("POST /v1/*", "POST /v1/", true),
            ("POST /v1/*", "POST /v1/a b/c", true),
            ("POST /v1/*", "GET /v1/a", false),
            ("*", "anything", true),
            ("* /v1/charges", "PUT /v1/charges", true),
            ("POST /*/refund", "POST /v1/charges/7/refund", true),
            // What stands before and what stands after the star do not overlap.
            ("aba*aba", "ababa", false),
            ("aba*aba", "abaaba", true),
        ];
        for (written, endpoint, expected) in cases {
            assert_eq!(pattern(written).fits(pattern(endpoint).as_endpoint()), expected, "{written} {endpoint}");
        }
        for (written, expected) in [("", "0 bytes"), ("a\tb", "0x09"), ("a*b*", "has 2 *"), ("**", "has 2 *")] {
            let message = Pattern::parse(written).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.contains(expected), "{written}: {message}");
        }
    }

    #[test]
    fn overlaps() {
        let cases: [(&str, &str, &[&str]); 6] = [
            ("a*", "*b", &["a*b"]),
            ("ab*", "*bcd", &["ab*bcd", "abcd"]),
            ("aba*", "*aba", &["aba*aba", "ababa", "aba"]),
            // What is before and after the star of one pattern shares nothing: `aba` does not fit the first.
            ("aba*a", "*ba", &["aba*ba"]),
            ("a*", "b*", &[]),
            ("a", "a*", &[]),
        ];
        for (a, b, expected) in cases {
            let found = |a, b| pattern(a).overlap(&pattern(b)).map(|found| found.to_string()).collect::<Vec<_>>();
            assert_eq!(found(a, b), expected, "{a} {b}");
            assert_eq!(found(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn ambiguity() {
        let cases = [
            ("a*", "a*", Some("a*")),
            ("a", "a", Some("a")),
            ("a*b", "ab*", Some("abb")),
            ("ab*", "*ab", Some("abab")),
            ("a*", "b*", None),
            ("a*", "ab*", None),
            ("a*", "a", None),
        ];
        for (a, b, expected) in cases {
            let target = |text| Target { tenant: None, pattern: pattern(text) };
            let found = target(a).ambiguous_with(&target(b)).map(|endpoint| endpoint.to_string());
            assert_eq!(found.as_deref(), expected, "{a} {b}");
            assert_eq!(target(b).ambiguous_with(&target(a)).is_some(), expected.is_some(), "{b} {a}");
        }
        let long = |before: usize, after: usize| format!("{}*{}", "x".repeat(before), "y".repeat(after));
        assert_eq!(pattern(&long(200, 10)).common(&pattern(&long(10, 200))), None, "no name is that long");
    }
}
