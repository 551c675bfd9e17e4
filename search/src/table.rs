//! Plain text tables.

/// Lines of a table: the head, then the rows; numbers are flush right.
pub fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().chain([&head.to_vec()]).map(|row| row[column].chars().count()).max();
        cells.unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let is_number =
        |column: usize| rows.iter().all(|row| row[column] == "-" || row[column].parse::<f64>().is_ok());
    let right: Vec<bool> = (0..head.len()).map(is_number).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).zip(&right).map(|((cell, width), right)| {
            if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<String>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(head)];
    lines.extend(rows.iter().map(|row| line(row)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_flush_right_and_words_flush_left() {
        let cells = |row: [&str; 2]| row.map(str::to_owned).to_vec();
        let text = table(&cells(["trial", "state"]), &[cells(["7", "FAIL"]), cells(["10", "COMPLETE"])]);
        assert_eq!(text, "trial  state\n    7  FAIL\n   10  COMPLETE");
    }
}
