//! Which server, as whom, and how the answer is written.

use std::{env, path::PathBuf};

use anyhow::Context;
use barycenter_api::client::Client;
use clap::Args;

use crate::output::{Format, Output};

const TOKEN: &str = "BARYCENTER_TOKEN";

/// Options of every command that speaks to a server.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// URL of the server.
    #[arg(long, global = true, env = "BARYCENTER_SERVER", default_value = "http://127.0.0.1:8700", value_name = "URL")]
    pub server: String,
    /// File that holds the API token; else it is read from the environment variable `BARYCENTER_TOKEN`.
    #[arg(long, global = true, env = "BARYCENTER_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// How results are written.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Say nothing but results and errors.
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

impl Global {
    /// A client of the server; nothing is sent yet.
    pub fn connect(&self) -> anyhow::Result<Client> {
        let token = match &self.token_file {
            Some(file) => Some(std::fs::read_to_string(file).with_context(|| file.display().to_string())?),
            None => env::var(TOKEN).ok(),
        };
        let token = token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        // A person waits: two more tries bridge a hiccup, not an outage.
        Ok(Client::new(&self.server, token)?.with_repeats(2))
    }

    /// Where results go.
    pub fn output(&self) -> Output {
        Output::new(self.output, self.quiet)
    }
}
