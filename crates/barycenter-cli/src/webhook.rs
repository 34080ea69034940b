//! `barycenter webhook`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use barycenter_api::{
    CreateWebhook, DeliveryState, EditWebhook, EventKind, ListDeliveries, ListQuery, TestedWebhook, Webhook,
    WebhookDelivery, WebhookSecret, client::Client,
};
use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::{
    exit::Outcome,
    output::{self, Format, Output},
    shown::{Shown, time},
};

/// Commands on webhooks.
#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Make a webhook: what happens from now on is sent to a URL, signed.
    ///
    /// The secret, where the server makes it, is told once, on standard error; with `-o json` it is part of the result.
    Create(CreateArguments),
    /// List webhooks, newest first.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show a webhook.
    Show {
        /// Its id.
        webhook: Uuid,
    },
    /// Change what is given of a webhook.
    Edit(EditArguments),
    /// Remove a webhook with its deliveries.
    Delete {
        /// Its id.
        webhook: Uuid,
    },
    /// Send a `webhook.test` at once and tell what the receiver answered; exits with 1 where it did not accept.
    Test {
        /// Its id.
        webhook: Uuid,
    },
    /// List what was sent or will be, newest first.
    Deliveries {
        /// Id of the webhook.
        webhook: Uuid,
        /// Only those that stand here: pending, delivered or failed.
        #[arg(long, value_parser = word::<DeliveryState>)]
        state: Option<DeliveryState>,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Send a delivery again at once.
    Redeliver {
        /// Id of the webhook.
        webhook: Uuid,
        /// Id of the delivery.
        delivery: Uuid,
    },
}

/// What a new webhook is.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// Where events are sent.
    url: String,
    /// A kind of events, such as job.succeeded; may be given several times. All unless told.
    #[arg(long = "kind", value_name = "KIND", value_parser = word::<EventKind>)]
    kinds: Vec<EventKind>,
    /// Only the events of this run, by name or id.
    #[arg(long, conflicts_with = "project")]
    run: Option<String>,
    /// Only the events of this project.
    #[arg(long)]
    project: Option<String>,
    /// File that holds the secret (`whsec_…`); made by the server unless told.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// What changes of a webhook.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct EditArguments {
    /// Its id.
    webhook: Uuid,
    /// Where events are sent.
    #[arg(long, group = "change")]
    url: Option<String>,
    /// A kind of events, in place of those before; may be given several times.
    #[arg(long = "kind", group = "change", value_name = "KIND", value_parser = word::<EventKind>)]
    kinds: Vec<EventKind>,
    /// All kinds of events.
    #[arg(long, group = "change", conflicts_with = "kinds")]
    all_kinds: bool,
    /// File that holds the new secret.
    #[arg(long, group = "change", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Send events from now on, and what was waiting.
    #[arg(long, group = "change", conflicts_with = "disable")]
    enable: bool,
    /// Send nothing.
    #[arg(long, group = "change")]
    disable: bool,
}

/// Reads a word of the API.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

pub async fn run(client: &Client, output: &Output, command: WebhookCommand) -> anyhow::Result<Outcome> {
    match command {
        WebhookCommand::Create(arguments) => create(client, output, arguments).await?,
        WebhookCommand::List { limit } => {
            let query = ListQuery { page_size: Some(limit), page_token: None };
            output.list(&client.list_webhooks(&query).await?.items)?;
        }
        WebhookCommand::Show { webhook } => output.show(&client.find_webhook(webhook).await?)?,
        WebhookCommand::Edit(arguments) => {
            let (webhook, edit) = arguments.read()?;
            output.show(&client.edit_webhook(webhook, &edit).await?)?;
        }
        WebhookCommand::Delete { webhook } => client.delete_webhook(webhook).await?,
        WebhookCommand::Test { webhook } => return told(output, webhook, &client.test_webhook(webhook).await?),
        WebhookCommand::Deliveries { webhook, state, limit } => {
            let query = ListDeliveries { state, page_size: Some(limit), page_token: None };
            output.list(&client.list_deliveries(webhook, &query).await?.items)?;
        }
        WebhookCommand::Redeliver { webhook, delivery } => output.show(&client.redeliver(webhook, delivery).await?)?,
    }
    Ok(Outcome::Success)
}

