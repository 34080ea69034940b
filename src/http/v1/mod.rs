//! `/v1`: one file for each group of endpoints.

mod aliases;
mod artifact_files;
mod artifacts;
mod candidate_sets;
mod checkpoint_files;
mod checkpoints;
mod datasets;
mod deletion;
mod events;
mod jobs;
mod leases;
mod policies;
mod projections;
mod projects;
mod retention;
mod rules;
mod runs;
mod tus;
mod uploads;
mod webhooks;
mod workers;

use super::ApiRouter;

/// Every operation under `/v1`.
pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .merge(runs::router())
        .merge(aliases::router())
        .merge(checkpoints::router())
        .merge(checkpoint_files::router())
        .merge(candidate_sets::router())
        .merge(datasets::router())
        .merge(jobs::router())
        .merge(leases::router())
        .merge(events::router())
        .merge(webhooks::router())
        .merge(workers::router())
        .merge(projects::router())
        .merge(projections::router())
        .merge(artifacts::router())
        .merge(artifact_files::router())
        .merge(uploads::router())
        .merge(tus::router())
        .merge(retention::router())
        .merge(policies::router())
        .merge(deletion::router())
}
