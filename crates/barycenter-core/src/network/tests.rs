use super::*;

fn resnet(depth: usize) -> Result<Box<dyn Network>> {
    NetworkSpec::ResnetCifar { depth, classes: 10 }.build()
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn resnet_20_has_the_published_number_of_parameters() {
    let network = resnet(20).unwrap();
    assert_eq!(network.parameters().len(), 65);
    assert_eq!(network.parameters().iter().map(|spec| spec.len()).sum::<usize>(), 272_474);
    assert!(network.has_batch_norm());
}

#[test]
fn tensors_have_the_names_and_the_order_of_a_state_dict() {
    let network = resnet(8).unwrap();
    let names: Vec<_> = network.tensors().iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names[..3], ["conv1.weight", "bn1.weight", "bn1.bias"]);
    assert_eq!(names[3..6], ["bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"]);
    assert!(names.contains(&"layer2.0.shortcut.0.weight") && names.contains(&"layer3.0.shortcut.1.running_var"));
    let mlp = NetworkSpec::Mlp { features: vec![4, 3, 2] }.build().unwrap();
    let names: Vec<_> = mlp.tensors().iter().map(|spec| (spec.name.as_str(), spec.shape.clone())).collect();
    assert_eq!(names, [("0.weight", vec![3, 4]), ("0.bias", vec![3]), ("2.weight", vec![2, 3]), ("2.bias", vec![2])]);
    assert!(!mlp.has_batch_norm());
}

#[test]
fn sizes_out_of_bounds_are_refused() {
    assert!(message(resnet(21)).contains("6k + 2"));
    assert!(message(resnet(2)).contains("depth is 2"));
    assert!(message(resnet(6_000_002)).contains("depth"));
    assert!(message(NetworkSpec::ResnetCifar { depth: 20, classes: 1 }.build()).contains("classes is 1"));
    assert!(message(NetworkSpec::Mlp { features: vec![4] }.build()).contains("number of mlp features is 1"));
    assert!(message(NetworkSpec::Mlp { features: vec![4, 0, 2] }.build()).contains("mlp feature is 0"));
    assert!(message(NetworkSpec::Mlp { features: vec![1 << 20; 100] }.build()).contains("parameters"));
}

fn cifar(kind: &str, depth: usize, width: usize) -> Result<Box<dyn Network>> {
    match kind {
        "vgg_bn" => NetworkSpec::VggBn { depth, classes: 10 }.build(),
        "preresnet_cifar" => NetworkSpec::PreresnetCifar { depth, classes: 10 }.build(),
        _ => NetworkSpec::WideResnet { depth, width, classes: 10 }.build(),
    }
}

fn parameter_count(network: &dyn Network) -> usize {
    network.parameters().iter().map(|spec| spec.len()).sum()
}

#[test]
fn torchvision_networks_have_the_published_numbers_of_parameters() {
    for (depth, parameters, tensors) in [(18, 11_689_512, 122), (34, 21_797_672, 218), (50, 25_557_032, 320)] {
        let network = NetworkSpec::Resnet { depth, classes: 1000 }.build().unwrap();
        assert_eq!((parameter_count(&*network), network.tensors().len()), (parameters, tensors), "depth {depth}");
    }
}

#[test]
fn networks_of_the_cifar_tables_have_their_names_and_sizes() {
    for (kind, depth, parameters, first, last) in [
        ("vgg_bn", 16, 15_253_578, "features.0.weight", "classifier.6.bias"),
        ("preresnet_cifar", 164, 1_703_258, "conv1.weight", "fc.bias"),
        ("wide_resnet", 28, 36_489_290, "conv1.weight", "linear.bias"),
    ] {
        let network = cifar(kind, depth, 10).unwrap();
        assert_eq!(parameter_count(&*network), parameters, "{kind}");
        let names: Vec<_> = network.tensors().iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!((names[0], names[names.len() - 1]), (first, last));
    }
    let vgg = cifar("vgg_bn", 16, 0).unwrap();
    assert!(vgg.tensors().iter().any(|spec| spec.name == "features.41.running_var" && spec.shape == [512]));
    let preresnet = cifar("preresnet_cifar", 164, 0).unwrap();
    assert!(preresnet.tensors().iter().any(|spec| spec.name == "layer1.0.downsample.0.weight"));
    let wide = cifar("wide_resnet", 28, 10).unwrap();
    assert!(wide.tensors().iter().any(|spec| spec.name == "layer1.0.shortcut.0.bias" && spec.shape == [160]));
}

