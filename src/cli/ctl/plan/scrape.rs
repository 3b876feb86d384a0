//! Reads a page of metrics: text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>).

use std::collections::BTreeMap;

/// A page.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Page {
    samples: Vec<Sample>,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    /// The value. Not a number, and infinities, are what they are.
    pub(super) value: f64,
}

impl Sample {
    /// The value of a label; empty if it has none.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map(String::as_str).unwrap_or_default()
    }
}

impl Page {
    /// Reads a page.
    ///
    /// # Errors
    /// The first line that is none of the format, with its number.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut samples = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            samples.push(
                sample(line).ok_or_else(|| format!("line {} is no sample of a metric: {}", at + 1, short(line)))?,
            );
        }
        Ok(Self { samples })
    }

    /// All samples of a metric.
    pub(super) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// The sum of a metric's samples; none if it has none.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        self.of(name).map(|sample| sample.value).reduce(|sum, value| sum + value)
    }

    /// The largest of a metric's samples; none if it has none.
    pub(super) fn largest(&self, name: &str) -> Option<f64> {
        self.of(name).map(|sample| sample.value).reduce(f64::max)
    }
}

fn short(line: &str) -> String {
    const MOST: usize = 60;
    let cut: String = line.chars().take(MOST).collect();
    if cut.len() < line.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at_checked(end)?;
    let first = name.chars().next()?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if first.is_ascii_digit() || !name.chars().all(fits) {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (BTreeMap::new(), rest),
    };
    // A time may stand behind the value.
    let mut numbers = rest.split_whitespace();
    let value = numbers.next()?.parse().ok()?;
    let time = numbers.next().is_none_or(|time| time.parse::<i64>().is_ok());
    (time && numbers.next().is_none()).then(|| Sample { name: name.to_owned(), labels, value })
}

/// The labels from behind the brace, and what stands behind them.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start();
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, quoted) = rest.split_once('=')?;
        let (value, behind) = quoted_value(quoted.trim_start().strip_prefix('"')?)?;
        labels.insert(name.trim().to_owned(), value);
        rest = behind.trim_start();
        rest = rest.strip_prefix(',').or(rest.starts_with('}').then_some(rest))?;
    }
}

/// A value up to its closing quote, and what stands behind that.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => value.push(match characters.next()? {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            plain => value.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let text = "# HELP a_total One \\ two.\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\c\\nd\",y=\"{,}=\"} 3\n\
                    a_total{x=\"2\",} 4.5e1 1700000000000\n\n  b 0.5\nc{} +Inf\n";
        let page = Page::parse(text).unwrap();
        let first = page.of("a_total").next().unwrap();
        assert_eq!(
            (first.label("x"), first.label("y"), first.label("z"), first.value),
            ("a\"b\\c\nd", "{,}=", "", 3.0)
        );
        assert_eq!((page.sum("a_total"), page.largest("a_total")), (Some(48.0), Some(45.0)));
        assert_eq!((page.sum("b"), page.sum("nothing"), page.largest("c")), (Some(0.5), None, Some(f64::INFINITY)));
    }

    #[test]
    fn what_is_no_page_is_told_with_its_line() {
        let bad = [
            "a",
            "a b",
            "a{x=\"1\" 2",
            "a{x=1} 2",
            "a{x=\"1\"y=\"2\"} 2",
            "1a 2",
            "a 1 2 3",
            "a 1 x",
            "<html>",
            "a{x=\"\\q\"} 1",
        ];
        for line in bad {
            let message = Page::parse(&format!("ok 1\n{line}\n")).err().unwrap_or_default();
            assert!(message.starts_with("line 2 is no sample of a metric: "), "{line}: {message}");
        }
        let long = Page::parse(&"é".repeat(200)).err().unwrap_or_default();
        assert!(long.chars().count() < 120, "{long}");
    }

    #[test]
    fn a_page_that_a_node_writes_is_read_back() {
        use crate::telemetry::metrics::{Page as Written, table};
        let mut page = Written::default();
        page.metric(&table::APPLIED_RECORDS).value(&[&"a\"c\\me", &"POST /v1/{x}\n", &"created"], 7);
        let read = Page::parse(&page.finish()).unwrap();
        let sample = read.of(table::APPLIED_RECORDS.name).next().unwrap();
        assert_eq!((sample.label("tenant"), sample.label("endpoint")), ("a\"c\\me", "POST /v1/{x}\n"));
        assert_eq!((sample.label("change"), sample.value), ("created", 7.0));
    }
}
