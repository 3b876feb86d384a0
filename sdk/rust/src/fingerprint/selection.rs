//! What a fingerprint takes of a request, as a policy states it: parsed and checked once, then only followed.
//!
//! Deliberately absent: wildcards in pointers. A selection must be as easy to follow in another language as RFC 6901 is.

use std::borrow::Cow;

use super::{CONTENT_TYPE, MAX_JSON_DEPTH};

/// The most headers that a selection may name: each is looked for among all of a request's.
pub const MAX_HEADERS: usize = 32;

/// The most members that a selection may name: a set of them is one `u64` while a body is read.
pub const MAX_MEMBERS: usize = 64;

/// Why a selection cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FingerprintError {
    /// A header's name has a character that no header name has.
    #[error("header name {name:?} in the selection is no http field name: write it as it is sent, like content-type")]
    HeaderName {
        /// What was written.
        name: String,
    },
    /// More than [`MAX_HEADERS`] headers.
    #[error("selection names {count} headers: name at most {MAX_HEADERS}")]
    TooManyHeaders {
        /// How many there were.
        count: usize,
    },
    /// More than [`MAX_MEMBERS`] members.
    #[error("selection names {count} members: name at most {MAX_MEMBERS}, or the object that holds them")]
    TooManyMembers {
        /// How many there were.
        count: usize,
    },
    /// `Only` of nothing, which would make all bodies equal.
    #[error("selection keeps no member of the body: name at least one, or take all")]
    NoMembers,
    /// Not a JSON Pointer that names a member.
    #[error("member {pointer:?} is no json pointer (rfc 6901): begin with /, write ~ as ~0 and a / in a name as ~1")]
    Pointer {
        /// What was written.
        pointer: String,
    },
    /// A pointer that leads deeper than any body that is compared by its meaning.
    #[error("member pointer is {depth} deep: name something at most {MAX_JSON_DEPTH} deep")]
    PointerDepth {
        /// How many names it has.
        depth: usize,
    },
}

/// Which headers and which members of a JSON body a fingerprint takes. The default takes `content-type` and every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    headers: Vec<String>,
    members: Members,
}

/// Which members of a JSON body count. The parent module defines what each leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// All of them.
    All,
    /// All but these: for what a client sets anew on every attempt, like a timestamp.
    Without(Vec<Pointer>),
    /// These alone.
    Only(Vec<Pointer>),
}

/// A JSON Pointer (RFC 6901) to something inside a body; never to the whole of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    tokens: Vec<String>,
}

/// How a value of the body relates to what the selection names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// It is taken, with all that is in it.
    Taken,
    /// It is left out, with all that is in it.
    LeftOut,
    /// Something in it may be named: by the pointers whose bits are set.
    Search(u64),
}

impl Selection {
    /// A selection of these headers (names in any case and order) and members.
    ///
    /// # Errors
    /// [`FingerprintError`] if a name is none, something has too many parts, or `Only` names nothing.
    pub fn new<S: AsRef<str>>(headers: &[S], members: Members) -> Result<Self, FingerprintError> {
        if headers.len() > MAX_HEADERS {
            return Err(FingerprintError::TooManyHeaders { count: headers.len() });
        }
        let mut names = headers.iter().map(|name| header_name(name.as_ref())).collect::<Result<Vec<_>, _>>()?;
        names.sort_unstable();
        names.dedup();
        match &members {
            Members::All => {}
            Members::Only(pointers) if pointers.is_empty() => return Err(FingerprintError::NoMembers),
            Members::Without(pointers) | Members::Only(pointers) => {
                if pointers.len() > MAX_MEMBERS {
                    return Err(FingerprintError::TooManyMembers { count: pointers.len() });
                }
            }
        }
        Ok(Self { headers: names, members })
    }

    /// The selected headers: lower case, in byte order, each once.
    #[must_use]
    pub fn headers(&self) -> &[String] {
        &self.headers
    }

    /// The selected members.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }
}

