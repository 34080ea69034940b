//! `barycenter job`.

use std::time::Instant;

use barycenter_api::{
    EditJob, Job, JobState, ListJobs, LogQuery,
    client::{Client, LONGEST_WAIT_SECONDS},
};
use clap::{Subcommand, ValueEnum};
use uuid::Uuid;

use crate::{
    deletion,
    exit::Outcome,
    output::{self, Format, Output},
    progress::Bar,
    shown::{self, bytes},
    spec::SpecArguments,
    tables,
};

/// Commands on jobs.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Queue a job.
    Submit {
        #[command(flatten)]
        spec: Box<SpecArguments>,
        /// Wait for its end; the exit code is its outcome.
        #[arg(long, conflicts_with = "validate")]
        wait: bool,
        /// Check the spec and print its memory estimate; nothing is queued.
        #[arg(long)]
        validate: bool,
    },
    /// List jobs, newest first.
    List {
        /// Only jobs of this run, by name or id.
        #[arg(long)]
        run: Option<String>,
        /// Only jobs in this state.
        #[arg(long, value_enum)]
        state: Option<State>,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show a job and what it found.
    Show {
        /// Its id.
        job: Uuid,
    },
    /// Follow a job to its end; the exit code is its outcome.
    Watch {
        /// Its id.
        job: Uuid,
    },
    /// Print what the workers of a job said.
    Logs {
        /// Its id.
        job: Uuid,
        /// Go on until the job ends.
        #[arg(short, long)]
        follow: bool,
        /// Only so many of the newest lines.
        #[arg(long)]
        tail: Option<u32>,
    },
    /// Ask for a job to end.
    Cancel {
        /// Its id.
        job: Uuid,
    },
    /// Change a queued job's priority.
    Edit {
        /// Its id.
        job: Uuid,
        /// Higher goes first, -1000 to 1000.
        #[arg(long, allow_negative_numbers = true)]
        priority: i32,
    },
    /// Delete a job that has ended and whose artifact, if it made one, is deleted.
    Delete {
        /// Its id.
        job: Uuid,
    },
    /// Bring a deleted job back.
    Undelete {
        /// Its id.
        job: Uuid,
    },
    /// Print the coefficients that a job found.
    Coefficients {
        /// Its id.
        job: Uuid,
        /// A table for people unless told (or `-o json`).
        #[arg(long, value_enum)]
        format: Option<Encoding>,
    },
    /// Print the fit, step by step.
    History {
        /// Its id.
        job: Uuid,
        /// A table for people, without the coefficients, unless told (or `-o json`).
        #[arg(long, value_enum)]
        format: Option<Encoding>,
    },
}

/// States of a job.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum State {
    /// Waits for a worker.
    Queued,
    /// Leased by a worker.
    Running,
    /// Has an artifact.
    Succeeded,
    /// Ended without one.
    Failed,
    /// Ended because someone asked.
    Cancelled,
}

/// Encodings of coefficients and histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// The API's JSON.
    Json,
    /// One line for each number.
    Csv,
}

pub async fn run(client: &Client, output: &Output, command: JobCommand) -> anyhow::Result<Outcome> {
    match command {
        JobCommand::Submit { spec, wait, validate } => return submit(client, output, *spec, wait, validate).await,
        JobCommand::List { run, state, limit } => {
            let query = ListJobs { state: state.map(Into::into), run, page_size: Some(limit), page_token: None };
            output.list(&client.list_jobs(&query).await?.items)?;
        }
        JobCommand::Show { job } => show(output, &client.find_job(job, None).await?)?,
        JobCommand::Watch { job } => return watch(client, output, job).await,
        JobCommand::Logs { job, follow, tail } => logs(client, output, job, follow, tail).await?,
        JobCommand::Cancel { job } => {
            let job = client.cancel_job(job).await?;
            output.show(&job)?;
        }
        JobCommand::Edit { job, priority } => output.show(&client.edit_job(job, &EditJob { priority }).await?)?,
        JobCommand::Delete { job } => {
            deletion::tell(output, &format!("the job {job}"), &client.delete_job(job).await?)?;
        }
        JobCommand::Undelete { job } => output.show(&client.undelete_job(job).await?)?,
        JobCommand::Coefficients { job, format } => coefficients(client, output, job, format).await?,
        JobCommand::History { job, format } => {
            tables::print_history(client, output, job, chosen(output, format)).await?;
        }
    }
    Ok(Outcome::Success)
}

