//! JSON bodies in their canonical form (RFC 8785), as far as a selection takes them.
//!
//! Written by hand, since what makes two bodies safe to compare is lost once a parser has made values of them: a second
//! member of one name, and the digits of a number that a double rounds. The text is read once, into the output.
//!
//! Deliberately absent: a document tree, and reasons for a refusal. The caller then takes the body's bytes.

use std::borrow::Cow;
use std::ops::Range;

use super::MAX_JSON_DEPTH;
use super::selection::{Members, Scope};

/// A canonical form.
pub(super) struct Canonical {
    /// The canonical text, UTF-8.
    pub(super) text: Vec<u8>,
    /// Whether it is the whole body because the selection's `Only` names nothing that is in it.
    pub(super) whole: bool,
}

/// The canonical form of what `members` takes of `body`; `None` if the body has no safe one, as the parent module defines.
pub(super) fn canonicalize(body: &[u8], members: &Members) -> Option<Canonical> {
    let text = std::str::from_utf8(body).ok()?;
    let taken = Reader::read(text, members)?;
    match members {
        Members::Only(_) if !taken.named => {
            Some(Canonical { text: Reader::read(text, &Members::All)?.out, whole: true })
        }
        Members::All | Members::Without(_) | Members::Only(_) => Some(Canonical { text: taken.out, whole: false }),
    }
}

/// Reads `text` from `at` on, appending the canonical form of what is taken to `out`.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    members: &'a Members,
    named: bool,
    out: Vec<u8>,
    scratch: Vec<u8>,
}

/// A member of an object that was read: its name, and where in `out` it is written (nowhere, if left out).
struct Member<'a> {
    name: Cow<'a, str>,
    written: Range<usize>,
}

impl<'a> Reader<'a> {
    fn read(text: &'a str, members: &'a Members) -> Option<Self> {
        let out = Vec::with_capacity(text.len());
        let mut reader = Self { text, at: 0, members, named: false, out, scratch: Vec::new() };
        reader.blanks();
        reader.value(members.root(), 0)?;
        reader.blanks();
        (reader.at == text.len()).then_some(reader)
    }

    /// Reads one value; `depth` is the number of containers around it.
    fn value(&mut self, scope: Scope, depth: usize) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(scope, depth),
            b'[' => self.array(scope, depth),
            b'"' => {
                let text = self.string()?;
                write_string(&mut self.out, &text);
                Some(())
            }
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => self.number(scope),
        }
    }

    fn object(&mut self, scope: Scope, depth: usize) -> Option<()> {
        self.open(b'{', depth)?;
        let start = self.out.len();
        let mut members = Vec::new();
        if self.eat(b'}') {
            return self.close_object(start, members);
        }
        loop {
            self.blanks();
            let name = self.string()?;
            self.blanks();
            self.expect(b':')?;
            self.blanks();
            let child = self.child(scope, depth, &name);
            let from = self.out.len();
            write_string(&mut self.out, &name);
            self.out.push(b':');
            self.value(child, depth + 1)?;
            self.drop_left_out(child, from);
            members.push(Member { name, written: from..self.out.len() });
            self.blanks();
            if self.eat(b',') {
                continue;
            }
            self.expect(b'}')?;
            return self.close_object(start, members);
        }
    }

    /// Puts the members, which are written from `start` on, in their order: by UTF-16 code units (RFC 8785 section 3.2.3).
    fn close_object(&mut self, start: usize, mut members: Vec<Member<'a>>) -> Option<()> {
        members.sort_unstable_by(|a, b| a.name.encode_utf16().cmp(b.name.encode_utf16()));
        if members.is_sorted_by(|a, b| a.name != b.name) {
            self.scratch.clear();
            self.scratch.push(b'{');
            for member in members.into_iter().filter(|member| !member.written.is_empty()) {
                if self.scratch.len() > 1 {
                    self.scratch.push(b',');
                }
                self.scratch.extend_from_slice(self.out.get(member.written)?);
            }
            self.scratch.push(b'}');
            self.out.truncate(start);
            self.out.extend_from_slice(&self.scratch);
            return Some(());
        }
        None
    }

    fn array(&mut self, scope: Scope, depth: usize) -> Option<()> {
        self.open(b'[', depth)?;
        self.out.push(b'[');
        let first = self.out.len();
        if self.eat(b']') {
            self.out.push(b']');
            return Some(());
        }
        for index in 0_usize.. {
            self.blanks();
            let child = match scope {
                Scope::Taken | Scope::LeftOut => scope,
                Scope::Search(_) => self.child(scope, depth, &index.to_string()),
            };
            let from = self.out.len();
            if from > first {
                self.out.push(b',');
            }
            self.value(child, depth + 1)?;
            self.drop_left_out(child, from);
            self.blanks();
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b']')?;
        self.out.push(b']');
        Some(())
    }

    /// Enters a container, up to its first value or its end.
    fn open(&mut self, bracket: u8, depth: usize) -> Option<()> {
        if depth == MAX_JSON_DEPTH {
            return None;
        }
        self.expect(bracket)?;
        self.blanks();
        Some(())
    }

    fn child(&mut self, scope: Scope, depth: usize, token: &str) -> Scope {
        let child = self.members.child(scope, depth, token);
        self.named |= child != scope && child == Scope::Taken;
        child
    }

    /// What is left out is read like all else, for its syntax, and then taken back.
    fn drop_left_out(&mut self, child: Scope, from: usize) {
        match child {
            Scope::LeftOut => self.out.truncate(from),
            Scope::Taken | Scope::Search(_) => {}
        }
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        self.text.get(self.at..)?.strip_prefix(word)?;
        self.at += word.len();
        self.out.extend_from_slice(word.as_bytes());
        Some(())
    }

    /// Reads a number (RFC 8259 section 6). One that is left out need not survive as a double.
    fn number(&mut self, scope: Scope) -> Option<()> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _signed = self.eat(b'-') || self.eat(b'+');
            self.digits()?;
        }
        let text = self.text.get(start..self.at)?;
        match scope {
            Scope::LeftOut => Some(()),
            Scope::Taken | Scope::Search(_) => write_number(&mut self.out, text),
        }
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// Reads a string (RFC 8259 section 7) and takes its escapes away.
    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.expect(b'"')?;
        let plain = self.plain()?;
        if self.eat(b'"') {
            return Some(Cow::Borrowed(plain));
        }
        let mut text = plain.to_owned();
        while !self.eat(b'"') {
            self.expect(b'\\')?;
            text.push(self.escape()?);
            text.push_str(self.plain()?);
        }
        Some(Cow::Owned(text))
    }

    /// Reads up to a quote, a backslash, a control character (which is no part of a string) or the end.
    fn plain(&mut self) -> Option<&'a str> {
        let rest = self.text.get(self.at..)?;
        let length = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20))?;
        self.at += length;
        rest.get(..length)
    }

    fn escape(&mut self) -> Option<char> {
        let escape = self.peek()?;
        self.at += 1;
        match escape {
            b'"' | b'\\' | b'/' => Some(char::from(escape)),
            b'b' => Some('\u{8}'),
            b'f' => Some('\u{c}'),
            b'n' => Some('\n'),
            b'r' => Some('\r'),
            b't' => Some('\t'),
            b'u' => {
                let unit = self.hex4()?;
                if !matches!(unit, 0xD800..=0xDBFF) {
                    return char::from_u32(u32::from(unit));
                }
                self.expect(b'\\')?;
                self.expect(b'u')?;
                char::decode_utf16([unit, self.hex4()?]).next()?.ok()
            }
            _ => None,
        }
    }

    fn hex4(&mut self) -> Option<u16> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u16::from_str_radix(digits, 16).ok()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.eat(byte).then_some(())
    }
}

