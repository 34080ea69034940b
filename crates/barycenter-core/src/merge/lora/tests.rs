use super::*;
use crate::checkpoint::TensorSpec;

/// An adapter of two modules with a rank of its own, a bias that was trained and a counter.
fn adapter(rank: usize, seed: u64) -> CheckpointFile {
    let mut draws = crate::data::Draws::keyed(&[seed, 1, 2]);
    let tensors = [
        ("base_model.model.q.lora_A.weight", vec![rank, 6]),
        ("base_model.model.q.lora_B.weight", vec![4, rank]),
        ("base_model.model.v.lora_A.weight", vec![rank, 6]),
        ("base_model.model.v.lora_B.weight", vec![5, rank]),
        ("base_model.model.v.bias", vec![5]),
        ("steps", vec![]),
    ];
    let specs: Vec<TensorSpec> = tensors
        .into_iter()
        .map(|(name, shape)| {
            let dtype = if name == "steps" { Dtype::I64 } else { Dtype::F32 };
            TensorSpec { name: name.to_owned(), dtype, shape }
        })
        .collect();
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, specs.clone(), &BTreeMap::new()).unwrap();
    for spec in specs {
        let count = spec.shape.iter().product();
        let values: Vec<f64> =
            (0..count).map(|_| if spec.dtype == Dtype::I64 { 7.0 } else { draws.normal() }).collect();
        let data = if spec.dtype == Dtype::I64 { 7_i64.to_le_bytes().to_vec() } else { encoded(spec.dtype, &values) };
        writer.write(&spec.name, &data).unwrap();
    }
    writer.finish().unwrap();
    CheckpointFile::from_bytes(bytes).unwrap()
}

const SCALES: [f64; 3] = [2.0, 0.5, 1.0];
const WEIGHTS: [f64; 3] = [0.5, 0.7, -0.2];

fn candidates() -> Vec<(CheckpointFile, f64)> {
    [(2, 1), (3, 2), (2, 3)].into_iter().zip(SCALES).map(|((rank, seed), scale)| (adapter(rank, seed), scale)).collect()
}

fn merged(goal: AdapterGoal, dtype: Option<Dtype>) -> (CheckpointFile, MergedAdapters) {
    let names = ["a", "b", "c"].map(str::to_owned);
    let mut bytes = Vec::new();
    let merged = merge_adapters(&candidates(), &names, &|_| Ok(WEIGHTS.to_vec()), goal, dtype, &mut bytes).unwrap();
    (CheckpointFile::from_bytes(bytes).unwrap(), merged)
}

/// `Σ weight · scale · B A` with plain loops.
fn plain(module: &str, outputs: usize) -> Vec<f64> {
    let mut sum = vec![0.0; outputs * 6];
    for ((file, scale), weight) in candidates().iter().zip(WEIGHTS) {
        let a = file.read_f32(&format!("base_model.model.{module}.lora_A.weight")).unwrap();
        let b = file.read_f32(&format!("base_model.model.{module}.lora_B.weight")).unwrap();
        let rank = a.len() / 6;
        for (entry, sum) in sum.iter_mut().enumerate() {
            let (row, column) = (entry / 6, entry % 6);
            let products = (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * 6 + column]));
            *sum += weight * scale * products.sum::<f64>();
        }
    }
    sum
}

fn near(found: &[f32], wanted: &[f64], most: f64) -> bool {
    found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| (f64::from(*a) - b).abs() <= most)
}

#[test]
fn a_delta_is_the_weighted_sum_of_the_products() {
    let (file, merged) = merged(AdapterGoal::Delta { transposed: false }, None);
    assert!(near(&file.read_f32("q.weight").unwrap(), &plain("q", 4), 1e-5));
    assert!(near(&file.read_f32("v.weight").unwrap(), &plain("v", 5), 1e-5));
    assert_eq!((merged.modules.len(), merged.relative_error), (2, 0.0));
    let biases: Vec<_> =
        candidates().iter().map(|(file, _)| file.read_f32("base_model.model.v.bias").unwrap()).collect();
    let bias: Vec<f64> =
        (0..5).map(|e| WEIGHTS.iter().zip(&biases).map(|(w, bias)| w * f64::from(bias[e])).sum()).collect();
    assert!(near(&file.read_f32("base_model.model.v.bias").unwrap(), &bias, 1e-6));
    assert_eq!(file.bytes("steps").unwrap(), 7_i64.to_le_bytes());
}

#[test]
fn a_transposed_delta_has_its_inputs_along_the_rows() {
    let (file, _) = merged(AdapterGoal::Delta { transposed: true }, Some(Dtype::F64));
    assert_eq!(file.tensor("q.weight").unwrap().shape, [6, 4]);
    let plain = plain("q", 4);
    let turned: Vec<f64> = (0..24).map(|e| plain[e % 4 * 6 + e / 4]).collect();
    assert!(near(&file.read_f32("q.weight").unwrap(), &turned, 1e-6));
}