#[test]
fn depths_and_widths_that_no_paper_has_are_refused() {
    let torchvision = |depth, classes| message(NetworkSpec::Resnet { depth, classes }.build());
    assert!(torchvision(20, 10).contains("resnet depth is 20, allowed are 18, 34 and 50"));
    assert!(torchvision(18, 1).contains("resnet classes is 1"));
    assert!(message(cifar("vgg_bn", 12, 0)).contains("vgg_bn depth is 12"));
    assert!(message(cifar("preresnet_cifar", 21, 0)).contains("6k + 2 below 44"));
    assert!(message(cifar("preresnet_cifar", 50, 0)).contains("9k + 2"));
    assert!(message(cifar("preresnet_cifar", 1_000_000, 0)).contains("preresnet_cifar depth"));
    assert!(message(cifar("wide_resnet", 27, 2)).contains("6k + 4"));
    assert!(message(cifar("wide_resnet", 28, 0)).contains("wide_resnet width is 0"));
    assert!(message(cifar("wide_resnet", 1204, 64)).contains("number of wide_resnet parameters"));
}

#[test]
fn images_that_a_classifier_does_not_fit_are_refused() {
    for (kind, depth) in [("vgg_bn", 11), ("preresnet_cifar", 20), ("wide_resnet", 10)] {
        let network = cifar(kind, depth, 1).unwrap();
        assert!(network.check_input(&[3, 32, 32]).is_ok());
        for shape in [&[3, 16, 32][..], &[3, 32, 64], &[1, 32, 32], &[3072]] {
            assert!(message(network.check_input(shape)).contains(kind), "{kind} {shape:?}");
        }
    }
    let resnet = NetworkSpec::Resnet { depth: 18, classes: 10 }.build().unwrap();
    assert!(resnet.check_input(&[3, 224, 224]).is_ok());
    assert!(message(resnet.check_input(&[3, 4, 4])).contains("at least 8x8"));
}

#[test]
fn a_foreign_layout_is_refused_by_name() {
    let network = NetworkSpec::Mlp { features: vec![4, 3] }.build().unwrap();
    let layout = |found: &[(&str, &[usize])]| check_layout(network.tensors(), found.iter().copied());
    assert!(layout(&[("0.weight", &[3, 4]), ("0.bias", &[3])]).is_ok());
    assert!(message(layout(&[("0.weight", &[3, 4])])).contains("`0.bias` [3] is missing"));
    assert!(message(layout(&[("0.weight", &[4, 3]), ("0.bias", &[3])])).contains("`0.weight` has shape [4, 3]"));
    assert!(message(layout(&[("0.weight", &[3, 4]), ("0.bias", &[3]), ("x", &[])])).contains("`x` is no tensor"));
    let many: Vec<String> = (0..9).map(|i| format!("t{i}")).collect();
    let found = many.iter().map(|name| (name.as_str(), &[][..]));
    assert!(message(check_layout(network.tensors(), found)).ends_with("and 6 more"));
}

const VIT: VitSizes =
    VitSizes { image_size: 32, patch_size: 4, width: 12, depth: 2, heads: 3, mlp_width: 20, classes: 10 };
const CLIP: ClipImageSizes =
    ClipImageSizes { image_size: 224, patch_size: 32, width: 768, depth: 12, heads: 12, embedding: 512, classes: 1000 };
const GPT2: Gpt2Sizes = Gpt2Sizes { vocabulary: 50257, positions: 1024, width: 768, depth: 12, heads: 12 };

#[test]
fn transformers_have_the_published_numbers_of_parameters() {
    let vit_b_16 =
        VitSizes { image_size: 224, patch_size: 16, width: 768, depth: 12, heads: 12, mlp_width: 3072, classes: 1000 };
    assert_eq!(parameter_count(&*NetworkSpec::Vit(vit_b_16).build().unwrap()), 86_567_656);
    assert_eq!(parameter_count(&*NetworkSpec::Gpt2(GPT2).build().unwrap()), 124_439_808);
    // ViT-B/32's tower has 87 849 216 parameters, the head a row of 512 and a bias for each class.
    assert_eq!(parameter_count(&*NetworkSpec::ClipImage(CLIP).build().unwrap()), 87_849_216 + 513_000);
}

