//! Rows in their three formats: a table for people, JSON and CSV for programs.
//!
//! A [`Table`] declares the fields and the columns of one kind of object in one place. JSON and CSV contain the fields, always all of
//! them and in this order, so that programs can rely on them. The columns are for people only.

use std::io::{self, IsTerminal, Write};
use std::time::SystemTime;

use anyhow::{Context, Result};
use comfy_table::{ColumnConstraint, ContentArrangement, presets};
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::{Map, Value};

use crate::args::OutputFormat;
use crate::layout;
use crate::output::{Screen, TextStream, one_line};

/// The declaration of a kind of object.
#[derive(Debug)]
pub(crate) struct Table {
    /// The key of the list in JSON.
    pub(crate) list: &'static str,
    /// The plural noun for messages.
    pub(crate) noun: &'static str,
    pub(crate) fields: &'static [Field],
    pub(crate) columns: &'static [Column],
}

/// A field in JSON and CSV.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    /// The path of the value, such as `size_bytes` or `event_info.type`. JSON contains the object of its first part as the server sent it.
    path: &'static str,
    /// The header in CSV.
    header: &'static str,
    /// Whether JSON has the field, too.
    is_in_json: bool,
}

/// A column for people.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// The name for `--columns`.
    pub(crate) name: &'static str,
    title: &'static str,
    cell: fn(&Row<'_>) -> String,
    /// Whether lists show the column without `--columns`.
    is_default: bool,
    /// Whether the cells are never wrapped, since people copy them.
    is_whole: bool,
}

/// An object, and the current time, to which its times are relative.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    object: &'a Value,
    now: SystemTime,
}

