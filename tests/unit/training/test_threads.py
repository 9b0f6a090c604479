"""Threads are looked at again when steps become slow, on a machine whose steps are made up."""

from microgpt.training.threads import PATIENCE, TRIAL, WINDOW, ThreadWatch


def run(watch, steps, seconds):
    """Takes steps of seconds[threads]; returns what they took together."""
    total = 0.0
    for _ in range(steps):
        total += seconds[watch.threads]
        watch.after(seconds[watch.threads])
    return total


IDLE = {1: 1.0, 2: 0.6}
BUSY = {1: 1.0, 2: 15.0}


def test_nothing_changes_while_the_rate_holds():
    watch = ThreadWatch(2)
    assert all(watch.after(0.6 * (1 + i % 3 / 10)) is None for i in range(100 * WINDOW))
    assert watch.threads == 2


def test_one_thread_is_taken_when_other_work_comes_and_all_again_when_it_goes():
    watch = ThreadWatch(2)
    run(watch, 5 * WINDOW, IDLE)
    run(watch, WINDOW + TRIAL, BUSY)
    steps = 3000
    assert run(watch, steps, BUSY) < steps / 0.8
    assert watch.threads == 1
    run(watch, (PATIENCE + 2) * WINDOW, IDLE)
    assert watch.threads == 2


def test_a_machine_that_is_slow_with_any_number_keeps_its_threads_and_stops_trying():
    watch = ThreadWatch(2)
    run(watch, 5 * WINDOW, IDLE)
    slow = {1: 3.0, 2: 2.0}
    changes = [watch.after(slow[watch.threads]) for _ in range(20 * WINDOW)]
    assert [change for change in changes if change] == [1, 2]


def test_more_threads_must_win_by_a_tenth():
    watch = ThreadWatch(2)
    run(watch, 5 * WINDOW, IDLE)
    run(watch, 3 * WINDOW, BUSY)
    even = {1: 1.0, 2: 0.95}
    run(watch, (PATIENCE + 3) * WINDOW, even)
    assert watch.threads == 1
