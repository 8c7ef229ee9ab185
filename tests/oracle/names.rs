//! Domain patterns by splitting strings (POLICY §2). A pattern is its canonical labels and `*`, from the left.

/// Whether a pattern's labels match a name.
pub(crate) fn matches(pattern: &[String], name: &str) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    if pattern[0] != "*" {
        return pattern.len() == labels.len() && one_by_one(pattern, &labels);
    }
    // The leading `*` takes one label or more; what it leaves is matched one by one.
    let rest = &pattern[1..];
    labels.len() > rest.len() && one_by_one(rest, &labels[labels.len() - rest.len()..])
}

fn one_by_one(pattern: &[String], labels: &[&str]) -> bool {
    pattern.iter().zip(labels).all(|(ours, theirs)| ours == "*" || ours == theirs)
}

/// The place of the pattern that applies to a name.
pub(crate) fn most_specific(patterns: &[&[String]], name: &str) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (place, pattern) in patterns.iter().enumerate() {
        if matches(pattern, name) && best.is_none_or(|other| beats(pattern, patterns[other])) {
            best = Some(place);
        }
    }
    best
}

/// Whether a pattern is more specific than one declared before it.
fn beats(pattern: &[String], other: &[String]) -> bool {
    let stars = |labels: &[String]| labels.iter().filter(|label| *label == "*").count();
    let literals = |labels: &[String]| labels.len() - stars(labels);
    if stars(pattern) == 0 || stars(other) == 0 {
        return stars(pattern) == 0 && stars(other) > 0;
    }
    if literals(pattern) != literals(other) {
        return literals(pattern) > literals(other);
    }
    pattern[0] != "*" && other[0] == "*"
}
