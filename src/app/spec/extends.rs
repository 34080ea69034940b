//! What a job's projection is called, and what it extends.

use barycenter_api::{Extends, JobSpec, MethodSpec, Report, TwaSpec};
use barycenter_core::projection::{CODEC_VERSION, Change, REVISION_VERSION};
use sqlx::PgConnection;

use super::Candidates;
use crate::{
    app::{AppError, AppResult, jobs},
    db::{self, jobs::JobRow},
    domain::{
        candidate_set::{Candidate, CandidateSet},
        ids::JobId,
        projection::{Link, MAX_LINKS, pruned},
    },
};

/// The projection of a job, pinned when it is submitted: its result is a function of this and not of what a worker has at hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinnedProjection {
    /// What it is called; `None` where the method needs none.
    pub key: Option<String>,
    /// What it extends, oldest first.
    pub links: Vec<Link>,
    /// What the projection of the candidates alone is called, where this one extends another.
    pub fresh_key: Option<String>,
}

impl PinnedProjection {
    /// The projection that this one is a revision of.
    pub fn extended_key(&self) -> Option<String> {
        self.links.last().map(|link| link.projection_key.clone())
    }
}

/// The projection of a spec.
///
/// # Errors
/// In words, why it cannot extend what the spec names.
pub(super) async fn pin(
    conn: &mut PgConnection,
    spec: &JobSpec,
    candidates: &Candidates,
) -> AppResult<Result<PinnedProjection, String>> {
    let MethodSpec::Twa(twa) = &spec.method else { return Ok(Ok(PinnedProjection::default())) };
    let own = own_key(spec, twa, &candidates.members)?;
    let Some(Extends::Job(earlier)) = twa.extends else {
        return Ok(Ok(PinnedProjection { key: Some(own), ..PinnedProjection::default() }));
    };
    let (job, set) = match find_extended(conn, earlier.into(), spec, candidates).await? {
        Ok(found) => found,
        Err(why) => return Ok(Err(why)),
    };
    let Some(before) = db::projections::find_keys(conn, job.job_id).await?.projection_key else {
        return Ok(Err(format!("job {earlier} is from before projections could be extended")));
    };
    let links = links_to(conn, &job, &before).await?;
    if digests(&set.members) == digests(&candidates.members) {
        // The same candidates: the same projection.
        let fresh_key = (links.len() > 1).then_some(own);
        let links = links.into_iter().rev().skip(1).rev().collect();
        return Ok(Ok(PinnedProjection { key: Some(before), links, fresh_key }));
    }
    if links.len() > MAX_LINKS {
        return Ok(Ok(PinnedProjection { key: Some(own), ..PinnedProjection::default() }));
    }
    Ok(Ok(PinnedProjection { key: Some(chained(&before, &own)), links, fresh_key: Some(own) }))
}

/// A digest over all that a projection depends on which is built: the candidates' bytes, in order, and the parts of the spec that say
/// what is projected and how. Jobs of equal keys share it; some that could share it may differ, which costs a preference and no
/// more.
fn own_key(spec: &JobSpec, twa: &TwaSpec, members: &[Candidate]) -> AppResult<String> {
    let parts = (CODEC_VERSION, digests(members), &spec.network, &spec.lora, &spec.tensors, twa.bits, twa.granularity);
    let text = serde_json::to_vec(&parts).map_err(AppError::internal)?;
    Ok(blake3::hash(&text).to_hex().to_string())
}

/// What the revision of one projection to the candidates of another is called: another way of revising makes other bits.
fn chained(before: &str, own: &str) -> String {
    blake3::hash(format!("{before} extended to {own} by {REVISION_VERSION}").as_bytes()).to_hex().to_string()
}

fn digests(members: &[Candidate]) -> Vec<&str> {
    members.iter().map(|member| member.digest_blake3.as_str()).collect()
}

/// The links up to the projection of a job and with it, without those that are known to make no difference.
async fn links_to(conn: &mut PgConnection, job: &JobRow, key: &str) -> AppResult<Vec<Link>> {
    let mut links = db::projections::list_links(conn, job.job_id).await?;
    links.push(Link { candidate_set_id: job.candidate_set_id, projection_key: key.to_owned() });
    let report =
        job.report.clone().map(|report| jobs::document::<Report>("report", job.job_id.0, report)).transpose()?;
    let drifted = report.and_then(|report| report.projection).map(|projection| projection.drifted).unwrap_or_default();
    Ok(pruned(links, &drifted))
}

/// The job whose projection is extended with its candidates, or why it cannot be.
async fn find_extended(
    conn: &mut PgConnection,
    job_id: JobId,
    spec: &JobSpec,
    candidates: &Candidates,
) -> AppResult<Result<(JobRow, CandidateSet), String>> {
    let Some(job) = db::jobs::find(conn, job_id).await? else { return Ok(Err(format!("there is no job {job_id}"))) };
    let earlier: JobSpec = jobs::document("spec", job_id.0, job.spec.clone())?;
    let project = db::runs::find_project(conn, candidates.run_id).await?;
    if job.project != project {
        let its = &job.project;
        return Ok(Err(format!("job {job_id} is of the project `{its}`, this one of `{project}`")));
    }
    if let Some(part) = differing(&earlier, spec) {
        return Ok(Err(format!("job {job_id} differs in `{part}`")));
    }
    let Some(set) = db::candidate_sets::find_candidate_set(conn, job.candidate_set_id).await? else {
        return Ok(Err(format!("the candidate set of job {job_id} was deleted")));
    };
    let layout = |members: &[Candidate]| members.first().map(|member| member.layout_blake3.clone());
    if layout(&set.members) != layout(&candidates.members) {
        return Ok(Err(format!("the candidates of job {job_id} have other tensors")));
    }
    let change = Change::between(&digests(&set.members), &digests(&candidates.members));
    if change.stays.iter().all(Option::is_none) {
        return Ok(Err(format!("job {job_id} has none of these candidates")));
    }
    Ok(Ok((job, set)))
}

/// The first part of two specs that keeps one from extending the other's projection.
fn differing(earlier: &JobSpec, spec: &JobSpec) -> Option<&'static str> {
    let (MethodSpec::Twa(before), MethodSpec::Twa(now)) = (&earlier.method, &spec.method) else {
        return Some("method.kind");
    };
    let adapters =
        |spec: &JobSpec| spec.lora.as_ref().map(|lora| (lora.base_checkpoint_id, lora.scale, lora.transposed));
    let parts = [
        ("network", earlier.network == spec.network),
        ("tensors", earlier.tensors == spec.tensors),
        ("lora", adapters(earlier) == adapters(spec)),
        ("method.bits", before.bits == now.bits),
        ("method.granularity", before.granularity == now.granularity),
    ];
    parts.into_iter().find_map(|(part, agrees)| (!agrees).then_some(part))
}
