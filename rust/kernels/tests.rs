//! Every kernel gives the same with each kind of registers. Python's tests hold what the best ones
//! give against plain torch.

use super::*;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

const ALL: [Registers; 3] = [Registers::Plain, Registers::Avx2, Registers::Avx512];

/// The place in `ALL` of the best registers that kernels may use.
static MOST: AtomicUsize = AtomicUsize::new(ALL.len() - 1);

pub(super) fn registers() -> Registers {
    detected().min(ALL[MOST.load(Relaxed)])
}

/// What a kernel computed, with all kinds of registers that the processor has.
fn with_each<T>(work: impl Fn() -> T) -> Vec<(Registers, T)> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let kinds = ALL.into_iter().enumerate();
    let results = kinds
        .filter(|(_, kind)| *kind <= detected())
        .map(|(place, kind)| {
            MOST.store(place, Relaxed);
            assert_eq!(registers(), kind);
            (kind, work())
        })
        .collect();
    MOST.store(ALL.len() - 1, Relaxed);
    results
}

/// Numbers in -1..1, the same each time.
fn numbers<E: Number>(count: usize, seed: u32) -> Vec<E> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        E::of((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..count).map(next).collect()
}

/// A float32 sum may be rounded in any order; a bfloat16 then falls to either side.
fn assert_alike<E: Number + Debug>(results: Vec<(Registers, Vec<Vec<E>>)>) {
    let tolerance = if size_of::<E>() == 2 { 2e-2 } else { 1e-4 };
    let (_, plain) = &results[0];
    assert!(plain.iter().flatten().any(|number| number.get() != 0.0));
    for (kind, found) in &results[1..] {
        for (array, (found, plain)) in found.iter().zip(plain).enumerate() {
            for (at, (found, plain)) in found.iter().zip(plain).enumerate() {
                let (found, plain) = (found.get(), plain.get());
                let close = (found - plain).abs() <= tolerance * (1.0 + plain.abs());
                assert!(close, "{kind:?}, array {array}, {at}: {found}, not {plain}");
            }
        }
    }
}

fn float32<E: Number>(of: &[E]) -> Vec<f32> {
    of.iter().map(|number| number.get()).collect()
}

/// Widths that fill registers, and that leave some over.
const WIDTHS: [usize; 5] = [1, 7, 16, 33, 64];

fn activations_are_alike<E: Number + Debug>() {
    for (kind, inputs) in [(Activation::SwiGlu, 2), (Activation::SquaredRelu, 1)] {
        for width in WIDTHS {
            assert_alike(with_each(|| {
                let mut x = numbers::<E>(9 * inputs * width, 1);
                let mut y = numbers::<E>(9 * width, 2);
                activate(kind, &x, width, &mut y, 2);
                let slope = numbers::<E>(9 * width, 3);
                activate_back(kind, &slope, width, &mut x, 2);
                vec![x, y]
            }));
        }
    }
}

fn norms_are_alike<E: Number + Debug>() {
    for width in WIDTHS {
        assert_alike(with_each(|| {
            let (x, branch) = (numbers::<f32>(9 * width, 1), numbers::<E>(9 * width, 2));
            let gain = numbers::<f32>(width, 3);
            let (mut sum, mut y) = (vec![0.0; 9 * width], branch.clone());
            let mut scale = vec![0.0; 9];
            add_norm(
                &x,
                Some(&branch),
                &gain,
                1e-6,
                &mut sum,
                &mut y,
                &mut scale,
                2,
            );
            let (mut x_slope, mut copy) = (x.clone(), branch.clone());
            let mut gain_slope = vec![0.0; width];
            let slope = numbers::<E>(9 * width, 4);
            norm_back(
                &slope,
                &sum,
                &gain,
                &scale,
                &mut x_slope,
                &mut copy,
                &mut gain_slope,
                2,
            );
            vec![sum, float32(&y), scale, x_slope, float32(&copy), gain_slope]
                .into_iter()
                .map(|all| all.into_iter().map(E::of).collect())
                .collect()
        }));
    }
}

const DROPOUT: Dropout = Dropout {
    key: 7,
    first_row: 0,
    share: 0.2,
};

fn dropouts_are_alike<E: Number + Debug>() {
    for width in WIDTHS {
        assert_alike(with_each(|| {
            let mut x = numbers::<E>(9 * width, 1);
            drop_out(DROPOUT, &mut x, width, 2);
            vec![x]
        }));
    }
}

#[test]
fn what_falls_out_depends_on_place_and_key_alone() {
    let (rows, width) = (64, 8192); // enough for several threads
    let dropped = |key, threads| {
        let mut x = vec![1.0_f32; rows * width];
        drop_out(Dropout { key, ..DROPOUT }, &mut x, width, threads);
        x
    };
    let one = dropped(7, 1);
    assert_eq!(one, dropped(7, 3));
    let factor = 1.0 / (1.0 - DROPOUT.share);
    assert!(one.iter().all(|&x| x == 0.0 || x == factor));
    let fallen = |of: &[f32]| of.iter().map(|&x| x == 0.0).collect::<Vec<_>>();
    let (one, other) = (fallen(&one), fallen(&dropped(8, 1)));
    let together =
        |one: &[bool], other: &[bool]| one.iter().zip(other).filter(|(a, b)| **a && **b).count();
    // Five deviations of so many independent choices.
    let assert_near = |hits: usize, share: f64| {
        let all = (rows * width) as f64;
        let deviation = (share * (1.0 - share) / all).sqrt();
        assert!((hits as f64 / all - share).abs() < 5.0 * deviation);
    };
    let share = f64::from(DROPOUT.share);
    assert_near(together(&one, &one), share);
    // Neighbours in a row and in a column, and the same place by another key, fall out together as
    // often as chance says.
    for apart in [1, 2, 3, width, width + 1, 2 * width] {
        assert_near(together(&one, &one[apart..]), share * share);
    }
    assert_near(together(&one, &other), share * share);
}

