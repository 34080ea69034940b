//! Small pictures of ten drawn classes: a figure of random place, size, turn and colour, under noise and a bar that
//! hides part of it. Hard enough that a small network errs by several per cent.

use barycenter_core::data::Draws;

pub const CLASSES: usize = 10;
pub const SIDE: usize = 20;
pub const PIXELS: usize = 3 * SIDE * SIDE;

/// Pictures and their classes.
pub struct Pictures {
    /// N x 3 x SIDE x SIDE, one byte a value.
    pub inputs: Vec<u8>,
    pub labels: Vec<i64>,
}

/// Draws `count` pictures; the same seed draws the same ones.
pub fn draw(count: usize, seed: u64) -> Pictures {
    let mut inputs = Vec::with_capacity(count * PIXELS);
    let mut labels = Vec::with_capacity(count);
    for sample in 0..count {
        let mut draws = Draws::keyed(&[seed, 0, sample as u64]);
        let class = draws.below(CLASSES);
        inputs.extend(picture(class, &mut draws));
        labels.push(class as i64);
    }
    Pictures { inputs, labels }
}

fn uniform(draws: &mut Draws, low: f64, high: f64) -> f64 {
    low + (high - low) * draws.below(1 << 24) as f64 / f64::from(1 << 24)
}

fn picture(class: usize, draws: &mut Draws) -> Vec<u8> {
    let side = SIDE as f64;
    let centre = [uniform(draws, 0.36, 0.64) * side, uniform(draws, 0.36, 0.64) * side];
    let radius = uniform(draws, 0.22, 0.42) * side;
    let (sin, cos) = uniform(draws, -0.6, 0.6).sin_cos();
    let paper: [f64; 3] = std::array::from_fn(|_| uniform(draws, 0.0, 1.0));
    let ink: [f64; 3] = std::array::from_fn(|channel| {
        let contrast = uniform(draws, 0.2, 0.5);
        if paper[channel] > 0.5 { paper[channel] - contrast } else { paper[channel] + contrast }
    });
    let bar = uniform(draws, 0.0, side);
    let (bar_width, upright) = (uniform(draws, 1.0, 4.0), draws.below(2) == 0);
    let noise = uniform(draws, 0.08, 0.3);

    let mut pixels = vec![0; PIXELS];
    for y in 0..SIDE {
        for x in 0..SIDE {
            let (dx, dy) = (x as f64 + 0.5 - centre[0], y as f64 + 0.5 - centre[1]);
            let (u, v) = ((cos * dx + sin * dy) / radius, (cos * dy - sin * dx) / radius);
            let along = if upright { x } else { y } as f64;
            let hidden = (along - bar).abs() < bar_width / 2.0;
            let inked = !hidden && is_inside(class, u, v);
            for channel in 0..3 {
                let colour = if inked { ink[channel] } else { paper[channel] };
                let value = colour + uniform(draws, -noise, noise);
                pixels[(channel * SIDE + y) * SIDE + x] = (value.clamp(0.0, 1.0) * 255.0) as u8;
            }
        }
    }
    pixels
}

/// Whether a point of the unit square around the figure's centre belongs to the figure.
fn is_inside(class: usize, u: f64, v: f64) -> bool {
    let (distance, square) = (u.hypot(v), u.abs().max(v.abs()));
    let stripe = |w: f64| ((w + 1.0) * 2.5).rem_euclid(2.0) < 1.0;
    match class {
        0 => distance < 0.9,
        1 => (0.55..0.95).contains(&distance),
        2 => square < 0.8,
        3 => (0.5..0.85).contains(&square),
        4 => v < 0.7 && v > 2.2 * u.abs() - 0.9,
        5 => square < 0.95 && u.abs().min(v.abs()) < 0.25,
        6 => square < 0.9 && (u.abs() - v.abs()).abs() < 0.3,
        7 => square < 0.9 && stripe(v),
        8 => square < 0.9 && stripe(u),
        _ => square < 0.9 && stripe(u) != stripe(v),
    }
}
