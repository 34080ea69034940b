//! A projection that tests make.

use std::collections::BTreeMap;

use barycenter_core::{
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
    projection::Projection,
};

/// Of two candidates with 300 elements.
pub fn projection() -> Projection {
    let candidates: Vec<CheckpointFile> = [1.0_f32, 2.0]
        .into_iter()
        .map(|value| {
            let mut bytes = Vec::new();
            let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![300] };
            let mut writer = Writer::new(&mut bytes, vec![spec], &BTreeMap::new()).unwrap();
            writer.write("w", &value.to_le_bytes().repeat(300)).unwrap();
            writer.finish().unwrap();
            CheckpointFile::from_bytes(bytes).unwrap()
        })
        .collect();
    let blocks = Blocks::new(&[("w".to_owned(), 300)], Granularity::Model);
    Projection::build(&candidates, &["w".to_owned()], &blocks, 4, &mut |_, _| Ok(())).unwrap()
}
