use super::*;

#[test]
fn coding_gives_the_same_bits_on_every_processor() {
    let mut state = 5_u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    for case in 0..400 {
        let len = if case % 3 == 0 { 1 + case % 256 } else { GROUP };
        let tail = if case % 2 == 0 { 1.0 } else { 30.0 };
        let scale = [1.0, 1e-30, 1e-37, 1e30, 3e38][case % 5];
        let values: Vec<f32> = (0..len).map(|e| number() * scale * if e == 7 { tail } else { 1.0 / 30.0 }).collect();
        for bits in [1_u8, 2, 4, 8] {
            let mut portable = vec![0; 32 * usize::from(bits)];
            let scale = code_group(Processor::Portable, &values, bits, &mut portable).scale;
            for processor in Processor::available() {
                let mut codes = portable.clone();
                codes.fill(9);
                let other = code_group(processor, &values, bits, &mut codes).scale;
                assert_eq!((other.to_bits(), &codes), (scale.to_bits(), &portable), "{processor:?} {bits} {case}");
            }
        }
    }
}

/// Numbers of many sizes, some of them zero.
fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let number =
        |_| (draw() as f32 / (1 << 23) as f32 - 1.0) * [1.0, 1e-3, 1e-20, 0.0, 1e-42, 1e30][draw() as usize % 6];
    (0..count).map(number).collect()
}

#[test]
fn means_are_the_same_bits_on_every_processor_and_of_equal_rows_the_row() {
    for n in 1..70_u32 {
        let rows: Vec<Vec<f32>> = (0..n).map(|i| numbers(n * 100 + i, 4 * GROUP)).collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let divided = |column: usize| {
            let sum = rows.iter().fold(0.0, |sum, row| sum + f64::from(row[column]));
            (sum / f64::from(n)) as f32
        };
        let expected: Vec<u32> = (0..4 * GROUP).map(|column| divided(column).to_bits()).collect();
        for processor in Processor::available() {
            let mut found = vec![1.0; 4 * GROUP];
            mean(processor, &rows, &mut found, &mut Ahead::behind(&[]));
            assert_eq!(found.iter().map(|mean| mean.to_bits()).collect::<Vec<_>>(), expected, "{processor:?} {n}");
            mean(processor, &vec![rows[0]; n as usize], &mut found, &mut Ahead::behind(&[]));
            assert_eq!(found, rows[0], "{processor:?} {n} equal rows");
        }
    }
}

#[test]
fn groups_of_a_batch_are_coded_as_each_of_them_alone() {
    let (rows, centre) = (numbers(3, BATCH * GROUP), numbers(4, GROUP));
    let centre = centre.first_chunk().expect("a group");
    let groups: Vec<_> = rows.as_chunks().0.iter().map(|values| Group { values, centre, len: GROUP }).collect();
    for (processor, bits) in Processor::available().into_iter().flat_map(|p| [1, 2, 4, 8, 32].map(|bits| (p, bits))) {
        for (count, stream) in [(1, false), (7, true), (BATCH, false), (BATCH, true)] {
            let mut batch = Batch::new();
            let mut codes = vec![MaybeUninit::new(9); count * 32 * usize::from(bits)];
            code_groups(processor, bits, &mut batch, &groups[..count], &mut codes, (stream, &mut Ahead::behind(&[])));
            fence(processor);
            for (g, codes) in codes.chunks(32 * usize::from(bits)).enumerate() {
                let deviations: Vec<f32> = groups[g].values.iter().zip(centre).map(|(v, c)| v - c).collect();
                let mut alone = vec![0; codes.len()];
                let coded = code_group(processor, &deviations, bits, &mut alone);
                #[expect(unsafe_code, reason = "every byte is written, and was there before")]
                // SAFETY: as said.
                let codes: Vec<u8> = codes.iter().map(|code| unsafe { code.assume_init() }).collect();
                assert_eq!(codes, alone, "{processor:?}, {bits} bits, group {g} of {count}");
                let numbers = |coded: &Coded| (coded.scale, coded.square, coded.explained);
                assert_eq!(
                    numbers(&batch.coded[g]),
                    numbers(&coded),
                    "{processor:?}, {bits} bits, group {g} of {count}"
                );
            }
        }
    }
}

/// The least squared error that either step of a group leaves, reckoned in f64 from the deviations themselves.
fn least_error(values: &[f32], bits: usize) -> f64 {
    let half = f64::from(1_u32 << (bits - 1));
    let square: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    let largest = values.iter().fold(0.0, |largest: f64, v| largest.max(f64::from(*v).abs()));
    let gaussian = gaussian_step(bits) * (square / values.len() as f64).sqrt();
    let error = |step: f64| {
        let level = |v: &f32| (f64::from(*v) / step + half).floor().clamp(0.0, 2.0 * half - 1.0) + 0.5 - half;
        let length: f64 = values.iter().map(|v| level(v).powi(2)).sum();
        let product: f64 = values.iter().map(|v| level(v) * f64::from(*v)).sum();
        square - product * product / length
    };
    error(gaussian).min(if bits > 1 { error(gaussian.max(largest / half)) } else { f64::INFINITY })
}

#[test]
fn whole_numbers_of_units_cost_no_more_than_a_hundredth_of_the_error() {
    let mut draws = crate::data::Draws::keyed(&[8]);
    for (bits, tail) in [1_u8, 2, 4, 8].into_iter().flat_map(|bits| [0.0, 1.0, 8.0, 60.0, 1e3].map(|t| (bits, t))) {
        let (mut error, mut least) = (0.0, 0.0);
        for case in 0..200 {
            let len = [GROUP, GROUP, 40, 3][case % 4];
            let mut values: Vec<f32> = (0..len).map(|_| draws.normal() as f32).collect();
            values[case % len] *= tail;
            let mut codes = vec![0; 32 * usize::from(bits)];
            let scale = quantise(&values, bits, &mut codes);
            let decoded = unpack(&codes, bits, scale);
            let square: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
            let error_of = |(v, d): (&f32, &f32)| (f64::from(*v) - f64::from(*d)).powi(2);
            error += values.iter().zip(&decoded).map(error_of).sum::<f64>() / square;
            least += least_error(&values, usize::from(bits)) / square;
        }
        assert!(error <= 1.01 * least, "{bits} bits, {tail}: {error} {least} {}", error / least);
    }
}

#[test]
fn a_group_that_is_not_finite_has_no_step() {
    for bad in [f32::NAN, f32::INFINITY, f32::from_bits(0x7fc0_7fff)] {
        assert!(quantise(&[1.0, bad], 4, &mut [0; 128]).is_nan());
        for processor in Processor::available() {
            assert!(code_group(processor, &[bad; GROUP], 8, &mut [0; GROUP]).scale.is_nan(), "{processor:?}");
        }
    }
}

#[test]
fn a_step_beyond_all_numbers_is_none() {
    let values: Vec<f32> = (0..GROUP).map(|e| if e % 2 == 0 { 3e38 } else { -3e38 }).collect();
    for processor in Processor::available() {
        let coded = code_group(processor, &values, 1, &mut [0; 32]);
        assert!(coded.scale.is_nan() && coded.square.is_nan(), "{processor:?}");
        assert!(code_group(processor, &values, 4, &mut [0; 128]).scale.is_finite(), "{processor:?}");
    }
}
