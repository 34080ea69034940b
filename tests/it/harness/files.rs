//! Safetensors files, written by hand so that they can be wrong.

/// A tensor of a file to write.
pub struct TestTensor {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A tensor of f32 values.
pub fn f32s(name: &str, shape: &[usize], values: impl IntoIterator<Item = f32>) -> TestTensor {
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    assert_eq!(bytes.len(), 4 * shape.iter().product::<usize>());
    TestTensor { name: name.into(), dtype: "F32", shape: shape.into(), bytes }
}

/// A tensor of raw bytes.
pub fn raw(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> TestTensor {
    TestTensor { name: name.into(), dtype, shape: shape.into(), bytes }
}

/// A whole file.
pub fn safetensors(tensors: &[TestTensor]) -> Vec<u8> {
    safetensors_with(tensors, &serde_json::json!({}))
}

/// A whole file with metadata.
pub fn safetensors_with(tensors: &[TestTensor], metadata: &serde_json::Value) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), metadata.clone());
    let mut data = Vec::new();
    for tensor in tensors {
        let range = [data.len(), data.len() + tensor.bytes.len()];
        data.extend_from_slice(&tensor.bytes);
        let entry = serde_json::json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": range });
        header.insert(tensor.name.clone(), entry);
    }
    assemble(&serde_json::Value::Object(header).to_string(), &data)
}

/// A file of this header and data, whatever they say.
pub fn assemble(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A small sound checkpoint; each seed has other numbers.
pub fn checkpoint(seed: u32) -> Vec<u8> {
    let values = |n: usize| (0..n).map(move |i| (seed as f32) + i as f32 / 8.0);
    safetensors(&[f32s("0.weight", &[3, 2], values(6)), f32s("0.bias", &[3], values(3))])
}

/// A sound checkpoint of at least so many bytes, so that stores receive it in parts.
pub fn large_checkpoint(bytes: usize) -> Vec<u8> {
    let n = bytes / 4;
    safetensors(&[f32s("weight", &[n], (0..n).map(|i| (i as f32).sin()))])
}

/// A small sound dataset of RGB images.
pub fn dataset(samples: usize) -> Vec<u8> {
    let pixels: Vec<u8> = (0..samples * 3 * 4 * 4).map(|i| i as u8).collect();
    let labels = (0..samples).flat_map(|i| ((i % 10) as i64).to_le_bytes()).collect();
    let tensors = [raw("inputs", "U8", &[samples, 3, 4, 4], pixels), raw("labels", "I64", &[samples], labels)];
    safetensors_with(&tensors, &serde_json::json!({ "scale": "1/255", "mean": "0.5,0.4,0.3", "std": "0.2" }))
}

/// BLAKE3 digest as the API writes it.
pub fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
