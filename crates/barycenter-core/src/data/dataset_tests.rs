use std::collections::HashMap;

use super::*;

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
    assert_eq!(batch.labels[..], [0]);
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
    let batch = dataset.batch(&[1, 0], Augmentation { pad: 1, flip: true }, Epoch::default()).unwrap();
    assert_eq!(batch.inputs.to_vec2::<f32>().unwrap(), [[2.0, 0.75], [0.0, 0.25]]);
    assert_eq!(batch.labels[..], [0, 3]);
    assert!(dataset.check_labels(4).is_ok());
    assert!(dataset.check_labels(3).unwrap_err().to_string().contains("label 3 of sample 0"));
    let other = Dataset::open(file.path(), Some(Normalisation::default())).unwrap();
    assert_eq!(flat(&other.batch(&[0], AS_STORED, Epoch::default()).unwrap().inputs), [0.5, 1.5]);
}

#[test]
fn a_file_that_is_no_dataset_is_refused_by_name() {
    let bytes = || ("inputs", Dtype::U8, vec![2, 3], vec![0; 6]);
    assert!(refusal(&[bytes()]).contains("no tensor `labels`"));
    assert!(refusal(&[labels(&[0])]).contains("no tensor `inputs`"));
    assert!(refusal(&[bytes(), labels(&[0])]).contains("2 inputs but 1 labels"));
    assert!(refusal(&[bytes(), labels(&[0, -1])]).contains("label -1 of sample 1"));
    assert!(refusal(&[("inputs", Dtype::I8, vec![2, 3], vec![0; 6]), labels(&[0, 0])]).contains("I8"));
    assert!(refusal(&[("inputs", Dtype::U8, vec![2, 3, 1], vec![0; 6]), labels(&[0, 0])]).contains("[2, 3, 1]"));
    assert!(refusal(&[("inputs", Dtype::U8, vec![0, 3], vec![]), labels(&[])]).contains("holds nothing"));
    assert!(refusal(&[bytes(), ("labels", Dtype::U8, vec![2], vec![0; 2])]).contains("`labels` is U8"));
    let nan = [1.0_f32, f32::NAN].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert!(refusal(&[("inputs", Dtype::F32, vec![2, 1], nan), labels(&[0, 0])]).contains("NaN in sample 1"));
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
