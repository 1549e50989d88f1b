# SPDX-License-Identifier: Apache-2.0
"""The notebooks hold no outputs, and run: on a CPU, with a random model of one layer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import notebook
import pytest
import several

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = (
    "data.prompt_length=64", "rl.max_new_tokens=12", "rl.window=12", "rl.prompts_per_step=2",
    "rl.responses_per_prompt=2", "rl.vocab_chunks=1", "eval.num_problems=4", "eval.every=0", "scaling.answer_tokens=4",
    "verifier.workers=1", "model.lora_rank=0", "data.template={problem}",
)  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_plain_and_has_no_outputs(path):
    text = path.read_text(encoding="utf-8")
    cells = notebook.cells(path)
    assert len(text) < 10_000 and "SPDX-License-Identifier: Apache-2.0" in text
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile(notebook.source(cell), path.name, "exec")
    assert f'HAVE = \\"{ {"colab": "v5e:1x1", "kaggle": "v5e:2x4"}[path.stem] }\\"' in text


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, checkpoint, problems, tmp_path):
    knobs = " ".join(f"'--config.{knob}'" for knob in SMALL)
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps({"problem": f"two less {n}", "answer": str(2 - n)}) + "\n" for n in range(4)))
    given = {"MODEL": str(checkpoint), "DATA": str(problems), "TEST": str(test), "HAVE": "cpu:1", "STEPS": 1}
    given |= {"KNOBS": knobs, "TOKENS": 8, "WORKDIR": str(tmp_path / "run")}
    env = several.environment()
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    command = [sys.executable, notebook.__file__, str(path), json.dumps(given)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/report.html").is_file() and f"the report: {tmp_path}/run/report.html" in done.stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert "Recommended: all weights, 2 x 2 responses of at most 12 tokens" in done.stdout and plan["knobs"]
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["rl"]["lanes"] == plan["tries"][plan["recommended"]]["lanes"] == 2
