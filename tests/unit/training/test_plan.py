"""The plan keeps what the user gave and chooses the rest sensibly for any size of data."""

from dataclasses import replace

import pytest

from microgpt.config import ModelConfig, RunConfig, to_dict
from microgpt.errors import DataError, UsageError
from microgpt.model.sizes import CHUNK_LOGITS, CHUNK_MATRICES, parameter_count, training_memory
from microgpt.training.plan import (
    Facts,
    Machine,
    describe,
    expected_seconds,
    plan_budget,
    plan_shape,
)

LAPTOP = Machine("cpu", 4)
GPU = Machine("cuda", 16, gpu_memory_bytes=80_000_000_000)


def planned(given, facts, machine=LAPTOP, seconds=0.05, parameters=None) -> RunConfig:
    config, _ = plan_shape(given, facts, machine, parameters)
    return plan_budget(config, facts, machine, seconds)


@pytest.mark.parametrize("machine", [LAPTOP, GPU, Machine("mps", 8)])
@pytest.mark.parametrize("tokens", [2, 3, 10, 900, 30_000, 10**6, 10**8, 10**10])
def test_every_size_of_data_gets_a_plan_without_gaps(tokens, machine):
    facts = Facts(tokens, tokens // 10, 256)
    config = planned({}, facts, machine)
    assert config.model.context <= tokens - 1
    training = config.training
    decided = (training.steps, training.batch_rows, training.micro_batch_rows,
               training.evaluate_every, training.evaluate_tokens, config.schedule.warmup_steps,
               config.schedule.decay_steps)  # fmt: skip
    assert None not in decided
    assert (training.epochs, training.tokens, training.minutes) == (None, None, None)
    assert training.steps is not None
    assert training.steps * 0.05 <= 60 * 10 + 200 * 0.05
    assert len(describe(config, facts, 0.05, 10**9)) == 5


def test_more_data_gets_larger_models_and_batches():
    sizes = [parameter_count(planned({}, Facts(n, 0, 256)).model) for n in (1000, 10**5, 10**7)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 60_000 < sizes[1] < 300_000 < sizes[2] < 5_000_000
    big = planned({}, Facts(10**10, 0, 50_257), GPU)
    assert parameter_count(big.model) > 15_000_000
    assert big.training.batch_rows is not None
    assert big.model.context == 1024
    assert big.training.batch_rows * big.model.context >= 8192


def test_a_run_of_many_passes_holds_against_learning_by_heart():
    many, few = Facts(50_000, 5_000, 256), Facts(10**9, 10**7, 256)
    for facts, share, dropout in ((many, 0.2, 0.1), (few, 0.1, 0.0)):
        config = planned({}, facts)
        assert (config.optimizer.average_share, config.model.dropout) == (share, dropout)
    given = {"model": {"dropout": 0.0}, "optimizer": {"average_share": None}}
    config = planned(given, many)
    assert (config.optimizer.average_share, config.model.dropout) == (None, 0.0)
    assert planned({"training": {"steps": 20}}, many).model.dropout == 0.0


def test_lines_with_answers_are_aligned_and_judged_by_answers_unless_told_otherwise():
    facts = Facts(50_000, 5_000, 256, answers_after="=")
    config, remarks = plan_shape({}, facts, LAPTOP)
    assert (config.data.align, config.data.answers_after) == ("lines", "=")
    assert config.model.dropout == 0.0
    assert len(remarks) == 4
    assert any("--line-mask" in remark for remark in remarks)
    _, remarks = plan_shape({"model": {"document_start": 10}}, facts, LAPTOP)
    assert not any("--line-mask" in remark for remark in remarks)
    config, _ = plan_shape({"data": {"align": None, "answers_after": "+"}}, facts, LAPTOP)
    assert (config.data.align, config.data.answers_after) == (None, "+")
    config, _ = plan_shape({"data": {"answers_after": None}}, facts, LAPTOP)
    assert (config.data.align, config.data.answers_after) == (None, None)


def test_what_was_planned_is_planned_again_from_its_own_settings():
    facts = Facts(50_000, 5_000, 256, answers_after="=")
    first, _ = plan_shape({"data": {"align": None}}, facts, LAPTOP)
    again, _ = plan_shape(to_dict(first), facts, LAPTOP)
    assert again == first


def test_what_was_given_is_kept():
    given = {
        "model": {"n_layer": 3, "n_head": 2, "n_embd": 32, "context": 24, "dropout": 0.2},
        "training": {"batch_rows": 6, "micro_batch_rows": 2, "steps": 77, "evaluate_every": 5},
        "schedule": {"warmup_steps": 7, "decay_steps": 11},
    }
    config = planned(given, Facts(10_000, 100, 300))
    assert (config.model.n_layer, config.model.n_embd, config.model.dropout) == (3, 32, 0.2)
    assert (config.model.context, config.model.vocab_size) == (24, 300)
    assert (config.training.batch_rows, config.training.micro_batch_rows) == (6, 2)
    assert (config.training.steps, config.training.evaluate_every) == (77, 5)
    assert (config.schedule.warmup_steps, config.schedule.decay_steps) == (7, 11)
    for tied in (True, False):
        for kv, parameters in ((1, None), (3, 2_000_000), (8, 5_000_000)):
            given = {"model": {"n_kv_head": kv, "tied_head": tied}}
            config = planned(given, Facts(10**6, 100, 4096), parameters=parameters)
            assert (config.model.n_kv_head, config.model.tied_head) == (kv, tied)
            if parameters is not None:
                assert parameter_count(config.model) == pytest.approx(parameters, rel=0.1)


def test_key_value_heads_beyond_any_shape_are_refused():
    with pytest.raises(UsageError, match="no shape has 100000 key/value heads"):
        planned({"model": {"n_kv_head": 100_000}}, Facts(10**6, 100, 256))


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"steps": 5}, 5), ({"tokens": 64 * 10}, 10), ({"epochs": 2.0}, 32), ({"minutes": 0.5}, 600)],
)
def test_every_budget_becomes_steps(budget, steps):
    given = {"model": {"context": 16}, "training": {"batch_rows": 4, **budget}}
    assert planned(given, Facts(1024, 0, 256)).training.steps == steps


