//! Webhooks: what happens is sent to receivers, signed, in order, until it is accepted; and only where it may go.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{LOCATION, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
    routing::any,
};
use barycenter::{
    app::webhooks::{deliver_due, note_events, send, take},
    domain::clock::{Clock, SystemClock},
    outbound::Outbound,
    storage::Store,
};
use barycenter_api::{
    CreatedWebhook, DeliveryState, EventKind, Page, TestedWebhook, Webhook, WebhookDelivery, WebhookSecret,
};
use chrono::TimeDelta;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{harness::TestApp, scene::keyed_post};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// What a receiver does with the next request.
#[derive(Clone, Copy)]
enum Answer {
    Status(u16),
    /// 503, with the seconds to wait.
    Busy(u32),
    Redirect,
    Never,
}

#[derive(Clone, Debug)]
struct Received {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// An HTTP server that notes what it gets, and accepts it unless told otherwise.
#[derive(Clone, Default)]
struct Receiver {
    received: Arc<Mutex<Vec<Received>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    address: Option<SocketAddr>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self { address: Some(listener.local_addr().unwrap()), ..Self::default() };
        let router = Router::new().fallback(any(receive)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        receiver
    }

    fn url(&self) -> String {
        format!("http://{}/hook?token=t", self.address.unwrap())
    }

    fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The steps of the checkpoints it was told of.
    fn steps(&self) -> Vec<i64> {
        self.received().iter().map(|received| received.json()["data"]["detail"]["step"].as_i64().unwrap()).collect()
    }
}

async fn receive(State(receiver): State<Receiver>, uri: axum::http::Uri, headers: HeaderMap, body: Bytes) -> Response {
    receiver.received.lock().unwrap().push(Received { path: uri.to_string(), headers, body });
    let answer = receiver.answers.lock().unwrap().pop_front().unwrap_or(Answer::Status(204));
    match answer {
        Answer::Status(status) => (StatusCode::from_u16(status).unwrap(), "said the receiver").into_response(),
        Answer::Busy(seconds) => {
            (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, seconds.to_string())]).into_response()
        }
        Answer::Redirect => (StatusCode::FOUND, [(LOCATION, "/elsewhere")]).into_response(),
        Answer::Never => std::future::pending().await,
    }
}

/// A server whose webhooks may reach this machine.
fn app(pool: PgPool) -> TestApp {
    let store = Store::open(&"memory:///".parse().unwrap(), []).unwrap();
    TestApp::with(pool, store, |config| {
        config.webhooks.webhook_allow = vec!["127.0.0.1".parse().unwrap()];
        config.webhooks.webhook_timeout_seconds = 1;
    })
}

async fn create(app: &TestApp, receiver: &Receiver) -> Webhook {
    let body = json!({"url": receiver.url(), "secret": SECRET, "kinds": ["checkpoint.pushed"]});
    app.post("/v1/webhooks", body).await.json::<CreatedWebhook>(201).webhook
}

async fn push(app: &TestApp, run: &str, steps: impl IntoIterator<Item = i64>) {
    for step in steps {
        app.push(run, step, "", crate::harness::files::checkpoint(step as u32)).await;
    }
}

/// Oldest first.
async fn deliveries(app: &TestApp, webhook: &Webhook) -> Vec<WebhookDelivery> {
    let path = format!("/v1/webhooks/{}/deliveries", webhook.webhook_id);
    let mut page: Page<WebhookDelivery> = app.get(&path).await.json(200);
    page.items.reverse();
    page.items
}

async fn shown(app: &TestApp, webhook: &Webhook) -> Webhook {
    app.get(&format!("/v1/webhooks/{}", webhook.webhook_id)).await.json(200)
}