/// Writes a string as RFC 8785 section 3.2.2.2 has it: escapes only where JSON wants them, the short ones where there are.
fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if !text.bytes().any(|byte| matches!(byte, b'"' | b'\\' | ..0x20)) {
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(br#"\""#),
            b'\\' => out.extend_from_slice(br"\\"),
            0x08 => out.extend_from_slice(br"\b"),
            0x09 => out.extend_from_slice(br"\t"),
            0x0A => out.extend_from_slice(br"\n"),
            0x0C => out.extend_from_slice(br"\f"),
            0x0D => out.extend_from_slice(br"\r"),
            0x00..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Writes a number as ECMAScript does (RFC 8785 section 3.2.2.3); `None` if that is not exactly the number that `text` is.
fn write_number(out: &mut Vec<u8>, text: &str) -> Option<()> {
    /// Every integer of this many digits is a double, and is written as it stands.
    const EXACT_DIGITS: usize = 15;
    if text.len() <= EXACT_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit()) {
        out.extend_from_slice(text.as_bytes());
        return Some(());
    }
    let double: f64 = text.parse().ok()?;
    if !double.is_finite() {
        return None;
    }
    let mut buffer = ryu_js::Buffer::new();
    let canonical = buffer.format_finite(double);
    if canonical != text && Decimal::parse(canonical)? != Decimal::parse(text)? {
        return None;
    }
    out.extend_from_slice(canonical.as_bytes());
    Some(())
}

/// The exact value of a JSON number: `0.digits × 10^exponent`, the first and the last digit not 0; zero has no digits.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// `None` if the exponent is out of all reason, which no double's is.
    fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let Some(first) = all.iter().position(|digit| *digit != b'0') else {
            return Some(Self { negative: false, digits: Vec::new(), exponent: 0 });
        };
        let end = all.iter().rposition(|digit| *digit != b'0')? + 1;
        let point = i64::try_from(whole.len()).ok()?.checked_sub(i64::try_from(first).ok()?)?;
        Some(Self {
            negative: unsigned.len() < text.len(),
            digits: all.get(first..end)?.to_vec(),
            exponent: exponent.parse::<i64>().ok()?.checked_add(point)?,
        })
    }
}

#[cfg(test)]
mod tests;
