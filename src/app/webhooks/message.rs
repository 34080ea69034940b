//! What is sent, and its signature: Standard Webhooks (<https://www.standardwebhooks.com>), version 1.

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    app::{AppError, AppResult},
    domain::{
        event::Event,
        webhook::{Secret, Webhook},
    },
};

const PREFIX: &str = "whsec_";
/// Bytes of a secret, as the specification bounds them.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret from the system's source of randomness.
pub fn new_secret() -> AppResult<Secret> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(AppError::internal)?;
    Ok(Secret(format!("{PREFIX}{}", STANDARD.encode(bytes))))
}

/// Checks a secret that a caller gives. What is refused is not repeated.
pub fn check_secret(secret: &Secret) -> AppResult<()> {
    let decoded = secret.0.strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok());
    match decoded {
        Some(bytes) if SECRET_BYTES.contains(&bytes.len()) => Ok(()),
        _ => {
            let (least, most) = (SECRET_BYTES.start(), SECRET_BYTES.end());
            let detail = format!("must be `{PREFIX}` and the base64 of {least} to {most} bytes");
            Err(AppError::invalid_field("secret", detail))
        }
    }
}

/// What tells of an event; its `data` is what streams of events carry.
pub fn of_event(event: &Event) -> String {
    let data = json!({
        "event_id": event.event_id,
        "kind": event.kind.as_str(),
        "project": event.project,
        "run_id": event.run_id.0,
        "job_id": event.job_id.map(|id| id.0),
        "detail": event.detail,
        "occurred_at": event.occurred_at,
    });
    envelope(event.kind.as_str(), event.occurred_at, &data)
}

/// What tells of nothing but that the way is open.
pub fn of_test(webhook: &Webhook, now: DateTime<Utc>) -> String {
    envelope("webhook.test", now, &json!({"webhook_id": webhook.webhook_id.0}))
}

fn envelope(kind: &str, timestamp: DateTime<Utc>, data: &Value) -> String {
    json!({"type": kind, "timestamp": timestamp, "data": data}).to_string()
}

/// The headers of a try: the message's id, the time of the try, the signature of both and the body.
pub fn headers(secret: &Secret, id: Uuid, now: DateTime<Utc>, body: &str) -> AppResult<HeaderMap> {
    let id = id.to_string();
    let timestamp = now.timestamp();
    let signer = standardwebhooks::Webhook::new(&secret.0).map_err(AppError::internal)?;
    let signature = signer.sign(&id, timestamp, body.as_bytes()).map_err(AppError::internal)?;
    let value = |text: &str| HeaderValue::from_str(text).map_err(AppError::internal);
    let mut headers = HeaderMap::new();
    headers.insert(standardwebhooks::HEADER_WEBHOOK_ID, value(&id)?);
    headers.insert(standardwebhooks::HEADER_WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
    headers.insert(standardwebhooks::HEADER_WEBHOOK_SIGNATURE, value(&signature)?);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_secret_is_one_that_would_be_taken() {
        let secret = new_secret().unwrap();
        check_secret(&secret).unwrap();
        assert_ne!(secret, new_secret().unwrap());
    }

    #[test]
    fn a_short_or_bare_secret_is_refused_and_not_repeated() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let bare = STANDARD.encode([7; 32]);
        for wrong in [short, bare, "whsec_?".into()] {
            let error = check_secret(&Secret(wrong.clone())).unwrap_err().to_string();
            assert!(error.contains("24 to 64 bytes") && !error.contains(&wrong), "{error}");
        }
    }

    /// The example that the specification's own libraries are tested with.
    #[test]
    fn the_signature_is_the_one_of_the_specification() {
        let secret = Secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".into());
        let signer = standardwebhooks::Webhook::new(&secret.0).unwrap();
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let signature = signer.sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body).unwrap();
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }
}