fn losses_are_alike<E: Number + Debug>() {
    for (width, softcap) in [(5, None), (64, Some(15.0)), (259, None)] {
        assert_alike(with_each(|| {
            let mut logits = numbers::<E>(8 * width, 1);
            let targets: Vec<i64> = (0..8).map(|row| row % width as i64).collect();
            let loss = cross_entropy(&mut logits, &targets, softcap, 0.125, 2);
            vec![logits, vec![E::of(loss as f32)]]
        }));
    }
}

fn attentions_are_alike<E: Number + Debug>() {
    let windows = [usize::MAX, 1_usize, 20];
    let shapes = [(5, 8, 1), (33, 16, 2), (70, 24, 2)];
    for ((length, width, keys), window) in shapes.into_iter().flat_map(|s| windows.map(|w| (s, w)))
    {
        // The second sequence also begins anew in its middle.
        let first_seen: Vec<u32> = (0..2 * length)
            .map(|at: usize| {
                let (position, middle) = (at % length, at / length * (length / 2));
                let new = if position < middle { 0 } else { middle };
                new.max((position + 1).saturating_sub(window)) as u32
            })
            .collect();
        let gains = (numbers::<f32>(width, 5), numbers::<f32>(width, 6));
        let turns = (
            numbers::<f32>(length * width, 7),
            numbers::<f32>(length * width, 8),
        );
        let spec = Attention {
            sequences: Sequences {
                length,
                first_seen: (window != usize::MAX).then_some(&first_seen),
            },
            queries: 2,
            keys,
            width,
            gains: Some((&gains.0, &gains.1)),
            eps: 1e-6,
            rotation: Some((&turns.0, &turns.1)),
            scale: 0.3,
            dropout: (keys == 1).then_some(DROPOUT),
        };
        assert_alike(with_each(|| {
            let qkv = numbers::<E>(2 * length * (2 + 2 * keys) * width, 1);
            let mut y = numbers::<E>(2 * length * 2 * width, 2);
            let mut log_sums = vec![0.0; 2 * length * 2];
            attention(&spec, &qkv, &mut y, &mut log_sums, 2);
            let (slope, mut qkv_slope) = (numbers::<E>(y.len(), 3), qkv.clone());
            let mut gain_slopes = vec![0.0; 2 * width];
            attention_back(
                &spec,
                &slope,
                &qkv,
                &log_sums,
                &mut qkv_slope,
                &mut gain_slopes,
                2,
            );
            let log_sums = log_sums.into_iter().map(E::of).collect();
            let gain_slopes = gain_slopes.into_iter().map(E::of).collect();
            vec![y, log_sums, qkv_slope, gain_slopes]
        }));
    }
}

fn mixes_are_alike<E: Number + Debug>() {
    for (length, width) in [(2, 16), (9, 33), (20, 64)] {
        for begins in [None, Some(length / 2)] {
            let first_seen: Vec<u32> = (0..3 * length)
                .map(|at| begins.filter(|&begin| at % length >= begin).unwrap_or(0) as u32)
                .collect();
            let taps = numbers::<f32>(4 * width, 5);
            let spec = Mix {
                sequences: Sequences {
                    length,
                    first_seen: begins.map(|_| first_seen.as_slice()),
                },
                taps: &taps,
                width,
            };
            assert_alike(with_each(|| {
                let x = numbers::<E>(3 * length * width, 1);
                let (mut y, mut slope) = (x.clone(), numbers::<E>(x.len(), 2));
                mix(&spec, &x, &mut y, 2);
                let mut taps_slope = vec![0.0; taps.len()];
                mix_back(&spec, &x, &mut slope, &mut taps_slope, 2);
                vec![y, slope, taps_slope.into_iter().map(E::of).collect()]
            }));
        }
    }
}

fn updates_are_alike<E: Number + Debug>() {
    for (count, unit) in [(1, false), (31, true), (64, false), (1000, true)] {
        assert_alike(with_each(|| {
            let (gradient, mut momentum) = (numbers::<f32>(count, 1), numbers::<f32>(count, 2));
            let mut direction = numbers::<E>(count, 3);
            muon_direction(&gradient, unit, &mut momentum, 0.9, &mut direction, 2);
            let mut weights = numbers::<f32>(count, 4);
            muon_apply(&mut weights, &direction, 0.99, 0.02, 2);
            let [momentum, weights] =
                [momentum, weights].map(|all| all.into_iter().map(E::of).collect());
            vec![direction, momentum, weights]
        }));
    }
}

#[test]
fn kernels_in_float32_are_alike_in_all_registers() {
    activations_are_alike::<f32>();
    norms_are_alike::<f32>();
    dropouts_are_alike::<f32>();
    mixes_are_alike::<f32>();
    losses_are_alike::<f32>();
    attentions_are_alike::<f32>();
    updates_are_alike::<f32>();
}

#[test]
fn kernels_in_bfloat16_are_alike_in_all_registers() {
    activations_are_alike::<u16>();
    norms_are_alike::<u16>();
    dropouts_are_alike::<u16>();
    mixes_are_alike::<u16>();
    losses_are_alike::<u16>();
    attentions_are_alike::<u16>();
    updates_are_alike::<u16>();
}