async fn create(client: &Client, output: &Output, arguments: CreateArguments) -> anyhow::Result<()> {
    let CreateArguments { url, kinds, run, project, secret_file } = arguments;
    let secret = secret_file.as_deref().map(read_secret).transpose()?;
    let made = client.create_webhook(&CreateWebhook { url, kinds, run, project, secret }).await?;
    if output.format() == Format::Json {
        return output::write_json(&made);
    }
    if let Some(WebhookSecret(secret)) = &made.secret {
        // Not `say`: who asked for quiet would never see it.
        eprintln!("secret, told this once: {secret}");
    }
    output.show(&made.webhook)
}

impl EditArguments {
    fn read(self) -> anyhow::Result<(Uuid, EditWebhook)> {
        let kinds = (self.all_kinds || !self.kinds.is_empty()).then_some(self.kinds);
        let enabled = (self.enable || self.disable).then_some(self.enable);
        let secret = self.secret_file.as_deref().map(read_secret).transpose()?;
        Ok((self.webhook, EditWebhook { url: self.url, kinds, secret, enabled }))
    }
}

fn read_secret(file: &Path) -> anyhow::Result<WebhookSecret> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(WebhookSecret(text.trim().to_owned()))
}

fn told(output: &Output, webhook: Uuid, tested: &TestedWebhook) -> anyhow::Result<Outcome> {
    output.line(tested, || {
        let answer = tested.answer.as_deref().map(|answer| format!(": {answer}")).unwrap_or_default();
        match &tested.error {
            None => format!("{webhook} accepted in {} ms{answer}", tested.duration_ms),
            Some(error) => format!("{webhook} did not accept, {error}{answer}"),
        }
    })?;
    anyhow::ensure!(tested.accepted, "the receiver did not accept");
    Ok(Outcome::Success)
}

fn kind(kind: EventKind) -> String {
    let word = serde_json::to_value(kind).unwrap_or_default();
    word.as_str().unwrap_or_default().to_owned()
}

impl Shown for Webhook {
    const COLUMNS: &'static [&'static str] = &["url", "kinds", "of", "state", "created", "id"];

    fn id(&self) -> String {
        self.webhook_id.to_string()
    }

    fn row(&self) -> Vec<String> {
        let kinds: Vec<String> = self.kinds.iter().copied().map(kind).collect();
        let of_run = self.run_id.map(|id| format!("run {id}"));
        let of = of_run.or_else(|| self.project.as_ref().map(|project| format!("project {project}")));
        let state = match (self.enabled, self.failing_since) {
            (false, _) => "disabled",
            (true, Some(_)) => "failing",
            (true, None) => "enabled",
        };
        vec![
            self.url.clone(),
            if kinds.is_empty() { "all".to_owned() } else { kinds.join(" ") },
            of.unwrap_or_else(|| "all".to_owned()),
            state.to_owned(),
            time(self.created_at),
            self.id(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut pairs: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        pairs.extend(self.failing_since.map(|since| ("failing since", time(since))));
        pairs.extend(self.disabled_reason.clone().map(|reason| ("disabled because", reason)));
        pairs
    }
}

impl Shown for WebhookDelivery {
    const COLUMNS: &'static [&'static str] =
        &["event", "kind", "state", "tries", "status", "ms", "next try", "error", "id"];

    fn id(&self) -> String {
        self.delivery_id.to_string()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.event_id.to_string(),
            kind(self.kind),
            self.state.as_str().to_owned(),
            self.tries.to_string(),
            self.status_code.map(|code| code.to_string()).unwrap_or_default(),
            self.duration_ms.map(|ms| ms.to_string()).unwrap_or_default(),
            self.next_try_at.map(time).unwrap_or_default(),
            self.error.clone().unwrap_or_default(),
            self.id(),
        ]
    }
}
