# SPDX-License-Identifier: Apache-2.0
"""What is restored is what was saved, on other devices too; the right steps are kept; the data goes on where it was."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from saved_states import CFG, TASK, abstract, assert_same, make_config, make_mesh, make_state, make_tokens, shardings

from t1jax import config
from t1jax.config import ConfigError
from t1jax.host.stopping import Stopped
from t1jax.prompts import streams as data
from t1jax.text import tokenizer
from t1jax.training import checkpoint, damage, memory
from t1jax.training.checkpoint import Checkpoints
from t1jax.types import TrainState


@pytest.fixture(scope="module")
def tokens():
    return make_tokens()


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1), (1, 1, 1), (2, 1, 4)])
@pytest.mark.parametrize("anchor", [True, False])
def test_a_sharded_state_comes_back_bit_for_bit_on_any_mesh(tmp_path, tokens, shape, anchor):
    state, mesh = make_state(make_mesh(2, 2, 2), anchor=anchor), make_mesh(*shape)
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        assert checkpoints.restore(abstract(state, mesh)) is None
        checkpoints.save(7, state)
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        restored = checkpoints.restore(abstract(state, mesh))
    assert isinstance(restored, TrainState)
    assert_same(restored, state)
    assert jax.tree.map(lambda x: x.sharding, restored) == shardings(mesh, state)


def test_a_state_may_be_donated_while_it_is_still_being_written(tmp_path, tokens):
    mesh = make_mesh(2, 2, 2)
    state = make_state(mesh)
    state = state.replace(
        params=state.params
        | {"big": jax.device_put(jnp.ones((1024, 1024)), NamedSharding(mesh, PartitionSpec("fsdp")))}
    )
    expected = jax.tree.map(np.array, state)
    spoil = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 + 3, tree), donate_argnums=0)
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        checkpoints.save(1, state)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        jax.block_until_ready(spoil(state))
        checkpoints.wait()
        restored = checkpoints.restore(shapes)
    assert restored is not None
    assert_same(restored, expected)


def save_all(checkpoints: Checkpoints, scores: list[float | None]) -> None:
    state = make_state(make_mesh(1, 1, 1))
    for step, score in enumerate(scores, start=1):
        checkpoints.save(step, state.replace(step=jnp.int32(step)), score=score)
    checkpoints.wait()


@pytest.mark.parametrize(
    ("scores", "kept", "best"),
    [
        ([0.1, 0.5, 0.2, None, 0.3, 0.4], [2, 5, 6], 2),
        ([0.1, 0.2, 0.3], [2, 3], 3),
        ([None, None, None, None], [3, 4], None),
        ([0.4, None, None, None], [1, 3, 4], 1),
        ([0.4, 0.4, None, None, None], [2, 4, 5], 2),
        ([0.2, float("nan"), float("inf"), None, None], [1, 4, 5], 1),
        ([0.0, -1.0, None, None], [1, 3, 4], 1),
    ],
)
def test_the_newest_and_the_best_are_kept(tmp_path, tokens, scores, kept, best):
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        save_all(checkpoints, scores)
        assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == (kept, len(scores), best)
    assert sorted(int(path.name) for path in tmp_path.iterdir() if path.is_dir()) == kept
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == (kept, len(scores), best)


@pytest.mark.parametrize("gone", ["metrics/metrics", "metrics"])
def test_what_a_kill_left_of_a_deletion_goes_with_the_next_save_and_the_best_stays(tmp_path, tokens, gone):
    """Orbax deletes a local step in place, in an order that the file system chooses."""
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        save_all(checkpoints, [0.5, 0.1, 0.2])
    left = tmp_path / "2" / gone  # of the two kept beside the best the older one
    shutil.rmtree(left) if left.is_dir() else left.unlink()
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        state = make_state(make_mesh(1, 1, 1))
        for step in (4, 5):
            checkpoints.save(step, state.replace(step=jnp.int32(step)), score=None)
        checkpoints.wait()
        assert (checkpoints.steps(), checkpoints.best()) == ([1, 4, 5], 1)
    assert sorted(int(path.name) for path in tmp_path.iterdir() if path.is_dir()) == [1, 4, 5]


def test_a_chosen_step_is_restored_and_a_saved_step_is_left_alone(tmp_path, tokens):
    state = make_state(make_mesh(1, 1, 1))
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        save_all(checkpoints, [0.5, 0.1, 0.2])
        checkpoints.save(3, make_state(make_mesh(1, 1, 1), scale=9.0))
        checkpoints.wait()
        shapes = abstract(state, make_mesh(1, 1, 1))
        restored = [checkpoints.restore(shapes, step=step) for step in (1, 3, None)]
    assert [int(r.step) for r in restored if r is not None] == [1, 3, 3]
    np.testing.assert_array_equal(restored[1].params["head"], state.params["head"])  # type: ignore[union-attr]


def test_the_stream_goes_on_where_it_was_saved(tmp_path, tokens):
    def streams():
        return data.prompt_stream(CFG, TASK, tokens, "train", 4, 0), data.sft_stream(CFG, TASK, tokens)

    state = make_state(make_mesh(1, 1, 1))
    for number, (stream, fresh) in enumerate(zip(streams(), streams(), strict=True)):
        with Checkpoints(tmp_path / str(number), CFG, tokens) as checkpoints:
            for _ in range(3):
                next(stream)
            checkpoints.save(3, state, stream.get_state())
            expected = [next(stream) for _ in range(3)]
        with Checkpoints(tmp_path / str(number), CFG, tokens) as checkpoints:
            assert checkpoints.restore(abstract(state, make_mesh(1, 1, 1)), fresh) is not None
        for one, other in zip([next(fresh) for _ in range(3)], expected, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
        stream.close()
        fresh.close()


def test_config_and_tokenizer_lie_with_the_checkpoint(tmp_path, tokens):
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        save_all(checkpoints, [None])
        assert config.load(checkpoints.config(1)) == CFG
    text = "Pick two of 6, 13, 14 that sum to 20.\n<think>\n"
    assert tokenizer.load(tmp_path).encode(text) == tokens.encode(text)


def test_a_model_of_another_shape_is_refused_by_the_knobs_that_differ(tmp_path, tokens):
    state = make_state(make_mesh(1, 1, 1))
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        save_all(checkpoints, [None])
    runs = {"model__remat": "full", "model__attention": "xla"}  # not what the model is
    other = make_config(model__num_layers=CFG.model.num_layers + 1, rl__num_steps=9, **runs)
    shapes = abstract(state, make_mesh(1, 1, 1))
    with Checkpoints(tmp_path, other, tokens) as checkpoints, pytest.raises(ConfigError) as error:
        checkpoints.restore(shapes)
    assert f"model.num_layers = {CFG.model.num_layers} (now {CFG.model.num_layers + 1})" in str(error.value)
    assert not [knob for knob in ("rl.", "remat", "attention") if knob in str(error.value)]
    assert str(tmp_path / "1") in str(error.value)


@pytest.mark.parametrize("was, now, fits", [("bfloat16", "float32", True), ("bfloat16", "float16", False)])
def test_float16_has_a_scale_in_its_state_so_a_run_cannot_change_to_it(tmp_path, tokens, was, now, fits):
    state = make_state(make_mesh(1, 1, 1))
    with Checkpoints(tmp_path, make_config(model__compute_dtype=was), tokens) as checkpoints:
        save_all(checkpoints, [None])
    with Checkpoints(tmp_path, make_config(model__compute_dtype=now), tokens) as checkpoints:
        if fits:
            return assert_same(state.params, checkpoints.restore(abstract(state, make_mesh(1, 1, 1))).params)
        with pytest.raises(ConfigError, match=r"model.compute_dtype = bfloat16 \(now float16\)"):
            checkpoints.restore(abstract(state, make_mesh(1, 1, 1)))


def test_what_a_killed_run_left_half_written_is_no_checkpoint(tmp_path, tokens):
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        save_all(checkpoints, [None])
    half = tmp_path / "9.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    with Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        assert checkpoints.steps() == [1] and checkpoints.latest() == 1
        checkpoints.save(2, make_state(make_mesh(1, 1, 1)))
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
    assert not half.exists()


def test_only_process_0_writes_the_tokenizer(tmp_path, tokens, monkeypatch):
    monkeypatch.setattr(checkpoint.multihost, "is_main", lambda: False)
    with Checkpoints(tmp_path, CFG, tokens):
        assert not (tmp_path / tokenizer.FILE_NAME).exists()


def test_saving_says_nothing(tmp_path, tokens, caplog, capfd):
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path, CFG, tokens) as checkpoints:
        save_all(checkpoints, [0.3, None])
    assert caplog.records == [] and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("platform, limit", [("cpu", {"save_concurrent_gb": memory.WRITING}), ("tpu", {})])
def test_where_devices_share_the_hosts_memory_little_is_written_at_a_time(
    tmp_path, tokens, monkeypatch, platform, limit
):
    made = []
    handler = checkpoint.ocp.StandardCheckpointHandler
    monkeypatch.setattr(
        checkpoint.ocp, "StandardCheckpointHandler", lambda **knobs: made.append(knobs) or handler(**knobs)
    )
    device = types.SimpleNamespace(platform=platform)
    monkeypatch.setattr(checkpoint.jax, "devices", lambda: [device])
    with Checkpoints(tmp_path, CFG, tokens):
        pass
    assert made == [limit]


def test_fields_that_are_saved_are_all_there_are():
    """A new field of TrainState must be part of the round trip above; LoRA's base is not saved (test_lora_run.py)."""
    assert {field.name for field in dataclasses.fields(TrainState)} - {"base"} == {
        "step",
        "params",
        "opt_state",
        "anchor_offset",
        "rng",
        "loss_scale",
    }