/// A list of objects of one kind.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) rows: Vec<Value>,
    /// Fields of the JSON object beside the list: those before it, and those after it.
    pub(crate) before: Vec<(&'static str, Value)>,
    pub(crate) after: Vec<(&'static str, Value)>,
    /// Whether there are further objects, which the limit has cut off.
    pub(crate) has_more: bool,
}

/// Creates a field whose header in CSV is its name.
pub(crate) const fn field(name: &'static str) -> Field {
    Field {
        path: name,
        header: name,
        is_in_json: true,
    }
}

/// Creates a field that only CSV has, since it belongs to the whole list in JSON.
pub(crate) const fn field_of_csv(name: &'static str) -> Field {
    Field {
        path: name,
        header: name,
        is_in_json: false,
    }
}

/// Creates a field inside of another object.
pub(crate) const fn nested(path: &'static str, header: &'static str) -> Field {
    Field {
        path,
        header,
        is_in_json: true,
    }
}

/// Creates a column that lists show by default.
pub(crate) const fn column(
    name: &'static str,
    title: &'static str,
    cell: fn(&Row<'_>) -> String,
) -> Column {
    Column {
        name,
        title,
        cell,
        is_default: true,
        is_whole: false,
    }
}

impl Column {
    /// Returns the column, changed so that its cells are never wrapped.
    pub(crate) const fn whole(mut self) -> Self {
        self.is_whole = true;
        self
    }

    /// Returns the column, changed so that lists show it only on request.
    pub(crate) const fn on_request(mut self) -> Self {
        self.is_default = false;
        self
    }
}

impl List {
    /// Creates a list of objects.
    ///
    /// # Errors
    /// If an object cannot be converted to JSON.
    pub(crate) fn new<T: Serialize>(
        objects: impl IntoIterator<Item = T>,
        has_more: bool,
    ) -> Result<Self> {
        let rows: serde_json::Result<Vec<Value>> =
            objects.into_iter().map(serde_json::to_value).collect();
        Ok(Self {
            rows: rows.context("cannot encode the result as JSON")?,
            before: Vec::new(),
            after: Vec::new(),
            has_more,
        })
    }

    /// Cuts the list to at most `limit` objects, if there is a limit.
    pub(crate) fn cut(&mut self, limit: Option<usize>) {
        if let Some(limit) = limit.filter(|limit| self.rows.len() > *limit) {
            self.rows.truncate(limit);
            self.has_more = true;
        }
    }

    /// Cuts the list to its last `limit` objects, if there is a limit.
    pub(crate) fn cut_to_last(&mut self, limit: Option<usize>) {
        if let Some(limit) = limit.filter(|limit| self.rows.len() > *limit) {
            self.rows.drain(..self.rows.len() - limit);
            self.has_more = true;
        }
    }
}

impl Table {
    /// Prints a list on stdout, in the columns with these names, or else the default columns. If the limit has cut off objects, says so on
    /// stderr.
    pub(crate) fn print(
        &self,
        list: &List,
        format: OutputFormat,
        columns: Option<&[&str]>,
        now: SystemTime,
    ) -> Result<()> {
        match format {
            OutputFormat::Json => print_json(&Document { table: self, list })?,
            OutputFormat::Csv => io::stdout().lock().write_all(&self.csv(&list.rows)?)?,
            OutputFormat::Table if list.rows.is_empty() => {
                Screen::new(TextStream::Stdout).line(format_args!("no {}", self.noun))?;
            }
            OutputFormat::Table => {
                let chosen = self.chosen(columns);
                Screen::new(TextStream::Stdout).line(render(&chosen, &list.rows, now))?;
            }
        }
        if list.has_more {
            let shown = list.rows.len();
            Screen::new(TextStream::Stderr).line(format_args!(
                "there are more than these {shown} {}: use --limit N or --all to see them",
                self.noun
            ))?;
        }
        Ok(())
    }

    /// Prints one object on stdout: as a line per column, as a JSON object, or as CSV with one row.
    pub(crate) fn print_one(
        &self,
        object: &impl Serialize,
        format: OutputFormat,
        now: SystemTime,
    ) -> Result<()> {
        let object = &serde_json::to_value(object).context("cannot encode the result as JSON")?;
        match format {
            OutputFormat::Json => print_json(&Object {
                table: self,
                object,
            }),
            OutputFormat::Csv => {
                let csv = self.csv(std::slice::from_ref(object))?;
                Ok(io::stdout().lock().write_all(&csv)?)
            }
            OutputFormat::Table => {
                let row = Row { object, now };
                let lines: Vec<_> = self
                    .columns
                    .iter()
                    .map(|column| (column.title, (column.cell)(&row)))
                    .collect();
                let screen = Screen::new(TextStream::Stdout);
                Ok(screen.line(layout::labelled(&lines, 0, screen.width()))?)
            }
        }
    }

    /// Returns the objects in the default columns.
    pub(crate) fn text(&self, rows: &[Value], now: SystemTime) -> String {
        render(&self.chosen(None), rows, now)
    }

    /// Returns CSV with a header and one line per object.
    pub(crate) fn csv(&self, rows: &[Value]) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let context = "cannot encode the result as CSV";
        let headers = self.fields.iter().map(|field| field.header);
        writer.write_record(headers).context(context)?;
        for row in rows {
            let cells = self.fields.iter().map(|field| csv_cell(row, field.path));
            writer.write_record(cells).context(context)?;
        }
        writer.into_inner().context(context)
    }

    fn chosen(&self, names: Option<&[&str]>) -> Vec<Column> {
        let default = || self.columns.iter().filter(|column| column.is_default);
        let by_name = |name: &&str| self.columns.iter().find(|column| column.name == *name);
        match names {
            None => default().copied().collect(),
            Some(names) => names.iter().filter_map(by_name).copied().collect(),
        }
    }
}

impl Row<'_> {
    /// Returns the value at a path. Null counts as missing.
    pub(crate) fn get(&self, path: &str) -> Option<&Value> {
        value_at(self.object, path)
    }

    /// Returns the string at a path.
    pub(crate) fn str(&self, path: &str) -> Option<&str> {
        self.get(path).and_then(Value::as_str)
    }

    /// Returns the current time.
    pub(crate) fn now(&self) -> SystemTime {
        self.now
    }
}

fn value_at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let found = parts.try_fold(object, |value, part| value.get(part));
    found.filter(|value| !value.is_null())
}

