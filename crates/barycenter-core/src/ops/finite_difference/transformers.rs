//! The operations of transformers.

use super::*;

#[test]
fn a_linear_layer_with_everything_fused_has_the_right_gradients() {
    let [inputs, bias, residual] = [variable(&[5, 7], 0.1), variable(&[3], 0.3), variable(&[5, 3], 0.4)];
    for orientation in [Orientation::OutputsByInputs, Orientation::InputsByOutputs] {
        let shape = if orientation == Orientation::OutputsByInputs { [3, 7] } else { [7, 3] };
        let weight = variable(&shape, 0.2);
        for activation in [None, Some(Activation::Gelu), Some(Activation::GeluTanh), Some(Activation::QuickGelu)] {
            check(&[inputs.clone(), weight.clone()], |graph, a| {
                affine(graph, &a[0], Affine { activation, ..Affine::new(&a[1], orientation) }).unwrap()
            });
            check(&[inputs.clone(), weight.clone(), bias.clone(), residual.clone()], |graph, a| {
                let layer = Affine { activation, bias: Some(&a[2]), ..Affine::new(&a[1], orientation) };
                affine(graph, &a[0], Affine { residual: Some(&a[3]), ..layer }).unwrap()
            });
            check(&[inputs.clone(), weight.clone(), residual.clone()], |graph, a| {
                let layer = Affine { activation, residual: Some(&a[2]), ..Affine::new(&a[1], orientation) };
                affine(graph, &a[0], layer).unwrap()
            });
        }
    }
}

#[test]
fn a_kernel_counts_as_a_matrix_of_one_row_an_output() {
    check(&[variable(&[5, 12], 0.1), variable(&[4, 3, 2, 2], 0.2)], |graph, a| {
        affine(graph, &a[0], Affine::new(&a[1], Orientation::OutputsByInputs)).unwrap()
    });
}