def test_minutes_hold_the_evaluations_too():
    facts = Facts(10**6, 10**5, 256)
    config, _ = plan_shape({"training": {"minutes": 1.0}}, facts, LAPTOP)
    for each, evaluations in ((0.0, 20), (0.2, 20), (0.5, 12), (3.0, 5)):
        done = plan_budget(config, facts, LAPTOP, 0.05, each)
        assert done.training.steps == pytest.approx((60 - evaluations * each) / 0.05, abs=1)
        assert done.training.evaluate_every == done.training.steps // evaluations
        assert expected_seconds(done, 0.05, each) == pytest.approx(60, abs=each + 0.05)
    given = updated_training(config, evaluate_every=10)
    assert plan_budget(given, facts, LAPTOP, 0.05, 0.5).training.steps == 600
    given = updated_training(config, minutes=None, steps=50)
    assert plan_budget(given, facts, LAPTOP, 0.05, 3.0).training.evaluate_every == 2


def updated_training(config: RunConfig, **changes) -> RunConfig:
    return replace(config, training=replace(config.training, **changes))


def test_without_a_budget_small_data_ends_after_its_passes_and_large_after_the_minutes():
    given = {"model": {"context": 64}, "training": {"batch_rows": 32}}
    assert planned(given, Facts(110_000, 0, 256)).training.steps == 30 * 110_000 // 2048
    assert planned(given, Facts(10**9, 0, 256)).training.steps == int(5 * 60 / 0.05)


def test_a_context_longer_than_the_data_is_cut_with_a_remark():
    config, remarks = plan_shape({"model": {"context": 512}}, Facts(100, 0, 256), LAPTOP)
    assert config.model.context == 99
    assert "has 100 tokens, so the context is 99 instead of 512" in remarks[0]


@pytest.mark.parametrize("tokens", [0, 1])
def test_fewer_than_two_tokens_are_refused(tokens):
    with pytest.raises(DataError, match=f"has {tokens} tokens"):
        plan_shape({}, Facts(tokens, 0, 256), LAPTOP)


def test_a_size_can_be_asked_for_but_not_twice():
    facts = Facts(10**6, 0, 256)
    config, _ = plan_shape({}, facts, LAPTOP, parameters=5_000_000)
    assert parameter_count(config.model) == pytest.approx(5_000_000, rel=0.1)
    with pytest.raises(UsageError, match="given twice"):
        plan_shape({"model": {"n_layer": 2}}, facts, LAPTOP, parameters=5_000_000)


def test_a_large_vocabulary_on_little_text_still_gets_a_model():
    config, _ = plan_shape({}, Facts(20_000, 0, 50_257), LAPTOP)
    assert config.model.vocab_size == 50_257


def test_micro_batches_fit_the_gpu():
    small = Machine("cuda", 8, gpu_memory_bytes=8_000_000_000)
    given = {"model": {"n_layer": 12, "n_head": 12, "n_embd": 768, "context": 1024},
             "training": {"batch_rows": 64, "dtype": "bfloat16"}}  # fmt: skip
    config, _ = plan_shape(given, Facts(10**9, 0, 50_257), small)
    rows = config.training.micro_batch_rows
    assert rows is not None
    assert rows < 64
    assert 64 % rows == 0
    memory = training_memory(config.model, rows, optimizer="muon", activation_bytes=2)
    assert memory.total <= 8_000_000_000


@pytest.mark.parametrize(
    ("rows", "given", "rate"),
    [
        (32, {}, 0.03),
        (64, {}, 0.03),
        (12, {}, 0.018),
        (8, {}, 0.015),
        (12, {"muon_lr": 0.05}, 0.05),
    ],
)
def test_small_batches_take_a_lower_rate(rows, given, rate):
    given = {"model": {"context": 64}, "training": {"batch_rows": rows}, "optimizer": given}
    config, _ = plan_shape(given, Facts(10**6, 10**5, 256), Machine("cpu", 2))
    assert config.optimizer.muon_lr == rate


def test_chunks_of_matrices_bound_what_muon_takes_for_a_moment():
    passing = [
        training_memory(shape, 1, optimizer="muon", chunked=chunked).passing
        for shape in (ModelConfig(n_layer=40, n_embd=512), ModelConfig(n_layer=1, n_embd=2048))
        for chunked in (False, True)
    ]
    assert passing[1] == 8 * CHUNK_MATRICES < passing[0]
    assert 8 * CHUNK_MATRICES < passing[3] < passing[2]  # one matrix is never cut


def test_an_evaluation_holds_a_chunk_of_its_logits_at_most():
    shape = ModelConfig(n_layer=1, n_head=1, n_embd=16, vocab_size=50_257)
    passing = training_memory(shape, 1, evaluation_tokens=4096).passing
    assert 8 * CHUNK_LOGITS <= passing < 9 * CHUNK_LOGITS