fn csv_cell(row: &Value, path: &str) -> String {
    match value_at(row, path) {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Lays out rows in columns. Cells are wrapped only on a terminal, so that each row of a file is one line.
fn render(columns: &[Column], rows: &[Value], now: SystemTime) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(presets::NOTHING);
    let screen = Screen::new(TextStream::Stdout);
    if io::stdout().is_terminal() {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(u16::try_from(screen.width()).unwrap_or(u16::MAX));
    }
    table.set_header(columns.iter().map(|column| column.title));
    for object in rows {
        let row = Row { object, now };
        let cells = columns.iter().map(|column| (column.cell)(&row));
        table.add_row(cells.map(|cell| one_line(&cell).into_owned()));
    }
    for (laid_out, column) in table.column_iter_mut().zip(columns) {
        laid_out.set_padding((0, 2));
        if column.is_whole {
            laid_out.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let text = table.trim_fmt();
    let (header, rest) = text.split_once('\n').unwrap_or((&text, ""));
    format!("{}\n{rest}", screen.style(header).bold())
}

/// Prints one JSON object on stdout, indented like those of the official program.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot encode the result as JSON")?;
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(())
}

/// The JSON object of a list.
struct Document<'a> {
    table: &'a Table,
    list: &'a List,
}

impl Serialize for Document<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { table, list } = *self;
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in &list.before {
            map.serialize_entry(key, value)?;
        }
        let rows = list.rows.iter().map(|object| Object { table, object });
        map.serialize_entry(table.list, &rows.collect::<Vec<_>>())?;
        for (key, value) in &list.after {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// The JSON form of one object: all fields, with null for those that the server did not send.
struct Object<'a> {
    table: &'a Table,
    object: &'a Value,
}

impl Serialize for Object<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut last = "";
        for field in self.table.fields.iter().filter(|field| field.is_in_json) {
            let key = field.path.split('.').next().unwrap_or_default();
            // Fields of the same inner object follow one another.
            if key != last {
                map.serialize_entry(key, self.object.get(key).unwrap_or(&Value::Null))?;
                last = key;
            }
        }
        map.end()
    }
}

/// Adds fields to the JSON form of an object.
///
/// # Errors
/// If the object cannot be converted to a JSON object.
pub(crate) fn with_fields<const N: usize>(
    object: &impl Serialize,
    fields: [(&str, Value); N],
) -> Result<Value> {
    let value = serde_json::to_value(object).context("cannot encode the result as JSON")?;
    let mut map = match value {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (name, value) in fields {
        map.insert(name.to_owned(), value);
    }
    Ok(Value::Object(map))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manage::cells;

    const TABLE: Table = Table {
        list: "things",
        noun: "things",
        fields: &[
            field("name"),
            nested("info.type", "type"),
            nested("info.size", "size"),
            field("note"),
        ],
        columns: &[
            column("name", "Name", |row| cells::text(row, "name")),
            column("size", "Size", |row| cells::bytes(row, "info.size")),
            column("note", "Note", |row| cells::text(row, "note")).on_request(),
        ],
    };

    fn rows() -> Vec<Value> {
        vec![
            json!({"note": "a,\"b\"", "info": {"type": "x", "size": 1536, "more": 1}, "name": "n", "extra": 1}),
            json!({"name": "long name\u{1b}[2J", "note": null}),
        ]
    }

    #[test]
    fn json_has_all_fields_in_their_declared_order() {
        let mut list = List::new(rows(), false).unwrap();
        list.before = vec![("run_id", json!("r"))];
        list.after = vec![("rest", Value::Null)];
        let document = Document {
            table: &TABLE,
            list: &list,
        };
        assert_eq!(
            serde_json::to_string(&document).unwrap(),
            r#"{"run_id":"r","things":[{"name":"n","info":{"more":1,"size":1536,"type":"x"},"note":"a,\"b\""},{"name":"long name\u001b[2J","info":null,"note":null}],"rest":null}"#
        );
    }

    #[test]
    fn csv_has_a_header_and_empty_cells_for_missing_values() {
        let csv = String::from_utf8(TABLE.csv(&rows()).unwrap()).unwrap();
        assert_eq!(
            csv,
            "name,type,size,note\nn,x,1536,\"a,\"\"b\"\"\"\nlong name\u{1b}[2J,,,\n"
        );
    }

    #[test]
    fn table_shows_default_columns_without_control_characters() {
        let text = |names| render(&TABLE.chosen(names), &rows(), SystemTime::UNIX_EPOCH);
        assert_eq!(
            text(None),
            "Name           Size\nn              1.5 KB\nlong name [2J  N/A"
        );
        assert_eq!(text(Some(&["note"])), "Note\na,\"b\"\nN/A");
    }

    #[test]
    fn list_is_cut_to_its_limit() {
        let mut list = List::new(rows(), false).unwrap();
        list.cut(None);
        list.cut(Some(2));
        assert!(!list.has_more);
        list.cut(Some(1));
        assert!(list.has_more && list.rows == rows()[..1]);
        let mut list = List::new(rows(), false).unwrap();
        list.cut_to_last(None);
        list.cut_to_last(Some(2));
        assert!(!list.has_more);
        list.cut_to_last(Some(1));
        assert!(list.has_more && list.rows == rows()[1..]);
    }
}
