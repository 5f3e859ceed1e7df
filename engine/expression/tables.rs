//! Cross-reference tables: rows by their first column. Pure; somebody else reads the files.

use std::fmt;

use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use super::{Table, TableFault, Tables};

impl Tables {
    /// No tables.
    pub fn new() -> Tables {
        Tables::default()
    }

    /// Adds a table, or replaces the one of the same name.
    pub fn insert(&mut self, table: Table) {
        self.tables.insert(table.name.clone(), table);
    }

    /// The table with this name.
    pub fn get(&self, name: &str) -> Option<&Table> {
        self.tables.get(name)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().map(String::as_str)
    }

    /// A hash of the content of all tables, for the revision of a project.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for table in self.tables.values() {
            hash.update(table.hash);
        }
        hash.finalize().into()
    }
}

impl Table {
    /// A table of a header and rows. Keys must differ, and every row must have as many cells as the header.
    pub fn new(
        name: impl Into<String>,
        columns: Vec<String>,
        rows: Vec<Vec<String>>,
    ) -> Result<Table, TableFault> {
        let fault = |row, message| Err(TableFault { row, message });
        if columns.len() < 2 {
            return fault(
                0,
                "a table needs a key column and a value column".to_owned(),
            );
        }
        let twice = columns
            .iter()
            .enumerate()
            .find(|(at, column)| columns[..*at].contains(column));
        if let Some((_, column)) = twice {
            return fault(
                0,
                format!("the column `{column}` stands twice in the header"),
            );
        }
        let mut places = FxHashMap::default();
        for (at, row) in rows.iter().enumerate() {
            if row.len() != columns.len() {
                let message = format!("{} cells, the header has {}", row.len(), columns.len());
                return fault(at + 1, message);
            }
            if places.insert(row[0].clone(), at).is_some() {
                return fault(at + 1, format!("the key `{}` stands twice", row[0]));
            }
        }
        let name = name.into();
        let hash = hash(&name, &columns, &rows);
        Ok(Table {
            name,
            columns,
            rows,
            places,
            hash,
        })
    }

    /// The name, as `lookup` uses it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The columns, the key first.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row with this key.
    pub fn row(&self, key: &str) -> Option<&[String]> {
        self.places.get(key).map(|&at| self.rows[at].as_slice())
    }

    /// The cell in the row with this key and in the column with this name.
    pub fn cell(&self, key: &str, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|known| known == column)?;
        self.row(key).map(|row| row[at].as_str())
    }

    /// The cells of a column, in the order of the rows.
    pub(crate) fn cells(&self, column: &str) -> Option<impl Iterator<Item = &str>> {
        let at = self.columns.iter().position(|known| known == column)?;
        Some(self.rows.iter().map(move |row| row[at].as_str()))
    }

    /// The keys, in the order of the rows.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| row[0].as_str())
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({} rows)", self.name, self.rows.len())
    }
}

/// Lengths go in as well, so that no two tables run together.
fn hash(name: &str, columns: &[String], rows: &[Vec<String>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    add(name);
    for row in std::iter::once(columns).chain(rows.iter().map(Vec::as_slice)) {
        add(&row.len().to_string());
        row.iter().for_each(|cell| add(cell));
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[&[&str]]) -> Result<Table, TableFault> {
        let mut rows = rows
            .iter()
            .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect());
        let header = rows.next().unwrap_or_default();
        Table::new("t", header, rows.collect())
    }

    #[test]
    fn rows_are_found_by_their_first_column() {
        let table = table(&[&["code", "name"], &["a", "Anna"], &["b", "Berta"]]).unwrap();
        assert_eq!(table.cell("b", "name"), Some("Berta"));
        assert_eq!(table.cell("c", "name"), None);
        assert_eq!(table.cell("b", "nome"), None);
        assert_eq!(table.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn bad_tables_are_refused_with_their_row() {
        let row = |rows: &[&[&str]]| table(rows).unwrap_err().row;
        assert_eq!(row(&[&["code"]]), 0);
        assert_eq!(row(&[&["code", "code"]]), 0);
        assert_eq!(row(&[&["code", "name"], &["a"]]), 1);
        assert_eq!(row(&[&["code", "name"], &["a", "1"], &["a", "2"]]), 2);
    }

    #[test]
    fn another_cell_is_another_hash() {
        let hash = |rows: &[&[&str]]| {
            let mut tables = Tables::new();
            tables.insert(table(rows).unwrap());
            tables.hash()
        };
        let one = hash(&[&["code", "name"], &["a", "b"]]);
        assert_eq!(one, hash(&[&["code", "name"], &["a", "b"]]));
        assert_ne!(one, hash(&[&["code", "name"], &["a", "c"]]));
        assert_ne!(one, hash(&[&["code", "name"], &["ab", ""]]));
    }
}