#[sqlx::test]
async fn an_event_arrives_with_a_signature_that_the_specifications_library_accepts(pool: PgPool) {
    let app = app(pool);
    // The library compares with the machine's clock.
    app.clock.advance((SystemClock.now() - app.clock.now()).to_std().unwrap());
    let receiver = Receiver::start().await;
    let run = app.create_run("r").await;
    push(&app, "r", [1]).await;
    let webhook = create(&app, &receiver).await;
    push(&app, "r", [2]).await;
    assert_eq!(deliver_due(&app.state).await.unwrap(), 1, "what happened before it was made is not sent");
    assert_eq!(deliver_due(&app.state).await.unwrap(), 0, "nothing is sent twice");

    let received = receiver.received();
    let received = &received[0];
    assert_eq!(received.path, "/hook?token=t");
    assert_eq!(received.header("content-type"), "application/json");
    standardwebhooks::Webhook::new(SECRET).unwrap().verify(&received.body, &received.headers).unwrap();
    let other = standardwebhooks::Webhook::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    assert!(other.verify(&received.body, &received.headers).is_err());
    let body = received.json();
    assert_eq!(body["type"], "checkpoint.pushed");
    assert_eq!(body["data"]["run_id"], json!(run.run_id));
    assert_eq!(body["data"]["detail"]["step"], 2);
    assert_eq!(body["timestamp"], body["data"]["occurred_at"]);

    let log = deliveries(&app, &webhook).await;
    assert_eq!(log.len(), 1);
    assert_eq!(received.header("webhook-id"), log[0].delivery_id.to_string());
    assert_eq!((log[0].state, log[0].tries, log[0].status_code), (DeliveryState::Delivered, 1, Some(204)));
    assert_eq!(log[0].event_id, body["data"]["event_id"].as_i64().unwrap());
    assert_eq!((log[0].kind, log[0].next_try_at, &log[0].error), (EventKind::CheckpointPushed, None, &None));
    assert!(log[0].duration_ms.is_some());
}

#[sqlx::test]
async fn a_refused_event_is_tried_again_after_growing_pauses_and_then_given_up(pool: PgPool) {
    let app = app(pool);
    let receiver = Receiver::start().await;
    app.create_run("r").await;
    let webhook = create(&app, &receiver).await;
    push(&app, "r", [1]).await;
    receiver.answer([Answer::Status(500); 10]);
    let mut pauses = Vec::new();
    for tries in 1..=9 {
        assert_eq!(deliver_due(&app.state).await.unwrap(), 1);
        let log = deliveries(&app, &webhook).await;
        assert_eq!((log[0].state, log[0].tries, log[0].status_code), (DeliveryState::Pending, tries, Some(500)));
        assert_eq!(log[0].error.as_deref(), Some("the receiver answered 500"));
        let pause = log[0].next_try_at.unwrap() - app.clock.now();
        app.clock.advance((pause - TimeDelta::milliseconds(1)).to_std().unwrap());
        assert_eq!(deliver_due(&app.state).await.unwrap(), 0, "the pause is not over");
        app.clock.advance(Duration::from_millis(1));
        pauses.push(pause);
    }
    assert!(pauses[..7].is_sorted_by(|a, b| a < b), "{pauses:?}");
    assert!(pauses[0] >= TimeDelta::seconds(5) && pauses[8] >= TimeDelta::hours(12), "{pauses:?}");
    assert_eq!(deliver_due(&app.state).await.unwrap(), 1);
    let log = deliveries(&app, &webhook).await;
    assert_eq!((log[0].state, log[0].tries, log[0].next_try_at), (DeliveryState::Failed, 10, None));
    let received = receiver.received();
    assert_eq!(received.len(), 10);
    assert!(received.iter().all(|other| other.header("webhook-id") == received[0].header("webhook-id")));
    assert!(received.iter().all(|other| other.body == received[0].body));
    let times: Vec<i64> = received.iter().map(|other| other.header("webhook-timestamp").parse().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "each try is signed with its own time");

    let path = format!("/v1/webhooks/{}/deliveries/{}/redeliver", webhook.webhook_id, log[0].delivery_id);
    let again: WebhookDelivery = app.post(&path, json!({})).await.json(200);
    assert_eq!((again.state, again.tries), (DeliveryState::Pending, 0));
    assert_eq!(deliver_due(&app.state).await.unwrap(), 1);
    assert_eq!(deliveries(&app, &webhook).await[0].state, DeliveryState::Delivered);
    assert_eq!(receiver.received()[10].header("webhook-id"), received[0].header("webhook-id"));
    assert_eq!(shown(&app, &webhook).await.failing_since, None);
}