impl From<State> for JobState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

async fn submit(
    client: &Client,
    output: &Output,
    spec: SpecArguments,
    wait: bool,
    validate: bool,
) -> anyhow::Result<Outcome> {
    let spec = spec.into_spec()?;
    if validate {
        let validated = client.validate_job(&spec).await?;
        match output.format() {
            Format::Json => output::write_json(&validated)?,
            _ => output::write(&format!("the spec is right; memory: {}", bytes(validated.estimate.total_bytes)))?,
        }
        return Ok(Outcome::Success);
    }
    let job = client.submit_job(&spec).await?;
    if wait {
        output.say(&format!("job {}", job.job_id));
        return watch(client, output, job.job_id).await;
    }
    output.show(&job)?;
    Ok(Outcome::Success)
}

/// Follows a job by long polls; shorter ones where someone looks on.
async fn watch(client: &Client, output: &Output, job_id: Uuid) -> anyhow::Result<Outcome> {
    let bar = Bar::of_units(0, "", output.quiet());
    let started = Instant::now();
    let wait = match (output.quiet(), bar.is_live()) {
        (true, _) => LONGEST_WAIT_SECONDS,
        (false, true) => 1,
        (false, false) => 5,
    };
    let mut job = client.find_job(job_id, None).await?;
    while !job.state.is_terminal() {
        bar.show_job(&standing(&job), job.progress.as_ref());
        job = client.find_job(job_id, Some(wait)).await?;
    }
    bar.finish();
    output.say(&format!("{} after {:.1} s", job.state, started.elapsed().as_secs_f64()));
    show(output, &job)?;
    Ok(outcome(job.state))
}

/// Log lines, page by page; where they are followed, by long polls until the job ends.
async fn logs(client: &Client, output: &Output, job: Uuid, follow: bool, tail: Option<u32>) -> anyhow::Result<()> {
    let mut query = LogQuery { tail, ..LogQuery::default() };
    loop {
        let log = client.job_log(job, &query).await?;
        for line in &log.lines {
            output.line(line, || shown::log_line(line))?;
        }
        let exhausted = log.lines.is_empty() || (tail.is_some() && query.after.is_none());
        if log.complete || (exhausted && !follow) {
            return Ok(());
        }
        let wait = follow.then_some(LONGEST_WAIT_SECONDS);
        query = LogQuery { after: log.next, wait, ..LogQuery::default() };
    }
}

/// The state, and for a queued job its place and why it waits.
fn standing(job: &Job) -> String {
    match &job.waiting {
        Some(waiting) => format!("{}, {}", job.state, shown::waiting(waiting)),
        None => job.state.to_string(),
    }
}

/// How the command ends where the job ended so.
fn outcome(state: JobState) -> Outcome {
    match state {
        JobState::Failed => Outcome::JobFailed,
        JobState::Cancelled => Outcome::JobCancelled,
        JobState::Queued | JobState::Running | JobState::Succeeded => Outcome::Success,
    }
}

/// The job, and for people the table of what it found.
fn show(output: &Output, job: &Job) -> anyhow::Result<()> {
    output.show(job)?;
    if output.format() == Format::Table
        && let Some(report) = &job.report
    {
        let (columns, rows) = tables::report(job, report);
        output.table(&columns, rows)?;
        output::write(&report.verdict)?;
        if let Some(geometry) = &report.geometry {
            output::write(&tables::geometry(geometry))?;
        }
        if let Some(found) = &report.projection {
            output::write(&tables::projection(found))?;
        }
        output::write(&tables::phases(report))?;
    }
    Ok(())
}

/// The encoding asked for: `--format`, else JSON where all output is JSON, else a table.
fn chosen(output: &Output, format: Option<Encoding>) -> Option<Encoding> {
    format.or((output.format() == Format::Json).then_some(Encoding::Json))
}

async fn coefficients(client: &Client, output: &Output, job: Uuid, format: Option<Encoding>) -> anyhow::Result<()> {
    match chosen(output, format) {
        Some(Encoding::Csv) => Ok(client.coefficients_csv(job, &mut std::io::stdout()).await?),
        Some(Encoding::Json) => output::write_json(&client.coefficients(job).await?),
        None => tables::print_coefficients(output, &client.coefficients(job).await?),
    }
}
