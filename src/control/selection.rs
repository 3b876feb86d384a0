//! What the fingerprints of a request take of it, under numbers that never change their meaning: a key that was reserved under
//! one selection is compared under that one, whatever the policies say since.

use holdfast_client::fingerprint::{FingerprintError, Members, Pointer, Selection};

use crate::policy::document::Document;

/// The number of the built-in selection: content type, target, and the whole body.
pub const BUILT_IN: u32 = 1;

/// The target of a request, as it was sent: two accounts of one endpoint are two requests.
const TARGET: &str = ":path";

/// What is taken, in its canonical form: names sorted, each once.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Headers in lower case, and the target.
    pub headers: Vec<String>,
    /// The only members of a JSON body that count, as JSON Pointers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<String>,
    /// The members that do not count, as JSON Pointers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leave_out: Vec<String>,
}

impl Spec {
    /// What a complete document asks for, and always the target.
    #[must_use]
    pub fn of(document: &Document) -> Self {
        let sorted = |texts: Option<&Vec<String>>, also: Option<&str>| {
            let mut texts: Vec<String> = texts.into_iter().flatten().cloned().collect();
            texts.extend(also.map(str::to_owned));
            texts.sort_unstable();
            texts.dedup();
            texts
        };
        let fields = &document.fingerprint;
        let named: Vec<String> = fields.headers.iter().flatten().map(|name| name.to_ascii_lowercase()).collect();
        Self {
            headers: sorted(Some(&named), Some(TARGET)),
            keep: sorted(fields.keep.as_ref(), None),
            leave_out: sorted(fields.leave_out.as_ref(), None),
        }
    }

    /// The built-in one.
    #[must_use]
    pub fn built_in() -> Self {
        Self { headers: vec![TARGET.to_owned(), "content-type".to_owned()], keep: Vec::new(), leave_out: Vec::new() }
    }

    /// As it is stored and sent.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Lists of texts: there is nothing in it that JSON has no form for.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From how it is stored.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The same, to be followed.
    ///
    /// # Errors
    /// When a name or a pointer is none.
    pub fn selection(&self) -> Result<Selection, FingerprintError> {
        let pointers = |texts: &[String]| texts.iter().map(|text| Pointer::parse(text)).collect::<Result<Vec<_>, _>>();
        let members = match (self.keep.is_empty(), self.leave_out.is_empty()) {
            (false, _) => Members::Only(pointers(&self.keep)?),
            (true, false) => Members::Without(pointers(&self.leave_out)?),
            (true, true) => Members::All,
        };
        Selection::new(&self.headers, members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Severity;

    #[test]
    fn a_policy_that_says_nothing_takes_what_is_built_in() {
        for severity in Severity::ALL {
            assert_eq!(Spec::of(&Document::defaults(severity)), Spec::built_in(), "{severity}");
        }
    }

    #[test]
    fn the_same_selection_has_the_same_text_however_it_is_written() {
        let mut one = Document::defaults(Severity::High);
        one.fingerprint.headers = Some(vec!["X-Shop".to_owned(), "content-type".to_owned()]);
        one.fingerprint.leave_out = Some(vec!["/b".to_owned(), "/a".to_owned()]);
        let mut other = one.clone();
        other.fingerprint.headers = Some(vec!["Content-Type".to_owned(), "x-shop".to_owned(), "x-shop".to_owned()]);
        other.fingerprint.leave_out = Some(vec!["/a".to_owned(), "/b".to_owned()]);
        let text = Spec::of(&one).to_json();
        assert_eq!(text, Spec::of(&other).to_json());
        assert_eq!(text, r#"{"headers":[":path","content-type","x-shop"],"leave_out":["/a","/b"]}"#);
        let read = Spec::from_json(&text).unwrap();
        assert_eq!(read, Spec::of(&one));
        assert!(read.selection().is_ok());
    }

    #[test]
    fn whatever_a_policy_may_take_can_be_followed() {
        let with = |headers: usize| {
            let headers = (0..headers).map(|number| format!("x-{number}")).collect();
            let pointers = (0..holdfast_client::fingerprint::MAX_MEMBERS).map(|number| format!("/{number}")).collect();
            let mut document = Document::defaults(Severity::High);
            document.fingerprint.headers = Some(headers);
            document.fingerprint.keep = Some(pointers);
            document
        };
        let most = with(crate::limits::MAX_FINGERPRINT_HEADERS);
        assert!(most.complete().is_ok() && Spec::of(&most).selection().is_ok());
        assert!(with(crate::limits::MAX_FINGERPRINT_HEADERS + 1).complete().is_err());
    }
}
