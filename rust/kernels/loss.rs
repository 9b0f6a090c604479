//! Cross-entropy, with its derivative in the place of the logits.

use super::{LANES, Number, exp, for_each_processor, largest, parts, run_all, sum_of, take};

/// A target that does not count.
const IGNORED: i64 = -100;

for_each_processor! {
    fn rows_of<V, E>(
        logits: &mut [E],
        targets: &[i64],
        softcap: Option<f32>,
        factor: f32,
        loss: &mut f64,
    ) {
        let width = logits.len() / targets.len();
        let mut held = vec![0.0_f32; width];
        let mut tanh = vec![0.0_f32; if softcap.is_some() { width } else { 0 }];
        for (row, target) in logits.chunks_exact_mut(width).zip(targets) {
            if *target == IGNORED {
                row.fill(E::default());
                continue;
            }
            for (held, logit) in held.iter_mut().zip(row.iter()) {
                *held = logit.get();
            }
            if let Some(cap) = softcap {
                for (held, tanh) in held.iter_mut().zip(&mut tanh) {
                    *tanh = 1.0 - 2.0 / (exp(2.0 * *held / cap) + 1.0);
                    *held = cap * *tanh;
                }
            }
            let most = largest(&held, f32::NEG_INFINITY);
            let goal = held[*target as usize];
            for held in &mut held {
                *held = exp(*held - most);
            }
            let total = sum_of(width, |i| held[i]);
            *loss += f64::from(most) + f64::from(total).ln() - f64::from(goal);
            let share = factor / total;
            for held in &mut held {
                *held *= share;
            }
            held[*target as usize] -= factor;
            for (held, tanh) in held.iter_mut().zip(&tanh) {
                *held *= 1.0 - tanh * tanh;
            }
            for (logit, held) in row.iter_mut().zip(&held) {
                *logit = E::of(*held);
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
