"""What commands say that need neither data nor a cluster: one line, its remedy, and the exit status."""

from pathlib import Path

import pytest

from pipelines.cli import main

CONFIG = Path(__file__).parent.parent.parent / "configs" / "sandbox_tiny.yaml"


@pytest.fixture
def aef(tmp_path, capsys):
    """A command over an empty root of the smallest configuration: status, standard output, standard error."""

    def _aef(*words, config=True):
        given = ["--config", str(CONFIG), "--set", f"root={tmp_path / 'root'}"] if config else []
        status = main([*words, *given])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return _aef


def test_nothing_to_verify_is_an_error(aef, tmp_path):
    status, out, err = aef("verify")
    assert status == 2 and out == ""
    root = tmp_path / "root"
    assert err == f"aef verify: error: root: no committed tile under {root}; check the root, or run `aef embed` first\n"
