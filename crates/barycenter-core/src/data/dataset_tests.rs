use std::collections::HashMap;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;
use crate::data::NO_LABEL;

const AS_STORED: Augmentation = Augmentation { pad: 0, flip: false };

/// Two samples of two channels of 2x3 pixels, each byte its own position.
fn images() -> Dataset {
    let normalisation = Normalisation { scale: 0.5, mean: vec![1.0, 2.0], std: vec![1.0, 4.0] };
    Dataset::from_inputs(Inputs::U8((0..24).collect()), &[2, 2, 2, 3], vec![1, 0], normalisation).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn write(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)], metadata: &[(&str, &str)]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()))
        .collect();
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    safetensors::serialize_to_file(views, Some(metadata), file.path()).unwrap();
    file
}

fn labels(values: &[i64]) -> (&'static str, Dtype, Vec<usize>, Vec<u8>) {
    ("labels", Dtype::I64, vec![values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn refusal(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> String {
    Dataset::open(write(tensors, &[]).path(), None).err().expect("an error").to_string()
}

#[test]
fn a_batch_is_normalised_and_has_channels_last() {
    let batch = images().batch(&[1], AS_STORED, Epoch::default()).unwrap();
    assert_eq!(batch.inputs.dims(), [1, 2, 3, 2]);
    // Sample 1 starts at byte 12, its second channel at byte 18.
    assert_eq!(
        flat(&batch.inputs)[..4],
        [12.0 * 0.5 - 1.0, (18.0 * 0.5 - 2.0) / 4.0, 13.0 * 0.5 - 1.0, (19.0 * 0.5 - 2.0) / 4.0]
    );
    assert_eq!(batch.labels, Labels::Classes([0].into()));
}

#[test]
fn padding_is_black_before_normalisation() {
    let augmentation = Augmentation { pad: 2, flip: true };
    let dataset = images();
    let black = [-1.0, -0.5];
    let mut seen_black = false;
    for number in 0..20 {
        let batch = dataset.batch(&[0], augmentation, Epoch { seed: 1, number }).unwrap();
        let crop = augmentation.crop(Epoch { seed: 1, number }, 0);
        for (pixel, values) in flat(&batch.inputs).chunks(2).enumerate() {
            match crop.source(pixel / 3, pixel % 3, 2, 3) {
                None => {
                    assert_eq!(values, black);
                    seen_black = true;
                }
                Some((row, column)) => assert_eq!(values[..1], [(row * 3 + column) as f32 * 0.5 - 1.0]),
            }
        }
    }
    assert!(seen_black);
}

#[test]
fn a_file_is_read_with_the_normalisation_of_its_metadata() {
    let inputs: Vec<u8> = [0.5_f32, 1.5, 2.5, 3.5].iter().flat_map(|value| value.to_le_bytes()).collect();
    let file = write(
        &[("inputs", Dtype::F32, vec![2, 2], inputs), labels(&[3, 0])],
        &[("scale", "1/2"), ("mean", "0.25"), ("std", "0.5,2")],
    );
    let dataset = Dataset::open(file.path(), None).unwrap();
    let batch = dataset.batch(&[1, 0], AS_STORED, Epoch::default()).unwrap();
    assert_eq!(batch.inputs.to_vec2::<f32>().unwrap(), [[2.0, 0.75], [0.0, 0.25]]);
    assert_eq!(batch.labels, Labels::Classes([0, 3].into()));
    assert!(dataset.check_labels(4).is_ok());
    assert!(dataset.check_labels(3).unwrap_err().to_string().contains("label 3 of sample 0"));
    let other = Dataset::open(file.path(), Some(Normalisation::default())).unwrap();
    assert_eq!(flat(&other.batch(&[0], AS_STORED, Epoch::default()).unwrap().inputs), [0.5, 1.5]);
}

fn floats(name: &'static str, shape: &[usize], values: &[f32]) -> (&'static str, Dtype, Vec<usize>, Vec<u8>) {
    (name, Dtype::F32, shape.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn tokens(shape: &[usize], values: &[i64]) -> (&'static str, Dtype, Vec<usize>, Vec<u8>) {
    ("tokens", Dtype::I64, shape.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

#[test]
fn targets_are_read_beside_their_inputs() {
    let file = write(
        &[floats("inputs", &[2, 1], &[1.0, 2.0]), floats("targets", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])],
        &[("scale", "10")],
    );
    let dataset = Dataset::open(file.path(), None).unwrap();
    assert_eq!(
        (dataset.kind(), dataset.sample_shape(), dataset.len()),
        (DatasetKind::Targets { count: 3 }, &[1][..], 2)
    );
    let batch = dataset.batch(&[1, 0, 1], AS_STORED, Epoch::default()).unwrap();
    assert_eq!(flat(&batch.inputs), [20.0, 10.0, 20.0]);
    let values = [4.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0].into();
    assert_eq!(batch.labels, Labels::Targets { values, count: 3 });
}

#[test]
fn tokens_of_every_width_are_judged_by_the_one_that_follows() {
    let values = [3_u16, 1, 0, 2, 0, 0];
    let widened = |width: usize| values.iter().flat_map(|v| u64::from(*v).to_le_bytes()[..width].to_vec()).collect();
    for (dtype, width) in [(Dtype::U16, 2), (Dtype::I32, 4), (Dtype::I64, 8)] {
        let stored: Vec<u8> = widened(width);
        for (metadata, next) in [
            (&[][..], [1, 0, 0, 0]),
            (&[("padding_token", "0")], [1, NO_LABEL, NO_LABEL, NO_LABEL]),
            (&[("padding_token", "3")], [1, 0, 0, 0]),
        ] {
            // Where 0 is padding the second row would predict nothing.
            let stored = if next[3] == NO_LABEL {
                [&stored[..3 * width], &stored[..3 * width]].concat()
            } else {
                stored.clone()
            };
            let file = write(&[("tokens", dtype, vec![2, 3], stored)], metadata);
            let dataset = Dataset::open(file.path(), None).unwrap();
            assert_eq!((dataset.kind(), dataset.sample_shape(), dataset.len()), (DatasetKind::Tokens, &[2][..], 2));
            let batch = dataset.batch(&[0], AS_STORED, Epoch::default()).unwrap();
            assert_eq!(batch.inputs.to_vec2::<u32>().unwrap(), [[3, 1]]);
            assert_eq!(batch.labels, Labels::Tokens { next: next[..2].into(), positions: 2 });
            assert!(dataset.check_labels(4).is_ok());
            let error = dataset.check_labels(3).unwrap_err().to_string();
            assert!(error.contains("token 3 of sample 0 is none of a vocabulary of 3"), "{error}");
        }
    }
}

#[test]
fn tokens_that_are_none_are_refused_by_sample() {
    let open = |values: &[i64], metadata: &[(&str, &str)]| {
        let file = write(&[tokens(&[values.len() / 2, 2], values)], metadata);
        Dataset::open(file.path(), None).err().expect("an error").to_string()
    };
    assert!(open(&[1, 2, 3, -100], &[]).contains("token -100 of sample 1"));
    assert!(open(&[1, 2, 1 << 32, 3], &[]).contains("token 4294967296 of sample 1"));
    assert!(open(&[1, 2, 5, 0], &[("padding_token", "0")]).contains("sample 1 of `tokens` has nothing but padding"));
    for text in ["-1", "x", "1.5", "4294967295"] {
        assert!(open(&[1, 2], &[("padding_token", text)]).contains("`padding_token`"), "{text}");
    }
    let ragged = Dataset::from_tokens(vec![1, 2, 3], 2, None).err().expect("an error").to_string();
    assert!(ragged.contains("3 tokens are not rows of 2"), "{ragged}");
}

#[test]
fn a_file_that_is_no_dataset_is_refused_by_name() {
    let bytes = || ("inputs", Dtype::U8, vec![2, 3], vec![0; 6]);
    let is_refused = |tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)], told: &str| {
        let message = refusal(tensors);
        assert!(message.contains(told), "{message}");
    };
    is_refused(&[bytes()], "`labels` is missing, and so is `targets`");
    is_refused(&[labels(&[0])], "`inputs` is missing");
    is_refused(&[bytes(), labels(&[0])], "`labels` is I64 of shape [1]");
    is_refused(&[bytes(), labels(&[0, -1])], "label -1 of sample 1");
    is_refused(&[("inputs", Dtype::I8, vec![2, 3], vec![0; 6]), labels(&[0, 0])], "`inputs` is I8");
    is_refused(&[("inputs", Dtype::U8, vec![2, 3, 1], vec![0; 6]), labels(&[0, 0])], "[2, 3, 1]");
    is_refused(&[("inputs", Dtype::U8, vec![0, 3], vec![]), labels(&[])], "`inputs` has shape [0, 3]");
    is_refused(&[bytes(), ("labels", Dtype::U8, vec![2], vec![0; 2])], "`labels` is U8");
    is_refused(&[floats("inputs", &[2, 1], &[1.0, f32::NAN]), labels(&[0, 0])], "NaN in sample 1");
    is_refused(
        &[bytes(), floats("targets", &[2], &[0.0; 2])],
        "`targets` is F32 of shape [2]; must be F32 of shape [2, k]",
    );
    is_refused(&[bytes(), floats("targets", &[2, 0], &[])], "`targets`");
    is_refused(&[bytes(), floats("targets", &[1, 2], &[0.0; 2])], "`targets`");
    is_refused(&[bytes(), floats("targets", &[2, 1], &[0.0, f32::INFINITY])], "`targets` holds inf in sample 1");
    is_refused(&[bytes(), labels(&[0, 0]), floats("targets", &[2, 1], &[0.0; 2])], "`targets` stands beside `labels`");
    is_refused(&[bytes(), labels(&[0, 0]), floats("mask", &[2], &[0.0; 2])], "`mask` has no place");
    is_refused(&[tokens(&[1, 2], &[0, 1]), floats("mask", &[2], &[0.0; 2])], "`mask` has no place");
    is_refused(&[tokens(&[1, 2], &[0, 1]), bytes()], "`inputs` has no place");
    is_refused(&[tokens(&[2, 1], &[0, 1])], "`tokens` is I64 of shape [2, 1]");
    is_refused(&[tokens(&[0, 3], &[])], "`tokens`");
    is_refused(&[tokens(&[4], &[0; 4])], "`tokens`");
    is_refused(&[floats("tokens", &[1, 2], &[0.0; 2])], "`tokens` is F32");
}

#[test]
fn a_file_cut_short_is_refused() {
    let file = write(&[("inputs", Dtype::U8, vec![2, 3], vec![0; 6]), labels(&[0, 1])], &[]);
    let bytes = std::fs::read(file.path()).unwrap();
    std::fs::write(file.path(), &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(Dataset::open(file.path(), None), Err(Error::Corrupt(_))));
}

#[test]
fn a_normalisation_of_other_channels_is_refused() {
    let three = Normalisation { mean: vec![0.0; 3], ..Normalisation::default() };
    let result = Dataset::from_inputs(Inputs::U8(vec![0; 8]), &[1, 2, 2, 2], vec![0], three);
    assert!(result.err().unwrap().to_string().contains("mean has 3 values"));
}
