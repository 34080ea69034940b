//! Every form beside finite differences, and back from coefficients.

use std::collections::BTreeMap;

use super::*;
use crate::{
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
    data::Draws,
};

const N: usize = 4;
const TENSORS: [(&str, usize); 3] = [("a.weight", 300), ("a.bias", 20), ("b.weight", 40)];
const STRENGTH: f64 = 3.0;

fn signed(draws: &mut Draws) -> f64 {
    draws.below(1 << 20) as f64 / f64::from(1 << 19) - 1.0
}

fn candidate(seed: u64) -> CheckpointFile {
    let mut draws = Draws::keyed(&[seed]);
    let spec = |(name, size): (&str, usize)| TensorSpec { name: name.to_owned(), dtype: Dtype::F32, shape: vec![size] };
    let mut written = Vec::new();
    let mut writer = Writer::new(&mut written, TENSORS.map(spec).to_vec(), &BTreeMap::new()).unwrap();
    for (name, size) in TENSORS {
        let bytes: Vec<u8> = (0..size).flat_map(|_| (signed(&mut draws) as f32).to_le_bytes()).collect();
        writer.write(name, &bytes).unwrap();
    }
    writer.finish().unwrap();
    CheckpointFile::from_bytes(written).unwrap()
}

fn projection(bits: u8) -> Projection {
    let candidates: Vec<_> = (0..N as u64).map(candidate).collect();
    let sizes = TENSORS.map(|(name, size)| (name.to_owned(), size));
    let names: Vec<String> = sizes.iter().map(|(name, _)| name.clone()).collect();
    let blocks = Blocks::new(&sizes, Granularity::Tensor);
    Projection::build(&candidates, &names, &blocks, bits, &mut |_, _| Ok(())).unwrap()
}

fn forms() -> Vec<Form> {
    let pooled = Pooling::Partial { strength: STRENGTH };
    let constraints = [Constraint::Affine, Constraint::Convex, Constraint::Linear];
    let mut forms: Vec<Form> = constraints
        .into_iter()
        .flat_map(|constraint| {
            [Pooling::None, pooled].map(|pooling| Form { constraint, basis: Basis::Normalised, pooling })
        })
        .collect();
    forms.extend([Constraint::Affine, Constraint::Linear].map(|constraint| Form {
        constraint,
        basis: Basis::Orthonormal,
        pooling: Pooling::None,
    }));
    forms
}

/// What partial pooling costs, written out from the page on the method.
fn penalty(projection: &Projection, form: Form, theta: &[f64]) -> f64 {
    let Pooling::Partial { strength } = form.pooling else { return 0.0 };
    let blocks = projection.block_count();
    let own = &theta[N..N + N * blocks];
    let unit = |i: usize| match form.constraint {
        Constraint::Convex => N as f64,
        _ => projection.norms()[i * blocks..][..blocks].iter().map(|r| r * r).sum::<f64>().sqrt(),
    };
    own.iter().enumerate().map(|(entry, t)| 0.5 * strength * (t / unit(entry / blocks)).powi(2)).sum()
}

#[test]
fn gradients_agree_with_finite_differences_in_every_form() {
    let projection = projection(32);
    for form in forms() {
        let parametrisation = Parametrisation::new(&projection, form).unwrap();
        let mut draws = Draws::keyed(&[11]);
        let theta: Vec<f64> = (0..parametrisation.len()).map(|_| 0.3 * signed(&mut draws)).collect();
        let entries = N * projection.block_count();
        let slopes: Vec<f64> = (0..entries + projection.block_count()).map(|_| signed(&mut draws)).collect();
        // ½ x² + slope · x over X and the gain.
        let arguments = |point: &Point| -> Vec<f64> { point.x.iter().chain(&point.gain).copied().collect() };
        let loss = |theta: &[f64]| {
            let of = |(x, slope): (&f64, &f64)| 0.5 * x * x + slope * x;
            let arguments = arguments(&parametrisation.point(theta));
            arguments.iter().zip(&slopes).map(of).sum::<f64>() + penalty(&projection, form, theta)
        };
        let held = arguments(&parametrisation.point(&theta));
        let slope: Vec<f64> = held.iter().zip(&slopes).map(|(x, slope)| x + slope).collect();
        let (of_x, of_gain) = slope.split_at(entries);
        let gradient = parametrisation.gradient(&theta, of_x, of_gain);
        assert_eq!(gradient.len(), theta.len(), "{form:?}");
        for (k, found) in gradient.iter().enumerate() {
            let at = |step: f64| {
                let mut moved = theta.clone();
                moved[k] += step;
                loss(&moved)
            };
            let wanted = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((found - wanted).abs() < 1e-6 * wanted.abs().max(1.0), "{form:?}, {k}: {found} {wanted}");
        }
    }
}