#[sqlx::test]
async fn a_receiver_that_asks_for_time_is_given_it(pool: PgPool) {
    let app = app(pool);
    let receiver = Receiver::start().await;
    app.create_run("r").await;
    let webhook = create(&app, &receiver).await;
    push(&app, "r", [1]).await;
    receiver.answer([Answer::Busy(600)]);
    assert_eq!(deliver_due(&app.state).await.unwrap(), 1);
    let next_try_at = deliveries(&app, &webhook).await[0].next_try_at.unwrap();
    assert_eq!((next_try_at - app.clock.now()).num_seconds(), 600);
    app.clock.advance(Duration::from_mins(10));
    assert_eq!(deliver_due(&app.state).await.unwrap(), 1);
    assert_eq!(deliveries(&app, &webhook).await[0].state, DeliveryState::Delivered);
}

#[sqlx::test]
async fn events_arrive_in_their_order_and_a_refused_one_steps_aside(pool: PgPool) {
    let app = app(pool);
    let receiver = Receiver::start().await;
    app.create_run("r").await;
    create(&app, &receiver).await;
    push(&app, "r", [10, 20, 30, 40]).await;
    receiver.answer([Answer::Status(204), Answer::Status(503)]);
    assert_eq!(deliver_due(&app.state).await.unwrap(), 4);
    assert_eq!(receiver.steps(), [10, 20, 30, 40]);
    app.clock.advance(Duration::from_secs(10));
    assert_eq!(deliver_due(&app.state).await.unwrap(), 1);
    assert_eq!(receiver.steps(), [10, 20, 30, 40, 20]);
}

#[sqlx::test]
async fn kinds_and_scope_choose_what_is_sent(pool: PgPool) {
    let app = app(pool);
    let of_run = Receiver::start().await;
    let of_project = Receiver::start().await;
    app.create_run("a").await;
    app.post("/v1/runs", json!({"name": "b", "project": "vision"})).await.json::<Value>(201);
    let of_a = json!({"url": of_run.url(), "run": "a", "kinds": ["alias.moved", "checkpoint.pushed"]});
    let of_a: CreatedWebhook = app.post("/v1/webhooks", of_a).await.json(201);
    assert!(of_a.webhook.run_id.is_some() && of_a.webhook.project.is_none());
    app.post("/v1/webhooks", json!({"url": of_project.url(), "project": "vision"})).await.json::<Value>(201);
    push(&app, "a", [1, 4]).await;
    push(&app, "b", [2, 3]).await;
    let rule = json!({"rule": {"kind": "last", "count": 2}});
    app.post("/v1/runs/a/candidate_sets", rule).await.json::<Value>(201);
    assert_eq!(deliver_due(&app.state).await.unwrap(), 4);
    assert_eq!(of_run.steps(), [1, 4]);
    assert_eq!(of_project.steps(), [2, 3]);
}

#[sqlx::test]
async fn what_a_dead_server_had_taken_is_sent_by_another_and_its_late_word_is_not_heard(pool: PgPool) {
    let app = app(pool);
    let receiver = Receiver::start().await;
    app.create_run("r").await;
    let webhook = create(&app, &receiver).await;
    push(&app, "r", [1, 2]).await;
    note_events(&app.state).await.unwrap();
    let dead = take(&app.state).await.unwrap().unwrap();
    assert!(take(&app.state).await.unwrap().is_none(), "one request at a time");
    app.clock.advance(Duration::from_mins(3));
    let heir = take(&app.state).await.unwrap().unwrap();
    receiver.answer([Answer::Status(500)]);
    send(&app.state, dead).await.unwrap();
    assert_eq!(deliveries(&app, &webhook).await[0].status_code, None, "the lease is another's");
    send(&app.state, heir).await.unwrap();
    let log = deliveries(&app, &webhook).await;
    assert_eq!((log[0].state, log[0].tries), (DeliveryState::Delivered, 2), "the lost try counts");
    let received = receiver.received();
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"), "the receiver can tell");
    assert_eq!(deliver_due(&app.state).await.unwrap(), 1);
    assert_eq!(receiver.steps(), [1, 1, 2]);
}

