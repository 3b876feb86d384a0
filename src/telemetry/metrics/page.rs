//! The page that Prometheus reads: text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>).

use std::fmt::{Display, Write as _};

use super::cells::Histogram;
use super::table::{Buckets, Metric};

/// The page's media type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page that is being written, metric by metric.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

/// The samples of one metric on a page.
#[derive(Debug)]
pub struct Samples<'a> {
    text: &'a mut String,
    metric: &'static Metric,
}

impl Page {
    /// Begins a metric. Each stands on the page once, with all its samples.
    pub fn metric(&mut self, metric: &'static Metric) -> Samples<'_> {
        let Metric { name, help, .. } = metric;
        // Writing to a string cannot fail.
        let _infallible = writeln!(self.text, "# HELP {name} {}", Escaped { text: help, quotes: false });
        let _infallible = writeln!(self.text, "# TYPE {name} {}", metric.kind.name());
        Samples { text: &mut self.text, metric }
    }

    /// A metric with one sample and no labels.
    pub fn single(&mut self, metric: &'static Metric, value: impl Display) {
        self.metric(metric).value(&[], value);
    }

    /// The page's text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

impl Samples<'_> {
    /// Adds a sample. `labels` are the values of the metric's labels, in their order.
    pub fn value(&mut self, labels: &[&dyn Display], value: impl Display) {
        self.text.push_str(self.metric.name);
        self.labels(labels, None);
        let _infallible = writeln!(self.text, " {value}");
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, labels: &[&dyn Display], histogram: &Histogram) {
        let buckets = histogram.buckets();
        let bounds = buckets.bounds().iter().map(|bound| Some(*bound)).chain([None]);
        let mut below = 0_u64;
        for (bound, count) in bounds.zip(histogram.counts()) {
            below = below.saturating_add(count);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| in_base_units(buckets, bound).to_string());
            let _infallible = write!(self.text, "{}_bucket", self.metric.name);
            self.labels(labels, Some(&bound));
            let _infallible = writeln!(self.text, " {below}");
        }
        for (suffix, value) in [("sum", in_base_units(buckets, histogram.sum())), ("count", as_float(below))] {
            let _infallible = write!(self.text, "{}_{suffix}", self.metric.name);
            self.labels(labels, None);
            let _infallible = writeln!(self.text, " {value}");
        }
    }

    fn labels(&mut self, values: &[&dyn Display], bound: Option<&str>) {
        debug_assert_eq!(values.len(), self.metric.labels.len(), "labels of {}", self.metric.name);
        let own = self.metric.labels.iter().copied().zip(values.iter().copied());
        let bound = bound.as_ref().map(|bound| ("le", bound as &dyn Display));
        let mut before = '{';
        for (name, value) in own.chain(bound) {
            let value = value.to_string();
            let _infallible = write!(self.text, "{before}{name}=\"{}\"", Escaped { text: &value, quotes: true });
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
    }
}

fn in_base_units(buckets: Buckets, value: u64) -> f64 {
    match buckets {
        Buckets::Sizes(_) => as_float(value),
        Buckets::Durations(_) => as_float(value) / 1e9,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a sample is a double: past 2^53 its last digits do not count")]
fn as_float(value: u64) -> f64 {
    value as f64
}

/// Text as the format wants it: a line feed and a backslash escaped everywhere, a quote in a label's value.
struct Escaped<'a> {
    text: &'a str,
    quotes: bool,
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in self.text.split_inclusive(['\\', '\n', '"']) {
            let mut plain = part.chars();
            match plain.next_back() {
                Some('\\') => write!(f, "{}\\\\", plain.as_str())?,
                Some('\n') => write!(f, "{}\\n", plain.as_str())?,
                Some('"') if self.quotes => write!(f, "{}\\\"", plain.as_str())?,
                Some(_) | None => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Kind;
    use super::*;

    static PLAIN: Metric =
        Metric { name: "a_total", kind: Kind::Counter, labels: &["x", "y"], help: "One \\ \"two\".\n" };
    const BUCKETS: Buckets = Buckets::Durations(&[50_000, 1_000_000_000]);
    static SPREAD: Metric = Metric { name: "b_seconds", kind: Kind::Histogram(BUCKETS), labels: &[], help: "B." };

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.metric(&PLAIN).value(&[&"a\"b\\c\nd", &7], 3);
        let expected =
            "# HELP a_total One \\\\ \"two\".\\n\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\c\\nd\",y=\"7\"} 3\n";
        assert_eq!(page.finish(), expected);
    }

    #[test]
    fn a_histogram_counts_what_is_below_each_bound() {
        let histogram = Histogram::new(BUCKETS);
        for micros in [10, 60, 2_000_000] {
            histogram.took(std::time::Duration::from_micros(micros));
        }
        let mut page = Page::default();
        page.metric(&SPREAD).histogram(&[], &histogram);
        let text = page.finish();
        let lines: Vec<&str> = text.lines().skip(2).collect();
        let expected = [
            "b_seconds_bucket{le=\"0.00005\"} 1",
            "b_seconds_bucket{le=\"1\"} 2",
            "b_seconds_bucket{le=\"+Inf\"} 3",
            "b_seconds_sum 2.00007",
            "b_seconds_count 3",
        ];
        assert_eq!(lines, expected);
    }
}
