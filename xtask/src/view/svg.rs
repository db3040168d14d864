//! Writes SVG: elements, and text that is escaped.
//!
//! The picture has no background and no style sheet, and its colours have a contrast of at least 3 to 1 with white and
//! with black: it can be read in print, on light screens and on dark ones, by every program that shows SVG.

use std::fmt::Write;

/// Text, and lines that have no meaning of their own.
pub(crate) const INK: &str = "#7d8590";

/// Where a text is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stroke<'s> {
    pub(crate) colour: &'s str,
    pub(crate) width: f64,
    /// Lengths of dashes and gaps; empty for a whole line.
    pub(crate) dashes: &'s str,
}

/// A picture being written.
#[derive(Debug)]
pub(crate) struct Svg {
    text: String,
}

impl Svg {
    /// An empty picture of this size, with a title for those who cannot see it.
    pub(crate) fn new(width: f64, height: f64, title: &str) -> Self {
        let title = escaped(title);
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" \
             font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"12\">\n\
             <title>{title}</title>\n"
        );
        Self { text }
    }

    /// A line through points.
    pub(crate) fn line(&mut self, points: &[(f64, f64)], stroke: Stroke<'_>) {
        let Stroke { colour, width, dashes } = stroke;
        let dashes =
            if dashes.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dashes}\"") };
        let places = places(points);
        self.put(format_args!(
            "<polyline points=\"{places}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"{dashes} \
             stroke-linejoin=\"round\"/>"
        ));
    }

    /// An area, through which what is below can be seen.
    pub(crate) fn area(&mut self, outline: &[(f64, f64)], colour: &str, opacity: f64) {
        let places = places(outline);
        self.put(format_args!("<polygon points=\"{places}\" fill=\"{colour}\" fill-opacity=\"{opacity}\"/>"));
    }

    /// A text on a baseline.
    pub(crate) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, colour: &str, text: &str) {
        self.styled(x, y, anchor, &format!("fill=\"{colour}\""), text);
    }

    /// A text that is more important than others.
    pub(crate) fn heading(&mut self, (x, y): (f64, f64), text: &str) {
        self.styled(
            x,
            y,
            Anchor::Start,
            &format!("fill=\"{INK}\" font-size=\"15\" font-weight=\"600\""),
            text,
        );
    }

    fn styled(&mut self, x: f64, y: f64, anchor: Anchor, style: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let text = escaped(text);
        self.put(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\"{anchor} {style}>{text}</text>"));
    }

    /// The whole file.
    pub(crate) fn finish(self) -> String {
        self.text + "</svg>\n"
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{element}");
    }
}

fn places(points: &[(f64, f64)]) -> String {
    points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}

/// Text as XML wants it: characters that it forbids are replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\u{FFFE}' | '\u{FFFF}' => escaped.push('\u{FFFD}'),
            control if control.is_control() => escaped.push('\u{FFFD}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Checks that a text is one well-formed element, as far as this writer can go wrong: tags nest and close,
    /// attributes are quoted and appear once, text has no bare `<` or `&`, numbers are numbers.
    pub(crate) fn check_well_formed(text: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = text.trim_end();
        assert!(rest.starts_with("<svg "), "begins with its root");
        while let Some(at) = rest.find('<') {
            let (before, tag) = rest.split_at(at);
            check_text(before);
            assert!(before.trim().is_empty() || !open.is_empty(), "text outside the root: {before:?}");
            let end = tag.find('>').expect("a tag ends");
            let inside = &tag[1..end];
            rest = &tag[end + 1..];
            if let Some(name) = inside.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closing tag");
                assert!(!open.is_empty() || rest.is_empty(), "something behind the root: {rest:?}");
                continue;
            }
            let (inside, closed) = inside.strip_suffix('/').map_or((inside, false), |inside| (inside, true));
            let (name, mut attributes) = inside.split_once(' ').unwrap_or((inside, ""));
            assert!(name.bytes().all(|byte| byte.is_ascii_alphabetic()), "{name:?}");
            let mut seen = Vec::new();
            while !attributes.trim().is_empty() {
                let (key, more) = attributes.trim_start().split_once("=\"").expect("a value in quotes");
                let (value, more) = more.split_once('"').expect("a value ends");
                assert!(!seen.contains(&key), "{key} twice in {inside:?}");
                check_text(value);
                assert!(!value.contains("NaN") && !value.contains("inf"), "{key}={value:?}");
                seen.push(key);
                attributes = more;
            }
            if !closed {
                open.push(name);
            }
        }
        assert!(open.is_empty() && rest.is_empty(), "left open: {open:?}, behind: {rest:?}");
    }

    fn check_text(text: &str) {
        for (at, _) in text.match_indices('&') {
            let entity = ["&amp;", "&lt;", "&gt;"].iter().any(|entity| text[at..].starts_with(entity));
            assert!(entity, "a bare & in {text:?}");
        }
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }

    #[test]
    fn what_is_written_is_well_formed() {
        let mut svg = Svg::new(10.0, 20.0, "a < b & c > d \"e\"\u{7}");
        svg.line(&[(0.0, 1.0), (2.25, 3.0)], Stroke { colour: INK, width: 1.5, dashes: "4 2" });
        svg.area(&[], INK, 0.5);
        svg.text((1.0, 2.0), Anchor::End, INK, "</svg>\u{1b}[31m\u{FFFF}");
        svg.heading((1.0, 2.0), "h");
        let text = svg.finish();
        check_well_formed(&text);
        assert!(text.contains("points=\"0.0,1.0 2.2,3.0\""), "{text}");
        assert!(text.contains("&lt;/svg&gt;\u{FFFD}[31m\u{FFFD}"), "{text}");
    }
}