#[sqlx::test]
async fn several_servers_send_each_event_once_and_in_order(pool: PgPool) {
    let app = app(pool);
    let receiver = Receiver::start().await;
    app.create_run("r").await;
    create(&app, &receiver).await;
    push(&app, "r", 1..=20).await;
    let servers = (0..4).map(|_| deliver_due(&app.state));
    futures::future::try_join_all(servers).await.unwrap();
    deliver_due(&app.state).await.unwrap();
    assert_eq!(receiver.steps(), (1..=20).collect::<Vec<i64>>());
}

#[sqlx::test]
async fn a_redirect_is_not_followed_and_a_silent_receiver_is_not_waited_for(pool: PgPool) {
    let app = app(pool);
    let receiver = Receiver::start().await;
    app.create_run("r").await;
    let webhook = create(&app, &receiver).await;
    push(&app, "r", [1, 2]).await;
    receiver.answer([Answer::Redirect, Answer::Never]);
    assert_eq!(deliver_due(&app.state).await.unwrap(), 2);
    let log = deliveries(&app, &webhook).await;
    assert_eq!(log[0].error.as_deref(), Some("the receiver answered 302; redirects are not followed"));
    assert_eq!((log[1].status_code, log[1].error.as_deref()), (None, Some("no whole answer within 1 s")));
    assert!(receiver.received().iter().all(|received| received.path.starts_with("/hook")));
}

#[sqlx::test]
async fn a_webhook_whose_receiver_failed_for_days_or_is_gone_is_disabled_with_the_reason(pool: PgPool) {
    let app = app(pool);
    let receiver = Receiver::start().await;
    app.create_run("r").await;
    let webhook = create(&app, &receiver).await;
    push(&app, "r", [1, 2]).await;
    receiver.answer([Answer::Status(500), Answer::Status(500)]);
    deliver_due(&app.state).await.unwrap();
    assert_eq!(shown(&app, &webhook).await.failing_since, Some(app.clock.now()));
    app.clock.advance(Duration::from_hours(72));
    receiver.answer([Answer::Status(500)]);
    deliver_due(&app.state).await.unwrap();
    let disabled = shown(&app, &webhook).await;
    let reason = "nothing was accepted for 3 days; at last: the receiver answered 500";
    assert_eq!((disabled.enabled, disabled.disabled_reason.as_deref()), (false, Some(reason)));
    push(&app, "r", [3]).await;
    app.clock.advance(Duration::from_hours(48));
    assert_eq!(deliver_due(&app.state).await.unwrap(), 0);
    let log = deliveries(&app, &webhook).await;
    let redeliver = format!("/v1/webhooks/{}/deliveries/{}/redeliver", webhook.webhook_id, log[0].delivery_id);
    app.post(&redeliver, json!({})).await.problem(409, "webhook_disabled");

    let path = format!("/v1/webhooks/{}", webhook.webhook_id);
    let enabled: Webhook = app.patch(&path, json!({"enabled": true})).await.json(200);
    assert_eq!((enabled.enabled, enabled.disabled_reason, enabled.failing_since), (true, None, None));
    push(&app, "r", [4]).await;
    deliver_due(&app.state).await.unwrap();
    let steps = receiver.steps();
    assert_eq!(steps[steps.len() - 3..], [1, 2, 4], "what was waiting goes on; what happened meanwhile does not");

    push(&app, "r", [5]).await;
    receiver.answer([Answer::Status(410)]);
    deliver_due(&app.state).await.unwrap();
    assert!(shown(&app, &webhook).await.disabled_reason.unwrap().contains("410"));
}

