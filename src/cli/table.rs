//! Tables for people.

use std::fmt::Write;

/// The lines with each column as wide as its widest cell, three spaces between, and none at the end of a line.
pub(super) fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        for (width, cell) in widths.iter().zip(line) {
            let _infallible = write!(text, "{cell:<width$}   ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
