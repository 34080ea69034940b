//! A response that was read to its end.

use axum::{
    body::Bytes,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use barycenter_api::Problem;
use http_body_util::BodyExt;

/// A response that was read to its end.
#[derive(Debug)]
pub struct TestResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl TestResponse {
    pub async fn read(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    /// The body as JSON of a wire type, after the status has been checked.
    pub fn json<T: serde::de::DeserializeOwned>(&self, status: u16) -> T {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The body as a problem, after its whole shape has been checked.
    pub fn problem(&self, status: u16, code: &str) -> Problem {
        assert_eq!(self.header("content-type"), "application/problem+json", "{} {}", self.status, self.text());
        let problem: Problem = self.json(status);
        assert_eq!(problem.code, code, "{problem:?}");
        assert_eq!((problem.status, problem.type_uri.as_str()), (status, format!("/problems/{code}").as_str()));
        assert_eq!(problem.request_id, self.header("x-request-id"));
        assert!(!problem.detail.is_empty() && problem.instance.starts_with('/'), "{problem:?}");
        problem
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
