//! Columns, aligned as kubectl aligns them: three spaces between, nothing behind the last one.

use super::human;

/// Rows under a header.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this header.
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&h| h.to_owned()).collect()] }
    }

    /// Adds a row. Cells are foreign text: of several lines the first is shown, and an empty cell as `<none>`.
    pub(crate) fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cell = |text: S| match text.as_ref().trim_end().split_once('\n') {
            Some((first, _)) => format!("{} …", human::one_line(first.trim_end())),
            None if text.as_ref().is_empty() => "<none>".to_owned(),
            None => human::one_line(text.as_ref()),
        };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// The text, each line behind `indent`.
    pub(crate) fn render(&self, indent: &str) -> String {
        self.render_from(0, indent)
    }

    /// The last row by itself, aligned with the rows before it.
    pub(crate) fn render_last(&self) -> String {
        self.render_from(self.rows.len() - 1, "")
    }

    fn render_from(&self, first: usize, indent: &str) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows[first..] {
            let mut line = indent.to_owned();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}   "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "READY", "AGE"]);
        table.row(["a", "True", "5s"]);
        table.row(["a-long-name", "", "12d"]);
        insta::assert_snapshot!(table.render(""), @r"
        NAME          READY    AGE
        a             True     5s
        a-long-name   <none>   12d
        ");
    }

    #[test]
    fn a_cell_is_one_line_whatever_it_holds() {
        let mut table = Table::new(&["MESSAGE"]);
        table.row(["two\x07\nlines"]);
        assert_eq!(table.render("  "), "  MESSAGE\n  two\\u{7} …\n");
    }
}
