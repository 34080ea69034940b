use std::io::Write;

use barycenter_api::{FloatDtype, MethodSpec, NetworkSpec, ObjectiveSpec, OptimiserSpec, OutputSpec, TensorPolicy};
use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    spec: SpecArguments,
}

const SET: &str = "0190f3a8-0000-7000-8000-000000000001";

fn parse(words: &[&str]) -> anyhow::Result<JobSpec> {
    Line::try_parse_from([&["submit"], words].concat())?.spec.into_spec()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn options_alone_make_a_spec() {
    let network = "resnet_cifar:depth=20,classes=10";
    let words = ["--candidate-set", SET, "--network", network, "--fit", "validation", "--test", "test", "--lr", "0.05"];
    let more = ["--augment", "pad=4,flip", "--bits", "8", "--label-smoothing", "0.1", "--batch-norm-dataset", "train"];
    let spec = parse(&[&words[..], &more[..]].concat()).unwrap();
    assert_eq!(spec.network, NetworkSpec::ResnetCifar { depth: 20, classes: 10 });
    insta::assert_snapshot!(serde_json::to_string_pretty(&spec).unwrap());
}

#[test]
fn tensors_and_output_are_options_too() {
    let words = ["--set-id", SET, "--network", "mlp:features=2x2", "--fit", "v", "--tensor", "2.*=copy"];
    let more = ["--tensor", "*.bias=average", "--dtype", "bf16", "--shard-size", "2GB"];
    let spec = parse(&[&words[..], &more[..]].concat()).unwrap();
    let rules: Vec<_> = spec.tensors.iter().map(|rule| (rule.pattern.as_str(), rule.policy)).collect();
    assert_eq!(rules, [("2.*", TensorPolicy::Copy), ("*.bias", TensorPolicy::Average)]);
    let output = OutputSpec { dtype: Some(FloatDtype::Bf16), shard_size_bytes: Some(2_000_000_000) };
    assert_eq!(spec.output, output);
    assert!(parse(&[&words[..], &["--tensor", "bias=drop"]].concat()).is_err());
}

#[test]
fn an_objective_is_named_or_left_to_the_data() {
    let with = |more: &[&str]| {
        parse(&[&["--set-id", SET, "--network", "mlp:features=2x2", "--fit", "v"], more].concat()).map(|s| s.objective)
    };
    assert_eq!(with(&[]).unwrap(), None);
    assert_eq!(with(&["--objective", "squared_error"]).unwrap(), Some(ObjectiveSpec::SquaredError {}));
    let smoothed = with(&["--objective", "next_token", "--label-smoothing", "0.1"]).unwrap();
    assert_eq!(smoothed, Some(ObjectiveSpec::NextToken { label_smoothing: 0.1 }));
    let error = with(&["--objective", "squared_error", "--label-smoothing", "0.1"]).unwrap_err();
    assert!(error.to_string().contains("unknown field `label_smoothing`"), "{error}");
}

#[test]
fn every_convolutional_network_has_a_short_form() {
    for (text, network) in [
        ("resnet:depth=18,classes=10", NetworkSpec::Resnet { depth: 18, classes: 10 }),
        ("vgg_bn:depth=16,classes=100", NetworkSpec::VggBn { depth: 16, classes: 100 }),
        ("preresnet_cifar:depth=164,classes=10", NetworkSpec::PreresnetCifar { depth: 164, classes: 10 }),
        ("wide_resnet:depth=28,width=10,classes=10", NetworkSpec::WideResnet { depth: 28, width: 10, classes: 10 }),
    ] {
        assert_eq!(parse(&["--set-id", SET, "--network", text, "--fit", "v"]).unwrap().network, network);
    }
    assert!(parse(&["--set-id", SET, "--network", "wide_resnet:depth=28,classes=10", "--fit", "v"]).is_err());
}

#[test]
fn transformers_are_written_as_options() {
    let network =
        |text: &str| parse(&["--candidate-set", SET, "--network", text, "--fit", "validation"]).unwrap().network;
    assert_eq!(
        network("gpt2:vocabulary=50257,positions=1024,width=768,depth=12,heads=12"),
        NetworkSpec::Gpt2 { vocabulary: 50257, positions: 1024, width: 768, depth: 12, heads: 12 }
    );
    assert_eq!(
        network("vit:image_size=32,patch_size=4,width=192,depth=6,heads=3,mlp_width=768,classes=10"),
        NetworkSpec::Vit { image_size: 32, patch_size: 4, width: 192, depth: 6, heads: 3, mlp_width: 768, classes: 10 }
    );
    let clip = "clip_image:image_size=224,patch_size=32,width=768,depth=12,heads=12,embedding=512,classes=1000";
    assert!(matches!(network(clip), NetworkSpec::ClipImage { embedding: 512, classes: 1000, .. }));
}

#[test]
fn a_spec_survives_yaml() {
    let words = ["--set-id", SET, "--network", "mlp:features=784x512x10", "--fit", "v", "--optimiser", "sgd"];
    let spec = parse(&words).unwrap();
    let yaml = serde_norway::to_string(&spec).unwrap();
    let file = file(&yaml);
    assert_eq!(parse(&["-f", file.path().to_str().unwrap()]).unwrap(), spec);
}

#[test]
fn options_take_the_place_of_what_the_file_says() {
    let text = format!(
        "candidate_set_id: {SET}\nnetwork: {{kind: resnet_cifar, depth: 20, classes: 10}}\ndata: {{fit: validation}}\n\
         method:\n  kind: twa\n  bits: 4\n  epochs: 3\n"
    );
    let file = file(&text);
    let words = ["-f", file.path().to_str().unwrap(), "--bits", "32", "--set", "method.optimiser.betas=[0.8, 0.9]"];
    let MethodSpec::Twa(twa) = parse(&words).unwrap().method else { panic!("the file says so") };
    assert_eq!((twa.bits, twa.epochs), (32, Some(3)));
    assert!(matches!(twa.optimiser, OptimiserSpec::Adamw { betas: [0.8, 0.9], learning_rate: None, .. }));
}

#[test]
fn what_is_wrong_is_named() {
    let whole = ["--set-id", SET, "--network", "mlp:features=2x2", "--fit", "v"];
    let with = |more: &[&str]| parse(&[&whole[..], more].concat()).unwrap_err().to_string();
    assert!(parse(&["--fit", "v"]).unwrap_err().to_string().contains("candidate_set_id"));
    assert!(with(&["--set", "method.bit=4"]).contains("unknown field `bit`"));
    assert!(with(&["--granularity", "row"]).contains("`row` is not one of"));
    assert!(with(&["--augment", "crop"]).contains("neither `pad=PIXELS` nor `flip`"));
    assert!(with(&["--set", "seed.x=1", "--seed", "3"]).contains("`x` is not in a mapping"));
    let list = file("- 1\n");
    assert!(parse(&["-f", list.path().to_str().unwrap()]).unwrap_err().to_string().contains("not a mapping"));
}