#[test]
fn an_adapter_of_enough_rank_is_exact_and_one_of_less_says_what_it_lost() {
    for rank in [7, 4, 1] {
        let (file, merged) = merged(AdapterGoal::Adapter { rank }, None);
        let modules = adapted_modules(&file).unwrap();
        let mut lost = 0.0;
        let mut whole = 0.0;
        for (module, (name, outputs)) in modules.iter().zip([("q", 4), ("v", 5)]) {
            assert_eq!(file.tensor(&module.a).unwrap().shape, [rank, 6]);
            let delta = LowRank::read(&file, module, 1.0).unwrap().delta();
            let plain = plain(name, outputs);
            whole += plain.iter().map(|v| v * v).sum::<f64>();
            lost += delta.iter().zip(&plain).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        }
        let apart = (lost / whole).sqrt();
        assert!((apart - merged.relative_error).abs() < 1e-5, "rank {rank}: {apart}, told {}", merged.relative_error);
        // Five outputs, and seven columns of factors: the sum has rank five.
        assert_eq!(rank >= 5, apart < 1e-6, "rank {rank}: {apart}");
    }
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    let whole = adapter(2, 1);
    let without_bias: Vec<_> =
        whole.layout().tensors.iter().map(|t| t.name.as_str()).filter(|name| !name.ends_with("bias")).collect();
    let lacking = whole.select(without_bias).unwrap();
    let refusal = |first: CheckpointFile| {
        let names = ["first", "last"].map(str::to_owned);
        let goal = AdapterGoal::Adapter { rank: 2 };
        let pair = [(first, 1.0), (adapter(2, 2), 1.0)];
        merge_adapters(&pair, &names, &|_| Ok(vec![0.5; 2]), goal, None, std::io::sink()).unwrap_err().to_string()
    };
    assert!(refusal(lacking).contains("candidate `first` lacks `base_model.model.v.bias`"));
    let no_adapter = whole.select(["steps"]).unwrap();
    assert!(adapted_modules(&no_adapter).unwrap_err().to_string().contains("none has `.lora_A`"));
    let half = whole.select(["base_model.model.q.lora_A.weight"]).unwrap();
    assert!(adapted_modules(&half).unwrap_err().to_string().contains("lora_B"));
}

/// A base model whose two weights the adapters adapt, transposed or not.
fn base(transposed: bool) -> CheckpointFile {
    let mut draws = crate::data::Draws::keyed(&[9, 9, 9]);
    let shape = |outputs: usize| if transposed { vec![6, outputs] } else { vec![outputs, 6] };
    let specs = [("q.weight", shape(4)), ("v.weight", shape(5)), ("other", vec![3])].map(|(name, shape)| TensorSpec {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape,
    });
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, specs.to_vec(), &BTreeMap::new()).unwrap();
    for spec in specs {
        let values: Vec<f64> = (0..spec.shape.iter().product()).map(|_| draws.normal()).collect();
        writer.write(&spec.name, &encoded(spec.dtype, &values)).unwrap();
    }
    writer.finish().unwrap();
    CheckpointFile::from_bytes(bytes).unwrap()
}

fn factors_of(file: &CheckpointFile) -> CheckpointFile {
    let names: Vec<_> = file.layout().tensors.iter().map(|t| t.name.as_str()).filter(|n| n.contains("lora")).collect();
    file.select(names).unwrap()
}

#[test]
fn the_average_of_adapted_models_is_the_base_model_with_the_averaged_delta() {
    for transposed in [false, true] {
        let base = base(transposed);
        let adapted = candidates().into_iter().map(|(adapter, scale)| {
            let mut bytes = Vec::new();
            apply_adapter(&base, &factors_of(&adapter), scale, transposed, &mut bytes).unwrap();
            CheckpointFile::from_bytes(bytes).unwrap()
        });
        let adapted: Vec<_> = adapted.collect();
        let (delta, _) = merged(AdapterGoal::Delta { transposed }, Some(Dtype::F64));
        for (name, count) in [("q.weight", 24), ("v.weight", 30)] {
            let (base, delta) = (base.read_f32(name).unwrap(), delta.read_f32(name).unwrap());
            let adapted: Vec<_> = adapted.iter().map(|file| file.read_f32(name).unwrap()).collect();
            for e in 0..count {
                let average: f64 = WEIGHTS.iter().zip(&adapted).map(|(w, file)| w * f64::from(file[e])).sum();
                assert!((average - f64::from(base[e]) - f64::from(delta[e])).abs() < 1e-5, "{name} {e}");
            }
        }
        assert_eq!(adapted[0].bytes("other").unwrap(), base.bytes("other").unwrap());
    }
}

#[test]
fn an_adapter_of_another_model_is_refused_by_the_tensor_that_differs() {
    let refusal = |base: &CheckpointFile, adapter: &CheckpointFile, transposed| {
        apply_adapter(base, adapter, 1.0, transposed, std::io::sink()).unwrap_err().to_string()
    };
    let (base, whole) = (base(false), adapter(2, 1));
    assert!(refusal(&base, &whole, false).contains("`base_model.model.v.bias` of the adapter is no factor"));
    assert!(refusal(&base, &factors_of(&whole), true).contains("do not fit `q.weight`"));
    let other = base.select(["q.weight", "other"]).unwrap();
    assert!(refusal(&other, &factors_of(&whole), false).contains("the base model has no `v.weight`"));
}