impl Default for Selection {
    fn default() -> Self {
        Self { headers: vec![CONTENT_TYPE.to_owned()], members: Members::All }
    }
}

impl Members {
    /// How the root of a body relates to this.
    pub(super) fn root(&self) -> Scope {
        match self {
            Self::All => Scope::Taken,
            Self::Without(pointers) | Self::Only(pointers) => {
                Scope::Search(u64::MAX.checked_shr(u64::BITS.saturating_sub(pointers.len() as u32)).unwrap_or(0))
            }
        }
    }

    /// How a child relates to this: `token` is its name or index, `depth` the number of containers around its parent.
    pub(super) fn child(&self, parent: Scope, depth: usize, token: &str) -> Scope {
        let candidates = match parent {
            Scope::Taken | Scope::LeftOut => return parent,
            Scope::Search(candidates) => candidates,
        };
        match self {
            Self::All => Scope::Taken,
            Self::Without(pointers) => match follow(pointers, candidates, depth, token) {
                Step::Named => Scope::LeftOut,
                Step::Towards(0) => Scope::Taken,
                Step::Towards(still) => Scope::Search(still),
            },
            Self::Only(pointers) => match follow(pointers, candidates, depth, token) {
                Step::Named => Scope::Taken,
                Step::Towards(0) => Scope::LeftOut,
                Step::Towards(still) => Scope::Search(still),
            },
        }
    }
}

impl Pointer {
    /// Parses the string form of a pointer (RFC 6901 section 5), like `/items/0/created_at`.
    ///
    /// # Errors
    /// [`FingerprintError::Pointer`] for what is no pointer, or `""`, which is the whole body;
    /// [`FingerprintError::PointerDepth`] for one that is too deep.
    pub fn parse(text: &str) -> Result<Self, FingerprintError> {
        let refusal = || FingerprintError::Pointer { pointer: text.to_owned() };
        let rest = text.strip_prefix('/').ok_or_else(refusal)?;
        let tokens = rest.split('/').map(unescape).collect::<Option<Vec<_>>>().ok_or_else(refusal)?;
        if tokens.len() > MAX_JSON_DEPTH {
            return Err(FingerprintError::PointerDepth { depth: tokens.len() });
        }
        Ok(Self { tokens: tokens.into_iter().map(Cow::into_owned).collect() })
    }
}

/// Where one more token leads.
enum Step {
    /// To a named value.
    Named,
    /// On, along the pointers whose bits are set; with none set, off every path.
    Towards(u64),
}

fn follow(pointers: &[Pointer], candidates: u64, depth: usize, token: &str) -> Step {
    let mut towards = 0;
    for (index, pointer) in pointers.iter().enumerate() {
        let bit = 1_u64 << index;
        if candidates & bit == 0 || pointer.tokens.get(depth).is_none_or(|expected| expected != token) {
            continue;
        }
        if pointer.tokens.len() == depth + 1 {
            return Step::Named;
        }
        towards |= bit;
    }
    Step::Towards(towards)
}

/// A field name (RFC 9110 section 5.6.2), with the colon before it that a pseudo-header has.
fn header_name(name: &str) -> Result<String, FingerprintError> {
    let token = name.strip_prefix(':').unwrap_or(name);
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if token.is_empty() || !token.bytes().all(is_token) {
        return Err(FingerprintError::HeaderName { name: name.to_owned() });
    }
    Ok(name.to_ascii_lowercase())
}

/// One token of a pointer without its escapes; `None` if a `~` begins none.
fn unescape(token: &str) -> Option<Cow<'_, str>> {
    let mut pieces = token.split('~');
    let first = pieces.next()?;
    if first.len() == token.len() {
        return Some(Cow::Borrowed(token));
    }
    let mut text = first.to_owned();
    for piece in pieces {
        if let Some(rest) = piece.strip_prefix('0') {
            text.push('~');
            text.push_str(rest);
        } else {
            text.push('/');
            text.push_str(piece.strip_prefix('1')?);
        }
    }
    Some(Cow::Owned(text))
}
