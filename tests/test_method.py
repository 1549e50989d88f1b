# SPDX-License-Identifier: Apache-2.0
"""docs/method.md: the files, tests and studies that it names for T1's facts are there, and no study is left out."""

from __future__ import annotations

import re
from pathlib import Path

from t1jax.studies.claims import STUDIES

ROOT = Path(__file__).parent.parent
TABLE = (ROOT / "docs/method.md").read_text(encoding="utf-8").partition("## Every fact")[2]
ROW = re.compile(
    r"\| (?P<fact>[^|]+) \| (?P<tags>(?:`\[\w+\]`(?:, )?)+) \| `(?P<file>[\w/]+\.py)` "
    r"\| `(?P<path>[\w/]+\.py)`: `(?P<test>test_\w+)` \| (?:`(?P<study>\w+)`|–) \|"
)
OURS = {"overdraw"}  # studies of what is not in the paper


def test_each_fact_has_its_file_its_test_and_its_study():
    lines = [line for line in TABLE.splitlines() if line.startswith("| ")][1:]
    rows = [ROW.fullmatch(line) for line in lines]
    assert len(rows) > 20 and None not in rows, [line for line, row in zip(lines, rows, strict=True) if row is None]
    for row in filter(None, rows):
        assert (ROOT / "t1jax" / row["file"]).is_file(), row["file"]
        assert f"\ndef {row['test']}(" in (ROOT / "tests" / row["path"]).read_text(encoding="utf-8"), row["test"]
    assert {row["study"] for row in rows if row and row["study"]} == STUDIES.keys() - OURS
