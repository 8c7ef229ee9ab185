//! Colour in what the verbs about policies print; where there is none, the text is the same.

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// As text.
    #[default]
    Plain,
    /// With the escape sequences of a terminal (ECMA-48 §8.3.117).
    Colored,
}

/// What a piece of text is, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// An error, a denial, an expectation that does not hold.
    Bad,
    /// A warning.
    Doubtful,
    /// A permit, an expectation that holds.
    Good,
    /// What stands out: a message, a name.
    Strong,
    /// What frames the rest: places, margins, labels.
    Frame,
}

impl Style {
    /// The text, in its colour if there are any.
    #[must_use]
    pub fn paint(self, ink: Ink, text: &str) -> String {
        let code = match (self, ink) {
            (Self::Plain, _) => return text.to_owned(),
            (Self::Colored, Ink::Bad) => "1;31",
            (Self::Colored, Ink::Doubtful) => "1;33",
            (Self::Colored, Ink::Good) => "1;32",
            (Self::Colored, Ink::Strong) => "1",
            (Self::Colored, Ink::Frame) => "1;34",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}
