use clap::{CommandFactory, Parser, error::ErrorKind};

use super::*;
use crate::shown::Shown;

#[derive(Debug, Parser)]
#[command(name = "barycenter")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

fn parse(line: &str) -> Result<Command, clap::Error> {
    Line::try_parse_from(line.split_whitespace()).map(|line| line.command)
}

fn refused(line: &str) -> String {
    let error = parse(line).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{line}");
    error.to_string()
}

const ID: &str = "0190f3a8-0000-7000-8000-000000000001";

#[test]
fn the_commands_are_well_formed() {
    Line::command().debug_assert();
}

#[test]
fn every_documented_line_is_understood() {
    for line in [
        "run create resnet --description text --metadata {\"a\":1}",
        "run list -o json --limit 5",
        "run show resnet --server http://host:1",
        "checkpoint push a-1 a-2 --run r --tag x --tag y",
        "checkpoint push a --run r --step 3 --epoch 0.5 --metric val_loss=0.5 --metric acc=1",
        "checkpoint push a --run r --step 3 --parallel 8",
        "checkpoint list --run r -o id",
        "dataset push validation file --parallel 8",
        "dataset push validation file --scale 1/255 --mean 0.5 --std 0.2,0.2,0.2",
        "set create --run r --last 16 --name n",
        "set create --run r --best 4 --metric val_loss --min",
        "set create --run r --steps 0:100:2",
        &format!("set create --run r {ID} {ID}"),
        &format!("set show {ID}"),
        "project list -o json",
        "project set vision --max-running-jobs 4",
        "projection list --limit 5",
        "projection delete 0123abcd",
        "run create resnet --project vision",
        &format!("job edit {ID} --priority -5"),
        &format!("job logs -f --tail 100 {ID}"),
        "job submit -f job.yaml --priority 5 --deadline 3600",
        "set list --run r",
        "set list --run r --name tail",
        "set create --run r --best 5 --metric val_loss --min --every 2 --steps 100:900 --exclude 300,400 --name tail",
        "set create --run r --last 5 --with-run other --tag warm --where val_loss<0.5",
        "set create --run r --every 3",
        "set create --run r 100 best latest",
        &format!("set diff {ID} {ID}"),
        "run edit resnet --description text --metadata {\"a\":1} --unset b --revision 3",
        "run edit resnet --no-description",
        "run alias set resnet best 1200 --new",
        &format!("run alias set resnet prod --artifact {ID}"),
        "run alias remove resnet best",
        "run alias list resnet",
        "run alias show resnet latest",
        "checkpoint list --run r --sort val_loss --desc --where val_loss<0.5 --tag x --steps 10: --limit 5",
        "checkpoint list --run r --created-from 2026-01-02T03:04:05Z --created-before 2026-02-02T03:04:05Z",
    ] {
        parse(&format!("barycenter {line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn every_documented_line_about_what_is_there_is_understood() {
    for line in [
        &format!("checkpoint show {ID}"),
        "checkpoint diff 100 latest --run r",
        &format!("checkpoint diff {ID} {ID} -o json"),
        "checkpoint show latest --run r",
        "checkpoint pin 1200 --run r",
        &format!("checkpoint unpin {ID}"),
        "checkpoint edit 1200 --run r --metric val_loss=0.5 --unset acc --tag x",
        "checkpoint edit best --run r --no-tags",
        "job submit -f spec.yaml --set method.bits=8 --wait",
        &format!("job submit --set-id {ID} --network mlp:features=2x2 --fit v --validate"),
        &format!("job submit --set-id {ID} --network mlp:features=2x2 --fit v --objective next_token"),
        "job list --state running --run r",
        &format!("job show {ID}"),
        &format!("job watch {ID} --quiet"),
        &format!("job cancel {ID}"),
        &format!("job coefficients {ID} --format csv"),
        &format!("job history {ID} --format json"),
        &format!("artifact pull {ID} --out m --force"),
        &format!("artifact pull {ID} --out folder/ --shard-size 2GB"),
        &format!("artifact manifest {ID}"),
        &format!("artifact lineage {ID}"),
        &format!("artifact delete {ID}"),
        &format!("artifact undelete {ID}"),
        &format!("artifact expire {ID} --at 2026-03-01T00:00:00Z"),
        &format!("artifact expire {ID} --never"),
        &format!("job delete {ID}"),
        &format!("job undelete {ID}"),
        &format!("set delete {ID}"),
        &format!("set undelete {ID}"),
        "checkpoint delete 1200 --run r",
        &format!("checkpoint undelete {ID}"),
        "run delete r",
        &format!("run undelete {ID}"),
        "run retention show r",
        "run retention set r --keep-last 5 --keep-best 3:val_loss:min --keep-best 1:acc:max --keep-every-steps 1000",
        "run retention clear r",
        "run retention preview r",
        "run retention preview r --keep-last 5",
        "average a b c --out m --weights 0.2,-0.3,1.1",
        "average a b --out m --shard-size 2GB --key model.state_dict",
        "watch DIR --run r --create-run --tag x --settle 2 --poll 60 --parallel 8",
        "watch DIR --run r --once --step-pattern model_(?<step>[0-9]+) --key model -q",
        "checkpoint pull latest --run r --out folder",
        &format!("checkpoint pull {ID} --out m.safetensors"),
        "checkpoint push a.pt --run r --step 3 --key model",
    ] {
        parse(&format!("barycenter {line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn every_documented_line_about_what_is_dropped_or_deleted_is_understood() {
    for line in [
        "artifact list --run resnet --limit 5",
        "artifact list --deleted",
        "run list --deleted",
        "checkpoint list --run resnet --deleted",
        &format!("artifact drop {ID}"),
        &format!("artifact drop {ID} --at 2026-03-01T00:00:00Z"),
        &format!("artifact drop {ID} --never"),
        &format!("artifact rebuild {ID}"),
        &format!("artifact rebuild {ID} --check --scratch /tmp"),
    ] {
        parse(&format!("barycenter {line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn every_documented_line_about_webhooks_is_understood() {
    for line in [
        "webhook create https://h/x --kind job.failed --kind alias.moved --run r20",
        "webhook create https://h/x --project vision --secret-file secret -o json",
        "webhook list --limit 5",
        &format!("webhook show {ID}"),
        &format!("webhook edit {ID} --disable"),
        &format!("webhook edit {ID} --enable --all-kinds --url https://h/y --secret-file secret"),
        &format!("webhook delete {ID}"),
        &format!("webhook test {ID}"),
        &format!("webhook deliveries {ID} --state failed"),
        &format!("webhook redeliver {ID} {ID}"),
    ] {
        parse(&format!("barycenter {line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    assert!(refused("barycenter webhook create https://h/x --kind job.exploded").contains("job.exploded"));
    assert!(refused("barycenter webhook create https://h/x --run a --project b").contains("--project"));
    assert!(refused(&format!("barycenter webhook edit {ID}")).contains("--url"));
}

#[test]
fn every_documented_line_about_policies_is_understood() {
    for line in [
        "policy set resnet --file policy.json",
        "policy set resnet --file -",
        "policy show resnet",
        "policy refreshes resnet --limit 5",
        "policy delete resnet",
        "run wait resnet --event policy.target_reached,policy.stalled",
        "run wait resnet --event policy.stalled --after 12 --timeout 60",
    ] {
        parse(&format!("barycenter {line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    assert!(refused("barycenter run wait r").contains("--event"));
    assert!(refused("barycenter run wait r --event policy.bored").contains("policy.bored"));
}

#[test]
fn wrong_usage_is_refused_by_name() {
    insta::assert_snapshot!(refused("barycenter set create --run r"));
    insta::assert_snapshot!(refused("barycenter set create --run r --last 2 --best 2 --metric m"));
    assert!(refused("barycenter set create --run r --best 4").contains("--metric"));
    assert!(refused("barycenter set create --run r 1 2 --exclude 3").contains("--exclude"));
    assert!(refused("barycenter set create --run r --exclude 3").contains("--last"));
    assert!(refused("barycenter run edit r").contains("--description"));
    assert!(refused("barycenter run alias set r best").contains("CHECKPOINT"));
    assert!(refused("barycenter checkpoint edit 1 --run r").contains("--metric"));
    assert!(refused("barycenter checkpoint list --run r --asc --desc").contains("--desc"));
    assert!(refused("barycenter set create --run r --steps 5").contains("FROM:TO"));
    assert!(refused("barycenter checkpoint push a --run r --metric loss").contains("NAME=VALUE"));
    assert!(refused("barycenter watch d --run r --step-pattern [0-9]+").contains("no group `step`"));
    assert!(refused("barycenter watch d --run r --settle 0").contains("no time to wait"));
    assert!(refused("barycenter job show nonsense").contains("nonsense"));
    assert!(refused("barycenter average a --out m").contains("CHECKPOINT"));
    assert!(refused("barycenter average a b --out m --shard-size 2TB").contains("2GB, 500MB"));
    assert!(refused("barycenter average a b --out m --shard-size 0").contains("2GB, 500MB"));
    assert!(refused("barycenter run create r --metadata 1").contains("JSON object"));
}

#[test]
fn the_token_is_no_argument() {
    assert!(refused("barycenter run list --token secret").contains("--token"));
}

#[test]
fn the_exit_codes_are_in_the_help() {
    let help = Line::try_parse_from(["barycenter", "job", "--help"]).unwrap_err();
    assert_eq!(help.kind(), ErrorKind::DisplayHelp);
    assert!(help.to_string().contains("3  the job was cancelled"));
}

#[test]
fn lists_are_bare_columns_away_from_a_terminal() {
    let checkpoint: barycenter_api::Checkpoint = serde_json::from_value(serde_json::json!({
        "checkpoint_id": ID, "run_id": ID, "step": 1200, "epoch": 1.5, "metrics": {"acc": 0.9, "val_loss": 0.53},
        "tags": ["warm", "a100"], "size_bytes": 1_114_112, "digest_blake3": "00", "layout_blake3": "00",
        "tensor_count": 3, "created_at": "2026-01-02T03:04:05.678Z"
    }))
    .unwrap();
    insta::assert_snapshot!(output::list(barycenter_api::Checkpoint::COLUMNS, [checkpoint.row()], false));
    insta::assert_snapshot!(output::list(barycenter_api::Checkpoint::COLUMNS, [checkpoint.row()], true));
}

#[test]
fn a_failed_job_tells_why() {
    let spec = serde_json::json!({"candidate_set_id": ID, "network": {"kind": "mlp", "features": [2, 2]},
        "data": {"fit": "validation"}});
    let error = serde_json::json!({"code": "corrupt_file", "message": "checkpoint of step 3: truncated"});
    let job: barycenter_api::Job = serde_json::from_value(serde_json::json!({
        "job_id": ID, "run_id": ID, "project": "default", "priority": 5, "state": "failed", "cancel_requested": false, "spec": spec,
        "estimate": {"projection_bytes": 1, "vector_bytes": 1, "activation_bytes": 1, "dataset_bytes": 1, "process_bytes": 1, "total_bytes": 4096},
        "progress": null, "attempts": [{"attempt": 1, "worker": "w", "state": "failed", "error": error,
            "started_at": "2026-01-02T03:04:05Z", "finished_at": null}],
        "error": error, "report": null, "artifact_id": null, "created_at": "2026-01-02T03:04:05Z",
        "started_at": null, "finished_at": "2026-01-02T03:05:00Z"
    }))
    .unwrap();
    insta::assert_snapshot!(output::details(&job.details(), false));
}
