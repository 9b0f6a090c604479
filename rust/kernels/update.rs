//! The passes over weights and gradients that Muon takes before and after its matrix products.

use super::{Number, for_each_processor, parts, run_all, sum_of, take};

for_each_processor! {
    fn blend<V, E>(gradient: &[E], momentum: &mut [f32], share: f32, squares: &mut f32) {
        let gradient = &gradient[..momentum.len()];
        for (momentum, gradient) in momentum.iter_mut().zip(gradient) {
            *momentum += (gradient.get() - *momentum) * (1.0 - share);
        }
        *squares = sum_of(momentum.len(), |i| {
            let ahead = ahead(gradient[i].get(), momentum[i], share);
            ahead * ahead
        });
    }
}

for_each_processor! {
    fn look_ahead<V, E>(
        gradient: &[f32],
        momentum: &[f32],
        share: f32,
        factor: f32,
        direction: &mut [E],
    ) {
        let numbers = gradient.iter().zip(momentum);
        for (direction, (gradient, momentum)) in direction.iter_mut().zip(numbers) {
            *direction = E::of(ahead(*gradient, *momentum, share) * factor);
        }
    }
}

for_each_processor! {
    fn move_weights<V, E>(weights: &mut [f32], update: &[E], keep: f32, rate: f32) {
        for (weight, update) in weights.iter_mut().zip(update) {
            *weight = *weight * keep - rate * update.get();
        }
    }
}

/// Nesterov's momentum.
#[inline(always)]
fn ahead(gradient: f32, momentum: f32, share: f32) -> f32 {
    gradient + (momentum - gradient) * share
}

/// Blends a matrix' `gradient` into its `momentum`, of which `share` stays, and writes Nesterov's
/// momentum over its Frobenius norm to `direction`.
///
/// # Panics
/// Lengths disagree.
pub fn muon_direction<E: Number>(
    gradient: &[f32],
    momentum: &mut [f32],
    share: f32,
    mut direction: &mut [E],
    threads: usize,
) {
    assert!(gradient.len() == momentum.len() && gradient.len() == direction.len());
    let ranges = parts(gradient.len(), 1, threads);
    let mut squares = vec![0.0; ranges.len()];
    let mut rest = &mut *momentum;
    let jobs = ranges
        .iter()
        .cloned()
        .zip(&mut squares)
        .map(|(range, squares)| {
            let momentum = take(&mut rest, range.len());
            let gradient = &gradient[range];
            move || blend(gradient, momentum, share, squares)
        });
    run_all(jobs.collect());
    let factor = 1.0 / (squares.iter().sum::<f32>().sqrt() + 1e-7);
    let jobs = ranges.into_iter().map(|range| {
        let direction = take(&mut direction, range.len());
        let (gradient, momentum) = (&gradient[range.clone()], &momentum[range]);
        move || look_ahead(gradient, momentum, share, factor, direction)
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
