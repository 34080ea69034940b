//! `barycenter checkpoint diff`.

use barycenter_api::{EqualTensors, client::Client};
use clap::Args;

use super::tracking::find_named;
use crate::{
    output::{self, Format, Output},
    shown::bytes,
};

/// What to compare.
#[derive(Debug, Args)]
pub struct DiffArguments {
    /// Id of the first; with --run, its step or an alias such as `latest`.
    from: String,
    /// The second, likewise.
    to: String,
    /// Name or id of the run.
    #[arg(long)]
    run: Option<String>,
}

impl DiffArguments {
    /// Prints the names of the equal tensors, then how much of the first checkpoint they are.
    pub async fn print(&self, client: &Client, output: &Output) -> anyhow::Result<()> {
        let run = self.run.as_deref();
        let from = find_named(client, run, &self.from).await?;
        let to = find_named(client, run, &self.to).await?;
        let equal = client.find_equal_tensors(from.checkpoint_id, to.checkpoint_id).await?;
        if output.format() == Format::Json {
            return output::write_json(&equal);
        }
        if !equal.equal.is_empty() {
            output.table(COLUMNS, rows(&equal))?;
        }
        output.say(&summary(&equal));
        Ok(())
    }
}

const COLUMNS: &[&str] = &["equal tensor"];

fn rows(equal: &EqualTensors) -> Vec<Vec<String>> {
    equal.equal.iter().map(|name| vec![name.clone()]).collect()
}

fn summary(equal: &EqualTensors) -> String {
    format!(
        "steps {} and {}: {} of {} tensors equal, {} of {}",
        equal.step,
        equal.with_step,
        equal.equal_count,
        equal.tensor_count,
        bytes(equal.equal_bytes),
        bytes(equal.tensor_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_tensors_are_named_and_counted() {
        let id = "0190f3a8-0000-7000-8000-000000000001";
        let equal: EqualTensors = serde_json::from_value(serde_json::json!({
            "checkpoint_id": id, "step": 100, "with": id, "with_step": 200, "tensor_count": 12, "tensor_bytes": 1_114_112,
            "equal_count": 2, "equal_bytes": 4096, "equal": ["embed.weight", "embed.bias"],
        }))
        .unwrap();
        let table = output::list(COLUMNS, rows(&equal), false);
        insta::assert_snapshot!(format!("{table}\n{}", summary(&equal)));
    }
}