FILES = {
    "config/metadata": (b"", b'{"model": ', b"[7]", b'{"model": 7}', None),
    "metrics/metrics": (b"", b'{"score": ', b"[7]"),
    "state/_METADATA": (b"", b"[7]", None),
    "state/manifest.ocdbt": (b"", b"[7]", None),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_one_line(tmp_path, tokens, name):
    mesh = make_mesh(1, 1, 1)
    state = make_state(mesh)
    place = tmp_path / "my run é"
    with Checkpoints(place, CFG, tokens) as checkpoints:
        checkpoints.save(7, state)
    for content in FILES[name]:
        folder = tmp_path / "damaged é"
        shutil.copytree(place, folder)
        (folder / "7" / name).unlink()
        if content is not None:
            (folder / "7" / name).write_bytes(content)
        with pytest.raises(Stopped, match="damaged é: no checkpoint can be read .*; put one back") as caught:
            with Checkpoints(folder, CFG, tokens) as checkpoints:
                checkpoints.restore(abstract(state, mesh))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
        shutil.rmtree(folder)


def test_the_trial_before_a_save_leaves_nothing_and_has_a_name_that_orbax_does_not_clean_up(tmp_path, monkeypatch):
    """Orbax removes what is unfinished in the background: it must not take the trial's folder away."""
    made = []
    mkdir = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda self, **how: (made.append(self.name), mkdir(self, **how)))
    (tmp_path / "3.probe").mkdir()  # of a killed run
    damage.make_room(tmp_path / "3")
    assert list(tmp_path.iterdir()) == [] and made[-1] == "3.probe" and "orbax" not in made[-1]
