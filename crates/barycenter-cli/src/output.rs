//! Results on standard output, talk on standard error.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::shown::Shown;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// The API's own JSON.
    Json,
    /// Identifiers alone, one a line.
    Id,
}

/// Where a command writes.
#[derive(Debug)]
pub struct Output {
    format: Format,
    quiet: bool,
    terminal: bool,
}

impl Output {
    /// Standard output in this format.
    pub fn new(format: Format, quiet: bool) -> Self {
        Self { format, quiet, terminal: io::stdout().is_terminal() }
    }

    /// The format asked for.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether progress is to be shown.
    pub fn quiet(&self) -> bool {
        self.quiet
    }

    /// Tells a person something, unless it is to be quiet.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Writes one thing.
    pub fn show<T: Shown>(&self, thing: &T) -> anyhow::Result<()> {
        match self.format {
            Format::Table => write(&details(&thing.details(), self.terminal)),
            Format::Json => write_json(thing),
            Format::Id => write(&thing.id()),
        }
    }

    /// Writes a list.
    pub fn list<T: Shown>(&self, things: &[T]) -> anyhow::Result<()> {
        match self.format {
            Format::Table => write(&list(T::COLUMNS, things.iter().map(Shown::row), self.terminal)),
            Format::Json => write_json(&things),
            Format::Id => things.iter().try_for_each(|thing| write(&thing.id())),
        }
    }

    /// Writes a line of a text that may have no end: JSON of its own where the output is JSON.
    pub fn line(&self, thing: &impl Serialize, told: impl FnOnce() -> String) -> anyhow::Result<()> {
        match self.format {
            Format::Json => write(&serde_json::to_string(thing)?),
            Format::Table | Format::Id => write(&told()),
        }
    }

    /// Writes a table without identifiers.
    pub fn table(&self, columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> anyhow::Result<()> {
        write(&list(columns, rows, self.terminal))
    }
}

/// Writes JSON to standard output.
pub fn write_json(value: &impl Serialize) -> anyhow::Result<()> {
    write(&serde_json::to_string_pretty(value)?)
}

/// Writes text and a line's end to standard output.
pub fn write(text: &str) -> anyhow::Result<()> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// A table with borders on a terminal, and bare columns elsewhere.
pub fn list(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>, terminal: bool) -> String {
    let mut table = bare(terminal);
    table.set_header(columns.iter().map(ToString::to_string));
    table.add_rows(rows);
    table.trim_fmt()
}

/// One thing, a line for each of its properties.
pub fn details(pairs: &[(&str, String)], terminal: bool) -> String {
    let mut table = bare(terminal);
    table.add_rows(pairs.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]));
    table.trim_fmt()
}

fn bare(terminal: bool) -> Table {
    let mut table = Table::new();
    if terminal {
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.load_style(presets::NOTHING).force_no_tty();
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table
}