#[test]
fn a_fused_relu_equals_the_two_one_after_the_other() {
    let arguments = [variable(&[5, 7], 0.1), variable(&[3, 7], 0.2), variable(&[3], 0.3)];
    let run = |fused: bool| {
        let graph = Graph::tracking(&arguments);
        let [inputs, weight, bias] = &arguments;
        let layer = Affine { bias: Some(bias), relu: fused, ..Affine::new(weight, Orientation::OutputsByInputs) };
        let out = affine(&graph, inputs, layer).unwrap();
        let out = if fused { out } else { relu(&graph, &out).unwrap() };
        let mut gradients = graph.backward(&out, values(out.elem_count(), 0.37)).unwrap();
        (flat(&out), arguments.each_ref().map(|tensor| gradients.take(tensor).unwrap()))
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn layer_norm_has_the_right_gradients() {
    for width in [5, 16, 37] {
        let arguments = [variable(&[35, width], 0.1), variable(&[width], 0.2), variable(&[width], 0.3)];
        check(&arguments, |graph, a| layer_norm(graph, &a[0], (&a[1], &a[2]), 1e-5).unwrap());
    }
}

#[test]
fn layer_norm_keeps_its_digits_far_from_zero() {
    let width = 700;
    let spread = values(width, 0.5);
    let far: Vec<f32> = spread.iter().map(|value| 1000.0 + value).collect();
    let mean = far.iter().map(|v| f64::from(*v)).sum::<f64>() / width as f64;
    let variance = far.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / width as f64;
    let row = |values: Vec<f32>| Tensor::from_vec(values, (1, width), &Device::Cpu).unwrap();
    let affine = [vec![1.0_f32; width], vec![0.0; width]].map(|v| Tensor::from_vec(v, width, &Device::Cpu).unwrap());
    let got = layer_norm(&Graph::untracked(), &row(far.clone()), (&affine[0], &affine[1]), 1e-5).unwrap();
    for (got, value) in flat(&got).into_iter().zip(far) {
        let expected = (f64::from(value) - mean) / (variance + 1e-5).sqrt();
        assert!((f64::from(got) - expected).abs() < 1e-3, "{got} {expected}");
    }
}

#[test]
fn attention_has_the_right_gradients() {
    for (positions, heads, depth, causal) in
        [(5, 1, 3, false), (5, 2, 4, true), (150, 2, 3, false), (130, 1, 2, true), (1, 1, 4, true)]
    {
        let packed = variable(&[2 * positions, 3 * heads * depth], 0.1);
        check(&[packed], |graph, a| attention(graph, &a[0], AttentionForm { positions, heads, causal }).unwrap());
    }
}

#[test]
fn attention_equals_the_formula() {
    let (positions, heads, depth) = (70, 2, 5);
    let width = heads * depth;
    let packed = variable(&[positions, 3 * width], 0.6);
    let elements = flat(&packed);
    for causal in [false, true] {
        let form = AttentionForm { positions, heads, causal };
        let got = flat(&attention(&Graph::untracked(), &packed, form).unwrap());
        for (query, head) in (0..positions).flat_map(|query| (0..heads).map(move |head| (query, head))) {
            let at = |part: usize, row: usize, i: usize| {
                f64::from(elements[row * 3 * width + part * width + head * depth + i])
            };
            let keys = if causal { query + 1 } else { positions };
            let score = |key| (0..depth).map(|i| at(0, query, i) * at(1, key, i)).sum::<f64>() / (depth as f64).sqrt();
            let weights: Vec<f64> = (0..keys).map(|key| score(key).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for i in 0..depth {
                let expected = (0..keys).map(|key| weights[key] * at(2, key, i)).sum::<f64>() / sum;
                let got = f64::from(got[query * width + head * depth + i]);
                assert!((got - expected).abs() < 1e-6, "query {query}, head {head}: {got} {expected}");
            }
        }
    }
}

#[test]
fn attention_over_scores_of_hundreds_stays_finite() {
    let packed = Tensor::new(vec![300.0_f32; 4 * 6], &Device::Cpu).unwrap().reshape((4, 6)).unwrap();
    let form = AttentionForm { positions: 4, heads: 1, causal: true };
    let graph = Graph::tracking([&packed]);
    let output = attention(&graph, &packed, form).unwrap();
    assert!(flat(&output).iter().all(|value| (value - 300.0).abs() < 1e-3));
    let gradient = graph.backward(&output, vec![1.0; 8]).unwrap().take(&packed).unwrap();
    assert!(gradient.iter().all(|value| value.is_finite()));
}

#[test]
fn embeddings_have_the_right_gradients() {
    let indices: Arc<[u32]> = Arc::from([3, 0, 3, 69, 3, 1]);
    check(&[variable(&[70, 5], 0.1), variable(&[4, 5], 0.2)], |graph, a| {
        embedding(graph, indices.clone(), 3, (&a[0], &a[1])).unwrap()
    });
}

#[test]
fn a_token_beyond_the_vocabulary_is_refused() {
    let tables = [variable(&[4, 2], 0.1), variable(&[3, 2], 0.1)];
    let embed = |tokens: Vec<u32>, length| {
        embedding(&Graph::untracked(), tokens.into(), length, (&tables[0], &tables[1])).map_err(|e| e.to_string())
    };
    assert!(embed(vec![1, 4], 2).unwrap_err().contains("token 4 of a vocabulary of 4"));
    assert!(embed(vec![1, 2, 3, 0], 4).unwrap_err().contains("length 4"));
    assert!(embed(vec![1, 2, 3], 3).is_ok());
}

#[test]
fn patches_have_the_order_of_a_kernel_and_the_right_gradient() {
    let image: Vec<f32> = (0..4 * 6 * 3).map(|i| i as f32).collect();
    let image = Tensor::from_vec(image, (1, 4, 6, 3), &Device::Cpu).unwrap();
    let cut = patches(&Graph::untracked(), &image, 2).unwrap();
    assert_eq!(cut.dims(), [6, 12]);
    // The second patch starts at column 2; its first channel is every third number of two rows.
    assert_eq!(flat(&cut)[12..16], [6.0, 9.0, 24.0, 27.0]);
    check(&[variable(&[2, 4, 6, 3], 0.4)], |graph, a| patches(graph, &a[0], 2).unwrap());
    assert!(patches(&Graph::untracked(), &image, 4).is_err());
}

#[test]
fn class_tokens_have_the_right_gradients() {
    check(&[variable(&[6, 5], 0.1), variable(&[1, 1, 5], 0.2), variable(&[1, 4, 5], 0.3)], |graph, a| {
        with_class_token(graph, &a[0], &a[1], &a[2]).unwrap()
    });
    check(&[variable(&[6, 5], 0.1)], |graph, a| class_token(graph, &a[0], 3).unwrap());
}

#[test]
fn rows_of_length_one_have_the_right_gradient() {
    check(&[variable(&[4, 5], 0.3)], |graph, a| unit_rows(graph, &a[0]).unwrap());
}
