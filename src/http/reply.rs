//! Success as HTTP.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use barycenter_api::Page;
use serde::Serialize;

use super::problem::ApiError;
use crate::{
    app::{AppError, AppResult, PutOutcome, idempotency::Reply},
    domain::page::Paged,
};

/// A reply with a `Location`, in the form in which an idempotency key keeps it.
pub fn created(status: StatusCode, location: String, body: &impl Serialize) -> AppResult<Reply> {
    let body = serde_json::to_string(body).map_err(AppError::internal)?;
    Ok(Reply { status: status.as_u16(), location: Some(location), body })
}

/// The reply to a PUT: 201 with a `Location` for what is new, 200 for what was there.
pub fn put<T, W: From<T> + Serialize>(outcome: PutOutcome<T>, location: impl FnOnce(&T) -> String) -> Response {
    let (status, thing) = match outcome {
        PutOutcome::Created(thing) => (StatusCode::CREATED, thing),
        PutOutcome::Existing(thing) => (StatusCode::OK, thing),
    };
    let location = location(&thing);
    match created(status, location, &W::from(thing)) {
        Ok(reply) => reply.into_response(),
        Err(error) => ApiError(error).into_response(),
    }
}

/// A thing with the version that `If-Match` is compared with.
pub fn tagged(version: &str, body: impl Serialize) -> Response {
    let mut response = axum::Json(body).into_response();
    if let Ok(etag) = HeaderValue::try_from(format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// A page of wire items.
pub fn page<T, W: From<T>>(paged: Paged<T>) -> Page<W> {
    Page {
        items: paged.items.into_iter().map(W::from).collect(),
        next_page_token: paged.next.map(|id| id.simple().to_string()),
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let json = HeaderValue::from_static("application/json");
        let mut response = (status, [(header::CONTENT_TYPE, json)], self.body).into_response();
        if let Some(location) = self.location {
            match HeaderValue::from_str(&location) {
                Ok(location) => response.headers_mut().insert(header::LOCATION, location),
                Err(error) => return ApiError(AppError::internal(error)).into_response(),
            };
        }
        response
    }
}