#[test]
fn coefficients_come_back_from_the_theta_that_stands_for_them() {
    let projection = projection(32);
    let wanted = [0.4, 0.1, 0.3, 0.2, 0.5, 0.3, 0.1, 0.3, 0.2, 0.3, 0.1, 0.2];
    for form in forms() {
        let parametrisation = Parametrisation::new(&projection, form).unwrap();
        let found = projection.coefficients_at(&parametrisation.point(&parametrisation.theta_of(&wanted)));
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-6, "{form:?}: {found} {wanted}");
        }
    }
}

#[test]
fn an_orthonormal_basis_has_as_many_directions_as_the_candidates_span_and_they_are_orthonormal() {
    for bits in [1, 4, 32] {
        let projection = projection(bits);
        let whitening = Whitening::new(&projection);
        let (gram, blocks) = (projection.gram(), projection.block_count());
        for l in 0..blocks {
            let direction = |k: usize| -> Vec<f64> {
                let mut theta = vec![0.0; N * blocks];
                theta[k * blocks + l] = 1.0;
                whitening.to_candidates(&theta).into_iter().skip(l).step_by(blocks).collect()
            };
            let product = |a: &[f64], b: &[f64]| -> f64 {
                (0..N).flat_map(|i| (0..N).map(move |j| (i, j))).map(|(i, j)| a[i] * gram[l][(i, j)] * b[j]).sum()
            };
            let directions: Vec<Vec<f64>> = (0..N).map(direction).collect();
            let lengths: Vec<f64> = directions.iter().map(|d| product(d, d)).collect();
            assert_eq!(lengths.iter().filter(|length| (**length - 1.0).abs() < 1e-6).count(), N - 1, "{lengths:?}");
            for (i, a) in directions.iter().enumerate() {
                for b in &directions[..i] {
                    assert!(product(a, b).abs() < 1e-6, "{bits} bits, block {l}");
                }
            }
        }
    }
}

#[test]
fn a_rate_that_nobody_named_grows_with_the_weights() {
    let projection = projection(32);
    let rate = |form| Parametrisation::new(&projection, form).unwrap().rate_of(0.01);
    let pooled = Form { pooling: Pooling::Partial { strength: 1.0 }, ..Form::default() };
    let mut totals: Vec<f64> =
        projection.norms().chunks(3).map(|norms| norms.iter().map(|r| r * r).sum::<f64>().sqrt()).collect();
    totals.sort_by(f64::total_cmp);
    assert!((rate(pooled) - 0.01 * totals[2]).abs() < 1e-12);
    assert!((rate(Form::default()) - rate(pooled) / 3.0_f64.sqrt()).abs() < 1e-12);
    let convex = Form { constraint: Constraint::Convex, ..Form::default() };
    assert!((rate(convex) - 0.04).abs() < 1e-12);
}

#[test]
fn forms_that_do_not_go_together_are_refused_by_name() {
    let refusal = |form| Parametrisation::new(&projection(32), form).unwrap_err().to_string();
    let pooled = |strength| Pooling::Partial { strength };
    let form = |constraint, basis, pooling| Form { constraint, basis, pooling };
    assert!(refusal(form(Constraint::Affine, Basis::Normalised, pooled(-1.0))).contains("pooling.strength"));
    assert!(refusal(form(Constraint::Affine, Basis::Orthonormal, pooled(1.0))).contains("pooling"));
    assert!(refusal(form(Constraint::Convex, Basis::Orthonormal, Pooling::None)).contains("basis"));
}
