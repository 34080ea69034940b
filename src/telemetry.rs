//! Logs and metrics of the process.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tracing_subscriber::EnvFilter;

/// Seconds: from a page of a list to the upload of a large checkpoint.
const DURATION_BUCKETS: [f64; 13] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];
/// Seconds: from a fit of an MLP to one of a large model.
const JOB_BUCKETS: [f64; 9] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];
/// Bytes: from an MLP to a large language model.
const SIZE_BUCKETS: [f64; 9] = [1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 4e9, 16e9, 64e9];

/// Sets up logging on stderr: for people on a terminal, one JSON object a line otherwise.
///
/// `RUST_LOG` filters; `info` unless told.
pub fn install_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.compact().init();
    } else {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init();
    }
}

/// A recorder of the server's metrics with every histogram's buckets declared.
pub fn metrics_recorder() -> Result<PrometheusRecorder, BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &DURATION_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &SIZE_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full("barycenter_job_duration_seconds".into()), &JOB_BUCKETS)?
        .build_recorder();
    metrics::with_local_recorder(&recorder, describe_metrics);
    Ok(recorder)
}

/// Makes the recorder the one of the process and returns what `/metrics` renders.
///
/// A second call leaves the first recorder in place and returns a handle that stays empty of its counts.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let recorder = metrics_recorder()?;
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::debug!("a metrics recorder is already installed");
    }
    Ok(handle)
}

fn describe_metrics() {
    metrics::describe_counter!("barycenter_http_requests_total", "requests answered, by method, route and status");
    metrics::describe_histogram!("barycenter_http_request_duration_seconds", "time until the response's head");
    metrics::describe_histogram!("barycenter_upload_size_bytes", "size of stored uploads, by kind");
    metrics::describe_gauge!("barycenter_jobs_queued", "jobs that wait for a worker");
    metrics::describe_gauge!("barycenter_jobs_running", "jobs that a worker holds");
    metrics::describe_gauge!("barycenter_queue_oldest_age_seconds", "how long the oldest queued job has waited");
    metrics::describe_counter!("barycenter_lease_expiries_total", "leases that lapsed without a heartbeat");
    metrics::describe_counter!("barycenter_fenced_calls_total", "calls under a lease that was lost, by call");
    metrics::describe_histogram!("barycenter_job_duration_seconds", "from the first lease to the end, by state");
    metrics::describe_counter!(
        "barycenter_projections_total",
        "jobs that succeeded, by where their projection came from"
    );
    metrics::describe_counter!("barycenter_projections_evicted_total", "projections that went from the server's cache");
    metrics::describe_counter!("barycenter_uploads_reaped_total", "unfinished uploads that were removed");
}