#[test]
fn sizes_of_transformers_out_of_bounds_are_refused_by_name() {
    let vit = |sizes| message(NetworkSpec::Vit(sizes).build());
    assert!(vit(VitSizes { patch_size: 5, ..VIT }).contains("vit patch_size is 5, it must divide"));
    assert!(vit(VitSizes { heads: 5, ..VIT }).contains("vit heads is 5, it must divide the width 12"));
    assert!(vit(VitSizes { depth: 0, ..VIT }).contains("vit depth is 0"));
    assert!(vit(VitSizes { classes: 1, ..VIT }).contains("vit classes is 1"));
    assert!(vit(VitSizes { image_size: 1 << 13, ..VIT }).contains("vit image_size is 8192"));
    assert!(vit(VitSizes { image_size: 4096, patch_size: 1, ..VIT }).contains("number of vit positions"));
    assert!(vit(VitSizes { mlp_width: 0, ..VIT }).contains("vit mlp_width is 0"));
    let clip = |sizes| message(NetworkSpec::ClipImage(sizes).build());
    assert!(clip(ClipImageSizes { embedding: 0, ..CLIP }).contains("clip_image embedding is 0"));
    assert!(clip(ClipImageSizes { heads: 7, ..CLIP }).contains("clip_image heads is 7"));
    assert!(clip(ClipImageSizes { patch_size: 31, ..CLIP }).contains("clip_image patch_size is 31"));
    let gpt2 = |sizes| message(NetworkSpec::Gpt2(sizes).build());
    assert!(gpt2(Gpt2Sizes { vocabulary: 1, ..GPT2 }).contains("gpt2 vocabulary is 1"));
    assert!(gpt2(Gpt2Sizes { heads: 5, ..GPT2 }).contains("gpt2 heads is 5"));
    assert!(gpt2(Gpt2Sizes { positions: usize::MAX, ..GPT2 }).contains("gpt2 positions"));
    assert!(gpt2(Gpt2Sizes { vocabulary: 1 << 24, width: 12 << 10, ..GPT2 }).contains("number of gpt2 parameters"));
}

#[test]
fn inputs_of_other_shapes_are_refused() {
    let vit = NetworkSpec::Vit(VIT).build().unwrap();
    assert!(vit.check_input(&[3, 32, 32]).is_ok());
    assert!(message(vit.check_input(&[3, 28, 28])).contains("vit takes [3, 32, 32]"));
    let gpt2 = NetworkSpec::Gpt2(GPT2).build().unwrap();
    assert!(gpt2.check_input(&[1024]).is_ok() && gpt2.check_input(&[1]).is_ok());
    assert!(message(gpt2.check_input(&[1025])).contains("at most 1024 positions"));
    assert!(gpt2.check_input(&[3, 32, 32]).is_err());
}

#[test]
fn a_language_model_may_hold_its_tied_weight_and_its_masks_or_not() {
    let network =
        NetworkSpec::Gpt2(Gpt2Sizes { vocabulary: 9, positions: 4, width: 6, depth: 1, heads: 2 }).build().unwrap();
    let required = |spec: &&TensorSpec| spec.role.is_required();
    let mut found: Vec<(String, Vec<usize>)> =
        network.tensors().iter().filter(required).map(|spec| (spec.name.clone(), spec.shape.clone())).collect();
    let check = |found: &[(String, Vec<usize>)]| {
        check_layout(network.tensors(), found.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())))
    };
    check(&found).unwrap();
    found.push(("transformer.h.0.attn.bias".into(), vec![1, 1, 4, 4]));
    found.push(("transformer.h.0.attn.masked_bias".into(), vec![]));
    found.push(("lm_head.weight".into(), vec![9, 6]));
    check(&found).unwrap();
    let (_, shape) = found.last_mut().unwrap();
    *shape = vec![6, 9];
    assert!(message(check(&found)).contains("`lm_head.weight` has shape [6, 9], the network's has [9, 6]"));
    assert!(matches!(network.tensors().last().unwrap().role, Role::Tied(0)));
}

#[test]
fn statistics_of_another_network_are_refused() {
    let network = resnet(8).unwrap();
    assert!(message(Statistics::new(&*network, vec![], 0)).contains("0 running statistics"));
    let running = network.tensors().iter().filter(|spec| matches!(spec.role, Role::RunningMean | Role::RunningVar));
    let mut running: Vec<Vec<f32>> = running.map(|spec| vec![0.0; spec.len()]).collect();
    running[1][0] = -1.0;
    assert!(message(Statistics::new(&*network, running, 1)).contains("`bn1.running_var`"));
}

#[test]
fn initial_parameters_come_from_the_seed_alone() {
    let network = resnet(8).unwrap();
    let first = network.initial_parameters(1);
    assert_eq!(first, network.initial_parameters(1));
    assert_ne!(first, network.initial_parameters(2));
    let kernel = &first[3];
    let variance = kernel.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / kernel.len() as f64;
    assert!((variance * 144.0 / 2.0 - 1.0).abs() < 0.1, "{variance}");
}
