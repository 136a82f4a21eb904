//! The table of what was adapted, for people (`--explain`).

use std::fmt::Write;

use crate::error::printable;
use crate::plan::Note;

/// What is said where there is nothing to explain.
pub(super) const NOTHING: &str = "nothing was adapted\n";

/// The widest that the column of properties gets, in characters.
const PROPERTY: usize = 32;
/// The narrowest that a column of sentences gets, in characters.
const NARROWEST: usize = 24;
/// What is between two columns.
const GAP: &str = "  ";

/// One line, or as many as are needed, for each of `notes`, in a table `width` characters wide.
pub(super) fn table(notes: &[Note], width: usize) -> String {
    let code = |note: &Note| note.code.clone().unwrap_or_default();
    let head = ["PROPERTY", "WHAT WAS DONE", "REMEDY", "CODE"].map(str::to_owned);
    let cells = |note: &Note| {
        [&note.property, &note.reason, &note.remedy, &code(note)].map(|cell| printable(cell))
    };
    let lines: Vec<[String; 4]> = std::iter::once(head)
        .chain(notes.iter().map(cells))
        .collect();
    let widest = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let (property, code) = (widest(0).min(PROPERTY), widest(3));
    let left = width.saturating_sub(property + code + 3 * GAP.len());
    let sentences = (left / 2).max(NARROWEST);
    let widths = [
        property,
        widest(1).min(sentences),
        widest(2).min(sentences),
        code,
    ];
    let mut text = String::new();
    for line in &lines {
        let wrapped: Vec<Vec<String>> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| wrap(cell, width))
            .collect();
        let height = wrapped.iter().map(Vec::len).max().unwrap_or_default();
        for row in 0..height {
            for (cell, width) in wrapped.iter().zip(widths) {
                let part = cell.get(row).map_or("", String::as_str);
                let _infallible = write!(text, "{part:<width$}{GAP}");
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
    }
    text
}

/// `text` in lines of at most `width` characters, broken at spaces where there are some.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for (part, piece) in letters.chunks(width).enumerate() {
            let space = usize::from(length > 0 && part == 0);
            if length + space + piece.len() > width {
                lines.push(String::new());
                length = 0;
            }
            if let Some(line) = lines.last_mut() {
                if length > 0 && part == 0 {
                    line.push(' ');
                    length += 1;
                }
                line.extend(piece);
                length += piece.len();
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_spaces_else_anywhere() {
        for (text, width, lines) in [
            ("", 5, &[""][..]),
            ("one two", 7, &["one two"]),
            ("one two", 6, &["one", "two"]),
            ("abcdefg hi", 3, &["abc", "def", "g", "hi"]),
            ("  a   b ", 9, &["a b"]),
        ] {
            assert_eq!(wrap(text, width), lines, "{text:?} {width}");
        }
    }

    #[test]
    fn a_note_is_a_line_of_four_cells() {
        let notes = [
            Note::new("/a", "left out", "take it out").code("LDG-RLIMIT"),
            Note::new("/b/c", "\u{1b}[2J", "none"),
        ];
        let expected = "PROPERTY  WHAT WAS DONE  REMEDY       CODE\n\
                        /a        left out       take it out  LDG-RLIMIT\n\
                        /b/c      \\u{1b}[2J      none\n";
        assert_eq!(table(&notes, 100), expected);
    }

    #[test]
    fn no_line_is_wider_than_asked() {
        let words = "word ".repeat(60);
        let note = Note::new("/process/rlimits/0", &words, &words).code("LDG-RLIMIT");
        for line in table(&[note], 100).lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
}