#[sqlx::test]
async fn a_test_tells_what_the_receiver_said(pool: PgPool) {
    let app = app(pool);
    let receiver = Receiver::start().await;
    let webhook = create(&app, &receiver).await;
    receiver.answer([Answer::Status(200), Answer::Status(401)]);
    let path = format!("/v1/webhooks/{}/test", webhook.webhook_id);
    let tested: TestedWebhook = app.post(&path, json!({})).await.json(200);
    assert_eq!((tested.accepted, tested.status_code), (true, Some(200)));
    assert_eq!(tested.answer.as_deref(), Some("said the receiver"));
    let tested: TestedWebhook = app.post(&path, json!({})).await.json(200);
    assert_eq!((tested.accepted, tested.error.as_deref()), (false, Some("the receiver answered 401")));
    let received = receiver.received();
    assert_eq!(received[0].json()["type"], "webhook.test");
    assert!(deliveries(&app, &webhook).await.is_empty());
}

#[sqlx::test]
async fn a_secret_is_shown_once_where_the_server_made_it_and_else_never(pool: PgPool) {
    let app = app(pool);
    let receiver = Receiver::start().await;
    let body = json!({"url": receiver.url()});
    let request = || app.send(keyed_post("/v1/webhooks", "k", &body));
    let made: CreatedWebhook = request().await.json(201);
    let again: CreatedWebhook = request().await.json(201);
    let Some(WebhookSecret(secret)) = made.secret else { panic!("the server made a secret") };
    assert_eq!(again.webhook.webhook_id, made.webhook.webhook_id, "the same request makes nothing new");
    let given = app.post("/v1/webhooks", json!({"url": receiver.url(), "secret": SECRET})).await;
    let webhook_id = given.json::<CreatedWebhook>(201).webhook.webhook_id;
    let path = format!("/v1/webhooks/{}", made.webhook.webhook_id);
    let mut texts = vec![
        given.text(),
        app.get("/v1/webhooks").await.text(),
        app.get(&path).await.text(),
        app.patch(&path, json!({"kinds": ["job.failed"]})).await.text(),
        app.get(&format!("/v1/webhooks/{webhook_id}")).await.text(),
        app.patch(&format!("/v1/webhooks/{webhook_id}"), json!({"secret": SECRET})).await.text(),
        app.post(&format!("{path}/test"), json!({})).await.text(),
    ];
    texts.extend(receiver.received().iter().map(|received| String::from_utf8(received.body.to_vec()).unwrap()));
    assert!(texts.iter().all(|text| !text.contains("whsec_") && !text.contains(&secret[6..])), "{texts:?}");
}

#[sqlx::test]
async fn what_makes_no_webhook_is_refused_by_name(pool: PgPool) {
    let app = app(pool);
    let url = "http://127.0.0.1:1/";
    let refused =
        async |body: Value, status: u16, code: &str| app.post("/v1/webhooks", body).await.problem(status, code);
    for (wrong, field) in [
        (json!({"url": "ftp://127.0.0.1/"}), "url"),
        (json!({"url": "nonsense"}), "url"),
        (json!({"url": "http://user:pass@127.0.0.1/"}), "url"),
        (json!({"url": "http://127.0.0.1/#part"}), "url"),
        (json!({"url": format!("http://127.0.0.1/{}", "a".repeat(2048))}), "url"),
        (json!({"url": url, "secret": "whsec_c2hvcnQ="}), "secret"),
        (json!({"url": url, "run": "a", "project": "b"}), "project"),
    ] {
        let problem = refused(wrong, 422, "invalid_field").await;
        assert_eq!(problem.errors[0].field, field, "{problem:?}");
    }
    refused(json!({"url": url, "kind": []}), 422, "invalid_field").await;
    refused(json!({"url": url, "kinds": ["job.exploded"]}), 422, "invalid_field").await;
    refused(json!({"url": url, "run": "nobody"}), 404, "run_not_found").await;
    refused(json!({"url": url, "project": "nobody"}), 404, "project_not_found").await;
    for inner in ["http://169.254.169.254/", "http://10.0.0.1/", "http://[::1]/", "http://127.0.0.2/", "http://0/"] {
        let problem = refused(json!({"url": inner}), 422, "receiver_not_allowed").await;
        assert!(problem.detail.contains("--webhook-allow"), "{problem:?}");
    }
    assert_eq!(app.count("webhooks").await, 0);
    let absent = "/v1/webhooks/0190f3a8-0000-7000-8000-000000000001";
    app.get(absent).await.problem(404, "webhook_not_found");
    app.delete(absent).await.problem(404, "webhook_not_found");
    app.patch(absent, json!({})).await.problem(404, "webhook_not_found");
    app.get(&format!("{absent}/deliveries")).await.problem(404, "webhook_not_found");
    app.post(&format!("{absent}/test"), json!({})).await.problem(404, "webhook_not_found");
}

