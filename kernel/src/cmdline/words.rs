//! Splitting a line into words, with quotes and backslashes resolved.

/// One word, in the caller's buffer.
pub(super) struct Word<'b> {
    pub(super) text: &'b str,
    /// The line ended inside quotes.
    pub(super) unterminated: bool,
    /// The word did not fit the buffer; `text` is its beginning.
    pub(super) too_long: bool,
}

/// The rest of a line.
pub(super) struct Words<'l> {
    rest: core::iter::Peekable<core::str::Chars<'l>>,
}

impl<'l> Words<'l> {
    pub(super) fn new(line: &'l str) -> Self {
        Self { rest: line.chars().peekable() }
    }

    /// The next word, or `None` at the end of the line.
    ///
    /// Not an `Iterator`: a word is lent from `buffer` until the next one is asked for.
    pub(super) fn next<'b>(&mut self, buffer: &'b mut [u8]) -> Option<Word<'b>> {
        while self.rest.next_if(char::is_ascii_whitespace).is_some() {}
        self.rest.peek()?;
        let (mut length, mut quoted, mut too_long) = (0, false, false);
        while let Some(character) = self.rest.next_if(|next| quoted || !next.is_ascii_whitespace()) {
            let meant = match character {
                '"' => {
                    quoted = !quoted;
                    continue;
                }
                '\\' => {
                    let escaped = |next: &char| *next == '"' || *next == '\\' || next.is_ascii_whitespace();
                    self.rest.next_if(escaped).unwrap_or('\\')
                }
                other => other,
            };
            // After the first character that does not fit, nothing does: `text` stays a prefix.
            too_long = too_long || length + meant.len_utf8() > buffer.len();
            if !too_long {
                length += meant.encode_utf8(&mut buffer[length..]).len();
            }
        }
        // Only whole characters were encoded.
        let text = core::str::from_utf8(&buffer[..length]).unwrap_or("");
        Some(Word { text, unterminated: quoted, too_long })
    }
}
