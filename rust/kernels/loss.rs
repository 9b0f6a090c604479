//! Cross-entropy, with its derivative in the place of the logits.

use super::vector::{read, write};
use super::{LANES, Number, for_each_processor, parts, run_all, take};

/// A target that does not count.
const IGNORED: i64 = -100;

for_each_processor! {
    fn rows_of<V, E>(
        zero,
        logits: &mut [E],
        targets: &[i64],
        softcap: Option<f32>,
        factor: f32,
        loss: &mut f64,
    ) {
        let width = logits.len() / targets.len();
        let mut held = vec![0.0_f32; width];
        let mut tanh = vec![0.0_f32; if softcap.is_some() { width } else { 0 }];
        let (one, two) = (zero.splat(1.0), zero.splat(2.0));
        for (row, target) in logits.chunks_exact_mut(width).zip(targets) {
            if *target == IGNORED {
                row.fill(E::default());
                continue;
            }
            for (held, logit) in held.chunks_mut(LANES).zip(row.chunks(LANES)) {
                write(read(zero, logit), held);
            }
            if let Some(cap) = softcap {
                let (cap, twice) = (zero.splat(cap), zero.splat(2.0 / cap));
                for (held, tanh) in held.chunks_mut(LANES).zip(tanh.chunks_mut(LANES)) {
                    let power = read(zero, held).times(twice).exp();
                    let squashed = one.minus(two.times(power.add(one).inverse()));
                    write(squashed, tanh);
                    write(squashed.times(cap), held);
                }
            }
            let mut most = zero.splat(f32::MIN);
            for held in held.chunks(LANES) {
                most = most.at_least(read(zero, held).first(held.len(), f32::MIN));
            }
            let most = most.largest();
            let goal = held[*target as usize];
            let (shift, mut total) = (zero.splat(most), zero);
            for held in held.chunks_mut(LANES) {
                let weight = read(zero, held).minus(shift).exp();
                total = total.add(weight.first(held.len(), 0.0));
                write(weight, held);
            }
            let total = total.total();
            *loss += f64::from(most) + f64::from(total).ln() - f64::from(goal);
            let share = zero.splat(factor / total);
            for held in held.chunks_mut(LANES) {
                write(read(zero, held).times(share), held);
            }
            held[*target as usize] -= factor;
            for (held, tanh) in held.chunks_mut(LANES).zip(tanh.chunks(LANES)) {
                let (held_here, tanh) = (read(zero, held), read(zero, tanh));
                write(held_here.times(one.minus(tanh.times(tanh))), held);
            }
            for (logit, held) in row.chunks_mut(LANES).zip(held.chunks(LANES)) {
                write(read(zero, held), logit);
            }
        }
    }
}

/// Returns the summed cross-entropy of `logits` (rows, ids), squashed into (-cap, cap) where there is
/// a `softcap`, at `targets`; those of -100 do not count. The derivative by the logits, times
/// `factor`, takes their place.
///
/// # Panics
/// Lengths disagree, or a target is no id.
pub fn cross_entropy<E: Number>(
    mut logits: &mut [E],
    targets: &[i64],
    softcap: Option<f32>,
    factor: f32,
    threads: usize,
) -> f64 {
    if targets.is_empty() {
        return 0.0;
    }
    let width = logits.len() / targets.len();
    assert!(logits.len() == width * targets.len());
    assert!(
        targets
            .iter()
            .all(|id| *id == IGNORED || (0..width as i64).contains(id))
    );
    let ranges = parts(targets.len(), LANES * width, threads);
    let mut losses = vec![0.0; ranges.len()];
    let jobs = ranges.into_iter().zip(&mut losses).map(|(rows, loss)| {
        let logits = take(&mut logits, rows.len() * width);
        let targets = &targets[rows];
        move || rows_of(logits, targets, softcap, factor, loss)
    });
    run_all(jobs.collect());
    losses.iter().sum()
}
