"""Progress lines, the summary file, error lines: what a person and a tool see of a stage."""

import json
import mmap

import pytest

from pipelines.stages import session
from pipelines.stages.session import (
    MemoryMonitor,
    Progress,
    StageResult,
    one_line,
    stable_json,
    total_line,
    write_summary,
)
from pipelines.storage import Storage, StorageFullError


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
    return now


def test_progress_says_what_is_done_how_fast_and_how_long_it_will_take(clock, capsys):
    progress = Progress("ingest", "sequences")
    clock[0] += 10
    progress(4, 20, "2 tasks")
    assert capsys.readouterr().out == "[ingest] 4/20 sequences, 0.40/s, 40 s left  2 tasks\n"


def test_progress_is_quiet_between_lines_but_never_about_the_end(clock, capsys):
    progress = Progress("train", "steps", every_s=5)
    for step in range(1, 11):
        clock[0] += 1
        progress(step, 10)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["5/10", "10/10"]


def test_progress_without_anything_done_does_not_divide_by_zero(clock, capsys):
    progress = Progress("plan", "cells")
    progress(0, 0)
    clock[0] += 9
    progress(0, 3)
    assert capsys.readouterr().out.splitlines()[-1] == "[plan] 0/3 cells, 0.00/s, estimating"


def test_the_summary_keeps_the_rows_of_other_stages(tmp_path):
    storage = Storage(tmp_path)
    first = StageResult("plan", "scenes", planned=5, written=4, skipped=1, reasons={"night": 1}, details={"tiles": 2})
    write_summary(storage, first)
    write_summary(storage, StageResult("ingest", "sequences", planned=3, failed=3))
    write_summary(storage, StageResult("ingest", "sequences", planned=3, written=3, seconds=1.5))
    stages = json.loads((tmp_path / "reports/summary.json").read_text())["stages"]
    assert list(stages) == ["ingest", "plan"]
    plan, ingest = stages["plan"], stages["ingest"]
    assert plan.pop("finished") and plan == vars(first)
    assert (ingest["written"], ingest["failed"], ingest["seconds"]) == (3, 0, 1.5)


def test_a_run_that_found_everything_done_leaves_the_figures_of_the_run_that_did_it(tmp_path):
    storage = Storage(tmp_path)

    def row():
        return json.loads((tmp_path / "reports/summary.json").read_text())["stages"]["embed"]

    nothing = StageResult("embed", "tiles", planned=3, skipped=3, seconds=0.1)
    write_summary(storage, nothing)
    assert (row()["seconds"], row()["skipped"]) == (0.1, 3)  # nobody is known to have done it
    write_summary(storage, StageResult("embed", "tiles", planned=3, written=2, failed=1, seconds=8.0))
    write_summary(storage, nothing)
    assert (row()["failed"], row()["skipped"]) == (0, 3)  # what had failed is no longer so
    write_summary(storage, StageResult("embed", "tiles", planned=3, written=3, seconds=9.0))
    done = row()
    write_summary(storage, nothing)
    assert row().pop("checked") and {**row(), "checked": None} == {**done, "checked": None}
    write_summary(storage, StageResult("embed", "tiles", planned=3, skipped=2, failed=1, seconds=1.0))
    assert (row()["failed"], row()["seconds"]) == (1, 1.0) and "checked" not in row()


def test_a_result_in_words_gives_counts_and_reasons():
    result = StageResult("embed", "tiles", 8, written=5, skipped=2, failed=1, seconds=3.4, reasons={"disk full": 1})
    result.peak_memory_bytes = 3 * 2**30
    text = "embed: 5 tiles written, 2 already done or skipped, 1 FAILED of 8; 3 s, 3.0 GiB peak\n    1 x disk full"
    assert result.line() == text


def test_the_total_adds_times_and_takes_the_highest_memory():
    stages = [StageResult("plan", "scenes", seconds=1.4, peak_memory_bytes=3 * 2**30), StageResult("train", "steps")]
    stages[1].seconds, stages[1].peak_memory_bytes = 7.2, 2**30
    assert total_line(stages) == "total: 9 s, 3.0 GiB peak"
    assert total_line([]) == "total: 0 s, 0.0 GiB peak"


def test_memory_counts_what_was_held_for_a_moment():
    with MemoryMonitor(interval_s=0.01) as before:
        pass
    with MemoryMonitor(interval_s=0.01) as monitor:
        # Straight from the kernel: the allocator may hand out what earlier tests gave back to it and not to the kernel.
        with mmap.mmap(-1, 200_000_000) as held:
            for _ in range(200):
                held.write(b"x" * 1_000_000)
            monitor.sample()
    assert monitor.peak - before.peak > 150_000_000


def test_errors_are_one_line_and_name_their_type_where_the_message_does_not_tell():
    assert one_line(StorageFullError("no space left\nunder root")) == "no space left under root"
    assert one_line(KeyError("red")) == "KeyError: 'red'"
    assert one_line(ValueError()) == "ValueError: "


def test_equal_data_is_equal_text():
    assert stable_json({"b": 1, "a": (1, 2)}) == stable_json({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'