#[sqlx::test]
async fn pages_deletion_and_what_is_no_longer_kept(pool: PgPool) {
    let app = app(pool);
    let receiver = Receiver::start().await;
    app.create_run("r").await;
    let webhook = create(&app, &receiver).await;
    let other = create(&app, &receiver).await;
    let page: Page<Webhook> = app.get("/v1/webhooks?page_size=1").await.json(200);
    assert_eq!(page.items[0].webhook_id, other.webhook_id);
    let rest = format!("/v1/webhooks?page_token={}", page.next_page_token.unwrap());
    assert_eq!(app.get(&rest).await.json::<Page<Webhook>>(200).items[0].webhook_id, webhook.webhook_id);
    assert_eq!(app.delete(&format!("/v1/webhooks/{}", other.webhook_id)).await.status, 204);
    push(&app, "r", [1, 2, 3]).await;
    receiver.answer([Answer::Status(500)]);
    deliver_due(&app.state).await.unwrap();
    let path = format!("/v1/webhooks/{}/deliveries", webhook.webhook_id);
    let pending: Page<WebhookDelivery> = app.get(&format!("{path}?state=pending")).await.json(200);
    assert_eq!(pending.items.len(), 1);
    let first: Page<WebhookDelivery> = app.get(&format!("{path}?page_size=2")).await.json(200);
    assert_eq!((first.items.len(), first.next_page_token.is_some()), (2, true));
    app.post(&format!("{path}/{}/redeliver", other.webhook_id), json!({})).await.problem(404, "delivery_not_found");
    app.reap_after(Duration::from_hours(24 * 7 + 1)).await;
    assert!(deliveries(&app, &webhook).await.is_empty());
}

/// A resolver that answers a name with one address after the other.
struct Rebinding(Mutex<VecDeque<SocketAddr>>);

impl Resolve for Rebinding {
    fn resolve(&self, _: Name) -> Resolving {
        let address = self.0.lock().unwrap().pop_front();
        Box::pin(async move { Ok(Box::new(address.into_iter()) as Addrs) })
    }
}

#[sqlx::test]
async fn a_name_that_leads_within_after_it_was_accepted_gains_nothing(pool: PgPool) {
    let mut app = TestApp::new(pool);
    let receiver = Receiver::start().await;
    let within = receiver.address.unwrap();
    let names = Rebinding(Mutex::new([SocketAddr::from(([1, 1, 1, 1], 0)), within].into()));
    let outbound = Outbound::with_names(&app.state.config.webhooks, Arc::new(names)).unwrap();
    app.replace_outbound(outbound);
    let url = format!("http://hooks.example.com:{}/", within.port());
    let webhook = app.post("/v1/webhooks", json!({"url": url})).await.json::<CreatedWebhook>(201).webhook;
    app.create_run("r").await;
    push(&app, "r", [1]).await;
    assert_eq!(deliver_due(&app.state).await.unwrap(), 1);
    let error = deliveries(&app, &webhook).await[0].error.clone().unwrap();
    assert!(error.contains("`hooks.example.com` leads to 127.0.0.1") && error.contains("loopback"), "{error}");
    assert!(receiver.received().is_empty());
}
