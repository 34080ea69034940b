//! Rows of figures beside their targets.

use std::{fs, path::Path};

use anyhow::Result;
use serde::Serialize;

/// A figure beside what it is held against.
#[derive(Debug, Serialize)]
pub struct Row {
    figure: String,
    ours: f64,
    against: f64,
    ratio: f64,
    target: String,
    holds: bool,
}

/// What was measured.
#[derive(Default)]
pub struct Figures(Vec<Row>);

impl Figures {
    /// A figure that may be at most `limit`.
    pub fn at_most(&mut self, figure: &str, ours: f64, limit: f64) {
        self.add(figure, (ours, limit), ours / limit, format!("<= {limit}"), ours <= limit);
    }

    /// A speed that is to be at least `limit`.
    pub fn at_least(&mut self, figure: &str, ours: f64, limit: f64) {
        self.add(figure, (ours, limit), ours / limit, format!(">= {limit}"), ours >= limit);
    }

    /// A speed that is to be at least `factor` of another.
    pub fn at_least_of(&mut self, figure: &str, ours: f64, against: f64, factor: f64) {
        self.add(figure, (ours, against), ours / against, format!(">= {factor}x"), ours >= factor * against);
    }

    fn add(&mut self, figure: &str, (ours, against): (f64, f64), ratio: f64, target: String, holds: bool) {
        let row = Row { figure: figure.to_owned(), ours, against, ratio, target, holds };
        eprintln!("{}", line(&row));
        self.0.push(row);
    }

    /// All rows, to standard output.
    pub fn print(&self) {
        println!("{:60} {:>12} {:>12} {:>8}  {:10} holds", "figure", "ours", "against", "ratio", "target");
        for row in &self.0 {
            println!("{}", line(row));
        }
    }

    /// All rows, as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(fs::write(path, serde_json::to_string_pretty(&self.0)? + "\n")?)
    }
}

fn line(row: &Row) -> String {
    let Row { figure, ours, against, ratio, target, holds } = row;
    format!("{figure:60} {ours:>12.3} {against:>12.3} {ratio:>8.3}  {target:10} {holds}")
}
