//! A picture of dots in a terminal: every character is a Braille pattern of two by four.

/// A colour of the terminal's own palette, so that it fits the user's background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Blue,
    Yellow,
    Green,
    Magenta,
    Cyan,
    Red,
}

impl Colour {
    /// For several guests, in turn.
    pub(crate) const ALL: [Self; 6] =
        [Self::Blue, Self::Yellow, Self::Green, Self::Magenta, Self::Red, Self::Cyan];

    /// The escape sequence that begins it.
    pub(crate) const fn begin(self) -> &'static str {
        match self {
            Self::Blue => "\x1b[94m",
            Self::Yellow => "\x1b[33m",
            Self::Green => "\x1b[32m",
            Self::Magenta => "\x1b[35m",
            Self::Cyan => "\x1b[36m",
            Self::Red => "\x1b[31m",
        }
    }
}

/// Ends a colour.
pub(crate) const PLAIN: &str = "\x1b[39m";

/// The dots.
#[derive(Debug)]
pub(crate) struct Canvas {
    columns: usize,
    rows: usize,
    cells: Vec<(u8, Option<Colour>)>,
}

impl Canvas {
    /// Empty, of so many characters.
    pub(crate) fn new(columns: usize, rows: usize) -> Self {
        Self { columns, rows, cells: vec![(0, None); columns * rows] }
    }

    /// How many dots it is wide and high.
    pub(crate) const fn dots(&self) -> (usize, usize) {
        (self.columns * 2, self.rows * 4)
    }

    /// Sets a dot; (0, 0) is at the lower left. Dots outside are left out. A character has the colour of its last dot.
    pub(crate) fn set(&mut self, x: usize, y: usize, colour: Colour) {
        let (width, height) = self.dots();
        if x >= width || y >= height {
            return;
        }
        let from_top = height - 1 - y;
        // The dots of a pattern in Unicode's order of bits, line by line.
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        let bit = BITS[from_top % 4][x % 2];
        if let Some((dots, painted)) = self.cells.get_mut(from_top / 4 * self.columns + x / 2) {
            *dots |= bit;
            *painted = Some(colour);
        }
    }

    /// Draws a line through heights, one for each column of dots; `None` breaks it.
    pub(crate) fn line(&mut self, heights: &[Option<usize>], colour: Colour) {
        let mut last: Option<usize> = None;
        for (x, height) in heights.iter().enumerate() {
            if let Some(y) = *height {
                let from = last.unwrap_or(y);
                for between in from.min(y)..=from.max(y) {
                    self.set(x, between, colour);
                }
            }
            last = *height;
        }
    }

    /// The rows from the top, with escape sequences for colours.
    pub(crate) fn rows(&self) -> impl Iterator<Item = String> {
        self.cells.chunks(self.columns.max(1)).map(|cells| {
            let mut row = String::new();
            let mut current = None;
            for &(dots, colour) in cells {
                if colour.is_some() && colour != current {
                    row.push_str(colour.map_or(PLAIN, Colour::begin));
                    current = colour;
                }
                row.push(char::from_u32(0x2800 + u32::from(dots)).filter(|_| dots > 0).unwrap_or(' '));
            }
            if current.is_some() {
                row.push_str(PLAIN);
            }
            row
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_where_they_belong() {
        let mut canvas = Canvas::new(2, 2);
        assert_eq!(canvas.dots(), (4, 8));
        canvas.set(0, 0, Colour::Blue);
        canvas.set(3, 7, Colour::Red);
        canvas.set(4, 0, Colour::Red);
        canvas.set(0, 8, Colour::Red);
        assert_eq!(canvas.rows().collect::<Vec<_>>(), [" \x1b[31m⠈\x1b[39m", "\x1b[94m⡀ \x1b[39m"]);
    }

    #[test]
    fn lines_are_connected_and_broken_where_nothing_is_known() {
        let mut canvas = Canvas::new(3, 1);
        canvas.line(&[Some(0), Some(3), None, Some(1), Some(1), None], Colour::Green);
        assert_eq!(canvas.rows().collect::<Vec<_>>(), ["\x1b[32m⣸⠠⠄\x1b[39m"]);
        assert_eq!(Canvas::new(0, 3).rows().count(), 0);
    }
}
