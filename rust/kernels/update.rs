//! The passes over weights and gradients that Muon takes before and after its matrix products.

use super::vector::{Vector, read, write};
use super::{LANES, Number, for_each_processor, parts, run_all, take};

for_each_processor! {
    fn add_squares<V, E>(zero, numbers: &[E], squares: &mut f32) {
        let mut sum = zero;
        for number in numbers.chunks(LANES) {
            let number = read(zero, number);
            sum = sum.add_product(number, number);
        }
        *squares = sum.total();
    }
}

for_each_processor! {
    fn blend<V, E>(
        zero,
        gradient: &[E],
        scale: f32,
        momentum: &mut [f32],
        share: f32,
        squares: &mut f32,
    ) {
        let (rest, share, scale) = (zero.splat(1.0 - share), zero.splat(share), zero.splat(scale));
        let mut sum = zero;
        for (momentum, gradient) in momentum.chunks_mut(LANES).zip(gradient.chunks(LANES)) {
            let (gradient, before) = (read(zero, gradient).times(scale), read(zero, momentum));
            let blended = before.add_product(gradient.minus(before), rest);
            write(blended, momentum);
            let ahead = ahead(gradient, blended, share);
            sum = sum.add_product(ahead, ahead);
        }
        *squares = sum.total();
    }
}

for_each_processor! {
    fn look_ahead<V, E>(
        zero,
        gradient: &[f32],
        scale: f32,
        momentum: &[f32],
        share: f32,
        factor: f32,
        direction: &mut [E],
    ) {
        let (share, factor, scale) = (zero.splat(share), zero.splat(factor), zero.splat(scale));
        let numbers = gradient.chunks(LANES).zip(momentum.chunks(LANES));
        for (direction, (gradient, momentum)) in direction.chunks_mut(LANES).zip(numbers) {
            let gradient = read(zero, gradient).times(scale);
            let ahead = ahead(gradient, read(zero, momentum), share);
            write(ahead.times(factor), direction);
        }
    }
}

for_each_processor! {
    fn move_weights<V, E>(zero, weights: &mut [f32], update: &[E], keep: f32, rate: f32) {
        let (keep, rate) = (zero.splat(keep), zero.splat(-rate));
        for (weight, update) in weights.chunks_mut(LANES).zip(update.chunks(LANES)) {
            let kept = read(zero, weight).times(keep);
            write(kept.add_product(read(zero, update), rate), weight);
        }
    }
}

/// Nesterov's momentum.
#[inline(always)]
fn ahead<V: Vector>(gradient: V, momentum: V, share: V) -> V {
    gradient.add_product(momentum.minus(gradient), share)
}

/// What keeps a norm of 0 from being divided by.
const LEAST_NORM: f32 = 1e-12;

/// Blends a matrix' `gradient`, times one over its norm where `unit` asks for it, into its `momentum`, of
/// which `share` stays, and writes Nesterov's momentum over its Frobenius norm to `direction`.
///
/// # Panics
/// Lengths disagree.
pub fn muon_direction<E: Number>(
    gradient: &[f32],
    unit: bool,
    momentum: &mut [f32],
    share: f32,
    mut direction: &mut [E],
    threads: usize,
) {
    assert!(gradient.len() == momentum.len() && gradient.len() == direction.len());
    let ranges = parts(gradient.len(), 1, threads);
    let mut squares = vec![0.0; ranges.len()];
    let mut scale = 1.0;
    if unit {
        let jobs = ranges.iter().cloned().zip(&mut squares);
        let jobs = jobs.map(|(range, squares)| move || add_squares(&gradient[range], squares));
        run_all(jobs.collect());
        scale = 1.0 / (squares.iter().sum::<f32>().sqrt() + LEAST_NORM);
    }
    let mut rest = &mut *momentum;
    let jobs = ranges
        .iter()
        .cloned()
        .zip(&mut squares)
        .map(|(range, squares)| {
            let momentum = take(&mut rest, range.len());
            let gradient = &gradient[range];
            move || blend(gradient, scale, momentum, share, squares)
        });
    run_all(jobs.collect());
    let factor = 1.0 / (squares.iter().sum::<f32>().sqrt() + 1e-7);
    let jobs = ranges.into_iter().map(|range| {
        let direction = take(&mut direction, range.len());
        let (gradient, momentum) = (&gradient[range.clone()], &momentum[range]);
        move || look_ahead(gradient, scale, momentum, share, factor, direction)
    });
    run_all(jobs.collect());
}

/// Multiplies `weights` with `keep` and takes `rate` times `update` from them.
///
/// # Panics
/// Lengths disagree.
pub fn muon_apply<E: Number>(
    mut weights: &mut [f32],
    update: &[E],
    keep: f32,
    rate: f32,
    threads: usize,
) {
    assert!(weights.len() == update.len());
    let jobs = parts(update.len(), 1, threads).into_iter().map(|range| {
        let weights = take(&mut weights, range.len());
        let update = &update[range];
        move || move_weights(weights, update, keep, rate)
    });
    run_all(jobs.collect());
}
